"""Metrics of a run as JSON lines and TensorBoard events."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

from ekd_tf.files.atomic import naming
from ekd_tf.files.atomic import write_aside
from ekd_tf.run.board import charts
from ekd_tf.run.board import tensorboard_tag


@contextlib.contextmanager
def naming_tensorboard(folder: str | os.PathLike) -> Iterator[None]:
    """Turns TensorFlow's errors of writing into an `OSError` that names the folder."""
    try:
        yield
    except tf.errors.OpError as error:
        # TensorFlow has many kinds for it; a full disk is the usual one.
        raise OSError(errno.EIO, error.message, os.fspath(folder)) from error


class MetricsLog:
    """Appends scalars and images to `metrics.jsonl` and TensorBoard's events.

    One JSON object per line, `{"step": 20, "loss/ekd/positive": 0.5}`, with null for
    what is not finite. A killed process loses none; a line it has cut in two is dropped
    when the log is opened again.

    Args:
        workdir: Folder of the run.
        step: What was logged after it is dropped, to resume from there.
        again: Names begin as one of these, such as "heldout/", of what will be logged
            again and is dropped at `step` itself too.
        settings: For TensorBoard's HPARAMS page.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        step: int = 0,
        again: tuple[str, ...] = (),
        settings: dict[str, Any] | None = None,
    ):
        self.folder = pathlib.Path(workdir)
        self.path = self.folder / "metrics.jsonl"
        self._settings = settings
        # Of the metrics since the log was opened.
        self._names: set[str] = set()
        if self.path.exists():
            lines = enumerate(self.path.read_bytes().splitlines(True), 1)
            kept = [line for n, line in lines if self._is_kept(line, n, step, again)]
            write_aside(self.path, lambda file: file.writelines(kept))
        # TensorBoard reads files in the order of their names, which begin with the
        # time: numbered, they stand before what is to come, whatever the clock says.
        paths = sorted(self.folder.glob("events.out.tfevents.*"))
        for number, path in enumerate(paths):
            _truncate_events(path, step, again)
            path.rename(path.with_name(f"events.out.tfevents.{number:010d}.resumed"))
        # Without a buffer, which on a full disk would fail once more when closed.
        self._file = open(self.path, "ab", buffering=0)
        with naming_tensorboard(self.folder):
            self._writer = tf.summary.create_file_writer(str(self.folder))

    def write(self, step: int, scalars: dict[str, Any]) -> None:
        """Appends one line and one TensorBoard point per scalar, name -> number."""
        values = {name: float(value) for name, value in scalars.items()}
        line = {k: v if math.isfinite(v) else None for k, v in values.items()}
        rest = (json.dumps({"step": int(step), **line}) + "\n").encode()
        with naming(self.path):
            while rest:
                rest = rest[self._file.write(rest) :]
        # One record for all, since an operation for each takes most of a millisecond.
        # Serialised messages that follow each other are one with all their values.
        points = [self._point(*item).SerializeToString() for item in values.items()]
        if not self._names and self._settings:
            # The page joins runs of one name, and shows the beginning of it.
            folder = self.folder.absolute()
            trial = hparams_pb(self._settings, f"{folder.name} in {folder.parent}")
            points.append(trial.SerializeToString())
        if not values.keys() <= self._names:
            self._names.update(values)
            points.append(charts(self._names))
        with self._points(step):
            tf.summary.experimental.write_raw_pb(b"".join(points))

    def images(self, step: int, images: dict[str, np.ndarray]) -> None:
        """Writes uint8 RGB images `(height, width, 3)`, by name, to TensorBoard."""
        for name, image in images.items():
            with self._points(step):
                tf.summary.image(f"7 pictures/{name}", image[None])

    def flush(self) -> None:
        """Waits until all lines are on disk; call it before saving a checkpoint."""
        with naming(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes both files."""
        with self._file:
            self.flush()
        with naming_tensorboard(self.folder):
            self._writer.close()

    def _point(self, name, value):
        tag, description = tensorboard_tag(name)
        # TensorBoard keeps the one of the first point.
        return scalar_pb(tag, value, None if name in self._names else description)

    @contextlib.contextmanager
    def _points(self, step):
        # Leaving the inner context flushes the events.
        with naming_tensorboard(self.folder), self._writer.as_default(step=int(step)):
            yield

    def _is_kept(self, line, number, step, again):
        # A kill has cut it in two.
        if not line.endswith(b"\n"):
            return False
        try:
            values = json.loads(line)
            return _is_before(values["step"], values, step, again)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"Line {number} of {self.path} is not a JSON object with a step: "
                f"{line[:80]!r}. Remove it to resume the run."
            ) from error


def draw_teacher(
    workdir: str | os.PathLike, steps: int, scalars: dict[str, float]
) -> None:
    """Draws each figure of the teacher as a line from the first step to the last.

    In a TensorBoard run of its own, `teacher`, under the student's names: both stand in
    one chart. Of a run only the first call does anything.
    """
    folder = pathlib.Path(workdir) / "teacher"
    if not scalars or (folder.is_dir() and any(folder.iterdir())):
        return
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default():
        for step in (0, steps):
            for name, value in scalars.items():
                tag, description = tensorboard_tag(name)
                tf.summary.scalar(tag, value, step, description)
    writer.close()


def _is_before(at, names, step, again):
    """Whether what was logged at a step stays when a run resumes from `step`."""
    return at < step or at == step and not any(n.startswith(again) for n in names)


def _truncate_events(path, step, again):
    """Rewrites a TensorBoard file without points after `step` and without damage."""
    # TensorBoard takes any name with "tfevents" in it for a file of its own.
    aside = path.with_name("rewritten.tmp")
    damage = contextlib.suppress(tf.errors.DataLossError)
    with tf.io.TFRecordWriter(str(aside)) as writer, damage:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            # Names as metrics have them, without the group.
            names = [re.sub(r"^\d [^/]+/", "", v.tag) for v in event.summary.value]
            if _is_before(event.step, names, step, again):
                writer.write(record)
    os.replace(aside, path)
