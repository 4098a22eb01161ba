"""What TensorBoard is told of a run: its settings, and which curves share a chart."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import time
from collections.abc import Iterable

import tensorflow as tf
from tensorboard.compat.proto import summary_pb2
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.hparams.summary import session_end_pb

from ekd_tf.run.config import FREE
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.logs import naming_tensorboard
from ekd_tf.run.logs import tensorboard_tag
from ekd_tf.training.loop import Hook
from ekd_tf.training.loop import Step

# TensorBoard reads files in the order of their names: before the points.
FILE = "about.tfevents"
# Category, metrics in it and title of the chart: those with one title share a chart.
_CHARTS = (
    ("TPR of teacher and student", "(.+)/tpr_at_fpr_(.+)", "{0}, FPR {1}"),
    (
        "Thresholds of teacher and student",
        "threshold/(?:student|teacher)/fpr_(.+)",
        "FPR {0}",
    ),
    ("Critical pairs of teacher and student", "critical/(?:positive|negative)", "All"),
)
# What runs are compared over most: the HPARAMS page shows these first.
_FIRST = ("distill", "head", "learning_rate", "model", "seed", "width")
# How TensorBoard sorts and filters a setting, by its annotation; others are texts.
_TYPES = {
    "bool": api_pb2.DATA_TYPE_BOOL,
    "float": api_pb2.DATA_TYPE_FLOAT64,
    "int": api_pb2.DATA_TYPE_FLOAT64,
}


class BoardHook(Hook):
    """Writes the file for TensorBoard's HPARAMS and CUSTOM SCALARS pages.

    At the first step, which tells what will be logged, and anew at each start, since
    settings may have changed by force; and at the last step, since the run is complete.

    Args:
        folder: The run's workdir.
        config: Its settings; those that change no arithmetic are left out.
        figures: Names of the figures its evaluations will give.
    """

    def __init__(
        self, folder: str | os.PathLike, config: TrainConfig, figures: Iterable[str]
    ):
        self._path = pathlib.Path(folder) / FILE
        self._config = config
        self._figures = list(figures)
        self._is_written = False

    def after_step(self, step: Step) -> None:
        if self._is_written and not step.is_last:
            return
        self._is_written = True
        # The page joins runs of one name, and shows the beginning of it.
        workdir = self._path.parent.absolute()
        name = f"{workdir.name} in {workdir.parent}"
        summaries = [
            _experiment(self._figures),
            hparams.hparams_pb(_settings(self._config), trial_id=name),
        ]
        if step.is_last:
            summaries.append(session_end_pb(api_pb2.STATUS_SUCCESS))
        layout = _layout([*self._figures, *step.scalars])
        if layout.category:
            summaries.append(custom_scalar.pb(layout))
        now, event = time.time(), tf.compat.v1.Event
        events = [event(wall_time=now, file_version="brain.Event:2")]
        for summary in summaries:
            # TensorBoard's messages are of other classes than TensorFlow's.
            made = tf.compat.v1.Summary.FromString(summary.SerializeToString())
            events.append(event(wall_time=now, summary=made))
        aside = self._path.with_name("about.tmp")
        with naming_tensorboard(self._path.parent):
            with tf.io.TFRecordWriter(str(aside)) as writer:
                for each in events:
                    writer.write(each.SerializeToString())
        os.replace(aside, self._path)


def _settings(config):
    """Returns the settings that were given or have a default, for the HPARAMS page."""
    return {
        name: ",".join(value) if isinstance(value, list) else value
        for name, value in config.to_record().items()
        if name not in FREE and value is not None
    }


def _experiment(figures):
    """Returns the columns of the HPARAMS page: all settings, and figures to compare.

    The page takes them from one of its runs: they are the same whether or not there is
    a teacher.
    """
    infos = []
    for field in dataclasses.fields(TrainConfig):
        if field.name not in FREE:
            kind = str(field.type).replace(" | None", "")
            infos.append(
                api_pb2.HParamInfo(
                    name=field.name,
                    description=field.metadata["help"],
                    type=_TYPES.get(kind, api_pb2.DATA_TYPE_STRING),
                    differs=field.name in _FIRST,
                )
            )
    compared = [name for name in figures if "/gap_at_fpr_" not in name]
    compared.sort(key=lambda name: "/tpr_at_fpr_" not in name)
    experiment = api_pb2.Experiment(
        hparam_infos=infos,
        metric_infos=[
            api_pb2.MetricInfo(
                name=api_pb2.MetricName(tag=tensorboard_tag(name)[0]), display_name=name
            )
            for name in compared
        ],
    )
    data = plugin_data_pb2.HParamsPluginData(experiment=experiment)
    value = summary_pb2.Summary.Value(
        tag=metadata.EXPERIMENT_TAG,
        metadata=metadata.create_summary_metadata(data),
        tensor=metadata.NULL_TENSOR,
    )
    return summary_pb2.Summary(value=[value])


def _layout(names):
    """Returns charts of the metrics that are looked at together, as far as there are.

    Charts that several runs have are one, with the curves of all.
    """
    layout = layout_pb2.Layout()
    for title, pattern, title_of_chart in _CHARTS:
        charts: dict[str, list[str]] = {}
        for name in names:
            if match := re.fullmatch(pattern, name):
                tags = charts.setdefault(title_of_chart.format(*match.groups()), [])
                tags.append(re.escape(tensorboard_tag(name)[0]) + "$")
        category = layout_pb2.Category(title=title)
        for title_of, tags in charts.items():
            lines = layout_pb2.MultilineChartContent(tag=sorted(tags))
            category.chart.add(title=title_of, multiline=lines)
        if charts:
            layout.category.append(category)
    return layout
