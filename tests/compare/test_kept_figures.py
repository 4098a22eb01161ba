import json

import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.compare import kept_figures
from ekd_tf.data import SyntheticFaces
from ekd_tf.evaluation import LabelledEvaluation
from ekd_tf.evaluation import SourceEmbedder


@pytest.fixture(scope="module")
def evaluations():
    source = SyntheticFaces(identities=5, images_per_identity=4, size=32)
    return [LabelledEvaluation(name, source, (0.1,)) for name in ("one", "two")]


class Opener:
    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1
        mean = tf.linspace(-1.0, 1.0, 32)[:, None] * [[1.0, 0.5, 0.2]]
        return SourceEmbedder(
            lambda images: tf.einsum("nhwc,hc->nc", tf.cast(images, tf.float32), mean),
            32,
        )


def test_figures_are_computed_once_per_model_and_set(evaluations, tmp_path):
    path, opener = tmp_path / "reports" / "kept.json", Opener()
    first = kept_figures(path, "a", opener, evaluations[:1])
    assert opener.times == 1 and first.keys() == {"one"}
    again = kept_figures(path, "a", opener, evaluations[:1])
    assert opener.times == 1 and again == first
    assert again["one"].accuracy > 0 and again["one"].curve[1][-1] == 1
    # One more set of another fingerprint, and another model.
    other = LabelledEvaluation("two", evaluations[1].source, (0.2,))
    both = kept_figures(path, "a", opener, [evaluations[0], other])
    assert opener.times == 2 and both["one"] == first["one"]
    assert list(both["two"].tpr) == [0.2]
    kept_figures(path, "b", opener, evaluations[:1])
    assert opener.times == 3 and len(json.loads(path.read_text())) == 3


def test_models_whose_embeddings_are_not_finite_are_refused(evaluations, tmp_path):
    def broken():
        return SourceEmbedder(lambda images: tf.fill([len(images), 4], np.nan), 32)

    with pytest.raises(ValueError, match="finite"):
        kept_figures(tmp_path / "kept.json", "a", broken, evaluations)
