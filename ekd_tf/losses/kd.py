"""Hinton's distillation: the teacher's soft classification of each image."""

import tensorflow as tf

from ekd_tf.checks import check_positive
from ekd_tf.keras_compat import register
from ekd_tf.losses.centres import CentreLoss
from ekd_tf.ops.numerics import l2_normalize


def kd_divergence(student_logits, teacher_logits, temperature=4.0):
    r"""Averages the divergence of two softmaxes over identities.

    $$ L = \frac{T^2}{B} \sum_i \mathrm{KL}\big(\mathrm{softmax}(z^t_i / T) \,\|\,
        \mathrm{softmax}(z^s_i / T)\big) $$

    Args:
        student_logits: Float32 tensor `(batch, num_identities)`.
        teacher_logits: Float32 tensor `(batch, num_identities)`.
        temperature: Float > 0 in units of the logits.

    Returns:
        Float32 scalar >= 0 up to rounding.

    Reference:
        Hinton et al., 2015, arXiv:1503.02531. TFace
        `recognition/tasks/ekd/distillation/simple_kd.py`, equal to rounding.
    """
    student = tf.nn.log_softmax(student_logits / temperature)
    teacher = tf.nn.log_softmax(teacher_logits / temperature)
    divergence = tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=1)
    return temperature**2 * tf.reduce_mean(divergence)


@register
class KDLoss(CentreLoss):
    """Compares two models' classifications of an image, see `kd_divergence`.

    Logits are scaled cosines: the teacher's to its class centres, the student's to
    those of its margin head.

    Args:
        centres: As in `CentreLoss`.
        head: Built `MarginHead` over the same identities, whose centres are the
            student's classifier and receive a gradient. It stays the trainer's: it is
            in neither the state nor the config of the loss. None: the student is
            classified by the teacher's centres, through the projection where the
            sizes differ.
        temperature: Float > 0 in units of the logits.
        scale: Float > 0 of the cosines.
        student_dim: As in `ProjectedLoss`; only without `head`.
        num_identities: As in `CentreLoss`.
        teacher_dim: As in `CentreLoss`.
        name: Name of the layer and of its term.

    Returns:
        `{"kd": ...}`, float32 scalar >= 0.

    State:
        As in `CentreLoss`.

    Raises:
        ValueError: As in `CentreLoss`; an argument outside its range; a head over
            another number of identities.

    Reference:
        Hinton et al., 2015, arXiv:1503.02531, T = 4. The paper's logits are unbounded;
        cosines are not, hence the scale.
    """

    def __init__(
        self,
        centres=None,
        head=None,
        temperature=4.0,
        scale=64.0,
        student_dim=None,
        num_identities=None,
        teacher_dim=None,
        name="kd",
        **kwargs,
    ):
        check_positive("temperature", temperature)
        check_positive("scale", scale)
        if head is not None:
            student_dim = None
        super().__init__(
            centres, student_dim, num_identities, teacher_dim, name=name, **kwargs
        )
        self.temperature = float(temperature)
        self.scale = float(scale)
        self._student_cosines = None
        if head is not None:
            if head.num_identities != self.num_identities:
                raise ValueError(
                    "`head` and `centres` must have the same identities. Received: "
                    f"{head.num_identities} and {self.num_identities}"
                )
            # A function hides the head from Keras, which would list its centres twice.
            self._student_cosines = lambda embeddings: tf.matmul(
                l2_normalize(embeddings),
                l2_normalize(tf.convert_to_tensor(head.centers)),
                transpose_b=True,
            )

    def compute(self, student, teacher, labels, image_ids, training):
        """Returns the term; nothing to watch."""
        if self._student_cosines is None:
            cosines = self.cosines(self.project(student, teacher))
        else:
            cosines = self._student_cosines(student)
        value = kd_divergence(
            self.scale * cosines, self.scale * self.cosines(teacher), self.temperature
        )
        return {self.name: value}, {}

    def get_config(self):
        """Returns the arguments the layer was made with, apart from `head`."""
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "scale": self.scale,
        }
