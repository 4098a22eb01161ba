"""Tests for `ekd_tf.run.board`: what TensorBoard reads back."""

import re

import pytest
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata

from ekd_tf.run.board import FILE
from ekd_tf.run.board import BoardHook
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.logs import tensorboard_tag
from ekd_tf.training.loop import Step

SCALARS = (
    "loss",
    "critical/negative",
    "critical/negative/fpr_1e-1",
    "critical/positive",
    "threshold/student/fpr_1e-1",
    "threshold/teacher/fpr_1e-1",
)
FIGURES = (
    "heldout/accuracy",
    "heldout/tpr_at_fpr_1e-1",
    "heldout/gap_at_fpr_1e-1",
    "lfw/accuracy",
    "lfw/tpr_at_fpr_1e-1",
)


def written(folder):
    """Returns tag -> value of a run's file for TensorBoard."""
    records = tf.data.TFRecordDataset(str(folder / FILE)).as_numpy_iterator()
    events = [tf.compat.v1.Event.FromString(record) for record in records]
    assert events[0].file_version == "brain.Event:2"
    assert all(event.step == 0 for event in events)
    return {value.tag: value for event in events for value in event.summary.value}


def layout(value):
    """Returns (category, chart) -> patterns of a layout."""
    text = tf.make_ndarray(value.tensor).item()
    return {
        (category.title.partition(" of ")[0], chart.title): list(chart.multiline.tag)
        for category in layout_pb2.Layout.FromString(text).category
        for chart in category.chart
    }


def experiment(values):
    content = values[metadata.EXPERIMENT_TAG].metadata.plugin_data.content
    return metadata.parse_experiment_plugin_data(content)


def session(values):
    content = values[metadata.SESSION_START_INFO_TAG].metadata.plugin_data.content
    return metadata.parse_session_start_info_plugin_data(content)


@pytest.fixture
def make(tmp_path):
    """Returns what is written of a first step with scalars and of figures."""

    def make(scalars=SCALARS, figures=FIGURES, **settings):
        config = TrainConfig(workdir=str(tmp_path), **settings)
        hook = BoardHook(tmp_path, config, figures)
        for number in (1, 2):
            hook.after_step(Step(number, False, dict.fromkeys(scalars, 1.0), {}))
        assert [path.name for path in tmp_path.iterdir()] == [FILE]
        return written(tmp_path)

    return make


def test_curves_of_teacher_and_student_share_a_chart(make):
    charts = layout(make()["custom_scalars__config__"])
    tags = [tensorboard_tag(name)[0] for name in (*SCALARS, *FIGURES)]
    # As TensorBoard matches them.
    shown = {
        title: [tag for tag in tags if any(re.match(p, tag) for p in patterns)]
        for title, patterns in charts.items()
    }
    assert shown == {
        ("TPR", "heldout, FPR 1e-1"): ["2 TPR/heldout/tpr_at_fpr_1e-1"],
        ("TPR", "lfw, FPR 1e-1"): ["2 TPR/lfw/tpr_at_fpr_1e-1"],
        ("Thresholds", "FPR 1e-1"): [
            "3 threshold/threshold/student/fpr_1e-1",
            "3 threshold/threshold/teacher/fpr_1e-1",
        ],
        ("Critical pairs", "All"): [
            "5 distillation/critical/negative",
            "5 distillation/critical/positive",
        ],
    }


def test_a_run_that_came_to_its_end_is_a_success(tmp_path):
    hook = BoardHook(tmp_path, TrainConfig(workdir=str(tmp_path)), FIGURES)
    for number, is_last in ((1, False), (2, False), (3, True)):
        hook.after_step(Step(number, is_last, {"loss": 1.0}, {}))
        values = written(tmp_path)
        assert (metadata.SESSION_END_INFO_TAG in values) == is_last
    content = values[metadata.SESSION_END_INFO_TAG].metadata.plugin_data.content
    end = metadata.parse_session_end_info_plugin_data(content)
    assert end.status == api_pb2.STATUS_SUCCESS


def test_a_run_has_charts_of_its_own_curves_alone(make):
    charts = layout(make(["loss"])["custom_scalars__config__"])
    assert charts.keys() == {
        ("TPR", f"{name}, FPR 1e-1") for name in ("heldout", "lfw")
    }
    assert "custom_scalars__config__" not in make(["loss"], [])


def test_runs_compare_by_their_settings_and_figures(make, tmp_path):
    values = make(distill="ekd:100%", seed=3, eval_sets=("a:pairs:b",), epochs=2.5)
    start = session(values)
    assert start.group_name == f"{tmp_path.name} in {tmp_path.parent}"
    given = {name: value for name, value in start.hparams.items()}
    assert given["distill"].string_value == "ekd:100%"
    assert (given["seed"].number_value, given["epochs"].number_value) == (3, 2.5)
    assert given["flip"].bool_value is True
    # Not given, and of no effect on the arithmetic.
    assert not {"steps", "workdir", "log_every", "eval_sets"} & given.keys()
    columns = experiment(values)
    types = {info.name: info.type for info in columns.hparam_infos}
    assert given.keys() < types.keys()
    assert types["steps"] == types["learning_rate"] == api_pb2.DATA_TYPE_FLOAT64
    assert types["flip"] == api_pb2.DATA_TYPE_BOOL
    assert types["distill"] == api_pb2.DATA_TYPE_STRING
    assert all(info.description for info in columns.hparam_infos)
    first = {info.name for info in columns.hparam_infos if info.differs}
    assert "distill" in first and "momentum" not in first
    # TensorBoard takes the columns of one run: none that not every run has.
    assert [info.display_name for info in columns.metric_infos] == [
        "heldout/accuracy",
        "heldout/tpr_at_fpr_1e-1",
        "lfw/tpr_at_fpr_1e-1",
        "lfw/accuracy",
    ]
    for info in columns.metric_infos:
        assert info.name.tag == tensorboard_tag(info.display_name)[0]


def test_the_best_metric_comes_first(make):
    columns = experiment(make(best_metric="-lfw/accuracy"))
    assert columns.metric_infos[0].name.tag == "4 evaluation/lfw/accuracy"
