"""ekd_tf.export.gates: what is let through and what is not."""

import numpy as np
import pytest

from ekd_tf.evaluation import all_pair_scores
from ekd_tf.evaluation import verify_embeddings
from ekd_tf.export.gates import GATES
from ekd_tf.export.gates import Gate
from ekd_tf.export.gates import Verification
from ekd_tf.export.gates import failures
from ekd_tf.export.gates import verification
from ekd_tf.export.parity import ParityReport


def parity(least, mean=1.0):
    return ParityReport(least, mean, 0.0, 7)


def verified(tpr):
    return Verification(0.9, tpr, 0.3, 5000)


@pytest.mark.parametrize(
    ("kind", "least", "passes"),
    [
        ("saved_model", 0.99991, True),
        ("saved_model", 0.99989, False),
        ("tflite_float32", 0.99989, False),
        ("onnx", 0.99989, False),
        ("tflite_float16", 0.99901, True),
        ("tflite_float16", 0.99899, False),
        ("tflite_int8", 0.5, True),
        ("tflite_float32", np.nan, False),
    ],
)
def test_the_least_cosine(kind, least, passes):
    said = failures(kind, parity(least), None, None, GATES[kind])
    assert (said == []) == passes
    if not passes:
        assert said[0].startswith(f"{kind} must reach a cosine of 0.999")


@pytest.mark.parametrize("kind", ["tflite_int8", "tflite_dynamic"])
@pytest.mark.parametrize(
    ("mean", "tpr", "words"),
    [
        (0.9901, 0.70, None),
        # One point below 0.71 is 0.70, which passes; 0.6999 does not.
        (0.9901, 0.6999, "must reach TPR@1e-3 0.7000, 0.01 below .* Received: 0.6999"),
        (0.9899, 0.71, "must reach a mean cosine of 0.99. Received: 0.989900 over 7"),
        (0.9901, None, None),
    ],
)
def test_quantised_artefacts_have_a_mean_and_a_tpr_to_reach(kind, mean, tpr, words):
    said = failures(kind, parity(0.5, mean), verified(tpr), verified(0.71), GATES[kind])
    if words is None:
        assert said == []
    else:
        (sentence,) = said
        with pytest.raises(ValueError, match=f"^{kind} {words}"):
            raise ValueError(sentence)


def test_every_part_below_is_said():
    gate = Gate(min_cosine=0.9, mean_cosine=0.9, tpr_loss=0.0)
    said = failures("x", parity(0.1, 0.2), verified(0.1), verified(0.2), gate)
    assert len(said) == 3


def test_verification_is_that_of_the_evaluation(rng):
    labels = np.repeat(np.arange(30), 8)
    embeddings = rng.normal(size=(30, 16))[labels] + rng.normal(size=(240, 16))
    found = verification(embeddings, labels)
    report = verify_embeddings(embeddings, labels, fprs=(1e-3,))
    assert (found.accuracy, found.tpr) == (report.accuracy_mean, report.tpr[1e-3])
    # Between the score it is and the next, so that the same pairs are above it.
    positive, negative = all_pair_scores(embeddings, labels)
    for scores in (positive, negative):
        np.testing.assert_array_equal(
            scores > found.threshold, scores > report.thresholds[1e-3]
        )
    assert report.thresholds[1e-3] < found.threshold < 1
    assert found.num_negative == 240 * 239 // 2 - 30 * 28
    assert 0.05 < found.tpr < 1


def test_verification_needs_labels_and_pairs(rng):
    embeddings = rng.normal(size=(4, 8))
    assert verification(embeddings, None) is None
    assert verification(embeddings, np.array([0, 0, 1, 1])) is None
