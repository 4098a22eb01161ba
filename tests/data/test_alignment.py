"""Five points to the ArcFace template, against Umeyama's SVD and SciPy's sampling."""

import numpy as np
from refusals import refused
from scipy.ndimage import map_coordinates

from ekd_tf.data.alignment import ARCFACE_TEMPLATE
from ekd_tf.data.alignment import align
from ekd_tf.data.alignment import similarity_transform


def umeyama(points, template):
    """Equations 38 to 42 of Umeyama, 1991, in float64."""
    mean_p, mean_q = points.mean(0), template.mean(0)
    p, q = points - mean_p, template - mean_q
    u, d, vt = np.linalg.svd(q.T @ p / len(p))
    s = np.diag([1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ s @ vt
    scale = np.trace(np.diag(d) @ s) / (p**2).sum(1).mean()
    return np.column_stack([scale * rotation, mean_q - scale * rotation @ mean_p])


def warp_np(image, matrix, size):
    """Samples bilinearly; outside the image is 0."""
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    rows, columns = np.mgrid[:size, :size]
    x, y, _ = np.tensordot(inverse, [columns, rows, np.ones_like(rows)], axes=1)
    channels = np.moveaxis(image.astype(float), 2, 0)
    kind = {"order": 1, "mode": "grid-constant"}
    return np.stack([map_coordinates(c, [y, x], **kind) for c in channels], axis=2)


def face_points(angle=0.3, scale=2.0, shift=(40.0, 25.0)):
    """The template turned, scaled and shifted: where a face's points may lie."""
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return ARCFACE_TEMPLATE @ [[cos, sin], [-sin, cos]] + shift


def test_is_umeyamas_solution(rng):
    for k in range(20):
        points = face_points(rng.uniform(-3, 3)) + rng.normal(0, 9, (5, 2))
        # Mirrored points have a best rotation too; it must not mirror them back.
        points = points * [-1, 1] if k % 2 else points
        matrix = similarity_transform(points)
        expected = umeyama(points, ARCFACE_TEMPLATE)
        np.testing.assert_allclose(matrix, expected, rtol=1e-9, atol=1e-9)
        assert np.linalg.det(matrix[:, :2]) > 0


def test_points_on_the_template_cut_out_the_image(rng):
    image = rng.integers(1, 256, (112, 112, 3), dtype=np.uint8)
    np.testing.assert_array_equal(align(image, ARCFACE_TEMPLATE), image)
    # Pixel (row, column) comes from (row - 20, column + 30); outside is black.
    expected = np.zeros_like(image)
    expected[20:, :-30] = image[:-20, 30:]
    shifted = align(image, ARCFACE_TEMPLATE + [30, -20])
    np.testing.assert_array_equal(shifted, expected)
    assert not align(image, ARCFACE_TEMPLATE * 1e5 - 1e12).any()


def test_matches_bilinear_sampling(rng):
    for size, channels in ((56, 1), (28, 3)):
        image = rng.integers(0, 256, (60, 90, channels), dtype=np.uint8)
        # Reaches over all four borders.
        points = face_points(0.4, 0.8, (10.0, -15.0)) + rng.normal(0, 2, (5, 2))
        expected = warp_np(image, umeyama(points, ARCFACE_TEMPLATE * size / 112), size)
        assert (expected == 0).any() and (expected > 0).any()
        aligned = align(image, points, size)
        assert aligned.dtype == np.uint8 and aligned.shape == (size, size, channels)
        np.testing.assert_allclose(aligned, expected, atol=0.501)


def test_value_computed_by_hand():
    # (0,0) and (2,0) to (5,5) and (5,9): a quarter turn, twice the size, then (5,5).
    matrix = similarity_transform([[0, 0], [2, 0]], [[5, 5], [5, 9]])
    np.testing.assert_allclose(matrix, [[0, -2, 5], [2, 0, 5]], atol=1e-12)


def test_rejects_points_without_a_transform_and_other_images():
    apart = "must be apart and in the order of `template`"
    for points, words in (
        (np.full((5, 2), 0.1), apart),
        (ARCFACE_TEMPLATE * 1e8, apart),
        (np.full((5, 2), np.nan), "`points` must be finite"),
    ):
        refused(words, similarity_transform, points)
    for image in (np.zeros((9, 9)), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), "u1")):
        refused("`image` must be uint8 .*Received: ", align, image, ARCFACE_TEMPLATE)
    image = np.zeros((9, 9, 3), np.uint8)
    refused(r"`points` must be `\(5, 2\)`", align, image, ARCFACE_TEMPLATE[:4])
    refused(r"`size` must be in \(0, inf\)", align, image, ARCFACE_TEMPLATE, 0)
