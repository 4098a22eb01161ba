"""ekd_tf.export.measure: latency and memory of an artefact."""

import numpy as np
import pytest

import ekd_tf.export.measure as measure
from ekd_tf.export.measure import latency
from ekd_tf.export.measure import peak_memory


def test_times_the_repeats_after_a_warm_up(monkeypatch):
    # A clock that only this test moves: the warm-up takes 1 s an image, the timed
    # calls 1, 2, ... 20 ms. The median is 10.5; numpy's 95th percentile of 1..20
    # is at index 0.95 * 19 = 18.05, 19.05.
    clock, seen = [0.0], []

    def embed(images):
        seen.append(int(images[0]))
        clock[0] += 1.0 if len(seen) <= 5 else (len(seen) - 5) / 1000

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    np.testing.assert_allclose(latency(embed, np.arange(9), 20), (10.5, 19.05))
    assert seen == [*range(4, 9), *range(9), *range(9), 0, 1]


def test_memory_is_that_of_the_model_alone_and_needs_litert(tflite, monkeypatch):
    pytest.importorskip("ai_edge_litert", reason="needs the extra litert")
    # The runtime takes a few MB, TensorFlow would take hundreds.
    assert 1e5 < peak_memory(tflite["float32"]) < 5e7
    monkeypatch.setattr(measure.importlib.util, "find_spec", lambda name: None)
    assert peak_memory("missing.tflite") is None
