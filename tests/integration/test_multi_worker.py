import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import ENVIRONMENT
from commands import TINY
from replicas import free_ports
from test_logs import lines

from ekd_tf.embedders import load_embedder
from ekd_tf.run.interruption import RESUME_STATUS

ARGUMENTS = [
    "--data=synthetic:identities=8,images=4,size=32",
    *"--steps=3 --learning_rate=0.02 --log_every=1".split(),
]


def start(workdir, *flags, **environment):
    command = [sys.executable, "-m", "ekd_tf.train", f"--workdir={workdir}"]
    without = {name: v for name, v in ENVIRONMENT.items() if name != "TF_CONFIG"}
    return subprocess.Popen(
        [*command, *TINY, *ARGUMENTS, *flags],
        env={**without, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_workers(workdir, *flags):
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    tasks = [{"type": "worker", "index": index} for index in range(2)]
    configs = [json.dumps({"cluster": cluster, "task": task}) for task in tasks]
    flags = "--strategy=multi_worker", *flags
    return [start(workdir, *flags, TF_CONFIG=config) for config in configs]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_one_worker_ends_the_other_to_resume(tmp_path, number):
    workers = start_workers(tmp_path / "run", "--steps=1000000")
    try:
        log = tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 240
        while not log.exists() or log.read_text().count("\n") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        workers[1].send_signal(number)
        output, _ = workers[0].communicate(timeout=60)
        # They leave together, but not in one instant.
        workers[1].communicate(timeout=60)
    finally:
        for worker in workers:
            worker.kill()
    assert workers[0].returncode == RESUME_STATUS, output[-3000:]
    if number == signal.SIGKILL:
        assert "worker 1 (localhost:" in output
    else:
        # They left together and the chief has saved.
        assert workers[1].returncode == RESUME_STATUS
        assert "Another worker was stopped: the run is saved at step" in output
        assert list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.slow
def test_two_workers_train_like_two_replicas_of_one(tmp_path):
    def finish(*processes):
        for process in processes:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output[-3000:]

    finish(start(tmp_path / "first"))
    mirrored = "--strategy=mirrored", "--num_virtual_devices=2"
    # Resumed, they go on from the checkpoint and not from the first weights.
    for flags in ([], ["--steps=5", "--force_flags"]):
        flags = [f"--init={tmp_path / 'first'}", *flags]
        finish(
            *start_workers(tmp_path / "workers", *flags),
            start(tmp_path / "single", *mirrored, *flags),
        )
    runs = tmp_path / "workers", tmp_path / "single"
    losses = [[line["loss"] for line in lines(run)] for run in runs]
    # One process writes: each step is logged once.
    assert len(losses[0]) == 5
    np.testing.assert_allclose(*losses, rtol=1e-4)
    for one, other in zip(*(load_embedder(run).get_weights() for run in runs)):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
