"""A student that learns from its labels and from a frozen teacher at once."""

from __future__ import annotations

import collections
from collections.abc import Callable

import keras
import tensorflow as tf

from ekd_tf.checks import check_range
from ekd_tf.heads import MarginHead
from ekd_tf.losses.base import DistillationLoss
from ekd_tf.ops.collective import gather_rows
from ekd_tf.ops.collective import num_replicas
from ekd_tf.training.classifier import FaceClassifier
from ekd_tf.training.gradient_share import GradientShare
from ekd_tf.training.keras_fit import Untracked


class Distiller(FaceClassifier):
    """Trains a student by margin softmax and any number of distillation losses.

    Each step runs the student once on this replica's images, and the frozen teacher
    where batches do not bring its rows, and gives both models' embeddings of the global
    batch to every distillation loss. A weight means the same on any number of replicas.

    `train_step` returns, beside what `FaceClassifier` does, for each loss its
    `weight/NAME` and, where there is a margin loss, `gradient_ratio/NAME`: the norm of
    the loss's weighted gradient on the embeddings of the global batch over that of the
    margin loss's, 0 where no row of a batch is in that. What two losses watch by one
    name has the loss's before it.

    Batches are those of `FaceClassifier`; they may hold `teacher` float32
    `(batch, teacher_dim)`, embeddings computed before, or `teacher_image` uint8, what
    the teacher sees instead of `image`.

    Args:
        student: `keras.Model`, uint8 images to raw embeddings.
        teacher: Callable, uint8 images `(batch, height, width, 3)` to embeddings
            `(batch, teacher_dim)`. A `keras.Model` runs with `training=False`. It is
            in no checkpoint and no gradient. None: every batch brings its rows.
        losses: Dict of names to pairs `(DistillationLoss, weight)`, or to losses of
            weight 1; a weight is a float, or a `GradientShare` that follows the
            gradients.
        head: As in `FaceClassifier`, and so are `margin_weight` and `name`.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: Callable | None,
        losses: dict,
        head: MarginHead | None = None,
        margin_weight: float = 1.0,
        name: str | None = None,
    ):
        super().__init__(student, head=head, margin_weight=margin_weight, name=name)
        if not (isinstance(losses, dict) and losses):
            raise ValueError(
                "`losses` must be a dict that names at least one distillation loss; to "
                f"train without a teacher use FaceClassifier. Received: {losses!r}"
            )
        if not (teacher is None or callable(teacher)):
            raise ValueError(
                "`teacher` must be callable, as what `open_embedder` opens is. "
                f"Received: {teacher!r}"
            )
        if "margin" in losses:
            raise ValueError(
                "`losses` must not call one of them 'margin': that is the head's."
            )
        losses = {
            name: loss if isinstance(loss, tuple) else (loss, 1.0)
            for name, loss in losses.items()
        }
        for loss, _ in losses.values():
            if not isinstance(loss, DistillationLoss):
                raise ValueError(
                    f"`losses` must be of DistillationLoss objects. Received: {loss!r}"
                )
        names = [loss.name for loss, _ in losses.values()]
        if len(set(names)) < len(names):
            raise ValueError(
                "`losses` must each have a name of their own, by which terms are "
                f"logged: give `name=` to all but one. Received: {', '.join(names)}"
            )
        self.losses_by_name = {name: loss for name, (loss, _) in losses.items()}
        self.loss_weights_by_name = {
            name: weight
            if isinstance(weight, GradientShare)
            else float(check_range(f"weight of {name}", weight, low=0))
            for name, (_, weight) in losses.items()
        }
        if self._gradient_shares and (head is None or not self.margin_weight):
            raise ValueError(
                "`losses` must not ask for a share of the margin loss's gradient where "
                "there is no margin loss: give a `head` and a `margin_weight` above 0, "
                "or weights that are numbers. Received: a GradientShare for "
                f"{', '.join(self._gradient_shares)}"
            )
        shares = self._gradient_shares.values()
        if len({id(share) for share in shares}) < len(shares):
            raise ValueError(
                "`losses` must each have a GradientShare of their own, which follows "
                "the gradient of one. Received: one for several"
            )
        self._teacher = Untracked(teacher)

    @property
    def batch_keys(self) -> set[str]:
        """What each batch must hold; of a teacher's rows see `teacher_rows`."""
        return super().batch_keys | {"label", "image_id"}

    @property
    def trained_layers(self) -> dict[str, keras.layers.Layer]:
        """The student, the head, the losses (their thresholds) and the shares."""
        losses = {f"loss/{name}": loss for name, loss in self.losses_by_name.items()}
        shares = {f"share/{name}": s for name, s in self._gradient_shares.items()}
        return {**super().trained_layers, **losses, **shares}

    @property
    def _gradient_shares(self):
        return {
            name: weight
            for name, weight in self.loss_weights_by_name.items()
            if isinstance(weight, GradientShare)
        }

    def teacher_rows(self, batch: dict) -> tf.Tensor:
        """Returns the teacher's embeddings of a batch, float32, without gradient."""
        teacher = self._teacher.value
        images = batch.get("teacher_image", batch.get("image"))
        if "teacher" in batch:
            rows = batch["teacher"]
        elif isinstance(teacher, keras.Model):
            rows = teacher(images, training=False)
        elif teacher is not None:
            rows = teacher(images)
        else:
            raise ValueError(
                "Without a `teacher` every batch must hold its rows as 'teacher'. "
                f"Received: {sorted(batch)}"
            )
        return tf.stop_gradient(tf.cast(rows, tf.float32))

    def loss_parts(self, embeddings: tf.Tensor, batch: dict) -> tuple[dict, dict]:
        """Adds the distillation terms; see `FaceClassifier.loss_parts`."""
        parts, monitor = super().loss_parts(embeddings, batch)
        student = gather_rows(embeddings)
        teacher = gather_rows(self.teacher_rows(batch))
        labels = gather_rows(batch["label"])
        image_ids = gather_rows(batch["image_id"])
        watched = {}
        for name, loss in self.losses_by_name.items():
            terms, watched[name] = loss(
                student, teacher, labels, image_ids, training=True, with_monitor=True
            )
            parts[name] = {
                f"loss/{term}": value / num_replicas() for term, value in terms.items()
            }
        keys = collections.Counter(key for each in watched.values() for key in each)
        for name, scalars in watched.items():
            for key, value in scalars.items():
                # Two forms of EKD watch the same of different pairs.
                monitor[f"{name}/{key}" if keys[key] > 1 else key] = value
        return parts, monitor

    def loss_weights(self, norms: dict) -> tuple[dict, dict]:
        """Adds the distillation losses; see `FaceClassifier.loss_weights`."""
        weights, monitor = super().loss_weights(norms)
        margin_norm = None
        if self.head is not None and self.margin_weight:
            margin_norm = weights["margin"] * norms["margin"]
        for name, weight in self.loss_weights_by_name.items():
            if isinstance(weight, GradientShare):
                weight = weight(margin_norm, norms[name])
            weights[name] = monitor[f"weight/{name}"] = tf.convert_to_tensor(weight)
            if margin_norm is not None:
                norm = weights[name] * norms[name]
                ratio = tf.math.divide_no_nan(norm, margin_norm)
                monitor[f"gradient_ratio/{name}"] = ratio
        return weights, monitor
