"""Learning rates as functions of the optimizer step, each with linear warm-up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.checks import check_whole
from ekd_tf.keras_compat import register


class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    r"""Multiplies the `decay` of a subclass by a linear ramp over the first W steps.

    $$ \eta(s) = \min\big(1, \frac{s + 1}{W}\big) \cdot \text{decay}(s) $$

    The first update takes `base / W`, not 0. W is `warmup_steps` >= 0, `base` > 0 the
    rate at full height.
    """

    def __init__(self, base: float, warmup_steps: int = 0):
        self.base = float(check_positive("base", base))
        self.warmup_steps = check_whole("warmup_steps", warmup_steps, 0)

    def decay(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the rate without warm-up, a float32 scalar; `step` is int64."""
        raise TypeError(f"{type(self).__name__} must define `decay`.")

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        """Returns the rate of the update after `step` updates, a float32 scalar."""
        step = tf.cast(step, tf.int64)
        rate = self.decay(step)
        if not self.warmup_steps:
            return rate
        ramp = tf.cast(step + 1, tf.float32) / self.warmup_steps
        return rate * tf.minimum(ramp, 1.0)

    def get_config(self) -> dict:
        # What the constructors take is what the instances hold.
        return dict(vars(self))


@register
class StepSchedule(WarmupSchedule):
    """Multiplies the learning rate by `factor` at each boundary; without any, constant.

    Boundaries increase, none is inside the warm-up: the update at `step == boundary` is
    the first one with the smaller rate. The factor is in (0, 1).
    """

    def __init__(
        self,
        base: float,
        boundaries: Sequence[int] = (),
        factor: float = 0.1,
        warmup_steps: int = 0,
    ):
        super().__init__(base, warmup_steps)
        check_range("factor", factor, low=0, high=1, low_open=True, high_open=True)
        self.boundaries = [int(boundary) for boundary in boundaries]
        self.factor = float(factor)
        edges = [self.warmup_steps - 1, *self.boundaries]
        if any(late <= early for early, late in zip(edges, edges[1:])):
            raise ValueError(
                "`boundaries` must increase and not lie inside the warm-up. Received: "
                f"boundaries={self.boundaries}, warmup_steps={self.warmup_steps}"
            )

    def decay(self, step: tf.Tensor) -> tf.Tensor:
        # Computed in float64 by Python: 0.1 ** 3 in float32 steps is off by an ulp.
        rates = [self.base * self.factor**i for i in range(len(self.boundaries) + 1)]
        passed = step >= tf.constant(self.boundaries, tf.int64)
        return tf.gather(tf.constant(rates, tf.float32), tf.math.count_nonzero(passed))


@register
class CosineSchedule(WarmupSchedule):
    r"""Half a cosine from `base` after the warm-up down to 0.

    $$ \text{decay}(s) = \frac{b}{2} (1 + \cos \pi p), \quad
       p = \frac{s - W}{T - W} \text{ clipped to } [0, 1] $$

    with b the `base`, W the `warmup_steps` and T the `total_steps` of the run, warm-up
    included.

    Reference:
        Loshchilov & Hutter, 2017, arXiv:1608.03983, equation 5, without restarts.
    """

    def __init__(self, base: float, total_steps: int, warmup_steps: int = 0):
        super().__init__(base, warmup_steps)
        check_range("total_steps", total_steps, low=self.warmup_steps, low_open=True)
        self.total_steps = int(total_steps)

    def decay(self, step: tf.Tensor) -> tf.Tensor:
        span = self.total_steps - self.warmup_steps
        done = tf.cast(tf.clip_by_value(step - self.warmup_steps, 0, span), tf.float32)
        return self.base * 0.5 * (1.0 + tf.cos(math.pi * done / span))
