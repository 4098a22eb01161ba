import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.embedders import EnsembleEmbedder
from ekd_tf.embedders import FrozenEmbedder
from ekd_tf.embedders import open_embedder

SIZE = 8


class Linear(FrozenEmbedder):
    """Embeds by a matrix, within TensorFlow or outside of it."""

    input_size = SIZE

    def __init__(self, matrix, name="a", traceable=True):
        self.matrix = np.asarray(matrix, np.float32)
        self.name = self.fingerprint = name
        self.embedding_dim = self.matrix.shape[1]
        self.traceable = traceable

    def __call__(self, images):
        if not self.traceable:
            return np.reshape(images, [len(images), -1]).astype("f4") @ self.matrix
        flat = tf.reshape(tf.cast(images, tf.float32), [-1, SIZE * SIZE * 3])
        return flat @ self.matrix


def matrix(seed, dim=6):
    return np.random.default_rng(seed).normal(size=(SIZE * SIZE * 3, dim))


def units(model, images):
    rows = np.asarray(model(images), np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)


@pytest.mark.parametrize("traceable", [True, False])
def test_teachers_of_one_space_are_averaged(images, traceable):
    one = Linear(matrix(0), "a", traceable)
    other = Linear(matrix(0) + 0.1 * matrix(1), "b")
    both = EnsembleEmbedder([one, other])
    assert both.embedding_dim == 6 and both.traceable == traceable
    assert (both.traced() is None) == (not traceable)
    expected = (units(one, images) + units(other, images)) / 2
    np.testing.assert_allclose(both(images), expected, atol=1e-6)


@pytest.mark.parametrize("traceable", [True, False])
@pytest.mark.parametrize("dim", [6, 4])
def test_cosines_of_others_are_the_mean_of_theirs(images, traceable, dim):
    one, other = Linear(matrix(0), "a", traceable), Linear(matrix(7, dim), "b")
    both = EnsembleEmbedder([one, other])
    assert both.embedding_dim == 6 + dim
    rows = np.asarray(both(images), np.float64)
    mean = sum(u @ u.T for u in (units(one, images), units(other, images))) / 2
    np.testing.assert_allclose(rows @ rows.T, mean, atol=1e-6)


def test_says_what_runs_its_models():
    models = [Linear(matrix(0), name) for name in "abc"]
    assert EnsembleEmbedder(models).runtime == "TensorFlow"
    models[1].runtime = models[2].runtime = "onnxruntime (CPU)"
    assert EnsembleEmbedder(models).runtime == "TensorFlow and onnxruntime (CPU)"
    assert EnsembleEmbedder(models[1:]).runtime == "onnxruntime (CPU)"


def test_each_of_its_models_counts_for_the_fingerprint():
    models = [Linear(matrix(0), name) for name in "abc"]
    prints = {EnsembleEmbedder(models[k : k + 2]).fingerprint for k in (0, 1)}
    assert len(prints) == 2


def test_refuses_models_of_several_sizes_and_opens_what_is_joined(tmp_path):
    small, large = Linear(matrix(0), "a"), Linear(matrix(0), "b")
    large.input_size = 12
    with pytest.raises(ValueError, match=r"images of one size: \{'a': 8, 'b': 12\}"):
        EnsembleEmbedder([small, large])
    with pytest.raises(ValueError, match="none.keras"):
        open_embedder(f"{tmp_path}/none.keras+other.keras")
    (tmp_path / "p+q").mkdir()
    (tmp_path / "p+q" / "m+n.keras").write_text("no model")
    for spec in (
        f"{tmp_path}/p+q/m+n.keras",
        f"insightface_mbf:{tmp_path}/p+q/m+n.keras",
    ):
        with pytest.raises(ValueError, match="m\\+n.keras"):
            open_embedder(f"{spec}+{spec}")
    with pytest.raises(ValueError, match="A model is missing beside a \\+"):
        open_embedder(f"{tmp_path}/p+q/m+n.keras+")
