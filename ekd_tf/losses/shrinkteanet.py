"""ShrinkTeaNet: the teacher's directions, and its classifier shared."""

from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range
from ekd_tf.keras_compat import register
from ekd_tf.losses.centres import CentreLoss
from ekd_tf.losses.centres import margin_cross_entropy
from ekd_tf.losses.cosine import cosine_distance


@register
class ShrinkTeaNetLoss(CentreLoss):
    r"""Pulls the student's direction to the teacher's, and to its class centre.

    $$ L = \frac{w_a}{B} \sum_i (1 - \hat s_i \cdot \hat t_i) - \frac{w_c}{B} \sum_i
        \log \mathrm{softmax}_{y_i}(\gamma \hat s_i \cdot \hat c) $$

    with $\hat c$ the frozen class centres of the teacher.

    Args:
        centres: As in `CentreLoss`.
        angular_weight: Float >= 0 of the first term.
        classifier_weight: Float >= 0 of the second.
        scale: Float > 0, $\gamma$.
        student_dim: As in `ProjectedLoss`.
        num_identities: As in `CentreLoss`.
        teacher_dim: As in `CentreLoss`.
        name: Name of the layer and prefix of its terms.

    Returns:
        `{"shrinkteanet/angular": ..., "shrinkteanet/classifier": ...}`, weighted
        float32 scalars >= 0.

    State:
        As in `CentreLoss`.

    Raises:
        ValueError: As in `CentreLoss`; an argument outside its range; at a call, no
            labels.

    Reference:
        Duong et al., 2019, arXiv:1905.10620, on the embedding alone; the paper
        distils intermediate features too.
    """

    uses_labels = True

    def __init__(
        self,
        centres=None,
        angular_weight=1.0,
        classifier_weight=1.0,
        scale=64.0,
        student_dim=None,
        num_identities=None,
        teacher_dim=None,
        name="shrinkteanet",
        **kwargs,
    ):
        check_range("angular_weight", angular_weight, 0)
        check_range("classifier_weight", classifier_weight, 0)
        check_positive("scale", scale)
        super().__init__(
            centres, student_dim, num_identities, teacher_dim, name=name, **kwargs
        )
        self.angular_weight = float(angular_weight)
        self.classifier_weight = float(classifier_weight)
        self.scale = float(scale)

    def compute(self, student, teacher, labels, image_ids, training):
        """Returns the two weighted terms; nothing to watch."""
        projected = self.project(student, teacher)
        classified = margin_cross_entropy(
            self.cosines(projected), labels, self.scale, lambda cosine: cosine
        )
        return {
            f"{self.name}/angular": self.angular_weight
            * cosine_distance(projected, teacher),
            f"{self.name}/classifier": self.classifier_weight * classified,
        }, {}

    def get_config(self):
        """Returns the arguments the layer was made with."""
        return {
            **super().get_config(),
            "angular_weight": self.angular_weight,
            "classifier_weight": self.classifier_weight,
            "scale": self.scale,
        }
