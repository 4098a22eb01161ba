import json
import os
import subprocess
import sys

import commands
import pytest

DRAWN = ["--data=synthetic:identities=9,images=4,size=32", "--holdout_identities=3"]


@pytest.mark.both_stacks
def test_a_run_says_what_it_does_exports_and_is_evaluated(tmp_path):
    path, output = tmp_path / "run", tmp_path / "out"
    done = commands.succeed(
        "train", f"--workdir={path}", *commands.TINY, *DRAWN, "--steps=2", "--export"
    )
    for words in ("6 identities", "3 identities", "2/2", "loss/margin", "| student |"):
        assert words in done.stderr
    report = json.loads((path / "reports" / "export.json").read_text())
    kinds = [artefact["kind"] for artefact in report["artefacts"]]
    assert kinds == ["saved_model", "tflite_float32", "tflite_float16"]
    assert all(a["parity"]["min_cosine"] >= 0.9999 for a in report["artefacts"])
    version = path / "export" / "student" / "1"
    assert (version / "saved_model.pb").exists()
    card = json.loads((version / "card.json").read_text())
    assert card["training_data"] == DRAWN[0].partition("=")[2]
    assert (card["teacher"], card["method"]) == ("none", "arcface")
    assert card["command"].startswith("python -m ekd_tf.train --workdir=run ")
    done = commands.succeed("evaluate", f"--model={path}", f"--output={output}")
    report = json.loads((output / "heldout.json").read_text())
    # 3 people of 4 images.
    assert report["student"]["num_positive"] == 3 * 6
    assert "| student |" in done.stdout


def test_help_does_not_import_tensorflow():
    before = os.times()
    # Forks, since a second command would define its flags beside the first one's.
    code = (
        "import os, runpy, sys\n"
        "for name in 'train evaluate export_model embed_teacher verify'.split():\n"
        "    if os.fork():\n"
        "        os.wait()\n"
        "        continue\n"
        "    sys.argv = [name, '--help']\n"
        "    try:\n"
        "        runpy.run_module(f'ekd_tf.{name}', run_name='__main__')\n"
        "    finally:\n"
        "        print('modules', *{name.split('.')[0] for name in sys.modules})\n"
        "        sys.stdout.flush()\n"
        "        os._exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300
    )
    texts = done.stdout.split("modules ")
    assert len(texts) == 6, done.stderr
    for text, modules in zip(texts, texts[1:]):
        assert "\n  --" in text, done.stderr
        modules = modules.splitlines()[0].split()
        assert "ekd_tf" in modules and "absl" in modules
        assert not {"tensorflow", "keras", "numpy"} & set(modules)
    # Seconds of the processor, whatever else keeps it busy.
    after = os.times()
    used = sum(after[2:4]) - sum(before[2:4])
    assert used < 2


def test_a_mistake_ends_in_one_line_and_no_traceback(tmp_path):
    arguments = [f"--workdir={tmp_path / 'run'}", *commands.TINY, *DRAWN, "--steps=2"]
    for more, words in (
        (["--teacher=nowhere.keras", "--distill=ekd"], "nowhere.keras does not exist"),
        (["--temprature=1"], "Unknown command line flag 'temprature'"),
        (["stray"], "Every argument must be --FLAG=VALUE; --helpfull lists the flags"),
    ):
        assert words in commands.refuse("train", *arguments, *more).stderr
