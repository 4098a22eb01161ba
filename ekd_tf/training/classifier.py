"""A backbone with a margin head, and the training step of all models."""

from __future__ import annotations

from contextlib import AbstractContextManager
from contextlib import nullcontext
from typing import Any

import keras
import tensorflow as tf

from ekd_tf.checks import check_range
from ekd_tf.heads import MarginHead
from ekd_tf.keras_compat import current_learning_rate
from ekd_tf.keras_compat import keras_compile
from ekd_tf.keras_compat import optimizer_variables
from ekd_tf.keras_compat import tf_variable
from ekd_tf.ops.collective import num_replicas
from ekd_tf.ops.collective import sum_over_replicas
from ekd_tf.ops.numerics import as_float32
from ekd_tf.ops.numerics import l2_normalize
from ekd_tf.training.keras_fit import BackboneModel
from ekd_tf.training.keras_fit import Untracked
from ekd_tf.training.optimizers import averaged
from ekd_tf.training.strategy import keep_order_of_sums
from ekd_tf.training.update import GradientUpdate


class FaceClassifier(BackboneModel):
    """Trains a backbone by margin softmax over the training identities.

    The margin loss sees the rows with `in_margin` = 1 and is their mean over the
    global batch, whatever the number of replicas.

    Batches are dicts of `image` uint8 `(batch, height, width, 3)`, `label` int32,
    `in_margin` float32 and `image_id` int32, the last three `(batch,)`.

    Args:
        backbone: `keras.Model`, uint8 images `(batch, height, width, 3)` to raw
            embeddings `(batch, dim)`; its layers have no losses of their own.
        head: `MarginHead`, or None for no margin loss.
        margin_weight: Float >= 0, weight of the margin loss.
        name: Name of the model.
    """

    def __init__(
        self,
        backbone: keras.Model,
        head: MarginHead | None = None,
        margin_weight: float = 1.0,
        name: str | None = None,
    ):
        super().__init__(backbone, name=name)
        self.head = head
        self.margin_weight = float(check_range("margin_weight", margin_weight, low=0))
        if head is not None and not head.built:
            head.build((None, backbone.output_shape[-1]))

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str,
        weight_decay: float | None = None,
        clip_norm: float | None = None,
        loss_scaling: str = "auto",
        **kwargs: Any,
    ) -> None:
        """Sets how the variables are updated.

        Call it in the scope of the distribution strategy. For the whole process it sets
        `keep_order_of_sums`.

        Args:
            optimizer: Keras optimizer without clipping or loss scale; only AdamW and
                Lion may have a weight decay above 0.
            weight_decay: Float >= 0, of kernels and of the head's centres; never of
                BatchNorm, PReLU slopes or biases: see `GradientUpdate`.
            clip_norm: Float > 0 or None: largest global gradient norm.
            loss_scaling: "dynamic", "none" or "auto": dynamic where a layer of the
                backbone computes in float16.
            **kwargs: Passed on to `keras.Model.compile`.
        """
        for name in ("loss", "metrics", "weighted_metrics"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"`compile` takes no `{name}`: the losses are the model's, and "
                    f"`evaluate` verifies pairs. Received: {name}={kwargs[name]!r}"
                )
        if self.backbone.losses:
            raise ValueError(
                "The losses of layers, such as a `kernel_regularizer`, are not trained "
                "with: leave them out of the backbone, and give `weight_decay`"
            )
        if isinstance(optimizer, str):
            optimizer = keras.optimizers.get(optimizer)
        if loss_scaling == "auto":
            # Not `layers`, which stops at networks within a network.
            layers = self.backbone._flatten_layers()
            half = any(layer.compute_dtype == "float16" for layer in layers)
            loss_scaling = "dynamic" if half else "none"
        keep_order_of_sums()
        keras_compile(super().compile, optimizer=optimizer, **kwargs)
        variables, sampled = self.trained_variables, []
        if self.head is not None and self.head.sample_rate < 1:
            sampled = [self.head.centers]
        # Kept out of attribute tracking: its variables are checkpointed by name.
        self._update = Untracked(
            GradientUpdate(
                optimizer,
                variables,
                weight_decay=weight_decay,
                decay_variables=[v for v in variables if _decays(v)],
                clip_norm=clip_norm,
                loss_scaling=loss_scaling,
                sampled_variables=sampled,
            )
        )

    @property
    def batch_keys(self) -> set[str]:
        """What each batch must hold."""
        return {"image"} if self.head is None else {"image", "label", "in_margin"}

    @property
    def trained_layers(self) -> dict[str, keras.layers.Layer]:
        """The layers the run trains and checkpoints, by their names in checkpoints."""
        layers = {"student": self.backbone}
        if self.head is not None:
            layers["head"] = self.head
        return layers

    @property
    def trained_variables(self) -> list:
        """The trainable variables of all `trained_layers`."""
        layers = self.trained_layers.values()
        return [variable for layer in layers for variable in layer.trainable_variables]

    def state(self) -> dict[str, tf.Variable]:
        """Returns everything a run must restore to go on: name to `tf.Variable`."""
        state = {}
        update = self._update.value
        for name, layer in self.trained_layers.items():
            for index, variable in enumerate(layer.variables):
                state[f"{name}/{index:04d}/{_name(variable)}"] = tf_variable(variable)
        for index, variable in enumerate(optimizer_variables(update.optimizer)):
            state[f"optimizer/{index:04d}"] = tf_variable(variable)
        for name, variable in update.state.items():
            state[f"update/{name}"] = variable
        return state

    def averaged_weights(self) -> AbstractContextManager:
        """Returns a context in which weights are the optimizer's averages, if any."""
        if self._update is None:
            return nullcontext()
        return averaged(self._update.value.optimizer, self._update.value.variables)

    def train_step(self, batch: dict) -> dict[str, tf.Tensor]:
        """Makes one update and returns named float32 scalars of the global batch.

        `loss` and its parts `loss/...`, `gradient_norm`, `loss_scale`,
        `skipped_steps`, `learning_rate`, `embedding/mean_cosine` over all pairs of
        rows, and what the losses offer to watch.
        """
        received = sorted(batch) if isinstance(batch, dict) else type(batch).__name__
        if not self.batch_keys.issubset(received):
            raise ValueError(
                "A batch must be a dict, as those of a Pipeline are, with "
                f"{', '.join(sorted(self.batch_keys))}. Received: {received}"
            )
        update = self._update.value
        learning_rate = current_learning_rate(update.optimizer)
        moved = [
            tf_variable(variable)
            for layer in self.trained_layers.values()
            for variable in layer.non_trainable_variables
        ]
        before = [variable.read_value() for variable in moved]
        variables = [tf_variable(variable) for variable in update.variables]
        with tf.GradientTape(watch_accessed_variables=False) as network_tape:
            network_tape.watch(variables)
            embeddings = tf.cast(self.call(batch, training=True), tf.float32)
        # Each loss by itself as far as the embeddings, where their gradients are
        # compared; then all at once through the network.
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch([embeddings, *variables])
            parts, monitor = self.loss_parts(embeddings, batch)
            if not parts:
                raise ValueError("Without a `head` there is no loss to train with.")
            totals = {n: tf.add_n(list(terms.values())) for n, terms in parts.items()}
        gradients = {
            name: tape.gradient(total, [embeddings, *variables])
            for name, total in totals.items()
        }
        values, norms = _global_values(parts, {n: g[0] for n, g in gradients.items()})
        weights, watched = self.loss_weights(norms)
        scaled = [update.scale_loss(weights[name]) for name in gradients]
        embedding_gradient, *variable_gradients = [
            _weighted_sum(loss_gradients, scaled)
            for loss_gradients in zip(*gradients.values())
        ]
        network_gradients = network_tape.gradient(
            embeddings, variables, embedding_gradient
        )
        terms = {
            term: weights[name] * values[term]
            for name, loss_terms in parts.items()
            for term in loss_terms
        }
        loss = tf.add_n(list(terms.values()))
        summed = [_sum(pair) for pair in zip(network_gradients, variable_gradients)]
        step = update.apply(summed, loss, moved, before)
        return {
            "loss": loss,
            **terms,
            **monitor,
            **watched,
            **step,
            "learning_rate": learning_rate,
            "embedding/mean_cosine": _mean_cosine(embeddings),
        }

    def loss_parts(self, embeddings: tf.Tensor, batch: dict) -> tuple[dict, dict]:
        """Returns this replica's part of the terms of each loss, and what to watch.

        Terms, `loss/...`, are float32 scalars, before the weights of `loss_weights`,
        that sum over replicas to those of the global batch; what to watch is global.
        """
        if self.head is None:
            return {}, {}
        in_margin = as_float32(batch["in_margin"])
        rows = self.head.row_losses(embeddings, batch["label"], in_margin)
        total = sum_over_replicas(tf.reduce_sum(in_margin))
        mean = tf.math.divide_no_nan(tf.reduce_sum(rows * in_margin), total)
        return {"margin": {"loss/margin": mean}}, {}

    def loss_weights(self, norms: dict) -> tuple[dict, dict]:
        """Returns the weight of each loss in this step, and what to watch of them.

        `norms` are of their gradients on the global batch's embeddings, unweighted.
        """
        return {"margin": tf.constant(self.margin_weight)}, {}


def _name(variable):
    """Returns a variable's name without those of layers, which Keras may number."""
    return variable.name.split("/")[-1].split(":")[0]


def _decays(variable):
    """Whether weight decay applies: to kernels and class centres."""
    # Others are `(channels,)` or `(1, 1, channels)`, as a rule.
    is_vector = sum(size > 1 for size in variable.shape) < 2
    return not is_vector and _name(variable) not in ("alpha", "beta", "bias", "gamma")


def _mean_cosine(embeddings):
    """Returns the mean cosine over all pairs of rows of the global batch, 0 of one."""
    rows = tf.cast(tf.shape(embeddings)[0] * num_replicas(), tf.float32)
    total = sum_over_replicas(tf.reduce_sum(l2_normalize(embeddings), axis=0))
    # The squared length of the sum is the sum of all cosines, a row's with itself too.
    cosines = tf.reduce_sum(total**2) - rows
    return tf.math.divide_no_nan(cosines, rows * (rows - 1.0))


def _global_values(parts, gradients):
    """Sums over replicas, in one message: terms by name, gradients' norms by loss."""
    terms = {
        term: value
        for loss_terms in parts.values()
        for term, value in loss_terms.items()
    }
    squares = [
        tf.constant(0.0) if x is None else tf.reduce_sum(tf.convert_to_tensor(x) ** 2)
        for x in gradients.values()
    ]
    sums = sum_over_replicas(tf.stack([*terms.values(), *squares]))
    sums = tf.unstack(sums, len(terms) + len(squares))
    norms = [tf.sqrt(square) for square in sums[len(terms) :]]
    return dict(zip(terms, sums)), dict(zip(gradients, norms))


def _weighted_sum(gradients, weights):
    """Adds the gradients of several losses on one source, each with its weight."""
    pairs = zip(gradients, weights)
    return _sum([g if g is None else tf.math.scalar_mul(w, g) for g, w in pairs])


def _sum(gradients):
    """Adds gradients, of which None counts as nothing; None if all are."""
    gradients = [gradient for gradient in gradients if gradient is not None]
    if len(gradients) > 1:
        return tf.add_n([tf.convert_to_tensor(gradient) for gradient in gradients])
    return gradients[0] if gradients else None
