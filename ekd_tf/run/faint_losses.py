"""A hook that says when a distillation loss is too weak to teach anything."""

from __future__ import annotations

import math
from collections.abc import Callable

from absl import logging

from ekd_tf.checks import check_positive
from ekd_tf.run.guards import LateHook

# A loss whose gradient is a smaller part of the margin loss's is called faint, and
# the weight named would make it the other.
FAINT_RATIO = 0.01
NAMED_RATIO = 0.3

_PREFIX = "gradient_ratio/"


class FaintLossHook(LateHook):
    """Warns, once for each distillation loss, that it hardly has a gradient.

    It reads the scalars `gradient_ratio/NAME` and `weight/NAME` of a `Distiller`, and
    does nothing where there are none. Skipped steps, whose ratio is NaN, are left out.

    Args:
        before_warning: Called before a warning is logged.
        steps: Int >= 1: consecutive steps with a ratio below 1 % that are warned of.
    """

    def __init__(
        self, before_warning: Callable[[], None] = lambda: None, steps: int = 500
    ):
        super().__init__()
        check_positive("steps", steps)
        self._before_warning = before_warning
        self._steps = steps
        self._faint = {}
        self._warned = set()

    def look(self, step):
        for key, value in step.scalars.items():
            name = key[len(_PREFIX) :]
            if not key.startswith(_PREFIX) or name in self._warned:
                continue
            ratio = float(value)
            if math.isnan(ratio):
                continue
            if ratio >= FAINT_RATIO:
                self._faint.pop(name, None)
                continue
            ratios = self._faint.setdefault(name, [])
            ratios.append(ratio)
            if len(ratios) == self._steps:
                self._warned.add(name)
                self._before_warning()
                weight = float(step.scalars[f"weight/{name}"])
                logging.warning("%s", self._text(name, step.number, weight, ratios))

    def _text(self, name, number, weight, ratios):
        mean = sum(ratios) / len(ratios)
        text = (
            f"For {len(ratios)} steps, up to step {number}, the gradient of {name!r} "
            f"on the embeddings was below 1 % of the margin loss's: {100 * mean:.2g} % "
            f"on average at weight {weight:.4g}."
        )
        mended = weight * NAMED_RATIO / mean if mean > 0 else math.inf
        if not math.isfinite(mended) or mended == 0:
            return f"{text} It has no gradient that a larger weight could raise"
        return (
            f"{text} --distill={name}:{mended:.3g} would make it 30 %; "
            f"--distill={name}:30% keeps it there"
        )
