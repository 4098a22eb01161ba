"""Tests for `ekd_tf.run.provenance`."""

import os
import subprocess
import time

import pytest

from ekd_tf.run import provenance as provenance_module
from ekd_tf.run.provenance import package_commit
from ekd_tf.run.provenance import provenance
from ekd_tf.run.provenance import provenance_of_run
from ekd_tf.version import __version__


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with a package file, which the module believes to be in."""
    package = tmp_path / "ekd_tf" / "run"
    package.mkdir(parents=True)
    file = package / "provenance.py"
    file.write_text("first\n")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@x", "-C", str(tmp_path)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run(git + command, check=True, env={**os.environ, "HOME": "/"})
    monkeypatch.setattr(provenance_module, "__file__", str(file))
    head = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    )
    return tmp_path, file, head.stdout.strip()


def test_commit_of_a_clean_and_of_an_edited_repository(repository):
    _, file, head = repository
    assert len(head) == 40
    assert package_commit() == head
    file.write_text("second\n")
    assert package_commit() == head + "-dirty"


def test_no_commit_inside_a_repository_of_somebody_else(repository, monkeypatch):
    root, _, _ = repository
    installed = root / "venv" / "ekd_tf" / "run" / "provenance.py"
    installed.parent.mkdir(parents=True)
    monkeypatch.setattr(provenance_module, "__file__", str(installed))
    assert package_commit() is None


def test_names_command_date_and_commit_or_else_the_version(repository, monkeypatch):
    _, _, head = repository
    found = provenance(["python", "-m", "ekd_tf.train", "--data=folder:my faces"])
    assert found["command"] == "python -m ekd_tf.train '--data=folder:my faces'"
    assert found["date"].startswith(time.strftime("%Y-"))
    assert found["ekd_tf"] == f"{__version__}, commit {head}"
    monkeypatch.setattr(provenance_module, "package_commit", lambda: None)
    assert provenance(["python"])["ekd_tf"] == __version__


@pytest.mark.parametrize(
    ("distill", "method"), [("ekd:4,cosine:1", "ekd:4,cosine:1"), ("", "arcface")]
)
def test_a_run_says_its_data_teacher_and_method(distill, method):
    flags = {"data": "folder:a", "teacher": "t.onnx", "distill": distill}
    found = provenance_of_run({**flags, "head": "arcface"}, ["python", "x"])
    assert found["training_data"] == "folder:a" and found["teacher"] == "t.onnx"
    assert found["method"] == method
    assert found["command"] == "python x"
    nothing = provenance_of_run(None, ["python", "x"])
    assert (nothing["teacher"], nothing["method"]) == (None, None)
