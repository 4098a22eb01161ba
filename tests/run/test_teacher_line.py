import tensorflow as tf
from tensorflow.python.summary.summary_iterator import summary_iterator

from ekd_tf.run.logs import TeacherLine


def points(folder):
    """Returns (step, name, value) of all events in a folder."""
    return [
        (event.step, value.tag, float(tf.make_ndarray(value.tensor)))
        for path in sorted(folder.glob("events*"))
        for event in summary_iterator(str(path))
        for value in event.summary.value
    ]


EXPECTED = [
    (step, f"4 evaluation/lfw/{name}", value)
    for step in (0, 90)
    for name, value in (("auc", 0.75), ("eer", 0.25))
]


def test_draws_from_the_first_step_to_the_last(tmp_path):
    TeacherLine(tmp_path, 90).draw({"lfw/auc": 0.75, "lfw/eer": 0.25})
    assert points(tmp_path / "teacher") == EXPECTED


def test_draws_once_even_when_resumed(tmp_path):
    line = TeacherLine(tmp_path, 90)
    line.draw({"lfw/auc": 0.75, "lfw/eer": 0.25})
    line.draw({"lfw/auc": 0.1})
    TeacherLine(tmp_path, 90).draw({"lfw/auc": 0.1})
    assert points(tmp_path / "teacher") == EXPECTED


def test_draws_nothing_without_a_teacher(tmp_path):
    TeacherLine(tmp_path, 1).draw({})
    assert not (tmp_path / "teacher").exists()
