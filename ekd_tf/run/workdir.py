"""The folder of a run: what is where, and what the run was started with."""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Collection
from typing import Any

from absl import logging

from ekd_tf.files.atomic import write_aside
from ekd_tf.files.outputs import make_folder
from ekd_tf.run.provenance import package_commit

_ABSENT = "not given"


class Workdir:
    """One run's folder with `run.json` and the folders the run writes to.

    Args:
        path: The folder, made if it is not there.
        create: Whether to make it and prove that it can be written to. False, for
            reading another run, requires a `run.json` in it.

    Raises:
        ValueError: If `path` is a file, cannot be made, cannot be written to, or,
            with `create=False`, is not the workdir of a run.
    """

    def __init__(self, path: str | os.PathLike, create: bool = True):
        self.path = pathlib.Path(path)
        self.checkpoints = self.path / "checkpoints"
        # TensorBoard names a run by the folder its events are in.
        self.tensorboard = self.path
        self.reports = self.path / "reports"
        self.run_file = self.path / "run.json"
        self.identities_file = self.path / "identities.json"
        if create:
            for folder in (self.path, self.checkpoints, self.reports):
                make_folder("workdir", folder)
        elif not self.run_file.is_file():
            raise ValueError(
                f"{path} is not the workdir of a run: it holds no {self.run_file.name}."
            )

    def __fspath__(self) -> str:
        return str(self.path)

    def record_run(
        self,
        flags: dict,
        versions: dict,
        command: list[str],
        changed: dict | None = None,
        teacher: str | None = None,
        data: dict | None = None,
    ) -> None:
        """Writes what the run is started with to `run.json`.

        A resumed run replaces the flags and adds itself to the list of starts.

        Args:
            flags: Every flag of the command, values JSON can hold.
            versions: Package name -> version.
            command: The command line, `sys.argv`.
            changed: What `check_same_run` returned.
            teacher: Fingerprint of the teacher.
            data: The note of `run.data.RunData`. Its "identities", which may be many,
                go to a file of their own.
        """
        starts = self.read_run()["starts"] if self.run_file.exists() else []
        start = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": list(command),
            "versions": dict(versions),
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
        """Returns `run.json`: "flags", "seed" and "starts", the oldest first.

        Raises:
            ValueError: If the file cannot be read as that.
        """
        try:
            run = json.loads(self.run_file.read_text(encoding="utf-8"))
            if not {"flags", "seed", "starts"} <= run.keys():
                raise ValueError("keys are missing")
        except (OSError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{self.run_file} does not describe a run ({error}). "
                "Use another --workdir"
            ) from error
        return run

    def read_data(self) -> dict | None:
        """Returns the `data` given to `record_run`; None for a run without.

        Raises:
            ValueError: A file cannot be read as that.
        """
        data = self.read_run().get("data")
        if data is None:
            return None
        try:
            text = self.identities_file.read_text(encoding="utf-8")
            return {**data, "identities": json.loads(text)}
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{self.identities_file} does not list the identities of the run "
                f"({error}). Use another --workdir"
            ) from error

    def check_same_run(
        self, flags: dict, free: Collection[str] = (), force: bool = False
    ) -> dict | None:
        """Refuses to continue a run with flags that change its arithmetic.

        Args:
            flags: The flags of this start, as given to `record_run`.
            free: Names of flags that may differ: how often to log, where to export.
            force: Continue all the same, with a warning.

        Returns:
            The flags that were forced, name -> `[value then, value now]`; None for a
            new workdir.

        Raises:
            ValueError: If any other flag differs; all are listed with both values.
        """
        if not self.run_file.exists():
            return None
        old = self.read_run()["flags"]
        # Through JSON, so that a tuple equals the list it was recorded as.
        new = json.loads(json.dumps(flags))
        changed: dict[str, list[Any]] = {}
        for name in sorted((old.keys() | new.keys()) - set(free)):
            was, now = old.get(name, _ABSENT), new.get(name, _ABSENT)
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
        """Raises `ValueError` if the run was recorded with a teacher of other weights.

        Args:
            fingerprint: Of the teacher of this start, as given to `record_run`.
            force: Continue all the same, with a warning.
        """
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


def _write_json(path, value):
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    write_aside(path, lambda file: file.write(text.encode()))
