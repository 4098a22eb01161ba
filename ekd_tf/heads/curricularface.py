"""CurricularFace: hard negatives count more as training goes on."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ekd_tf.checks import check_angle
from ekd_tf.checks import check_range
from ekd_tf.heads.base import MarginHead
from ekd_tf.heads.base import TargetCosine
from ekd_tf.heads.base import target_entries
from ekd_tf.heads.fixed_margins import arcface_target
from ekd_tf.keras_compat import add_state
from ekd_tf.keras_compat import register
from ekd_tf.ops.collective import mean_over_replicas


@register
class CurricularFace(MarginHead):
    r"""Gives ArcFace logits whose hard negatives are weighted by the stage t reached.

    $$ N(c_j) = \begin{cases} c_j & c_j \le t(\theta_y) \\
        c_j (t + c_j) & \text{otherwise} \end{cases} $$

    Which negatives are hard is a choice, without gradient to the target $t(\theta_y)$,
    which is that of `ArcFace`. All else as in `MarginHead`.

    Args:
        margin: Float in [0, pi/2), radians.
        momentum: Float in (0, 1]: weight of the newest batch in the stage.

    State:
        stage: float32 scalar, the running mean of the cosine between embeddings and
        their true centres, from 0; over the rows `in_margin` of the global batch. A
        batch without such rows, or whose mean is not finite, leaves it alone.

    Reference:
        Huang et al., 2020, arXiv:2004.00288, momentum 0.01 as in the authors'
        code; TFace `torchkit/head` takes 0.1.
    """

    def __init__(
        self,
        num_identities: int,
        scale: float = 64.0,
        margin: float = 0.5,
        momentum: float = 0.01,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_identities, scale, **kwargs)
        self.margin = check_angle("margin", margin)
        self.momentum = check_range("momentum", momentum, 0, 1, low_open=True)

    def build(self, embeddings_shape: tuple) -> None:
        super().build(embeddings_shape)
        self.stage = add_state(self, "stage")

    def target_cosine(self, cosine: tf.Tensor, embeddings: tf.Tensor) -> tf.Tensor:
        return arcface_target(cosine, self.margin)

    def update_averages(
        self, cosine: tf.Tensor, embeddings: tf.Tensor, in_margin: tf.Tensor
    ) -> None:
        mean, count = mean_over_replicas(cosine, in_margin)
        old = tf.convert_to_tensor(self.stage)
        usable = (count > 0) & tf.math.is_finite(mean)
        moved = old + self.momentum * (mean - old)
        self.stage.assign(tf.where(usable, moved, old))

    def place_targets(
        self, cosine: tf.Tensor, labels: tf.Tensor, target_cosine: TargetCosine
    ) -> tf.Tensor:
        entries = target_entries(labels)
        target = target_cosine(tf.gather_nd(cosine, entries))
        stage = tf.convert_to_tensor(self.stage)
        hard = cosine > tf.stop_gradient(target)[:, None]
        negatives = tf.where(hard, cosine * (stage + cosine), cosine)
        return tf.tensor_scatter_nd_update(negatives, entries, target)
