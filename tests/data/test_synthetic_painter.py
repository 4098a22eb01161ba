"""The painter: each feature is where its parameters say, and moves with the pose."""

from types import SimpleNamespace

import numpy as np
import pytest

from ekd_tf.data.synthetic.faces import painter as synthetic_painter
from ekd_tf.data.synthetic.painter import FacePainter
from ekd_tf.data.synthetic.parameters import IDENTITY
from ekd_tf.data.synthetic.parameters import SAMPLE

SIZE = 96
# A passport photograph: frontal, sharp, even light, nothing in the way, no extras.
NEUTRAL = {
    **{name: sum(ends) / 2 for name, ends in {**IDENTITY, **SAMPLE}.items()},
    **{"skin_tone": 0.2, "hair_tone": 0.1, "eye_tone": 0.1, "skin_warm": 0.0},
    **{"beard": 0.9, "moustache": 0.9, "glasses": 0.9, "mole_0": 0.9, "mole_1": 0.9},
    **{"occluded": 0.9, "hair_length": -0.4, "fringe": 0.0, "hair_part": 0.0},
    **{"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "shift_x": 0.0, "shift_y": 0.0},
    **{"zoom": 1.1, "blur": 0.0, "noise": 0.0, "exposure": 1.0, "shadow": -1.0},
    **{"light_x": 0.0, "light_y": 0.0, "warmth": 0.0, "tint": 0.0, "saturation": 1.0},
    **{"lift": 0.0, "smile": 0.0, "mouth_open": -0.1, "gaze_x": 0.0, "gaze_y": 0.0},
    **{"hair_move": 0.0, "eye_open": 1.0, "wears": 0.1, "brow_frown": 0.0},
}


def numbers(**changes):
    unknown = set(changes) - set(NEUTRAL)
    assert not unknown, unknown
    values = {**NEUTRAL, **changes}
    return SimpleNamespace(
        **{k: np.full((1, 1, 1), v, np.float32) for k, v in values.items()}
    )


def photograph(size=SIZE, **changes):
    return FacePainter(numbers(**changes), size).paint()[0].astype(np.float64)


def pixel(x, y, size=SIZE, zoom=1.1):
    """Row and column of a face position in a neutral photograph."""
    return tuple(int((v / zoom + 1) * size / 2) for v in (y, x))


def changed(size=SIZE, **changes):
    """Centre of what a change of parameters repaints, face units, and its area."""
    difference = np.abs(photograph(size, **changes) - photograph(size)).sum(-1)
    weights = difference * (difference > 12)
    grid = ((np.arange(size) * 2 + 1) / size - 1) * 1.1
    total = weights.sum()
    assert total > 0, f"{changes} changes nothing"
    return (
        (weights.sum(0) @ grid) / total,
        (weights.sum(1) @ grid) / total,
        float((weights > 0).mean()),
    )


def test_frontal_face_under_even_light_is_symmetrical():
    # Three things are not: the gloss of the eyes, the side of the nose in shadow, and
    # the wall behind.
    face = photograph(size=96)
    difference = np.abs(face - face[:, ::-1]).mean(-1)
    middle = difference[20:80, 20:76]
    assert middle.mean() < 4
    assert difference[pixel(0.0, 0.8)] < 10


def test_parts_are_where_the_geometry_says():
    face = photograph(size=192)
    skin = face[pixel(0.45, 0.35, 192)]
    assert skin[0] > skin[1] > skin[2] > 60
    eye_y = NEUTRAL["eye_y"]
    for side in (-1, 1):
        pupil = face[pixel(side * NEUTRAL["eye_x"] * 1.0, eye_y + 0.01, 192)]
        assert pupil.mean() < 0.45 * skin.mean()
        brow_y = eye_y - NEUTRAL["brow_gap"] - NEUTRAL["brow_raise"]
        assert (
            face[pixel(side * NEUTRAL["eye_x"], brow_y, 192)].mean() < 0.7 * skin.mean()
        )
    assert face[pixel(0, -0.9, 192)].mean() < 0.5 * skin.mean()
    lips = face[pixel(0, NEUTRAL["mouth_y"] + 0.035, 192)]
    assert lips[0] / lips[1] > 1.1 * skin[0] / skin[1]


@pytest.mark.parametrize(
    "extra, where, share",
    [
        ({"glasses": 0.1}, (0.0, 0.0), (0.02, 0.25)),
        ({"beard": 0.1}, (0.0, 0.75), (0.05, 0.35)),
        ({"moustache": 0.1}, (0.0, 0.53), (0.005, 0.06)),
        ({"mole_0": 0.25, "mole_0_x": 0.5, "mole_0_y": 0.3}, (0.5, 0.3), (5e-4, 0.02)),
        (
            {"mole_1": 0.25, "mole_1_x": -0.5, "mole_1_y": 0.3},
            (-0.5, 0.3),
            (5e-4, 0.02),
        ),
        (
            {"occluded": 0.1, "block_x": 0.4, "block_y": -0.3},
            (0.4, -0.3),
            (0.05, 0.4),
        ),
        ({"hair_length": 1.0}, (0.0, 0.7), (0.02, 0.4)),
    ],
    ids=[
        "glasses",
        "beard",
        "moustache",
        "mole",
        "other mole",
        "occluder",
        "long hair",
    ],
)
def test_an_extra_appears_in_its_place_only(extra, where, share):
    x, y, area = changed(**extra)
    np.testing.assert_allclose((x, y), where, atol=0.13)
    assert share[0] < area < share[1]


def test_glasses_are_not_always_worn():
    same = photograph(glasses=0.1, wears=0.9)
    np.testing.assert_array_equal(same, photograph(wears=0.9))


def test_long_hair_excludes_a_beard():
    bearded = photograph(beard=0.1, moustache=0.1, hair_length=1.0)
    np.testing.assert_array_equal(bearded, photograph(hair_length=1.0))


def test_outline_of_the_head_follows_its_formula():
    # At v = 0.5 of a chin at 1: 1 - 1/4 = (u / w)^2 (1 + 0.4 / 4)^2 with no squareness,
    # so u = 0.8 * 0.8660 / 1.1 = 0.6298; a square jaw takes 0.7 of a quarter off the
    # left: u = 0.8 sqrt(0.75 / (1 - 0.175)) / 1.1 = 0.6934.
    size = 192
    for square, expected in ((0.0, 0.6298), (0.7, 0.6934)):
        head = {"head_width": 0.8, "chin": 1.0, "jaw_taper": 0.4, "jaw_square": square}
        painter = FacePainter(numbers(**head), size)
        painter.head()
        row = pixel(0, 0.5, size)[0]
        half_width = painter.mask[0, row].sum() * 1.1 / size
        assert half_width == pytest.approx(expected, abs=0.008)


@pytest.mark.parametrize("slant", ["brow_slant", "eye_slant"])
def test_slant_lifts_the_outer_ends(slant):
    size = 192
    # The middle line of the brow; the edge of the upper lid where it is lifted.
    above = {"brow_slant": NEUTRAL["brow_gap"] + NEUTRAL["brow_raise"]}
    y = NEUTRAL["eye_y"] - above.get(slant, 0.065)
    lifted, lowered = (
        photograph(size, brow_arch=0.0, **{slant: s}).sum(-1) for s in (0.2, -0.2)
    )
    # Just above it, hair and lashes darken the end that rises.
    darker = np.maximum(lowered - lifted, 0)
    for side in (-1, 1):
        sums = []
        for reach in (0.12, -0.12):
            row, column = pixel(side * (NEUTRAL["eye_x"] + reach), y, size)
            sums.append(darker[row - 4 : row, column - 2 : column + 3].sum())
        assert sums[0] > 3 * sums[1]


@pytest.mark.parametrize("name", sorted(IDENTITY))
def test_every_identity_parameter_shows(name):
    # A person is told by many small things; none of them may be dead.
    needed = {
        "beard_dark": {"beard": 0.1},
        "beard_line": {"beard": 0.1},
        "glasses_width": {"glasses": 0.1},
        "glasses_height": {"glasses": 0.1},
        "glasses_rim": {"glasses": 0.1},
        "mole_0_x": {"mole_0": 0.2},
        "mole_0_y": {"mole_0": 0.2},
        "mole_1_x": {"mole_1": 0.2},
        "mole_1_y": {"mole_1": 0.2},
        "fringe_rate": {"fringe": 0.08},
        "depth": {"yaw": 0.3},
        "cheek_y": {"cheek": 0.4},
        "hair_light": {"hair_tone": 0.7},
    }.get(name, {})
    low, high = IDENTITY[name]
    # Numbers in (0, 1) never reach their ends; the ends of other ranges do no harm.
    high = min(high, 0.999) if (low, high) == (0.0, 1.0) else high
    first, second = (photograph(**{**needed, name: v}) for v in (low, high))
    assert np.abs(first - second).max() > 15


@pytest.mark.parametrize("name", sorted(SAMPLE))
def test_every_condition_shows(name):
    needed = {
        "noise_at": {"noise": 1.0},
        "shadow_x": {"shadow": 0.5},
        "shadow_y": {"shadow": 0.5},
        "shadow_at": {"shadow": 0.5},
        "teeth": {"mouth_open": 0.14},
        "stubble": {"beard": 0.1},
        "wears": {"glasses": 0.1},
        **{f"block_{c}": {"occluded": 0.1} for c in "xyrgb"},
        "block_width": {"occluded": 0.1},
        "block_height": {"occluded": 0.1},
        "block_turn": {"occluded": 0.1},
        # A head this short leaves the shoulders in the picture.
        **{f"cloth_{c}": {"chin": 0.9, "zoom": 1.2, "shift_y": -0.09} for c in "rgb"},
        **{f"wall_{c}": {"scene_x": 1.0} for c in "rgb"},
        **{f"far_{c}": {"scene_x": 1.0} for c in "rgb"},
        **{f"scene_{at}": {"wall_r": 0.8, "far_r": 0.2} for at in ("x", "y", "edge")},
    }.get(name, {})
    low, high = SAMPLE[name]
    first, second = (photograph(**{**needed, name: v}) for v in (low, high))
    assert np.abs(first - second).max() > 10


def nose_shift(**pose):
    """How far the shine on the nose moves against the outline of the head."""
    painter, neutral = (FacePainter(numbers(**p), SIZE) for p in (pose, {}))
    x, y, _ = painter.place(0, 0.35, 0.13)
    x0, y0, _ = neutral.place(0, 0.35, 0.13)
    return (x - x0).item(), (y - y0).item()


def test_features_slide_over_the_head_with_the_pose():
    assert nose_shift(yaw=0.3)[0] > 0.15
    assert nose_shift(yaw=-0.3)[0] < -0.15
    assert nose_shift(pitch=0.2)[1] > 0.08
    assert nose_shift(pitch=-0.2)[1] < -0.08


def test_place_is_the_projection_of_an_ellipsoid():
    # depth 0.65, half-width 0.78; at (0.39, 0) the surface is at
    # z = sqrt(1 - 1/4) = 0.8660 of the depth. Yaw 0.3: cos = 0.95394.
    painter = FacePainter(numbers(yaw=0.3, depth=0.65, head_width=0.78), SIZE)
    u, v, stretch = painter.place(0.39, 0.0)
    assert u.item() == pytest.approx(0.39 * 0.95394 + 0.65 * 0.86603 * 0.3, rel=1e-4)
    assert v.item() == 0
    # du/dx = cos + depth dz/dx sin = 0.95394 - 0.3 * 0.65 * 0.5 / (0.78 * 0.86603)
    assert stretch.item() == pytest.approx(0.95394 - 0.14434, rel=1e-4)
    _, _, other = painter.place(-0.39, 0.0)
    assert other.item() == pytest.approx(0.95394 + 0.14434, rel=1e-4)


def test_features_stay_near_the_middle_as_in_an_aligned_crop():
    # The nose slides by about 0.2; the head moves back by most of it.
    straight = photograph()
    turned = photograph(yaw=0.35)
    grid = np.arange(SIZE)
    darkness = [
        np.maximum(100 - f.mean(-1), 0)[40:56].sum(0) for f in (straight, turned)
    ]
    centres = [(d @ grid) / d.sum() for d in darkness]
    assert abs(centres[1] - centres[0]) < 0.1 * SIZE


def test_colours_pass_through_the_camera():
    warm = FacePainter(numbers(warmth=0.1, tint=-0.05), SIZE).skin.ravel()
    plain = FacePainter(numbers(), SIZE).skin.ravel()
    np.testing.assert_allclose(warm / plain, [1.1, 0.95, 0.9], rtol=1e-5)
    grey = FacePainter(numbers(saturation=0.0), SIZE).skin.ravel()
    np.testing.assert_allclose(grey, plain.mean(), rtol=1e-5)


def test_skin_tone_runs_through_the_table_and_hair_picks_from_it():
    lightest, between = (
        FacePainter(numbers(skin_tone=tone), SIZE).skin.ravel() for tone in (0.0, 0.375)
    )
    np.testing.assert_allclose(lightest, synthetic_painter._SKIN[0], rtol=1e-5)
    # 0.375 of four steps: half way from the second to the third colour.
    second, third = np.array(synthetic_painter._SKIN[1:3])
    np.testing.assert_allclose(between, (second + third) / 2, rtol=1e-5)
    for tone, row in ((0.0, 0), (0.124, 0), (0.126, 1), (0.999, 7)):
        hair = FacePainter(numbers(hair_tone=tone, hair_light=1.0), SIZE).hair.ravel()
        np.testing.assert_allclose(hair, synthetic_painter._HAIR[row], rtol=1e-5)


def test_exposure_light_and_shadow_scale_pixels():
    base = photograph()
    dim = photograph(exposure=0.5)
    # Grain of at most a few levels and rounding down are what is left.
    np.testing.assert_allclose(dim.mean(), base.mean() / 2, rtol=0.05)
    lit_right = photograph(light_x=0.4)
    gain = lit_right.mean((0, 2)) / np.maximum(base.mean((0, 2)), 1)
    assert gain[-1] > 1.2 > 0.8 > gain[0]
    shadowed = photograph(shadow=0.5, shadow_x=1.0, shadow_y=0.0, shadow_at=0.0)
    assert shadowed[:, 80:].mean() < 0.62 * base[:, 80:].mean()
    np.testing.assert_allclose(shadowed[:, :12].mean(), base[:, :12].mean(), rtol=0.02)


def test_grain_has_zero_mean_and_the_deviation_of_four_uniforms():
    grain = synthetic_painter._GRAIN
    # Variance 4 / 12; standard error of the mean 0.0023.
    assert abs(grain.mean()) < 0.01
    assert grain.std() == pytest.approx((4 / 12) ** 0.5, rel=0.02)
    assert np.corrcoef(grain[:-1], grain[1:])[0, 1] == pytest.approx(0, abs=0.02)


def test_noise_is_the_grain_at_full_strength():
    base = photograph(noise=0.0)
    noisy = photograph(noise=1.0)
    inner = (base.min(-1) > 100) & (base.max(-1) < 160)
    deviation = (noisy - base)[inner].std()
    # Both take the same grain, 39 and 3 times: their difference is 36 of it.
    assert deviation == pytest.approx(36 * (4 / 12) ** 0.5, rel=0.1)


def test_lift_raises_black():
    assert photograph(lift=0.1).min() >= photograph().min() + 20


def test_paint_returns_a_batch():
    pair = SimpleNamespace(
        **{k: np.array([v, v], np.float32).reshape(2, 1, 1) for k, v in NEUTRAL.items()}
    )
    images = FacePainter(pair, 32).paint()
    assert images.shape == (2, 32, 32, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[0], images[1])
