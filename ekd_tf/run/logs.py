"""Metrics of a run as JSON lines and TensorBoard events."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import pathlib
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

from ekd_tf.files.atomic import naming
from ekd_tf.files.atomic import write_aside
from ekd_tf.run.tags import metric_of
from ekd_tf.run.tags import tensorboard_tag


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

    One JSON object per line, `{"step": 20, "loss/ekd/positive": 0.5}`; a value that
    is not finite is written as null, since JSON has no word for it. Lines and points
    reach the operating system at once, so a killed process loses none; a line cut in
    two by the kill is dropped when the log is opened again.

    Args:
        workdir: The run's folder, which must exist.
    """

    def __init__(self, workdir: str | os.PathLike):
        # TensorBoard names a run by the folder its events are in.
        self.tensorboard = pathlib.Path(workdir)
        self.path = self.tensorboard / "metrics.jsonl"
        self._writer: Any = None
        self._described: set[str] = set()
        self._drop_partial_line()
        self._file = self._open()

    def write(self, step: int, scalars: dict[str, Any]) -> None:
        """Appends one line and one TensorBoard point per scalar, name -> number."""
        if "step" in scalars:
            raise ValueError("'step' is not free as a metric's name.")
        values = {name: float(value) for name, value in scalars.items()}
        line = {k: v if math.isfinite(v) else None for k, v in values.items()}
        text = json.dumps({"step": int(step), **line}) + "\n"
        with naming(self.path):
            rest = text.encode()
            while rest:
                rest = rest[self._file.write(rest) :]
        # One record for all, since an operation for each takes most of a millisecond.
        # Serialised messages that follow each other are one with all their values.
        points = [self._point(*item).SerializeToString() for item in values.items()]
        with self._points(step):
            tf.summary.experimental.write_raw_pb(b"".join(points))

    def images(self, step: int, images: dict[str, np.ndarray]) -> None:
        """Writes uint8 RGB images `(height, width, 3)`, by name, to TensorBoard."""
        for name, image in images.items():
            image = np.asarray(image)
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
                raise ValueError(
                    f"Image {name!r} must be uint8 (height, width, 3). "
                    f"Received: {image.dtype} {image.shape}"
                )
            with self._points(step):
                tf.summary.image(name, image[None])

    def flush(self) -> None:
        """Waits until all lines are on disk; call it before saving a checkpoint."""
        with naming(self.path):
            os.fsync(self._file.fileno())

    def truncate_after(self, step: int, without: Iterable[str] = ()) -> None:
        """Drops everything logged after `step`, to resume from there.

        Args:
            step: Updates made so far.
            without: Beginnings of names, as "heldout/": such metrics and images are
                dropped at `step` itself too, since they will be logged again.

        Both files are rewritten aside and renamed. TensorBoard reads files in the
        order of their names, which start with the time and hold the host: what there
        is is numbered, so that it stands before what this process will write, whatever
        its clock and its host say.

        Raises:
            ValueError: If a whole line is not a JSON object with a step.
        """
        self.close()
        without = tuple(without)
        lines = enumerate(self.path.read_bytes().splitlines(True), 1)
        kept = [line for n, line in lines if self._is_kept(line, n, step, without)]
        write_aside(self.path, lambda file: file.writelines(kept))
        paths = sorted(self.tensorboard.glob("events.out.tfevents.*"))
        for number, path in enumerate(paths):
            _truncate_events(path, step, without)
            path.rename(path.with_name(f"events.out.tfevents.{number:010d}.resumed"))
        self._file = self._open()

    def close(self) -> None:
        """Flushes and closes both files; `truncate_after` opens them again."""
        if not self._file.closed:
            with self._file:
                self.flush()
        if self._writer is not None:
            writer, self._writer = self._writer, None
            # The first points may be truncated.
            self._described.clear()
            with naming_tensorboard(self.tensorboard):
                writer.close()

    def _point(self, name, value):
        tag, description = tensorboard_tag(name)
        if tag in self._described:
            # TensorBoard keeps the one of the first point.
            description = None
        self._described.add(tag)
        return scalar_pb(tag, value, description)

    def _open(self):
        # Without a buffer, which on a full disk would fail once more when closed.
        return open(self.path, "ab", buffering=0)

    @contextlib.contextmanager
    def _points(self, step):
        with naming_tensorboard(self.tensorboard):
            # Made at the first point: a file started earlier would be cut by
            # `truncate_after` while it is open.
            if self._writer is None:
                self._writer = tf.summary.create_file_writer(str(self.tensorboard))
            # Leaving the context flushes the events.
            with self._writer.as_default(step=int(step)):
                yield

    def _drop_partial_line(self):
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            write_aside(self.path, lambda file: file.write(whole))

    def _is_kept(self, line, number, step, without):
        try:
            values = json.loads(line)
            return _is_before(values["step"], values, step, without)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"Line {number} of {self.path} is not a JSON object with a step: "
                f"{line[:80]!r}. Remove it to resume the run."
            ) from error


class TeacherLine:
    """Draws each figure of the teacher as a line from the first step to the last.

    They are points of a TensorBoard run of their own, `teacher` beside the student's,
    under the student's names: both stand in one chart. A resumed run draws none again.

    Args:
        tensorboard: Folder of the run's events.
        steps: Updates in the whole run.
    """

    def __init__(self, tensorboard: str | os.PathLike, steps: int):
        self._folder = pathlib.Path(tensorboard) / "teacher"
        self._steps = steps
        self._is_drawn = self._folder.is_dir() and any(self._folder.iterdir())

    def draw(self, scalars: dict[str, float]) -> None:
        """Draws a line per metric; only the first call does anything."""
        if self._is_drawn or not scalars:
            return
        self._is_drawn = True
        writer = tf.summary.create_file_writer(str(self._folder))
        with writer.as_default():
            for step in (0, self._steps):
                for name, value in scalars.items():
                    tag, description = tensorboard_tag(name)
                    tf.summary.scalar(tag, value, step, description)
        writer.close()


def _is_before(at, names, step, without):
    """Whether what was logged at a step stays when a run resumes from `step`."""
    return at < step or at == step and not any(n.startswith(without) for n in names)


def _truncate_events(path, step, without):
    """Rewrites a TensorBoard file without points after `step` and without damage."""
    kept, complete = [], True
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            names = [metric_of(value.tag) for value in event.summary.value]
            if _is_before(event.step, names, step, without):
                kept.append(record)
            else:
                complete = False
    except tf.errors.DataLossError:
        complete = False
    if complete:
        return
    # TensorBoard takes any name with "tfevents" in it for a file of its own.
    aside = path.with_name("rewritten.tmp")
    with tf.io.TFRecordWriter(str(aside)) as writer:
        for record in kept:
            writer.write(record)
    os.replace(aside, path)
