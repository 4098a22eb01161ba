"""A student that learns from its labels and from a frozen teacher at once."""

import tensorflow as tf

from ekd_tf.ops.collective import gather_rows
from ekd_tf.ops.collective import num_replicas
from ekd_tf.training.classifier import FaceClassifier
from ekd_tf.training.classifier import Untracked


class Distiller(FaceClassifier):
    """Trains a student by margin softmax and any number of distillation losses.

    Each step runs the frozen teacher and the student once on this replica's images,
    gathers both sets of embeddings over replicas, and gives the global batch to every
    distillation loss. Each replica computes the whole loss and takes its share of it,
    so a weight means the same on any number of replicas.

    Args:
        student: `keras.Model`, uint8 images to raw embeddings.
        teacher: Callable, uint8 images `(batch, height, width, 3)` to embeddings
            `(batch, teacher_dim)`. A `keras.Model` runs with `training=False`. It is
            in no checkpoint and no gradient.
        losses: Dict of names to pairs `(DistillationLoss, weight)`.
        head: As in `FaceClassifier`.
        margin_weight: As in `FaceClassifier`.
        name: Name of the model.

    Raises:
        ValueError: If `losses` is empty.
    """

    def __init__(
        self, student, teacher, losses, head=None, margin_weight=1.0, name=None
    ):
        super().__init__(student, head=head, margin_weight=margin_weight, name=name)
        if not losses:
            raise ValueError(
                "`losses` must name at least one distillation loss. To train without "
                "a teacher use FaceClassifier."
            )
        self.losses_by_name = {name: loss for name, (loss, _) in losses.items()}
        self.loss_weights_by_name = {
            name: float(weight) for name, (_, weight) in losses.items()
        }
        self._teacher = Untracked(teacher)

    @property
    def trained_layers(self):
        """The student, the head and the losses, which own thresholds and the like."""
        losses = {f"loss/{name}": loss for name, loss in self.losses_by_name.items()}
        return {**super().trained_layers, **losses}

    def embed_teacher(self, images):
        """Returns the teacher's embeddings, float32, without gradient."""
        teacher = self._teacher.value
        is_model = isinstance(teacher, tf.keras.Model)
        embeddings = teacher(images, training=False) if is_model else teacher(images)
        return tf.stop_gradient(tf.cast(embeddings, tf.float32))

    def loss_shares(self, embeddings, batch):
        """Adds the distillation terms; see `FaceClassifier.loss_shares`."""
        shares, monitor = super().loss_shares(embeddings, batch)
        student = gather_rows(embeddings)
        teacher = gather_rows(self.embed_teacher(batch["image"]))
        labels = gather_rows(batch["label"])
        image_ids = gather_rows(batch["image_id"])
        for name, loss in self.losses_by_name.items():
            terms, watched = loss(
                student, teacher, labels, image_ids, training=True, with_monitor=True
            )
            share = self.loss_weights_by_name[name] / num_replicas()
            for term, value in terms.items():
                shares[f"loss/{term}"] = share * value
            monitor.update(watched)
        return shares, monitor
