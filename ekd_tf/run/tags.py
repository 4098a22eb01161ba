"""The names of metrics in TensorBoard: in groups, what is looked at first in front."""

from __future__ import annotations

import re

# The first pattern that matches a metric's name decides on its group and description.
# TensorBoard sorts groups by name, hence the numbers.
_TAGS = (
    (r"loss", "1 loss", "What is minimised: the weighted sum of all losses."),
    (
        r"loss/margin",
        "1 loss",
        "Mean cross entropy of the margin head on the general rows, before its weight.",
    ),
    (r"loss/.+", "1 loss", "Term of a distillation loss, before its weight."),
    (
        r".+/tpr_at_fpr_.+",
        "2 TPR",
        "Share of positive pairs above the threshold whose FPR is the one named; on "
        "images no model was trained on. The run `teacher` is level.",
    ),
    (
        r"threshold/.+",
        "3 threshold",
        "Cosine above which the share of negative pairs is the FPR named, as EKD has "
        "it. A student's that rises towards 1 is collapsing.",
    ),
    (
        r".+/gap_at_fpr_.+",
        "4 evaluation",
        "The teacher's TPR less the student's at that FPR.",
    ),
    (
        r".+/accuracy(_.+)?",
        "4 evaluation",
        "Share of pairs told right, mean of ten folds, each at the best threshold of "
        "the other nine.",
    ),
    (r".+/auc", "4 evaluation", "Area under the ROC curve."),
    (r".+/eer", "4 evaluation", "Error rate where FPR and 1 - TPR are equal."),
    (
        r"gradient_ratio/.+",
        "5 distillation",
        "Norm of the weighted loss's gradient on the embeddings, divided by that of "
        "the margin loss. Below 0.01 the loss does nothing.",
    ),
    (r"weight/.+", "5 distillation", "What the loss is multiplied by."),
    (
        r"critical/.+",
        "5 distillation",
        "Pairs on which student and teacher stand on different sides of a threshold.",
    ),
    (
        r"batch_tpr/.+",
        "5 distillation",
        "TPR of the batch's own pairs at EKD's threshold for the FPR named.",
    ),
    (r"pairs/.+", "5 distillation", "Pairs a loss has made of the batch."),
    (
        r"embedding/mean_cosine",
        "6 training",
        "Mean cosine of all pairs of images of a batch; near 1 the embeddings have "
        "collapsed.",
    ),
    (r"gradient_norm", "6 training", "Global norm of the gradient, before clipping."),
    (r"learning_rate", "6 training", "Learning rate of the update."),
    (r"loss_scale", "6 training", "Factor of the loss against underflow in float16."),
    (
        r"skipped_steps",
        "6 training",
        "Updates so far that were left out for NaN or infinity.",
    ),
    (r"throughput/.+", "6 training", "Speed of the last steps, pauses not counted."),
    (r".*", "6 training", None),
)


def metric_of(tag: str) -> str:
    """Returns a metric's or image's name without the group of `tensorboard_tag`."""
    return re.sub(r"^\d [^/]+/", "", tag)


def tensorboard_tag(name: str) -> tuple[str, str | None]:
    """Returns a metric's name in TensorBoard, its group in front, and a description.

    Args:
        name: As in `metrics.jsonl`, such as `loss/margin`.
    """
    found = (of_group for pattern, *of_group in _TAGS if re.fullmatch(pattern, name))
    group, description = next(found)
    return f"{group}/{name}", description
