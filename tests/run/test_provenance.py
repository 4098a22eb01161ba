import os
import shutil
import subprocess
import sys
import time

from records import put

from ekd_tf.run import provenance
from ekd_tf.version import __version__


def test_commit_of_a_clean_and_of_an_edited_repository(tmp_path, monkeypatch):
    # A git repository, in which the module believes to be.
    file = tmp_path / "ekd_tf" / "run" / "provenance.py"
    put(file, b"first\n")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@x", "-C", str(tmp_path)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run(git + command, check=True, env={**os.environ, "HOME": "/"})
    monkeypatch.setattr(provenance, "__file__", str(file))
    head = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    assert len(head) == 40
    assert provenance.package_commit() == head
    monkeypatch.setattr(sys, "argv", ["train.py", "--data=folder:my faces"])
    found = provenance.provenance("-m", "ekd_tf.train")
    assert found["command"] == "python -m ekd_tf.train '--data=folder:my faces'"
    assert found["date"].startswith(time.strftime("%Y-"))
    assert found["ekd_tf"] == f"{__version__}, commit {head}"
    file.write_text("second\n")
    assert provenance.package_commit() == head + "-dirty"
    # Installed within a repository of somebody else.
    installed = tmp_path / "venv" / "ekd_tf" / "run" / "provenance.py"
    monkeypatch.setattr(provenance, "__file__", str(installed))
    assert provenance.package_commit() is None
    assert provenance.provenance()["ekd_tf"] == __version__


def test_a_run_says_its_data_teacher_and_method(tmp_path):
    flags = {"data": "folder:a", "teacher": "t.onnx", "head": "arcface"}
    for distill, method in (("ekd:4,cosine:1",) * 2, ("", "arcface")):
        found = provenance.provenance_of_run({**flags, "distill": distill}, "x")
        assert found["training_data"] == "folder:a" and found["teacher"] == "t.onnx"
        assert found["method"] == method and found["command"].startswith("python x")
    cache = tmp_path / "of r100"
    for made, known in (
        (None, ""),
        (cache / "shard-1-of-2" / "cache.json", " of a/r100.onnx"),
        (cache / "cache.json", " of a/r100.onnx"),
    ):
        if made:
            put(made, b'{"teacher": "a/r100.onnx"}')
        found = provenance.provenance_of_run({"teacher": f"cache:{cache}"})
        assert found["teacher"] == f"cache:of r100{known}"
        shutil.rmtree(cache, ignore_errors=True)
    nothing = provenance.provenance_of_run(None)
    assert (nothing["teacher"], nothing["method"]) == (None, None)
