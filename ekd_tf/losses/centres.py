"""What losses share that classify by the teacher's class centres."""

import keras
import numpy as np
import tensorflow as tf

from ekd_tf.heads import margin_softmax_loss
from ekd_tf.heads import replace_targets
from ekd_tf.losses.projection import ProjectedLoss
from ekd_tf.ops.numerics import l2_normalize


class CentreLoss(ProjectedLoss):
    """Base of the losses that hold one frozen teacher embedding per identity.

    Args:
        centres: Float array `(num_identities, teacher_dim)`: the teacher's classifier,
            or its mean embedding of each identity. Normalised here; a zero row has
            cosine 0 with everything. None: the two sizes below are given, and the
            centres are NaN, and with them the loss, until saved ones are restored.
        student_dim: As in `ProjectedLoss`.
        num_identities: Int, where `centres` is None.
        teacher_dim: Int, where `centres` is None.
        name: Name of the layer and prefix of its terms.

    State:
        centres: float32 `(num_identities, teacher_dim)`, rows of unit length, not
        trainable, saved with the run. Besides as in `ProjectedLoss`.

    Raises:
        ValueError: Neither centres nor both sizes, or centres that are no finite
            matrix.
    """

    def __init__(
        self,
        centres=None,
        student_dim=None,
        num_identities=None,
        teacher_dim=None,
        name=None,
        **kwargs,
    ):
        if centres is not None:
            centres = check_centres(centres)
            num_identities, teacher_dim = centres.shape
        elif num_identities is None or teacher_dim is None:
            raise ValueError(
                f"{type(self).__name__} needs `centres`, float32 (num_identities, "
                "teacher_dim): the teacher's mean embedding of each identity."
            )
        super().__init__(student_dim, teacher_dim, name=name, **kwargs)
        self.num_identities = int(num_identities)
        initializer = keras.initializers.Constant(float("nan"))
        if centres is not None:
            unit = l2_normalize(centres)

            def initializer(shape, dtype=None):
                return unit

        shape = (self.num_identities, teacher_dim)
        self.centres = self.add_state("centres", shape, initializer)

    def cosines(self, embeddings):
        """Returns the cosines to all centres, float32 `(batch, num_identities)`."""
        if embeddings.shape[1] != self.teacher_dim:
            raise ValueError(
                f"{type(self).__name__} has centres of size {self.teacher_dim}. "
                f"Received embeddings of size {embeddings.shape[1]}"
            )
        centres = tf.convert_to_tensor(self.centres)
        return tf.matmul(l2_normalize(embeddings), centres, transpose_b=True)

    def own_centres(self, labels):
        """Returns the centre of each label, float32 `(batch, teacher_dim)`."""
        return tf.gather(tf.convert_to_tensor(self.centres), labels)

    def get_config(self):
        """Returns the sizes; the centres themselves are state."""
        return {**super().get_config(), "num_identities": self.num_identities}


def margin_cross_entropy(cosines, labels, scale, target_cosine):
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


def check_centres(centres):
    """Returns `centres` as a float32 array, or raises `ValueError`.

    Args:
        centres: Array `(num_identities, teacher_dim)`, at least two rows, all finite.
    """
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
