"""A grid's run, with a trainer that is a few lines of Python."""

import dataclasses
import fcntl
import json
import signal
import sys

from refusals import refused

from ekd_tf.compare.grid import GridRun
from ekd_tf.run.interruption import Interrupted

# What the trainer does to its workdir, and how it ends.
TRAINER = """
import json, os, pathlib, signal, sys, time
folder, ends = pathlib.Path(sys.argv[1]), sys.argv[2]
def start():
    path = folder / "run.json"
    run = json.loads(path.read_text()) if path.exists() else {"starts": []}
    run |= {"flags": json.loads(sys.argv[3]), "seed": 0}
    run["starts"].append({"changed": {}, "versions": {}, "commit": None})
    path.write_text(json.dumps(run))
if ends != "mistake":
    start()
if ends == "stopped":
    print("said", file=sys.stderr, flush=True)
    # The log can be followed.
    while "said" not in (folder / "train.log").read_text():
        time.sleep(0.01)
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)
if ends == "finish":
    (folder / "model.keras").write_text("weights")
    lines = [{"step": k, "throughput/images_per_second": 10.0 * k} for k in (1, 2, 9)]
    lines.append({"step": 9, "embedding/mean_cosine": 0.995})
    lines = [json.dumps(line) + chr(10) for line in lines]
    # The end of the last one is lost.
    (folder / "metrics.jsonl").write_text("".join(lines) + '{"step": 10, "lo')
    sys.exit(0)
if ends == "interrupted":
    sys.exit(75)
print("a line before", file=sys.stderr)
sys.exit("ekd_tf.train: It collapsed, as " + ends)
"""


def make_run(root, ends, steps=4):
    path = root / "ekd" / "seed0"
    values = {"steps": steps, "general_batch": 4}
    values |= {"balanced_identities": 3, "images_per_identity": 2}
    arguments = (str(path), ends, json.dumps(values))
    return GridRun("ekd", 0, path, values, arguments)


def train(run, **kwargs):
    run.train(command=(sys.executable, "-c", TRAINER), **kwargs)


def test_a_finished_run_is_passed_over(tmp_path):
    run = make_run(tmp_path, "finish")
    assert not run.is_finished
    train(run)
    assert run.is_finished and len(run.starts) == 1
    train(run)
    assert len(run.starts) == 1
    summary = run.summary()
    assert 0 < summary.pop("seconds") < 60
    assert summary.pop("command").startswith("python -m ekd_tf.train ")
    assert summary == {
        "method": "ekd",
        "seed": 0,
        "state": "finished",
        "note": "collapsed: the mean cosine between images is 0.9950",
        # The median of 10, 20 and 90.
        "images_per_second": 20,
        # 4 general rows and 3 x 2 balanced ones.
        "ms_per_step": 500,
    }
    # One to be exported is not finished before it is.
    values = {**run.values, "export": True}
    exporting = dataclasses.replace(run, values=values, free=["export"])
    assert not exporting.is_finished
    (run.path / "reports").mkdir(exist_ok=True)
    (run.path / "reports" / "export.json").write_text("{}")
    assert exporting.is_finished
    # Flags forced on the way are told, and others refused.
    record = json.loads((run.path / "run.json").read_text())
    record["starts"][0]["changed"] = {"learning_rate": [0.1, 0.2]}
    (run.path / "run.json").write_text(json.dumps(record))
    assert "continued with other flags" in run.summary()["note"]
    assert "[0.1, 0.2]" in run.summary()["note"]
    refused("`--steps` was 4, now 5", train, make_run(tmp_path, "finish", steps=5))


def test_an_interrupted_run_goes_on(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    # By a signal, which is passed on, or by itself.
    for starts, ends in enumerate(("stopped", "interrupted"), 1):
        run = make_run(tmp_path, ends)
        refused("ekd, seed 0", train, run, error=Interrupted)
        assert signal.getsignal(signal.SIGTERM) == before
        assert run.failure is None and len(run.starts) == starts
        assert run.summary()["state"] == "not finished"
    seconds = run.summary()["seconds"]
    run = make_run(tmp_path, "finish")
    train(run)
    assert run.is_finished and len(run.starts) == 3
    assert run.summary()["seconds"] > seconds


def test_a_failed_run_keeps_its_reason_and_is_not_tried_again(tmp_path, capsys):
    run = make_run(tmp_path, "often")
    train(run)
    assert run.failure == "It collapsed, as often"
    assert "a line before" in capsys.readouterr().err
    assert "a line before" in (run.path / "train.log").read_text()
    assert (run.summary()["state"], run.summary()["note"]) == ("failed", run.failure)
    train(run)
    assert len(run.starts) == 1
    train(run, retry=True)
    assert len(run.starts) == 2
    # Other flags are another run.
    run = make_run(tmp_path, "finish")
    assert run.failure is None
    train(run)
    assert run.summary("A remark.")["note"].startswith("A remark.; coll")


def test_a_mistake_or_a_kill_is_no_property_of_the_method(tmp_path):
    run = make_run(tmp_path, "mistake")
    refused("ekd, seed 0: status 1: It collapsed", train, run)
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    refused("status -9: no message", run.train, command=(sys.executable, "-c", kill))
    assert run.failure is None and run.summary()["state"] == "not finished"
    # A continued run took this time too.
    assert run.summary()["seconds"] > 0
    # Another command trains it.
    with open(run.path / "train.log", "a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        refused("train.log is in use by another process", train, run)
    assert run.failure is None
    (run.path / "grid.json").write_text("{")
    refused("grid.json does not say", run.summary)
