"""The names of metrics in TensorBoard: in groups, what is looked at first in front."""

from __future__ import annotations

import re

# Group -> pattern -> description. The first pattern that matches a name decides;
# TensorBoard sorts groups by name, hence the numbers.
_TAGS: dict[str, dict[str, str | None]] = {
    "1 loss": {
        "loss": "What is minimised: the weighted sum of all losses.",
        "loss/margin": "Mean cross entropy of the margin head, before its weight.",
        "loss/.+": "Term of a distillation loss, before its weight.",
    },
    "2 TPR": {
        ".+/tpr_at_fpr_.+": "Fraction of positive pairs above the threshold whose FPR "
        "is the one named, on images no model was trained on. The run `teacher` is "
        "level.",
    },
    "3 threshold": {
        "threshold/.+": "Cosine above which the fraction of negative pairs is the FPR "
        "named. A student's that rises towards 1 is collapsing.",
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
        "critical/.+": "Pairs that student and teacher place on different sides.",
        "batch_tpr/.+": "TPR of the batch's pairs at EKD's threshold for that FPR.",
        "pairs/.+": "Pairs of the batch that a loss uses.",
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


def metric_of(tag: str) -> str:
    """Returns a metric's or image's name without the group of `tensorboard_tag`."""
    return re.sub(r"^\d [^/]+/", "", tag)


def tensorboard_tag(name: str) -> tuple[str, str | None]:
    """Returns a metric's name in TensorBoard, its group in front, and a description."""
    return next(
        (f"{group}/{name}", description)
        for group, metrics in _TAGS.items()
        for pattern, description in metrics.items()
        if re.fullmatch(pattern, name)
    )
