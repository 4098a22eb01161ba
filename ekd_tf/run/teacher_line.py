"""The teacher's figures in TensorBoard: level lines under the student's curves."""

from __future__ import annotations

import pathlib

import tensorflow as tf

from ekd_tf.run.tags import tensorboard_tag


class TeacherLine:
    """Draws each figure of the teacher as a line from the first step to the last.

    They are points of a TensorBoard run of their own, `teacher` beside the student's,
    under the student's names: both stand in one chart. A run that is resumed finds its
    lines drawn and draws none.

    Args:
        tensorboard: Folder of the run's events.
        steps: Int > 0: updates in the whole run.
    """

    def __init__(self, tensorboard, steps: int):
        self._folder = pathlib.Path(tensorboard) / "teacher"
        self._steps = steps
        self._drawn = self._folder.is_dir() and any(self._folder.iterdir())

    def draw(self, scalars: dict) -> None:
        """Draws the lines; only the first call does anything.

        Args:
            scalars: Metric name -> number.
        """
        if self._drawn or not scalars:
            return
        self._drawn = True
        writer = tf.summary.create_file_writer(str(self._folder))
        with writer.as_default():
            for step in (0, self._steps):
                for name, value in scalars.items():
                    tag, description = tensorboard_tag(name)
                    tf.summary.scalar(tag, value, step, description)
        writer.close()
