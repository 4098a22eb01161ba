"""Similarity-preserving distillation."""

from __future__ import annotations

import tensorflow as tf

from ekd_tf.checks import check_choice
from ekd_tf.keras_compat import register
from ekd_tf.losses.base import DistillationLoss
from ekd_tf.ops.numerics import l2_normalize
from ekd_tf.ops.numerics import similarity_matrix

GRAMS = ("cosine", "row_normalized")


def similarity_preserving(
    student: tf.Tensor, teacher: tf.Tensor, gram: str = "cosine"
) -> tf.Tensor:
    r"""Averages the squared difference of two models' similarity matrices.

    $$ L = \frac{1}{B^2} \lVert G_s - G_t \rVert_F^2 $$

    Args:
        student: Float tensor `(batch, student_dim)`, not normalised.
        teacher: Float tensor `(batch, teacher_dim)`, same images, same order.
        gram: "cosine": G holds the cosines of all ordered pairs. "row_normalized":
            G holds the inner products of the raw embeddings, each row of G divided by
            its length.

    Returns:
        Float32 scalar >= 0.

    Reference:
        Tung and Mori, 2019, arXiv:1907.09682, is "row_normalized", on feature maps;
        TFace `distillation/similarity_perserving.py` is "cosine".
    """
    matrices = []
    for embeddings in (student, teacher):
        if gram == "cosine":
            matrix = similarity_matrix(l2_normalize(embeddings))
        else:
            matrix = l2_normalize(similarity_matrix(embeddings))
        matrices.append(matrix)
    return tf.reduce_mean(tf.math.squared_difference(*matrices))


@register
class SPLoss(DistillationLoss):
    """Compares similarity matrices: the term `sp` is `similarity_preserving`."""

    def __init__(self, gram: str = "cosine", name: str = "sp", **kwargs):
        super().__init__(name=name, **kwargs)
        check_choice("gram", gram, GRAMS)
        self.gram = gram

    def compute(self, student, teacher, labels, image_ids, training):
        return {self.name: similarity_preserving(student, teacher, self.gram)}, {}
