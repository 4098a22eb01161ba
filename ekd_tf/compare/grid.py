"""One run of a grid of trainings: started as a command, passed over once finished."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Collection
from collections.abc import Sequence
from typing import Any

from ekd_tf.evaluation.verification import COLLAPSED_COSINE
from ekd_tf.files.atomic import write_text
from ekd_tf.files.lock import hold
from ekd_tf.run.interruption import RESUME_STATUS
from ekd_tf.run.interruption import Interrupted
from ekd_tf.run.interruption import child_process
from ekd_tf.run.workdir import Workdir
from ekd_tf.run.workdir import read_json

# What the grid notes about a run, beside its `run.json`.
_NOTE = "grid.json"
_LOG = "train.log"
_COMMAND = ("-m", "ekd_tf.train")
_LONGEST_MESSAGE = 2000


@dataclasses.dataclass(frozen=True)
class GridRun:
    """One training of a grid, of one method and seed, in a workdir of its own.

    Its settings are `values`, as `run.json` records them, and `arguments`, as a command
    takes them; those named `free` may differ from the recorded ones.
    """

    method: str
    seed: int
    path: pathlib.Path
    values: dict[str, Any]
    arguments: tuple[str, ...]
    free: Collection[str] = ()

    @property
    def starts(self) -> list[dict]:
        """The starts that `run.json` records, the oldest first."""
        workdir = self._workdir()
        return workdir.read_run()["starts"] if workdir else []

    @property
    def is_finished(self) -> bool:
        """Whether the model is there, of these flags, and its export where wanted."""
        workdir = self._workdir()
        if workdir is None:
            return False
        workdir.check_same_run(self.values, self.free)
        return workdir.is_finished(self.values.get("export", False))

    @property
    def failure(self) -> str | None:
        """Why it failed when it was last started with these flags, or None."""
        note = self._note()
        return note["failure"] if note["arguments"] == list(self.arguments) else None

    @property
    def command(self) -> str:
        """The command that trains it, to be pasted into a shell."""
        return shlex.join(["python", *_COMMAND, *self.arguments])

    def train(
        self,
        retry: bool = False,
        command: Sequence[str] = (sys.executable, *_COMMAND),
    ) -> None:
        """Trains to the end; one that is finished, or failed unless `retry`, is left.

        `command` is what trains, before the arguments. Its messages go on to stderr and
        into `train.log`, signals to it.

        Raises:
            Interrupted: The trainer was interrupted: the same call continues it.
            ValueError: It was killed, or ended before its first step, so that no other
                run would fare better.
        """
        if self.is_finished or (self.failure and not retry):
            return
        self.path.mkdir(parents=True, exist_ok=True)
        before, start = self.starts, time.monotonic()
        status, message = _call([*command, *self.arguments], self.path / _LOG)
        failed = status not in (0, RESUME_STATUS)
        # Nothing that is the run's own fault.
        ended = failed and (status < 0 or self.starts == before)
        note = {
            "seconds": self._note()["seconds"] + time.monotonic() - start,
            "failure": message if failed and not ended else None,
            "arguments": list(self.arguments),
        }
        write_text(self.path / _NOTE, json.dumps(note, indent=2) + "\n")
        if ended:
            raise ValueError(
                f"{self.method}, seed {self.seed}: status {status}: {message}"
            )
        if status == RESUME_STATUS:
            raise Interrupted(f"{self.method}, seed {self.seed}, was interrupted.")

    def summary(self, note: str = "") -> dict[str, Any]:
        """Returns what became of the run, as JSON can hold it; `note` stands first.

        "images_per_second" is the median over the run, "ms_per_step" what a step takes
        at it, and "seconds" the wall time of all its starts, or None.
        """
        speeds = self._logged("throughput/images_per_second")
        speed = statistics.median(speeds) if speeds else None
        batch = self.values.get("general_batch") or 0
        balanced = self.values.get("balanced_identities") or 0
        batch += balanced * self.values.get("images_per_identity", 0)
        cosines = self._logged("embedding/mean_cosine")
        state = "finished" if self.is_finished else "not finished"
        notes = [note] if note else []
        if state != "finished" and self.failure:
            state = "failed"
            notes.append(self.failure)
        if cosines and cosines[-1] > COLLAPSED_COSINE:
            notes.append(
                f"collapsed: the mean cosine between images is {cosines[-1]:.4f}"
            )
        changed = [start["changed"] for start in self.starts if start["changed"]]
        notes += [f"continued with other flags, then and now: {c}" for c in changed]
        return {
            "method": self.method,
            "seed": self.seed,
            "state": state,
            "note": "; ".join(notes),
            "images_per_second": speed,
            "ms_per_step": 1000 * batch / speed if speed and batch else None,
            "seconds": self._note()["seconds"] or None,
            "command": self.command,
        }

    def _workdir(self):
        """Returns the run's workdir, or None where it has not been started."""
        is_there = (self.path / "run.json").is_file()
        return Workdir(self.path, create=False) if is_there else None

    def _note(self):
        path = self.path / _NOTE
        if path.is_file():
            return read_json(path, "say what became of the run")
        return {"seconds": 0.0, "failure": None, "arguments": []}

    def _logged(self, name):
        """Returns the values of a metric, in order."""
        path = self.path / "metrics.jsonl"
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        # The last one may be half written.
        whole = [json.loads(x) for x in text.splitlines(True) if x.endswith("\n")]
        return [line[name] for line in whole if line.get(name) is not None]


def _call(command, log):
    """Runs a command; what stops this one and what the child says are passed on."""
    tail = b""
    # Without a buffer, so that the log can be followed.
    with open(log, "ab", buffering=0) as file:
        # Else this one would note that the other holds the run's folder as a failure.
        hold(file, str(log), "Wait for that command to end, or end it")
        with child_process(command, stderr=subprocess.PIPE) as (child, signals):
            while chunk := os.read(child.stderr.fileno(), 1 << 16):
                sys.stderr.write(chunk.decode(errors="replace"))
                sys.stderr.flush()
                file.write(chunk)
                tail = (tail + chunk)[-10 * _LONGEST_MESSAGE :]
            status = child.wait()
    return (RESUME_STATUS if signals else status), _message(tail)


def _message(tail):
    """Returns what the trainer said last: its own error, or else the last line."""
    text = tail.decode(errors="replace").strip()
    _, prefix, message = text.rpartition("ekd_tf.train: ")
    if prefix and len(message) < _LONGEST_MESSAGE:
        return message
    return text.splitlines()[-1] if text else "no message"
