"""What every margin head does: cosines to class centres, the margin, the loss."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.checks import check_rank
from ekd_tf.checks import check_same_batch
from ekd_tf.checks import check_whole
from ekd_tf.keras_compat import add_state
from ekd_tf.keras_compat import tf_variable
from ekd_tf.ops.collective import gather_rows
from ekd_tf.ops.collective import own_rows
from ekd_tf.ops.numerics import as_float32
from ekd_tf.ops.numerics import as_int32
from ekd_tf.ops.numerics import l2_normalize

# A function of the cosines at the labels, float32 `(batch,)`.
TargetCosine = Callable[[tf.Tensor], tf.Tensor]


def target_entries(labels: tf.Tensor) -> tf.Tensor:
    """Returns where in a matrix of logits each row's label stands, int32 (batch, 2)."""
    return tf.stack([tf.range(tf.shape(labels)[0]), tf.cast(labels, tf.int32)], axis=1)


def replace_targets(
    cosine: tf.Tensor, labels: tf.Tensor, target_cosine: TargetCosine
) -> tf.Tensor:
    """Replaces each row's entry at its label by a function of it, without a one-hot."""
    entries = target_entries(labels)
    target = tf.gather_nd(cosine, entries)
    return tf.tensor_scatter_nd_add(cosine, entries, target_cosine(target) - target)


def margin_softmax_loss(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns each row's cross entropy between the softmax and its label."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=labels, logits=tf.cast(logits, tf.float32)
    )


def num_sampled(num_identities: int, sample_rate: float, batch_size: int) -> int:
    """Returns how many classes a step's softmax has: all of the batch find room."""
    wanted = math.ceil(num_identities * sample_rate)
    return min(num_identities, max(wanted, batch_size))


def sample_classes(
    labels: tf.Tensor, num_identities: int, count: int, seed: tf.Tensor
) -> tf.Tensor:
    """Draws `count` classes without repetition, those of the batch among them.

    Makes one random number per class and no tensor of batch x classes. Labels are int32
    `(batch,)`, of at most `count` identities. The seed, int `(2,)`, determines with
    them the classes on every device; under XLA they are others. Returns the classes,
    int32 `(count,)`, rising.

    Reference:
        An et al., 2022, arXiv:2203.15565, Partial FC; insightface `arcface_torch`.
    """
    # Named, because the default depends on the device.
    draws = tf.random.stateless_uniform([num_identities], seed, alg="philox")
    # Above any draw, so that positives come first.
    draws = tf.tensor_scatter_nd_update(
        draws, labels[:, None], tf.fill(tf.shape(labels), 2.0)
    )
    _, classes = tf.math.top_k(draws, count, sorted=False)
    return tf.sort(classes)


class MarginHead(keras.layers.Layer):
    r"""Turns embeddings into scaled cosines to class centres, less a margin.

    A head says by `target_cosine` what becomes of the cosine to the centre of the true
    identity, and may override `update_averages` and `place_targets`.

    Args:
        num_identities: Int >= 2.
        scale: Float > 0, multiplies the cosines.
        gradient: "true", or "straight_through" for that of insightface: the target
            logit's derivative by the cosine is then `scale` whatever the margin,
            instead of scale * sin(theta + m) / sin(theta) for ArcFace.
        sample_rate: Float in (0, 1]: the fraction of the classes that the softmax of
            `row_losses` has: those of the batch and, drawn anew for each step, others,
            at least as many as the batch has rows. See `GradientUpdate`.
        seed: Int, of these draws.
        **kwargs: Arguments of `keras.layers.Layer`. `dtype` is always float32, for a
            margin is smaller than half precision resolves at this scale.

    State:
        centers: float32 `(num_identities, dim)`, trainable, at first normal with
            standard deviation 0.01; normalised at every call.
        num_draws: int64 scalar, only with `sample_rate` below 1: samples drawn.
    """

    def __init__(
        self,
        num_identities: int,
        scale: float = 64.0,
        gradient: str = "true",
        sample_rate: float = 1.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.num_identities = check_whole("num_identities", num_identities, 2)
        self.scale = check_positive("scale", scale)
        self.gradient = check_choice("gradient", gradient, ("true", "straight_through"))
        self.sample_rate = check_range("sample_rate", sample_rate, 0, 1, low_open=True)
        self.seed = int(seed)

    def build(self, embeddings_shape: tuple) -> None:
        """Makes the state for embeddings of the last dimension's size."""
        self.centers = self.add_weight(
            name="centers",
            shape=(self.num_identities, embeddings_shape[-1]),
            dtype="float32",
            initializer=keras.initializers.RandomNormal(stddev=0.01),
        )
        if self.sample_rate < 1:
            self.num_draws = add_state(self, "num_draws", dtype="int64")
        self.built = True

    def call(
        self,
        embeddings: tf.Tensor,
        labels: tf.Tensor,
        in_margin: tf.Tensor | None = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Returns the logits to all classes, float32 `(batch, num_identities)`.

        Args:
            embeddings: Float tensor `(batch, dim)`; normalised here. A zero row gives
                cosine 0 to every centre.
            labels: Integer tensor `(batch,)` in [0, num_identities). Not checked: some
                devices ignore a label outside.
            in_margin: Float tensor `(batch,)`, 1 for rows that count in what a head
                averages over batches. None: all do.
            training: Whether such averages move.
        """
        embeddings, labels, in_margin = _checked(embeddings, labels, in_margin)
        centers = tf.convert_to_tensor(self.centers)
        return self._logits(embeddings, labels, centers, in_margin, training)

    def row_losses(
        self,
        embeddings: tf.Tensor,
        labels: tf.Tensor,
        in_margin: tf.Tensor | None = None,
        training: bool = True,
    ) -> tf.Tensor:
        """Returns each row's cross entropy, float32 `(batch,)`.

        Arguments as in the call. Classes are sampled in training, the same ones by
        every replica; the gradient then reaches their centres alone, as a
        `tf.IndexedSlices` that names each of them once.
        """
        embeddings, labels, in_margin = _checked(embeddings, labels, in_margin)
        if training and self.sample_rate < 1:
            everyone = gather_rows(labels)
            rows = everyone.shape[0]
            if rows is None:
                raise ValueError(
                    "`sample_rate` below 1 needs a batch size known while tracing."
                )
            count = num_sampled(self.num_identities, self.sample_rate, rows)
            draw = tf.convert_to_tensor(self.num_draws)
            classes = sample_classes(
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
        cosine = tf.matmul(
            l2_normalize(embeddings), l2_normalize(centers), transpose_b=True
        )
        frozen = tf.stop_gradient(embeddings)
        if training:
            own = tf.stop_gradient(tf.gather_nd(cosine, target_entries(labels)))
            self.update_averages(own, frozen, in_margin)

        def target(own):
            moved = self.target_cosine(own, frozen)
            if self.gradient == "true":
                return moved
            return own + tf.stop_gradient(moved - own)

        return self.scale * self.place_targets(cosine, labels, target)

    def target_cosine(self, cosine: tf.Tensor, embeddings: tf.Tensor) -> tf.Tensor:
        """Returns the cosines to the true centres, `(batch,)`, with the margin.

        `embeddings` are as they came, float32 `(batch, dim)`, without gradient.
        """
        raise TypeError(f"{type(self).__name__} must define `target_cosine`.")

    def update_averages(
        self, cosine: tf.Tensor, embeddings: tf.Tensor, in_margin: tf.Tensor
    ) -> None:
        """Moves what the head averages over batches, before it is used.

        Arguments as of `target_cosine`, and the weight of each row, float32 `(batch,)`.
        """

    def place_targets(
        self, cosine: tf.Tensor, labels: tf.Tensor, target_cosine: TargetCosine
    ) -> tf.Tensor:
        """Returns all cosines, float32 `(batch, num_classes)`, with the margin."""
        return replace_targets(cosine, labels, target_cosine)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, from the attributes of their names."""
        base_arguments = inspect.signature(MarginHead).parameters
        names = {**base_arguments, **inspect.signature(type(self)).parameters}
        kept = vars(self)
        return {**super().get_config(), **{n: kept[n] for n in names if n in kept}}


def _checked(embeddings, labels, in_margin):
    embeddings, labels = as_float32(embeddings), as_int32(labels)
    if in_margin is None:
        in_margin = tf.ones(tf.shape(labels))
    in_margin = as_float32(in_margin)
    check_rank("embeddings", embeddings, 2)
    check_rank("labels", labels, 1)
    check_rank("in_margin", in_margin, 1)
    check_same_batch(embeddings=embeddings, labels=labels, in_margin=in_margin)
    return embeddings, labels, in_margin
