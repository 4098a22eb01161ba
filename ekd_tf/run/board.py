"""What TensorBoard shows of a run: groups of metrics, and charts."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar

# Group -> pattern -> description: TensorBoard sorts groups by name, hence the numbers,
# by which what is looked at first stands in front. The first pattern that matches a
# name decides.
_TAGS: dict[str, dict[str, str | None]] = {
    "1 loss": {
        "loss": "What is minimised: the weighted sum of all losses.",
        "loss/margin": "Mean cross entropy of the margin head, times its weight.",
        "loss/.+": "Term of a distillation loss, times its weight.",
    },
    "2 TPR": {
        ".+/tpr_at_fpr_.+": "Fraction of positive pairs above the threshold whose FPR "
        "is the one named, on images no model was trained on. The run `teacher` is "
        "level.",
    },
    "3 threshold": {
        "(.+/)?threshold/.+": "Cosine above which the fraction of negative pairs is "
        "the FPR named. A student's that rises towards 1 is collapsing.",
    },
    "4 evaluation": {
        ".+/gap_at_fpr_.+": "The teacher's TPR less the student's at that FPR.",
        ".+/accuracy(_.+)?": "Fraction of pairs decided right, mean of ten folds, each "
        "at the best threshold of the other nine.",
        ".+/auc": "Area under the ROC curve.",
        ".+/eer": "Error rate where FPR and 1 - TPR are equal.",
    },
    "5 distillation": {
        "gradient_ratio/.+": "Norm of the weighted loss's gradient on the embeddings, "
        "divided by that of the margin loss. Below 0.01 the loss does nothing.",
        "weight/.+": "What the loss is multiplied by.",
        "(.+/)?critical/.+": "Pairs that student and teacher place on different sides.",
        "(.+/)?batch_tpr/.+": "TPR of the pairs EKD mines, at its threshold for that "
        "FPR.",
        "(.+/)?pairs/.+": "Pairs that a loss compares, with its memory or centres too.",
    },
    "6 training": {
        "embedding/mean_cosine": "Mean cosine of all pairs of a batch; near 1 "
        "the embeddings have collapsed.",
        "gradient_norm": "Global norm of the gradient, before clipping.",
        "learning_rate": "Learning rate of the update.",
        "loss_scale": "Factor of the loss against underflow in float16.",
        "skipped_steps": "Updates so far that were left out for NaN or infinity.",
        "throughput/.+": "Speed of the last steps, pauses not counted.",
        ".*": None,
    },
}
# Category, metrics in it and title of the chart: those with one title share a chart.
_CHARTS = (
    ("TPR of teacher and student", "(.+)/tpr_at_fpr_(.+)", "{0}, FPR {1}"),
    (
        "Thresholds of teacher and student",
        "(?:.+/)?threshold/(?:student|teacher)/fpr_(.+)",
        "FPR {0}",
    ),
    (
        "Critical pairs of teacher and student",
        "(?:.+/)?critical/(?:positive|negative)",
        "All",
    ),
)


def tensorboard_tag(name: str) -> tuple[str, str | None]:
    """Returns a metric's name in TensorBoard, its group in front, and a description."""
    return next(
        (f"{group}/{name}", description)
        for group, metrics in _TAGS.items()
        for pattern, description in metrics.items()
        if re.fullmatch(pattern, name)
    )


def charts(names: Iterable[str]) -> bytes:
    """Returns a summary for the CUSTOM SCALARS page, empty where it has no charts.

    They are of the metrics that are looked at together. Charts that several runs have
    are one, with the curves of all; of several summaries the last counts.
    """
    layout = layout_pb2.Layout()
    for title, pattern, title_of_chart in _CHARTS:
        by_title: dict[str, list[str]] = {}
        for name in sorted(names):
            if match := re.fullmatch(pattern, name):
                tags = by_title.setdefault(title_of_chart.format(*match.groups()), [])
                tags.append(re.escape(tensorboard_tag(name)[0]) + "$")
        category = layout_pb2.Category(title=title)
        for title_of, tags in by_title.items():
            lines = layout_pb2.MultilineChartContent(tag=tags)
            category.chart.add(title=title_of, multiline=lines)
        if by_title:
            layout.category.append(category)
    return custom_scalar.pb(layout).SerializeToString() if layout.category else b""
