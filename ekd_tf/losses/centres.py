"""Base of the losses that classify by the teacher's class centres."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from ekd_tf.checks import check_positive
from ekd_tf.heads import margin_softmax_loss
from ekd_tf.heads import replace_targets
from ekd_tf.losses.projection import ProjectedLoss
from ekd_tf.ops.numerics import l2_normalize


class CentreLoss(ProjectedLoss):
    """Base of the losses that hold one frozen teacher embedding per identity.

    Args:
        centres: Float array `(num_identities, teacher_dim)`: the teacher's classifier,
            or its mean embedding of each identity. Normalised here; a zero row has
            cosine 0 with everything. Or these two sizes, a tuple of ints: centres, and
            with them the loss, are NaN until saved ones are restored.
        scale: Float > 0 of the logits.
        student_dim: As in `ProjectedLoss`.
        name: Name of the layer and prefix of its terms.

    State:
        centres: float32 `(num_identities, teacher_dim)`, rows of unit length, not
        trainable, saved with the run. Besides as in `ProjectedLoss`.

    Raises:
        ValueError: Centres that are no finite matrix of two rows or more, or an
            argument outside its range; at a call, labels that a loss needs.
    """

    def __init__(
        self,
        centres: np.ndarray | tuple[int, int],
        scale: float = 64.0,
        student_dim: int | None = None,
        name: str | None = None,
        **kwargs,
    ):
        check_positive("scale", scale)
        if isinstance(centres, (tuple, list)) and np.shape(centres) == (2,):
            shape, unit = tuple(centres), float("nan")
        else:
            centres = check_centres(centres)
            shape, unit = centres.shape, l2_normalize(centres)
        super().__init__(student_dim, shape[1], name=name, **kwargs)
        self.scale = float(scale)
        self.num_identities = int(shape[0])

        def initializer(shape, dtype=None):
            return tf.broadcast_to(tf.cast(unit, tf.float32), shape)

        self.centres = self.add_state("centres", shape, initializer)

    def cosines(self, embeddings: tf.Tensor) -> tf.Tensor:
        """Returns the cosines to all centres, float32 `(batch, num_identities)`."""
        if embeddings.shape[1] != self.teacher_dim:
            raise ValueError(
                f"{type(self).__name__} has centres of size {self.teacher_dim}. "
                f"Received embeddings of size {embeddings.shape[1]}"
            )
        centres = tf.convert_to_tensor(self.centres)
        return tf.matmul(l2_normalize(embeddings), centres, transpose_b=True)

    def get_config(self) -> dict:
        """Returns the arguments, of the centres the sizes: themselves are state."""
        sizes = self.num_identities, self.teacher_dim
        return {**super().get_config(), "centres": sizes}


def margin_cross_entropy(
    cosines: tf.Tensor, labels: tf.Tensor, scale: float, target_cosine: Callable
) -> tf.Tensor:
    """Averages the cross entropy of scaled cosines with a margin at the label.

    Args:
        cosines: Float32 tensor `(batch, num_identities)`.
        labels: Int32 tensor `(batch,)` in [0, num_identities).
        scale: Float > 0.
        target_cosine: Function of the cosines at the labels, float32 `(batch,)`.

    Returns:
        Float32 scalar >= 0.
    """
    logits = scale * replace_targets(cosines, labels, target_cosine)
    return tf.reduce_mean(margin_softmax_loss(logits, labels))


def check_centres(centres: np.ndarray) -> np.ndarray:
    """Returns class centres as float32, or raises `ValueError`; see `CentreLoss`."""
    centres = np.asarray(centres, np.float32)
    if centres.ndim != 2 or len(centres) < 2:
        raise ValueError(
            "`centres` must be (num_identities, teacher_dim), of two identities or "
            f"more. Received: shape={centres.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(centres).all(axis=1))
    if bad.size:
        raise ValueError(
            f"`centres` must be finite. Received: {bad.size} rows that are not, the "
            f"first is {bad[0]}"
        )
    return centres
