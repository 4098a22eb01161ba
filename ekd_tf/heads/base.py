"""What every margin head shares: class centres, cosines, the margin's place."""

from __future__ import annotations

import keras
import tensorflow as tf

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.checks import check_rank
from ekd_tf.checks import check_same_batch
from ekd_tf.heads.sampling import num_sampled
from ekd_tf.heads.sampling import sample_classes
from ekd_tf.heads.softmax import margin_softmax_loss
from ekd_tf.keras_compat import ONLY_FIRST_REPLICA
from ekd_tf.keras_compat import tf_variable
from ekd_tf.ops.collective import gather_rows
from ekd_tf.ops.collective import own_rows
from ekd_tf.ops.numerics import as_float32
from ekd_tf.ops.numerics import as_int32
from ekd_tf.ops.numerics import l2_normalize

GRADIENTS = ("true", "straight_through")


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
    entries = target_entries(labels)
    target = tf.gather_nd(cosine, entries)
    return tf.tensor_scatter_nd_add(cosine, entries, target_cosine(target) - target)


def target_entries(labels):
    """Returns where in a matrix of logits each row's label stands, int32 (batch, 2)."""
    return tf.stack([tf.range(tf.shape(labels)[0]), tf.cast(labels, tf.int32)], axis=1)


class MarginHead(keras.layers.Layer):
    r"""Turns embeddings into scaled cosines to class centres, less a margin.

    Base of the heads, which say what becomes of the cosine to the centre of the true
    identity.

    Args:
        num_identities: Int >= 2.
        scale: Float > 0, multiplies the cosines.
        margin: Float, in the unit of the subclass.
        gradient: "true", or "straight_through" for that of insightface, which applies
            the margin outside the graph: the target logit's derivative by the cosine
            is then `scale` whatever the margin, instead of
            scale * sin(theta + m) / sin(theta) for ArcFace.
        sample_rate: Float in (0, 1]: the share of the classes the softmax of
            `row_losses` has. Below 1 those of the batch are always among them, at
            least as many as the batch has rows, and others drawn anew for each step.
            `ekd_tf.training.sampled_rows` says how the others' centres are updated.
        seed: Int, of these draws.
        **kwargs: Arguments of `keras.layers.Layer`. `dtype` is always float32, for a
            margin is smaller than half precision resolves at this scale.

    Call:
        embeddings: Float tensor `(batch, dim)`; normalised here. A zero row gives
            cosine 0 to every centre.
        labels: Integer tensor `(batch,)` in [0, num_identities). Not checked here,
            where some devices would ignore a label outside: see `check_labels`.
        in_margin: Float tensor `(batch,)`, 1 for rows that count in what a head
            averages over batches. None: all do.
        training: Bool: whether such averages move.

    Returns:
        Logits to all classes, float32 `(batch, num_identities)`.

    State:
        centers: float32 `(num_identities, dim)`, trainable, at first normal with
            standard deviation 0.01; normalised at every call.
        num_draws: int64 scalar, only with `sample_rate` below 1: samples drawn.
    """

    def __init__(
        self,
        num_identities: int,
        scale: float,
        margin: float,
        gradient: str = "true",
        sample_rate: float = 1.0,
        seed: int = 0,
        **kwargs,
    ):
        check_range("num_identities", num_identities, low=2)
        check_positive("scale", scale)
        check_choice("gradient", gradient, GRADIENTS)
        check_range("sample_rate", sample_rate, 0, 1, low_open=True)
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.num_identities = int(num_identities)
        self.scale = float(scale)
        self.margin = float(margin)
        self.gradient = gradient
        self.sample_rate = float(sample_rate)
        self.seed = int(seed)

    def build(self, embeddings_shape):
        self.centers = self.add_weight(
            name="centers",
            shape=(self.num_identities, embeddings_shape[-1]),
            dtype="float32",
            initializer=keras.initializers.RandomNormal(stddev=0.01),
        )
        if self.sample_rate < 1:
            self.num_draws = self.add_state("num_draws", 0, dtype="int64")
        self.built = True

    def add_state(self, name, value=0.0, dtype="float32"):
        """Returns a scalar that every replica computes alike, saved with the run."""
        return self.add_weight(
            name=name,
            shape=(),
            dtype=dtype,
            initializer=keras.initializers.Constant(value),
            trainable=False,
            aggregation=ONLY_FIRST_REPLICA,
        )

    def call(self, embeddings, labels, in_margin=None, training=True):
        embeddings, labels = _checked(embeddings, labels)
        centers = tf.convert_to_tensor(self.centers)
        return self._logits(embeddings, labels, centers, in_margin, training)

    def row_losses(self, embeddings, labels, in_margin=None, training=True):
        """Returns each row's cross entropy, over sampled classes if so set.

        In a replica context every replica draws the same classes: those of the global
        batch and the same others, so that their number does not matter. The gradient
        reaches the centres of these classes only, as a `tf.IndexedSlices` that names
        each of them once.

        Args:
            embeddings: As in the call.
            labels: As in the call.
            in_margin: As in the call.
            training: As in the call. Classes are sampled only in training.

        Returns:
            Float32 tensor `(batch,)` >= 0.
        """
        embeddings, labels = _checked(embeddings, labels)
        if training and self.sample_rate < 1:
            everyone = gather_rows(labels)
            if everyone.shape[0] is None:
                raise ValueError(
                    "`sample_rate` below 1 needs a batch size known while tracing."
                )
            count = num_sampled(
                self.num_identities, self.sample_rate, everyone.shape[0]
            )
            draw = tf.convert_to_tensor(self.num_draws)
            classes, _ = sample_classes(
                everyone, self.num_identities, count, tf.stack([self.seed, draw])
            )
            self.num_draws.assign(draw + 1)
            centers = own_rows(tf_variable(self.centers), classes)
            labels = tf.searchsorted(classes, labels)
        else:
            centers = tf.convert_to_tensor(self.centers)
        logits = self._logits(embeddings, labels, centers, in_margin, training)
        return margin_softmax_loss(logits, labels)

    def _logits(self, embeddings, labels, centers, in_margin, training):
        if in_margin is None:
            in_margin = tf.ones(tf.shape(labels), tf.float32)
        cosine = tf.matmul(
            l2_normalize(embeddings), l2_normalize(centers), transpose_b=True
        )
        return self.scale * self.apply_margin(
            cosine, labels, embeddings, as_float32(in_margin), training
        )

    def apply_margin(self, cosine, labels, embeddings, in_margin, training):
        """Returns the cosines with the margin in place, before the scale.

        Args:
            cosine: Float32 tensor `(batch, num_classes)`.
            labels: Int32 tensor `(batch,)` in [0, num_classes).
            embeddings: Float32 tensor `(batch, dim)`, not normalised.
            in_margin: Float32 tensor `(batch,)`.
            training: Bool.
        """
        return replace_targets(cosine, labels, self.with_gradient(self.target_cosine))

    def with_gradient(self, target_cosine):
        """Returns the function with the derivative `gradient` asks for."""
        if self.gradient == "true":
            return target_cosine
        return lambda cosine: cosine + tf.stop_gradient(target_cosine(cosine) - cosine)

    def get_config(self):
        return {
            **super().get_config(),
            "num_identities": self.num_identities,
            "scale": self.scale,
            "margin": self.margin,
            "gradient": self.gradient,
            "sample_rate": self.sample_rate,
            "seed": self.seed,
        }


def _checked(embeddings, labels):
    embeddings, labels = as_float32(embeddings), as_int32(labels)
    check_rank("embeddings", embeddings, 2)
    check_rank("labels", labels, 1)
    check_same_batch(embeddings=embeddings, labels=labels)
    return embeddings, labels
