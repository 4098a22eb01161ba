"""What every margin head shares: class centres, cosines, the margin's place."""

from __future__ import annotations

import keras
import tensorflow as tf

from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.checks import check_rank
from ekd_tf.checks import check_same_batch
from ekd_tf.ops.numerics import l2_normalize


def replace_targets(cosine, labels, target_cosine):
    """Replaces each row's entry at its label by a function of that entry.

    Touches one entry per row: no one-hot matrix of the size of `cosine` is made.

    Args:
        cosine: Float32 tensor `(batch, num_identities)`.
        labels: Integer tensor `(batch,)` in [0, num_identities).
        target_cosine: Function from float32 `(batch,)` to float32 `(batch,)`.

    Returns:
        Float32 tensor `(batch, num_identities)`.
    """
    rows = tf.range(tf.shape(labels)[0])
    entries = tf.stack([rows, tf.cast(labels, tf.int32)], axis=1)
    target = tf.gather_nd(cosine, entries)
    return tf.tensor_scatter_nd_add(cosine, entries, target_cosine(target) - target)


class MarginHead(keras.layers.Layer):
    """Turns embeddings into scaled cosines to class centres, less a margin.

    Base of `ArcFace` and `CosFace`, which say what becomes of the cosine to the
    centre of the true identity.

    Args:
        num_identities: Int >= 2.
        scale: Float > 0, multiplies the cosines.
        margin: Float, in the unit of the subclass.
        **kwargs: Arguments of `keras.layers.Layer`. `dtype` is always float32, for a
            margin is smaller than half precision resolves at this scale.

    Call:
        embeddings: Float tensor `(batch, dim)`; normalised here. A zero row gives
            cosine 0 to every centre.
        labels: Integer tensor `(batch,)` in [0, num_identities). Not checked here,
            where some devices would ignore a label outside: see `check_labels`.

    Returns:
        Logits, float32 `(batch, num_identities)`.

    State:
        centers: float32 `(dim, num_identities)`, trainable, at first normal with
            standard deviation 0.01; normalised at every call.
    """

    def __init__(self, num_identities: int, scale: float, margin: float, **kwargs):
        check_range("num_identities", num_identities, low=2)
        check_positive("scale", scale)
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.num_identities = int(num_identities)
        self.scale = float(scale)
        self.margin = float(margin)

    def build(self, embeddings_shape):
        self.centers = self.add_weight(
            name="centers",
            shape=(embeddings_shape[-1], self.num_identities),
            dtype="float32",
            initializer=keras.initializers.RandomNormal(stddev=0.01),
        )
        self.built = True

    def call(self, embeddings, labels):
        embeddings = tf.convert_to_tensor(embeddings)
        labels = tf.convert_to_tensor(labels)
        check_rank("embeddings", embeddings, 2)
        check_rank("labels", labels, 1)
        check_same_batch(embeddings=embeddings, labels=labels)
        centers = l2_normalize(tf.transpose(tf.convert_to_tensor(self.centers)))
        cosine = tf.matmul(l2_normalize(embeddings), centers, transpose_b=True)
        return self.scale * replace_targets(cosine, labels, self.target_cosine)

    def get_config(self):
        return {
            **super().get_config(),
            "num_identities": self.num_identities,
            "scale": self.scale,
            "margin": self.margin,
        }
