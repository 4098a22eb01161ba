"""What a figure or a file came from: command, date, versions and commit."""

from __future__ import annotations

import contextlib
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from ekd_tf.export.card import installed_versions
from ekd_tf.files.rows import read_note
from ekd_tf.run.config import CACHE
from ekd_tf.version import __version__

_PACKAGES = ("ekd-tf", "tensorflow", "keras", "numpy", "absl-py", "tensorboard")


def provenance(*program: str) -> dict[str, str]:
    """Returns "command", "date" and "ekd_tf", version and commit, of a report or card.

    `program` is what stands between "python" and the arguments of this process.
    """
    commit = package_commit()
    return {
        "command": shlex.join(["python", *program, *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d %H:%M %z"),
        "ekd_tf": f"{__version__}, commit {commit}" if commit else __version__,
    }


def provenance_of_run(flags: Mapping[str, Any] | None, *program: str) -> dict[str, Any]:
    """Returns `provenance` with "training_data", "teacher" and "method" of a run.

    They are None without `flags`, those of `ekd_tf.train`.
    """
    flags = flags or {}
    return {
        "training_data": flags.get("data"),
        "teacher": _named(flags.get("teacher")),
        "method": flags.get("distill") or flags.get("head"),
        **provenance(*program),
    }


def _named(teacher):
    """Names a cache by its folder and the model that it has the embeddings of."""
    if not teacher or not teacher.startswith(CACHE):
        return teacher
    folder = pathlib.Path(teacher.removeprefix(CACHE)).resolve()
    notes = [folder / "cache.json", *sorted(folder.glob("shard-*/cache.json"))]
    note: dict[str, Any] = {}
    # Another run may have no use for it any more.
    with contextlib.suppress(ValueError, OSError):
        note = next(filter(None, map(read_note, notes)), {})
    model = f" of {note['teacher']}" if "teacher" in note else ""
    return f"{CACHE}{folder.name}{model}"


def package_versions() -> dict[str, str]:
    """Returns the versions a run's numbers depend on."""
    return {"python": platform.python_version(), **installed_versions(_PACKAGES)}


def package_commit() -> str | None:
    """Returns the git commit the package runs from, "-dirty" if it was edited.

    None outside of its own repository: that around a virtual environment is another.
    """
    root = pathlib.Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = "git describe --always --dirty --abbrev=40 --exclude=*".split()
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        answer = subprocess.check_output(
            command, cwd=root, env=environment, stderr=subprocess.DEVNULL, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.decode().strip() or None
