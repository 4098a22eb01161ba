import collections
import tracemalloc

import numpy as np
import pytest
from refusals import refused

from ekd_tf.metrics import ALL_SWITCHES
from ekd_tf.metrics import pool_templates

Images = collections.namedtuple("Images", "template media score")


def pool_np(views, images, switches):
    """The definition as loops, in float64."""
    rows = []
    keep_norm, detector_score, flip = (digit == "1" for digit in switches[1::2])
    for template in sorted(set(images.template.tolist())):
        total = 0
        chosen = np.flatnonzero(images.template == template)
        for media in sorted(set(images.media[chosen].tolist())):
            members = []
            for k in chosen[images.media[chosen] == media]:
                f = views[k, 0].astype(np.float64)
                if flip:
                    f = f + views[k, 1]
                if not keep_norm:
                    f = f / np.linalg.norm(f)
                if detector_score:
                    f = f * images.score[k]
                members.append(f)
            total = total + np.mean(members, axis=0)
        rows.append(total / np.linalg.norm(total))
    return np.array(rows)


@pytest.fixture
def drawn(rng):
    """Templates in no order, media numbers that repeat between templates."""
    template, media = rng.integers(0, 12, 90) * 5 + 3, rng.integers(0, 6, 90)
    images = Images(template, media, rng.uniform(0.2, 1, 90).astype(np.float32))
    views = rng.normal(size=(90, 2, 7)).astype(np.float32)
    return views * rng.uniform(0.5, 4, (90, 1, 1)).astype(np.float32), images


@pytest.mark.parametrize("chunk", [1, 7])
def test_matches_loops_for_all_switches(drawn, chunk):
    views, images = drawn
    assert len(ALL_SWITCHES) == 8
    for switches in ALL_SWITCHES:
        pooled = pool_templates(views, *images, switches, chunk)
        expected = pool_np(views, images, switches)
        np.testing.assert_allclose(pooled, expected, atol=1e-6)


def test_values_computed_by_hand():
    # Two frames of one video and one still: ((1,0) + (0,1)) / 2 + (0,2) = (.5, 2.5).
    views = np.array([[[1.0, 0.0]], [[0.0, 2.0]], [[0.0, 1.0]]])
    images = Images(np.array([9, 9, 9]), np.array([4, 5, 4]), np.ones(3))
    pooled = pool_templates(views, *images, "N1D0F0")
    np.testing.assert_allclose(pooled, [[0.5, 2.5]] / np.sqrt(6.5), rtol=1e-6)


def test_reproduces_insightface(golden_arrays):
    arrays = golden_arrays("ijb_insightface.npz")
    views = np.stack([arrays["features_original"], arrays["features_flipped"]], axis=1)
    images = Images(arrays["template_id"], arrays["media_id"], arrays["detector_score"])
    first, second = (
        np.searchsorted(np.unique(images.template), arrays[f"pair_template_{k}"])
        for k in (1, 2)
    )
    for name in ("N1D1F1", "N0D0F0", "N1D0F1", "N0D1F1"):
        rows = pool_templates(views, *images, name)
        scores = np.einsum("nd,nd->n", rows[first], rows[second])
        np.testing.assert_allclose(scores, arrays[f"{name.lower()}_score"], atol=1e-5)


def test_rejects_mirror_images_that_were_not_embedded_and_what_has_no_direction(drawn):
    views, images = drawn
    words = "N0D0F1 adds embeddings of mirror"
    refused(words, pool_templates, views[:, :1], *images, "N0D0F1")
    for value in (np.nan, 0.0):
        views[37] = value
        words = "1 that are not, the first of image 37"
        refused(words, pool_templates, views, *images, "N1D0F0")
    # A template whose images cancel.
    views = np.array([[[1.0, 0.0]], [[-1.0, 0.0]]])
    images = Images(np.zeros(2, int), np.arange(2), np.ones(2))
    refused("zero norm", pool_templates, views, *images, "N0D0F0")


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
