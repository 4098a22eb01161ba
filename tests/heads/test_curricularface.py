import numpy as np
import tensorflow as tf
from losses_numpy import arcface_target
from losses_numpy import margin_logits
from losses_numpy import unit
from toys import with_centres

from ekd_tf.heads import CurricularFace
from ekd_tf.heads.curricularface import curricular_negatives


def test_negatives_computed_by_hand():
    # Only 0.5 and 0.9 beat the target 0.4: 0.5 (0.3 + 0.5) and 0.9 (0.3 + 0.9).
    found = curricular_negatives(
        tf.constant([[0.4, 0.5, 0.9, -0.2]]), tf.constant([0.4]), tf.constant(0.3)
    )
    np.testing.assert_allclose(found, [[0.4, 0.4, 1.08, -0.2]], rtol=1e-6)


def test_stage_is_the_running_mean_of_the_target_cosine():
    # Cosines to the true centres 0.6 and 0.8; the third row does not count.
    head = with_centres(CurricularFace(3, momentum=0.1), np.eye(3))
    rows = np.float32([[3, 4, 0], [3, 4, 0], [1, 1, 1]])
    head(rows, np.int32([0, 1, 2]), np.float32([1, 1, 0]))
    np.testing.assert_allclose(head.stage, 0.07, rtol=1e-5)
    head(rows, np.int32([0, 1, 2]), np.float32([1, 1, 0]))
    np.testing.assert_allclose(head.stage, 0.9 * 0.07 + 0.07, rtol=1e-5)


def test_matches_numpy_reference_with_the_new_stage(rng, run_as):
    rows, centres = np.float32(rng.normal(size=(7, 8))), rng.normal(size=(11, 8))
    labels = np.int32([0, 1, 1, 5, 10, 9, 3])
    rows[0] = -centres[0]
    head = with_centres(CurricularFace(11, momentum=0.5), centres)
    logits = run_as(lambda e, y: head(e, y))(tf.constant(rows), labels)
    stage = 0.5 * np.mean(np.sum(unit(rows) * unit(centres)[labels], axis=1))

    def target(cosine, row):
        return arcface_target(cosine, 0.5)

    def negative(cosine, target):
        return cosine * (stage + cosine) if cosine > target else cosine

    expected = margin_logits(rows, centres, labels, 64.0, target, negative)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3)


def test_choice_of_hard_negatives_and_stage_carry_no_gradient(run_as):
    # d/dc of c (t + c) is t + 2 c on hard negatives, 1 on others.
    def gradient(cosine):
        with tf.GradientTape() as tape:
            tape.watch(cosine)
            value = curricular_negatives(cosine, tf.constant([0.4]), tf.constant(0.3))
        return tape.gradient(value, cosine)

    found = run_as(gradient)(tf.constant([[0.5, -0.2]]))
    np.testing.assert_allclose(found, [[1.3, 1.0]], rtol=1e-6)
