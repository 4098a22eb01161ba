"""Five facial points -> the aligned square every backbone is trained on; NumPy only."""

from __future__ import annotations

import numpy as np

from ekd_tf import checks

# Left eye, right eye, nose tip, left and right corner of the mouth, as seen in the
# image; (x, y) in pixels of a 112x112 crop, the centre of the first pixel at (0, 0).
ARCFACE_TEMPLATE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
ARCFACE_TEMPLATE.setflags(write=False)
TEMPLATE_SIZE = 112


def similarity_transform(
    points: np.ndarray, template: np.ndarray = ARCFACE_TEMPLATE
) -> np.ndarray:
    r"""Returns the rotation, scale and shift that bring `points` nearest to `template`.

    Minimises $\sum_k \lVert s R p_k + t - q_k \rVert^2$ over the scale s, the rotation
    R (no mirroring) and the shift t of points $p_k$ and $q_k$, `(n, 2)`, n >= 2.
    Returned is $[sR | t]$, float64 `(2, 3)`.

    Reference:
        Umeyama, 1991, "Least-squares estimation of transformation parameters between
        two point patterns". In the plane his solution is one complex division; equal
        to `skimage.transform.SimilarityTransform` of insightface's `face_align.py`.
    """
    points = np.asarray(points, np.float64)
    if not np.isfinite(points).all():
        raise ValueError(f"`points` must be finite. Received: {points.tolist()}")
    # A rotation with scale is a product of complex numbers: q = a p + b.
    p, q = points @ [1, 1j], np.asarray(template, np.float64) @ [1, 1j]
    spread = p - p.mean()
    apart = (points != points[:1]).any()
    a = np.vdot(spread, q - q.mean()) / np.vdot(spread, spread).real if apart else 0
    # A smaller scale would spread the template over a million pixels.
    if abs(a) < 1e-6:
        raise ValueError(
            "`points` must be apart and in the order of `template`. Received: "
            f"{points.tolist()}"
        )
    b = q.mean() - a * p.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def align(
    image: np.ndarray, points: np.ndarray, size: int = TEMPLATE_SIZE
) -> np.ndarray:
    """Cuts out a square of side `size` with a face's five points on the template.

    `image` and crop are uint8 `(height, width, channels)`, `points` `(5, 2)`, (x, y) in
    pixels of the image, in the template's order. Interpolates bilinearly; what lies
    outside the image is 0. As upstream, a large face is sampled and not averaged when
    it shrinks.

    Reference:
        insightface `face_align.norm_crop`: `cv2.warpAffine(image, matrix, (size, size),
        borderValue=0)`. Within 1 of OpenCV 5.0; OpenCV 4 rounds coordinates to 1/32
        pixel.
    """
    image, points = np.asarray(image), np.asarray(points)
    if image.dtype != np.uint8 or image.ndim != 3 or not image.size:
        raise ValueError(
            "`image` must be uint8 `(height, width, channels)`, none of them 0. "
            f"Received: {image.dtype} {image.shape}"
        )
    if points.shape != ARCFACE_TEMPLATE.shape:
        raise ValueError(f"`points` must be `(5, 2)`. Received: {points.shape}")
    checks.check_positive("size", size)
    matrix = similarity_transform(points, ARCFACE_TEMPLATE * (size / TEMPLATE_SIZE))
    # The inverse sends each pixel of the crop to where it is sampled.
    rows, columns = np.mgrid[:size, :size]
    at = np.stack([columns - matrix[0, 2], rows - matrix[1, 2]])
    x, y = np.tensordot(np.linalg.inv(matrix[:, :2]), at, axes=1)
    # One pixel outside is as black as any further one.
    height, width, channels = image.shape
    x, y = np.clip(x, -1, width) + 1, np.clip(y, -1, height) + 1
    framed = np.pad(image, ((1, 2), (1, 2), (0, 0)))
    left, top = x.astype(np.int64), y.astype(np.int64)
    right, low = np.stack([x - left, y - top]).astype(np.float32)[..., None]
    pixels = np.zeros((size, size, channels), np.float32)
    for row, vertical in ((top, 1 - low), (top + 1, low)):
        for column, horizontal in ((left, 1 - right), (left + 1, right)):
            pixels += framed[row, column] * (horizontal * vertical)
    return np.rint(pixels).astype(np.uint8)
