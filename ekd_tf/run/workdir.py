"""The folder of a run: what is where, what it was started with, and who holds it."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Collection
from typing import Any

from absl import logging

from ekd_tf.embedders import MODEL_FILE
from ekd_tf.files.atomic import write_text
from ekd_tf.files.lock import locked
from ekd_tf.files.outputs import make_folder
from ekd_tf.files.positioned import reason_of
from ekd_tf.files.user_text import is_utf8
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.provenance import package_commit
from ekd_tf.run.provenance import package_versions

_ABSENT = "not given"


class Workdir:
    """One run's folder with `run.json` and the folders the run writes to.

    It is made and proven writable, or, without `create`, must hold a `run.json`.
    """

    def __init__(self, path: str | os.PathLike, create: bool = True):
        self.path = pathlib.Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.reports = self.path / "reports"
        self.run_file = self.path / "run.json"
        self.identities_file = self.path / "identities.json"
        self.model_file = self.path / MODEL_FILE
        self.export_report = self.reports / "export.json"
        if create:
            if not is_utf8(str(path)):
                raise ValueError(
                    "`workdir` must be a path in UTF-8, which TensorBoard needs. "
                    f"Received: {path}"
                )
            for folder in (self.path, self.checkpoints, self.reports):
                make_folder("workdir", folder)
        elif not self.run_file.is_file():
            raise ValueError(
                f"{path} is not the workdir of a run: it holds no {self.run_file.name}."
            )

    def is_finished(self, export: bool) -> bool:
        """Returns whether the model is there, and its export where one is wanted."""
        is_exported = not export or self.export_report.is_file()
        return self.model_file.is_file() and is_exported

    def record_run(
        self,
        flags: dict,
        changed: dict | None = None,
        teacher: str | None = None,
        data: dict | None = None,
    ) -> None:
        """Writes what the run is started with, by this process, to `run.json`.

        A resumed run replaces the flags and adds itself, with what `check_same_run`
        returned, to the list of starts. `teacher` is a fingerprint and `data` the note
        of `open_run_data`, whose "identities" go to a file of their own.
        """
        starts = self.read_run()["starts"] if self.run_file.exists() else []
        start = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": sys.argv,
            "versions": package_versions(),
            "commit": package_commit(),
            "changed": changed or {},
        }
        run = {
            "flags": flags,
            "seed": flags.get("seed"),
            "teacher": teacher,
            "data": data and {k: v for k, v in data.items() if k != "identities"},
            "starts": [*starts, start],
        }
        if data is not None:
            _write_json(self.identities_file, data["identities"])
        _write_json(self.run_file, run)

    def read_run(self) -> dict:
        """Returns `run.json`: "flags", "seed" and "starts", the oldest first."""
        run = read_json(self.run_file, "describe a run")
        if not isinstance(run, dict) or not {"flags", "seed", "starts"} <= run.keys():
            raise _unreadable(self.run_file, "describe a run", "keys are missing")
        return run

    def read_data(self) -> dict | None:
        """Returns the `data` given to `record_run`; None for a run without."""
        data = self.read_run().get("data")
        if data is None:
            return None
        path, what = self.identities_file, "list the identities of the run"
        return {**data, "identities": read_json(path, what)}

    def check_same_run(
        self, flags: dict, free: Collection[str] = (), force: bool = False
    ) -> dict | None:
        """Refuses to continue a run with other flags than those named `free`.

        A flag that an earlier version did not have had its default in that run.
        Returns the ones that changed and were forced, name -> `[value then, value
        now]`; None for a run that is new.
        """
        if not self.run_file.exists():
            return None
        old = self.read_run()["flags"]
        # Through JSON, so that a tuple equals the list it was recorded as.
        new = json.loads(json.dumps(flags))
        defaults = TrainConfig().to_record()
        changed: dict[str, list[Any]] = {}
        for name in sorted((old.keys() | new.keys()) - set(free)):
            was = old.get(name, defaults.get(name, _ABSENT))
            now = new.get(name, _ABSENT)
            if was != now:
                changed[name] = [was, now]
        text = "; ".join(
            f"`--{name}` was {was}, now {now}" for name, (was, now) in changed.items()
        )
        if changed and not force:
            raise ValueError(
                f"workdir {self.path} belongs to another run: {text}. Use another "
                "--workdir, or --force_flags to continue this one with the new values"
            )
        if changed:
            logging.warning("The run continues with other flags: %s", text)
        return changed

    def check_same_teacher(self, fingerprint: str | None, force: bool = False) -> None:
        """Raises `ValueError` for weights the run's teacher had not, unless forced."""
        was = self.read_run().get("teacher") if self.run_file.exists() else None
        if was is None or was == fingerprint:
            return
        text = (
            f"The teacher is not the one the run in {self.path} was started with: its "
            f"fingerprint was {was[:12]} and is {str(fingerprint)[:12]}"
        )
        if not force:
            raise ValueError(
                f"{text}. Use another --workdir, or --force_flags to continue this one"
            )
        logging.warning("%s.", text)

    def locked(self) -> contextlib.AbstractContextManager:
        """Holds the workdir for this process, or says in a `ValueError` who does."""
        way_out = "Wait for that run to end, end it, or use another --workdir"
        return locked(self.path, f"workdir {self.path}", way_out)


def _write_json(path, value):
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def read_json(path: pathlib.Path, what: str) -> Any:
    """Reads a JSON file, or says in a `ValueError` that it does not do `what`."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, what, reason_of(error)) from error


def _unreadable(path, what, reason):
    return ValueError(f"{path} does not {what} ({reason}). Use another --workdir")
