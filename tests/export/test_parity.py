import dataclasses

import keras
import numpy as np
import pytest
from refusals import refused

from ekd_tf.evaluation import all_pair_scores
from ekd_tf.evaluation import verify_embeddings
from ekd_tf.export import measure
from ekd_tf.export import parity


def test_embeds_as_served_and_not_as_trained(rng):
    # In Keras 3 Resizing's own default is training; BatchNormalization inherits it.
    layers = [keras.layers.Resizing(2, 2), keras.layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((4, 4, 3)), *layers, keras.layers.Flatten()])
    images = rng.random((3, 4, 4, 3), np.float32)
    expected = np.asarray(model(images, training=False))
    np.testing.assert_array_equal(parity.embed(model, images, batch_size=2), expected)


def rows(*values):
    return np.array(values, np.float32)


def test_figures_computed_by_hand():
    # Cosines: [3, 4] with [0.6, 0.8] is 1; [0, 2] with [0.6, 0.8] is 0.8. The unit
    # reference [0, 1] differs from [0.6, 0.8] by 0.6 and 0.2.
    report = parity.compare(rows([3, 4], [0, 2]), rows([0.6, 0.8], [0.6, 0.8]))
    assert report.min_cosine == pytest.approx(0.8)
    assert report.mean_cosine == pytest.approx(0.9)
    assert report.max_abs_diff == pytest.approx(0.6)
    assert report.images == 2
    # Twice the length: the cosine is 1, the largest entry off by 0.8.
    report = parity.compare(rows([3, 4]), rows([1.2, 1.6]))
    assert report.min_cosine == pytest.approx(1)
    assert report.max_abs_diff == pytest.approx(0.8)
    words = r"x must .*\(1, 2\).*\(1, 3"
    refused(words, parity.compare, rows([1, 0]), rows([1, 0, 0]), "x")


def test_no_embedding_at_all_fails():
    for entry in (np.nan, np.inf, 0.0):
        with np.errstate(invalid="ignore"):
            report = parity.compare(rows([1, 1]), rows([entry, entry]))
        assert parity.failures("x", report, parity.Gate(min_cosine=0.1))


def close(least, mean=1.0):
    return parity.ParityReport(least, mean, 0.0, 7)


def verified(tpr):
    return parity.Verification(0.9, tpr, 0.3, 5000)


def test_the_least_cosine():
    for kind, least, passes in (
        ("saved_model", 0.99991, True),
        ("saved_model", 0.99989, False),
        ("tflite_float32", 0.99989, False),
        ("onnx", 0.99989, False),
        ("tflite_float16", 0.99901, True),
        ("tflite_float16", 0.99899, False),
        ("tflite_int8", 0.5, True),
        ("tflite_float32", np.nan, False),
    ):
        sentences = parity.failures(kind, close(least), parity.GATES[kind])
        assert (sentences == []) == passes
        for sentence in sentences:
            assert sentence.startswith(f"{kind} must reach a cosine of 0.999")


def test_quantised_artefacts_have_a_mean_and_a_tpr_to_reach():
    kind = "tflite_int8"
    assert parity.GATES[kind] == parity.GATES["tflite_dynamic"]
    for mean, tpr, words in (
        (0.9901, 0.70, None),
        # One point below 0.71 is 0.70, which passes; 0.6999 does not.
        (0.9901, 0.6999, "TPR@1e-3 0.7000, 0.01 below the Keras model's. "),
        (0.9899, 0.71, "a mean cosine of 0.99. Received: 0.989900 over 7 images"),
        (0.9901, None, None),
    ):
        measured = close(0.5, mean), parity.GATES[kind], verified(tpr), verified(0.71)
        sentences = parity.failures(kind, *measured)
        assert len(sentences) == (words is not None)
        assert all(s.startswith(f"{kind} must reach {words}") for s in sentences)


def test_verification_is_that_of_the_evaluation(rng):
    labels = np.repeat(np.arange(30), 8)
    embeddings = rng.normal(size=(30, 16))[labels] + rng.normal(size=(240, 16))
    figures = parity.verification(embeddings, labels)
    report = verify_embeddings(embeddings, labels, fprs=(1e-3,))
    assert (figures.accuracy, figures.tpr) == (report.accuracy_mean, report.tpr[1e-3])
    # Between the score it is and the next, so that the same pairs are above it.
    score = report.thresholds[1e-3]
    for scores in all_pair_scores(embeddings, labels):
        np.testing.assert_array_equal(scores > figures.threshold, scores > score)
    assert score < figures.threshold < 1
    assert figures.num_negative == 240 * 239 // 2 - 30 * 28
    assert 0.05 < figures.tpr < 1
    # Whoever reads the figures off a card learns which FPR the threshold is for.
    assert dataclasses.asdict(figures)["fpr"] == 1e-3
    assert parity.verification(embeddings, None) is None
    assert parity.verification(embeddings[:4], np.array([0, 0, 1, 1])) is None


def test_times_the_repeats_after_a_warm_up(monkeypatch):
    # A clock that only this test moves: the warm-up takes 1 s an image, the timed
    # calls 1, 2, ... 20 ms. The median is 10.5; numpy's 95th percentile of 1..20
    # is at index 0.95 * 19 = 18.05, 19.05.
    clock, seen = [0.0], []

    def embed(images):
        seen.append(int(images[0]))
        clock[0] += 1.0 if len(seen) <= 5 else (len(seen) - 5) / 1000

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    np.testing.assert_allclose(measure.latency(embed, np.arange(9), 20), (10.5, 19.05))
    assert seen == [*range(4, 9), *range(9), *range(9), 0, 1]


def test_memory_is_that_of_the_model_alone_and_needs_litert(tflite, monkeypatch):
    pytest.importorskip("ai_edge_litert", reason="needs the extra litert")
    # The runtime takes a few MB, TensorFlow would take hundreds.
    assert 1e5 < measure.peak_memory(tflite["float32"]) < 5e7
    # Where it cannot be measured.
    monkeypatch.setattr(measure, "_PEAK", "raise SystemExit(1)")
    assert measure.peak_memory(tflite["float32"]) is None
