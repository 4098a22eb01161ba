import collections
import tracemalloc

import numpy as np
import pytest
from refusals import refused

from ekd_tf.metrics import pool_templates

Images = collections.namedtuple("Images", "template media score")


def test_values_computed_by_hand():
    # Template 9 has two frames of one video and one still: ((1,0) + (0,1)) / 2 + (0,2)
    # = (.5, 2.5). Template 3 has another medium of that number, and 12 a lower one.
    views = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 1.0], [0.0, 5.0]])
    images = Images(np.array([9, 3, 9, 9, 12]), np.array([4, 4, 5, 4, 3]), np.ones(5))
    pooled = pool_templates(views[:, None], *images, "N1D0F0")
    expected = [[1, 0], [0.5 / np.sqrt(6.5), 2.5 / np.sqrt(6.5)], [0, 1]]
    np.testing.assert_allclose(pooled, expected, rtol=1e-6)


@pytest.mark.parametrize("chunk", [7, 10_000])
def test_reproduces_insightface(rng, golden_arrays, chunk):
    arrays = golden_arrays("ijb_insightface.npz")
    views = np.stack([arrays["features_original"], arrays["features_flipped"]], axis=1)
    # In any order.
    mixed = rng.permutation(len(views))
    keys = "template_id", "media_id", "detector_score"
    views, images = views[mixed], Images(*(arrays[key][mixed] for key in keys))
    first, second = (
        np.searchsorted(np.unique(images.template), arrays[f"pair_template_{k}"])
        for k in (1, 2)
    )
    for name in ("N1D1F1", "N0D0F0", "N1D0F1", "N0D1F1"):
        rows = pool_templates(views, *images, name, chunk)
        scores = np.einsum("nd,nd->n", rows[first], rows[second])
        np.testing.assert_allclose(scores, arrays[f"{name.lower()}_score"], atol=1e-5)


def test_rejects_mirror_images_that_were_not_embedded_and_what_has_no_direction(rng):
    views = rng.normal(size=(40, 2, 7))
    images = Images(np.zeros(40, int), np.arange(40), np.ones(40))
    refused("embeddings of mirror", pool_templates, views[:, :1], *images, "N0D0F1")
    for value in (np.nan, 0.0):
        views[37] = value
        refused("1 .* first of image 37", pool_templates, views, *images, "N1D0F0")
    # A template whose images cancel.
    views = np.array([[[1.0, 0.0]], [[-1.0, 0.0]]])
    images = Images(np.zeros(2, int), np.arange(2), np.ones(2))
    refused("zero norm", pool_templates, views, *images, "N0D0F0")
    refused("must be one of 'N0D0F0'", pool_templates, views, *images, "N7D9F2")


def test_memory_does_not_grow_with_the_images():
    class Views:
        """Embeddings that are drawn as they are asked for."""

        shape = (None, 2, 256)

        def __getitem__(self, rows):
            rng = np.random.default_rng(rows[0])
            return rng.standard_normal((len(rows), 2, 256), dtype=np.float32)

    peaks = []
    for count in (10_000, 40_000):
        numbers = np.arange(count)
        images = Images(numbers % 500, numbers % 7, np.ones(count, np.float32))
        tracemalloc.start()
        pool_templates(Views(), *images, "N1D1F1")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 30,000 more images of two views are 61 MB.
    assert peaks[1] - peaks[0] < 1e7
