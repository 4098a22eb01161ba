"""Shapes: areas and positions known from geometry, boxes that never cut."""

import math

import numpy as np
import pytest

from ekd_tf.data.synthetic.canvas import Canvas
from ekd_tf.data.synthetic.canvas import clip01
from ekd_tf.data.synthetic.canvas import disc
from ekd_tf.data.synthetic.canvas import turned

WHITE = np.ones((3, 1, 1, 1), np.float32)


def column(*values):
    return np.array(values, np.float32)[:, None, None]


def canvas(size=128, zoom=1.0, roll=0.0, x0=0.0, y0=0.0, blur=0.0):
    """A canvas of one black picture; with these defaults it spans [-1, 1]^2."""
    return Canvas(size, *(column(v) for v in (zoom, roll, x0, y0, blur)))


def area(picture):
    """Painted area in face units squared, for zoom 1."""
    return float(picture.rgb[0, 0].sum()) * (2 / picture.size) ** 2


def centroid(picture):
    """Where the paint is, in picture units, -1 to 1: (x, y)."""
    light = picture.rgb[0, 0].astype(np.float64)
    grid = (np.arange(picture.size) * 2 + 1) / picture.size - 1
    return (light.sum(0) @ grid) / light.sum(), (light.sum(1) @ grid) / light.sum()


def second_moments(picture):
    light = picture.rgb[0, 0].astype(np.float64)
    grid = (np.arange(picture.size) * 2 + 1) / picture.size - 1
    x, y = centroid(picture)
    dx, dy = grid[None, :] - x, grid[:, None] - y
    total = light.sum()
    return tuple((light * m).sum() / total for m in (dx * dx, dy * dy, dx * dy))


def test_disc_is_one_on_the_rim():
    # (3/5)^2 + (4 / 5)^2 = 1, and half way out a quarter.
    value = disc(column(3.0, 1.5), column(8.0, 4.0), column(5.0), column(10.0))
    np.testing.assert_allclose(value.ravel(), [1.0, 0.25], rtol=1e-6)


def test_clip01_works_in_place():
    values = np.array([-1.0, 0.25, 3.0])
    assert clip01(values) is values
    np.testing.assert_array_equal(values, [0, 0.25, 1])


@pytest.mark.parametrize("tangent", [-0.6, -0.1, 0.0, 0.3])
def test_turned_is_a_rotation_near_the_angle_it_is_given(tangent):
    cos, sin = turned(tangent)
    angle = 2 * math.atan(tangent / 2)
    np.testing.assert_allclose([cos, sin], [math.cos(angle), math.sin(angle)])
    assert abs(angle - tangent) < 0.02


@pytest.mark.parametrize("radii", [(0.5, 0.5), (0.6, 0.2), (0.1, 0.4)])
def test_ellipse_covers_pi_a_b(radii):
    picture = canvas()
    picture.ellipse(0, 0, column(radii[0]), column(radii[1]), WHITE)
    np.testing.assert_allclose(area(picture), math.pi * radii[0] * radii[1], rtol=0.03)


def test_ellipse_moments_are_a_quarter_of_the_squared_radii():
    picture = canvas()
    picture.ellipse(0.1, -0.2, column(0.5), column(0.3), WHITE)
    np.testing.assert_allclose(centroid(picture), [0.1, -0.2], atol=1e-4)
    xx, yy, xy = second_moments(picture)
    np.testing.assert_allclose([xx, yy], [0.0625, 0.0225], rtol=0.03)
    assert abs(xy) < 1e-5


def test_turn_tilts_clockwise_and_stretch_narrows():
    picture = canvas()
    picture.ellipse(0, 0, column(0.5), column(0.2), WHITE, turn=column(0.4))
    angle = 2 * math.atan(0.2)
    xx, yy, xy = second_moments(picture)
    # Rows grow downwards, so a clockwise tilt correlates x and y positively.
    assert xy > 0
    np.testing.assert_allclose(0.5 * math.atan2(2 * xy, xx - yy), angle, rtol=0.02)
    narrow = canvas()
    narrow.ellipse(0, 0, column(0.5), column(0.2), WHITE, stretch=column(0.5))
    np.testing.assert_allclose(second_moments(narrow)[0], 0.0625 / 4, rtol=0.05)


def test_frame_moves_scales_and_rolls():
    moved = canvas(x0=0.25, y0=-0.125)
    moved.ellipse(0, 0, column(0.2), column(0.2), WHITE)
    np.testing.assert_allclose(centroid(moved), [0.25, -0.125], atol=1e-4)
    zoomed = canvas(zoom=2.0)
    zoomed.ellipse(0.8, 0.4, column(0.4), column(0.4), WHITE)
    np.testing.assert_allclose(centroid(zoomed), [0.4, 0.2], atol=1e-4)
    np.testing.assert_allclose(area(zoomed), math.pi * 0.2**2, rtol=0.05)
    rolled = canvas(roll=0.2)
    rolled.ellipse(0.5, 0, column(0.1), column(0.1), WHITE)
    angle = 2 * math.atan(0.1)
    expected = [0.5 * math.cos(angle), 0.5 * math.sin(angle)]
    np.testing.assert_allclose(centroid(rolled), expected, atol=1e-3)
    below = canvas(roll=0.2)
    below.ellipse(0, 0.5, column(0.1), column(0.1), WHITE)
    expected = [-0.5 * math.sin(angle), 0.5 * math.cos(angle)]
    np.testing.assert_allclose(centroid(below), expected, atol=1e-3)


def test_local_coordinates_are_zero_at_the_feature_and_span_the_picture():
    picture = canvas(size=32, zoom=1.5)
    box, x, y = picture.everywhere()
    assert box == (slice(0, 32), slice(0, 32))
    np.testing.assert_allclose(x[0, 5], 1.5 * (np.arange(32) * 2 - 31) / 32, atol=1e-6)
    np.testing.assert_allclose(y[0, :, 5], x[0, 5], atol=1e-6)
    box, x, y = picture.local(column(0.3), column(-0.6), 0.1, 0.2)
    rows, columns = np.mgrid[box]
    at = np.unravel_index(np.argmin(x[0] ** 2 + y[0] ** 2), x[0].shape)
    # 0.3 / 1.5 = 0.2 and -0.6 / 1.5 = -0.4 of half the picture, 16 pixels.
    assert abs(columns[at] + 0.5 - (16 + 3.2)) <= 0.5
    assert abs(rows[at] + 0.5 - (16 - 6.4)) <= 0.5


@pytest.mark.parametrize("radius", [0.004, 0.012])
@pytest.mark.parametrize("size", [32, 64, 128])
def test_what_is_thinner_than_a_pixel_fades_and_keeps_its_area(size, radius):
    picture = canvas(size=size)
    picture.ellipse(0.01, 0.02, column(0.5), column(radius), WHITE)
    # The slope of a thin edge is not linear, so the area is only near.
    np.testing.assert_allclose(area(picture), math.pi * 0.5 * radius, rtol=0.35)
    if radius < 0.25 * float(picture.soft.item()):
        assert picture.rgb.max() < 0.6


def test_edge_is_softened_over_pixel_and_blur():
    # 1.2 pixels of 2/64, and 0.3 across: sqrt(0.0375^2 + 0.3^2).
    assert canvas(size=64).soft.item() == pytest.approx(0.0375)
    assert canvas(size=64, blur=0.3).soft.item() == pytest.approx(0.302335, rel=1e-5)
    sharp, soft = canvas(), canvas(blur=0.3)
    for picture in (sharp, soft):
        picture.ellipse(0, 0, column(0.5), column(0.5), WHITE)
    partial = [np.mean((p.rgb > 0.01) & (p.rgb < 0.99)) for p in (sharp, soft)]
    assert partial[1] > 5 * partial[0]


def test_paint_mixes_by_opacity_and_leaves_the_rest():
    picture = canvas(size=32)
    picture.rgb[:] = 0.2
    colour = np.array([1.0, 0.6, 0.2], np.float32)[:, None, None, None]
    box = (slice(4, 6), slice(8, 11))
    picture.paint(box, np.full((1, 2, 3), 0.25, np.float32), colour)
    np.testing.assert_allclose(picture.rgb[:, 0, 5, 9], [0.4, 0.3, 0.2], rtol=1e-6)
    picture.rgb[:, :, box[0], box[1]] = 0.2
    np.testing.assert_array_equal(picture.rgb, np.float32(0.2))


def test_strength_and_glow_profile():
    picture = canvas()
    picture.glow(0, 0, column(0.5), column(0.5), WHITE, column(0.8))
    # Opacity 0.8 (1 - r^2)^2 integrates to 0.8 pi R^2 / 3.
    np.testing.assert_allclose(area(picture), 0.8 * math.pi * 0.25 / 3, rtol=0.01)
    assert picture.rgb.max() == pytest.approx(0.8, abs=0.01)


def test_ring_has_the_area_of_its_outline():
    picture = canvas(size=256)
    picture.ring(0, 0, column(0.5), column(0.5), column(0.03), WHITE, column(1.0))
    np.testing.assert_allclose(area(picture), 2 * math.pi * 0.5 * 0.06, rtol=0.03)
    assert picture.rgb[0, 0, 128, 128] == 0


def test_lens_is_the_area_between_two_parabolas():
    picture = canvas()
    box, opacity, _, _ = picture.lens(0, 0, column(0.6), column(0.2), column(0.1), 0)
    picture.paint(box, opacity, WHITE)
    # 4/3 of half length times height, above and below.
    np.testing.assert_allclose(area(picture), 4 / 3 * 0.6 * 0.3, rtol=0.04)
    assert centroid(picture)[1] < 0


def test_bend_lifts_the_corners():
    picture = canvas()
    shape = column(0.6), column(0.05), column(0.05), column(0.2)
    box, opacity, _, _ = picture.lens(0, 0, *shape)
    picture.paint(box, opacity, WHITE)
    rows = np.arange(128)[:, None]
    middle, corner = (
        (picture.rgb[0, 0, :, c] * rows[:, 0]).sum() / picture.rgb[0, 0, :, c].sum()
        for c in (64, 64 + 32)
    )
    # At x = 0.5 the line has risen by 0.2 (0.5 / 0.6)^2 = 0.139, or 8.9 pixels.
    np.testing.assert_allclose(middle - corner, 8.9, atol=0.6)


def paint_one(shape, blur, seed):
    """One random shape on one picture: its box then has no neighbour to widen it."""
    generator = np.random.default_rng(seed)

    def number(low, high):
        return column(generator.uniform(low, high))

    frame = (
        number(*ends) for ends in ((1, 1.3), (-0.2, 0.2), (-0.3, 0.3), (-0.3, 0.3))
    )
    picture = Canvas(48, *frame, column(blur))
    x, y, turn, stretch = (
        number(*ends) for ends in ((-0.7, 0.7), (-0.7, 0.7), (-0.7, 0.7), (0.35, 1.3))
    )
    a, b = number(0.05, 0.4), number(0.05, 0.4)
    if shape == "ellipse":
        picture.ellipse(x, y, a, b, WHITE, 1, stretch, turn)
    elif shape == "thin":
        picture.ellipse(x, y, a, b * 0.02, WHITE, 1, stretch, turn)
    elif shape == "glow":
        picture.glow(x, y, a, b, WHITE, 1, stretch, turn)
    elif shape == "ring":
        picture.ring(x, y, a, b, a * 0.1, WHITE, 1, stretch)
    else:
        b = b * (0.01 if shape == "flat" else 1)
        box, opacity, _, _ = picture.lens(x, y, a, b, b / 2, 0.1, stretch, turn)
        picture.paint(box, opacity, WHITE)
    return picture.rgb


@pytest.mark.parametrize("shape", ["ellipse", "thin", "glow", "ring", "lens", "flat"])
@pytest.mark.parametrize("blur", [0.0, 0.2])
def test_no_shape_is_cut_by_its_box(monkeypatch, shape, blur):
    # Painted in its box and painted everywhere must be the same picture, bit by bit.
    # Otherwise a picture would depend on how far its neighbours' boxes reach.
    boxed = [paint_one(shape, blur, seed) for seed in range(40)]
    monkeypatch.setattr(Canvas, "_span", lambda self, *_: slice(0, self.size))
    for seed, picture in enumerate(boxed):
        np.testing.assert_array_equal(picture, paint_one(shape, blur, seed))
    assert max(picture.max() for picture in boxed) > 0


@pytest.mark.parametrize("x", [-9.0, 9.0])
def test_a_shape_outside_the_picture_paints_nothing(x):
    picture = canvas(size=32)
    picture.ellipse(column(x), 0, column(0.3), column(0.3), WHITE)
    np.testing.assert_array_equal(picture.rgb, 0)


def test_boxes_are_small():
    # The point of boxes: an eye must not cost a whole picture.
    box, x, _ = canvas(size=64).local(0.3, 0.0, 0.2, 0.1)
    assert x.shape[1] * x.shape[2] < 0.06 * 64 * 64 + 4 * 64
    assert box[1].start > 31
