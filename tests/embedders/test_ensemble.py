import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from toys import unit

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


@pytest.mark.parametrize("traceable", [True, False])
@pytest.mark.parametrize(("dim", "seed"), [(6, 0), (6, 7), (4, 7)])
def test_cosines_are_the_mean_of_theirs(rng, traceable, dim, seed):
    images = rng.integers(0, 256, (4, SIZE, SIZE, 3), np.uint8)
    of_other = matrix(0) + 0.1 * matrix(1) if seed == 0 else matrix(seed, dim)
    one, other = Linear(matrix(0), "a", traceable), Linear(of_other, "b")
    both = EnsembleEmbedder([one, other])
    assert both.traceable == traceable == (both.traced() is not None)
    each = [unit(np.float64(model(images))) for model in (one, other)]
    rows = np.asarray(both(images), np.float64)
    if seed == 0:
        # Teachers of one space are averaged.
        assert both.embedding_dim == 6
        np.testing.assert_allclose(rows, sum(each) / 2, atol=1e-6)
    else:
        assert both.embedding_dim == 6 + dim
        mean = sum(u @ u.T for u in each) / 2
        np.testing.assert_allclose(rows @ rows.T, mean, atol=1e-6)


def test_says_what_runs_its_models_and_knows_each_of_them():
    models = [Linear(matrix(0), name) for name in "abc"]
    assert EnsembleEmbedder(models).runtime == "TensorFlow"
    models[1].runtime = models[2].runtime = "onnxruntime (CPU)"
    first, last = EnsembleEmbedder(models[:2]), EnsembleEmbedder(models[1:])
    assert first.fingerprint != last.fingerprint
    assert first.runtime == "TensorFlow and onnxruntime (CPU)"
    assert last.runtime == "onnxruntime (CPU)"


def test_refuses_several_sizes_and_opens_what_is_joined(tmp_path, monkeypatch):
    small, large = Linear(matrix(0), "a"), Linear(matrix(0), "b")
    large.input_size = 12
    refused(r"size: \{'a': 8, 'b': 12\}", EnsembleEmbedder, [small, large])
    (tmp_path / "p+q").mkdir()
    path = tmp_path / "p+q" / "m+n.keras"
    path.write_text("no model")
    # As compare_methods names its folders.
    many = [f"a_student_of_number_{n}" for n in range(10, 30)]
    for folder in ("ekd", "ekd+cosine", *many):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    for spec, words in (
        (f"{tmp_path}/none.keras+other.keras", "none.keras"),
        (f"{path}+{path}", r"m\+n.keras"),
        (f"insightface_mbf:{path}+insightface_mbf:{path}", r"m\+n.keras"),
        (f"{path}+", r"A model must be named.*keras\+'"),
        ("+".join(many), "number_10 holds no model.keras"),
        (f"{tmp_path}/ekd+cosine", r"/ekd\+cosine holds no model.keras"),
        (f"{tmp_path}/ekd+{path}", r"/ekd holds no model.keras"),
    ):
        refused(words, open_embedder, spec)
