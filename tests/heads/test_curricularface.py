import math

import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.heads import CurricularFace
from ekd_tf.heads.curricularface import curricular_negatives


def head_with(centers, **kwargs):
    head = CurricularFace(num_identities=len(centers), **kwargs)
    head.build((None, centers.shape[1]))
    head.centers.assign(centers)
    return head


def logits_np(embeddings, centers, labels, scale, margin, stage):
    """The formula as loops over entries in float64, through the angle."""
    logits = np.zeros((len(embeddings), len(centers)))
    for i, row in enumerate(np.float64(embeddings)):
        cosines = [
            row @ c / np.linalg.norm(row) / np.linalg.norm(c)
            for c in np.float64(centers)
        ]
        angle = math.acos(cosines[labels[i]])
        if angle < math.pi - margin:
            target = math.cos(angle + margin)
        else:
            target = cosines[labels[i]] - margin * math.sin(margin)
        for j, cosine in enumerate(cosines):
            if j == labels[i]:
                logits[i, j] = target
            else:
                logits[i, j] = cosine * (stage + cosine) if cosine > target else cosine
    return scale * logits


def test_negatives_computed_by_hand():
    # Only 0.5 and 0.9 beat the target 0.4: 0.5 (0.3 + 0.5) and 0.9 (0.3 + 0.9).
    found = curricular_negatives(
        tf.constant([[0.4, 0.5, 0.9, -0.2]]), tf.constant([0.4]), tf.constant(0.3)
    )
    np.testing.assert_allclose(found, [[0.4, 0.4, 1.08, -0.2]], rtol=1e-6)


def test_stage_is_the_running_mean_of_the_target_cosine():
    # Cosines to the true centres 0.6 and 0.8; the third row does not count.
    head = head_with(np.eye(3, dtype=np.float32), momentum=0.1)
    rows = np.float32([[3, 4, 0], [3, 4, 0], [1, 1, 1]])
    head(rows, np.int32([0, 1, 2]), np.float32([1, 1, 0]))
    np.testing.assert_allclose(head.stage, 0.07, rtol=1e-5)
    head(rows, np.int32([0, 1, 2]), np.float32([1, 1, 0]))
    np.testing.assert_allclose(head.stage, 0.9 * 0.07 + 0.07, rtol=1e-5)


def test_matches_numpy_reference_with_the_new_stage(rng, run_as):
    embeddings = rng.normal(size=(7, 8)).astype(np.float32)
    centers = rng.normal(size=(11, 8)).astype(np.float32)
    labels = np.int32([0, 1, 1, 5, 10, 9, 3])
    embeddings[0] = -centers[0]
    head = head_with(centers, momentum=0.5)
    logits = run_as(lambda e, y: head(e, y))(tf.constant(embeddings), labels)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (embeddings, centers)]
    stage = 0.5 * np.mean(np.sum(unit[0] * unit[1][labels], axis=1))
    expected = logits_np(embeddings, centers, labels, 64.0, 0.5, stage)
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


@pytest.mark.parametrize("harm", ["no rows", "not finite", "evaluation"])
def test_stage_stays_where_it_has_nothing_to_learn_from(harm):
    head = head_with(np.eye(3, dtype=np.float32))
    rows, labels = np.float32([[3, 4, 0]]), np.int32([0])
    head(rows, labels)
    before = float(head.stage)
    if harm == "no rows":
        head(rows, labels, np.float32([0]))
    elif harm == "not finite":
        head(rows * np.float32(np.nan), labels)
    else:
        head(rows, labels, training=False)
    assert before > 0 and float(head.stage) == before
