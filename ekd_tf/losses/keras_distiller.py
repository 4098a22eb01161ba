"""Our losses in Keras' own `keras.distillation.Distiller`."""

from __future__ import annotations

import keras
import tensorflow as tf

from ekd_tf.losses.base import DistillationLoss
from ekd_tf.stack import IS_KERAS_3

_Base = keras.distillation.DistillationLoss if IS_KERAS_3 else object


class KerasDistillation(_Base):
    """Gives one of our losses the interface of `keras.distillation`, in Keras 3.

        keras.distillation.Distiller(teacher, student, KerasDistillation(RKDLoss()))

    That class is made for logits of one image at a time. With embeddings it does not,
    as of Keras 3.15:

    - give a loss the labels: `EKDLoss` and others that need them are refused here;
    - take models of different embedding sizes, or with uint8 and float inputs: it
      raises, whatever the loss allows. Hence a projection is never needed;
    - train or save what a loss owns: its variables are no part of the model, its state
      (EKD's thresholds, AdaDistill's centres) would be in no checkpoint. Losses that
      own any are refused here;
    - gather embeddings over replicas: under a strategy each replica compares its own
      rows only, and as nothing divides by the number of replicas, the step is that
      many times as long as one device's on the same batch;
    - log terms: it reports one `distillation_loss` for all losses together, and a run
      cannot see which of them is too small to matter;
    - let weights be what they are: the student's loss is multiplied by
      `student_loss_weight` in [0, 1], all others by one minus it;
    - use `sample_weight`, so no row can be left out of the student's loss.

    `ekd_tf.training.distiller.Distiller` does all of these.

    Args:
        loss: `DistillationLoss` that needs no labels and owns no variables: CosineLoss,
            FitNetLoss, SPLoss, CCKDLoss, RKDLoss or DarkRankLoss.

    Raises:
        RuntimeError: Keras 2, which has no `keras.distillation`.
        ValueError: `loss` is none of ours, needs labels, or owns variables.
    """

    def __init__(self, loss: DistillationLoss):
        if not IS_KERAS_3:
            raise RuntimeError(
                "keras.distillation is part of Keras 3. Received: Keras "
                f"{keras.__version__}"
            )
        if not isinstance(loss, DistillationLoss):
            raise ValueError(f"`loss` must be a DistillationLoss. Received: {loss!r}")
        if loss.variables:
            raise ValueError(
                f"keras.distillation would neither train nor save what "
                f"{type(loss).__name__} owns: "
                + ", ".join(variable.name for variable in loss.variables)
            )
        if loss.uses_labels:
            raise ValueError(
                f"keras.distillation gives a loss no labels, which "
                f"{type(loss).__name__} needs."
            )
        self.loss = loss

    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        """Returns the sum of the loss's terms, float32 scalar.

        Args:
            teacher_outputs: Float tensor `(batch, dim)`, embeddings. Keras names the
                teacher first.
            student_outputs: Float tensor `(batch, dim)`, same images, same order.
            **kwargs: Ignored.
        """
        return tf.add_n(list(self.loss(student_outputs, teacher_outputs).values()))

    def get_config(self):
        """Returns the loss as Keras serialises it."""
        return {"loss": keras.saving.serialize_keras_object(self.loss)}

    @classmethod
    def from_config(cls, config):
        """Makes the adapter of what `get_config` returned."""
        return cls(keras.saving.deserialize_keras_object(config["loss"]))


if IS_KERAS_3:
    KerasDistillation = keras.saving.register_keras_serializable(package="ekd_tf")(
        KerasDistillation
    )
