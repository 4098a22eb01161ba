"""Paints a drawn face from its parameters, back to front.

The head is an ellipsoid: a feature sits on its surface at head coordinates and slides,
with foreshortening, as the head turns. Colours pass through the lamp and the camera of
their picture (white balance, saturation) before they are painted, light and grain fall
on the finished picture.
"""

from __future__ import annotations

import numpy as np

from ekd_tf.data.synthetic.canvas import Canvas
from ekd_tf.data.synthetic.canvas import clip01
from ekd_tf.data.synthetic.canvas import disc
from ekd_tf.data.synthetic.parameters import splitmix64

_SKIN = (
    (0.95, 0.80, 0.70),
    (0.90, 0.72, 0.58),
    (0.80, 0.60, 0.45),
    (0.62, 0.43, 0.31),
    (0.44, 0.29, 0.21),
)
# Few and mostly dark, as among people: hair must not give an identity away.
_HAIR = (
    (0.08, 0.07, 0.07),
    (0.10, 0.08, 0.07),
    (0.20, 0.13, 0.09),
    (0.28, 0.18, 0.11),
    (0.42, 0.28, 0.16),
    (0.72, 0.56, 0.33),
    (0.48, 0.22, 0.11),
    (0.55, 0.54, 0.52),
)
_IRIS = (
    (0.16, 0.10, 0.07),
    (0.22, 0.14, 0.08),
    (0.30, 0.20, 0.10),
    (0.28, 0.38, 0.50),
    (0.33, 0.42, 0.28),
)
_GRAIN_LENGTH = 1 << 16


def _grain_table():
    """Returns a strip of noise, the sum of four uniforms less its mean."""
    states = np.arange(4 * _GRAIN_LENGTH, dtype=np.uint64).reshape(4, _GRAIN_LENGTH)
    units = (splitmix64(states) >> np.uint64(40)).astype(np.float32)
    return (units[0] + units[1] + units[2] + units[3]) * np.float32(2.0**-24) - 2


_GRAIN = _grain_table()


def _rgb(red, green, blue):
    return np.array((red, green, blue), np.float32)[:, None, None, None]


def _has(chance, probability):
    """Returns 1 where a number uniform in (0, 1) says the feature is there, else 0."""
    return (chance < probability).astype(np.float32)


def _pick(table, tone):
    """Returns one row of a colour table per picture, each equally often."""
    rows = np.array(table, np.float32)[(tone.ravel() * len(table)).astype(np.intp)]
    return np.ascontiguousarray(rows.T)[:, :, None, None]


def _blend(table, tone):
    """Returns a colour between two neighbours of a table, `tone` of the way along."""
    table, at = np.array(table, np.float32), tone.ravel() * (len(table) - 1)
    low = np.minimum(at.astype(np.intp), len(table) - 2)
    part = (at - low.astype(np.float32))[:, None]
    rows = table[low] + (table[low + 1] - table[low]) * part
    return np.ascontiguousarray(rows.T)[:, :, None, None]


class FacePainter:
    """One batch of faces.

    Args:
        parameters: What `synthetic_parameters.parameters` returned for n images.
        size: Side of a picture in pixels, at most 256.
    """

    def __init__(self, parameters, size):
        self.p = p = parameters
        # Face crops follow the features, so the outline moves the other way.
        slide = 0.62 * p.depth / p.zoom
        x0, y0 = p.shift_x - slide * p.yaw, p.shift_y - slide * p.pitch
        # Cubed: most photographs are sharp.
        blur = 0.16 * p.blur * p.blur * p.blur
        self.canvas = Canvas(size, p.zoom, p.roll, x0, y0, blur)
        self.yaw_cos = np.sqrt(1 - p.yaw * p.yaw)
        self.pitch_cos = np.sqrt(1 - p.pitch * p.pitch)
        skin = _blend(_SKIN, p.skin_tone) + p.skin_warm * _rgb(1, 0, -1)
        hair = np.minimum(_pick(_HAIR, p.hair_tone) * p.hair_light, 0.8)
        red = np.minimum(np.maximum(p.lip_red + p.make_up, 0), 0.8)
        self.skin, self.hair = self.lit(skin), self.lit(hair)
        self.lips = self.lit(skin + (_rgb(0.66, 0.22, 0.24) - skin) * red)
        self.white = self.lit(0.80 + 0.12 * skin)
        self.iris = self.lit(_pick(_IRIS, p.eye_tone))
        self.shade = self.lit(skin * _rgb(0.62, 0.52, 0.48))
        self.blush = self.lit(skin * _rgb(1.0, 0.74, 0.70))
        self.shine = self.lit(np.minimum(skin * 1.16 + 0.04, 1))
        self.dark = self.lit(hair * 0.25 + 0.03)

    def paint(self):
        """Returns the finished pictures, uint8 `(n, size, size, 3)` RGB."""
        self.background()
        self.body()
        self.head()
        self.nose()
        self.cheeks()
        self.beard()
        self.mouth()
        for side in (-1, 1):
            self.eye(side)
        self.moles()
        self.hair_front()
        for side in (-1, 1):
            self.brow(side)
        self.glasses()
        self.occluder()
        return self.developed()

    def lit(self, colour):
        """Returns a colour as the lamp and the camera of each picture render it."""
        p = self.p
        grey = (colour[0] + colour[1] + colour[2]) * (1 / 3)
        gains = (1 + p.warmth, 1 + p.tint, 1 - p.warmth)
        return np.stack(
            [(grey + (c - grey) * p.saturation) * g for c, g in zip(colour, gains)]
        )

    def scene_colour(self, name):
        """Returns a colour that is drawn channel by channel for each picture."""
        return self.lit(np.stack([getattr(self.p, f"{name}_{c}") for c in "rgb"]))

    def place(self, x, y, out=0):
        """Projects a point of the head.

        Args:
            x: Head coordinate, right of the middle.
            y: Head coordinate, below the middle.
            out: How far the feature stands out of the ellipsoid.

        Returns:
            `(u, v, stretch)`: where it is seen, and its horizontal foreshortening.
        """
        p = self.p
        aside = x / p.head_width
        # The floor keeps what a full turn would hide from dividing by zero.
        z = np.sqrt(np.maximum(1 - aside * aside - 0.5 * y * y, 0.12))
        u = x * self.yaw_cos + (p.depth * z + out) * p.yaw
        v = y * self.pitch_cos + (p.depth * z + out) * p.pitch
        stretch = self.yaw_cos - p.yaw * aside * p.depth / (p.head_width * z)
        return u, v, np.minimum(np.maximum(stretch, 0.35), 1.3)

    def background(self):
        p, canvas = self.p, self.canvas
        ramp = canvas.columns * p.scene_x + (canvas.rows * p.scene_y + p.scene_edge)
        ramp *= 0.8
        ramp += 0.5
        clip01(ramp)
        wall, far = self.scene_colour("wall"), self.scene_colour("far")
        for channel, near, end in zip(canvas.rgb, wall, far):
            np.multiply(ramp, end - near, out=channel)
            channel += near

    def body(self):
        """Paints long hair behind the head, neck, shoulders and ears."""
        p, canvas = self.p, self.canvas
        width = p.head_width + np.maximum(p.hair_side + p.hair_puff, 0) + 0.03
        half = 0.5 * (1 + p.skull + np.maximum(p.hair_length, -0.3))
        long = _has(-p.hair_length, 0.2)
        canvas.ellipse(p.hair_move, half - 1.02, width, half, self.hair * 0.8, long)
        neck = p.head_width * (0.78 - 0.5 * p.jaw_taper)
        behind = -0.25 * p.depth * p.yaw
        canvas.ellipse(behind, p.chin + 0.05, neck, 0.5, self.shade)
        canvas.ellipse(0, p.chin + 1.0, 1.35, 0.78, self.scene_colour("cloth"))
        for side in (-1, 1):
            x = side * (p.head_width + p.ear_out - 0.03) + behind
            y = p.ear_y - 0.4 * p.depth * p.pitch
            canvas.ellipse(x, y, p.ear_size * 0.55, p.ear_size, self.skin * 0.92)
            canvas.ellipse(x, y, p.ear_size * 0.28, p.ear_size * 0.6, self.shade, 0.7)

    def head(self):
        """Paints the outline, an ellipse with a tapered, more or less square jaw."""
        p, canvas = self.p, self.canvas
        self.box, self.u, self.v = canvas.everywhere()
        low = np.maximum(self.v, 0)
        u = self.u - (0.1 * p.yaw) * low
        low *= low
        low *= p.jaw_taper / p.head_width
        low += 1 / p.head_width
        u *= low
        u *= u
        is_jaw = self.v > 0
        v = self.v * np.where(is_jaw, 1 / p.chin, 1 / p.skull)
        v *= v
        radius = u + v
        u *= v
        u *= np.where(is_jaw, p.jaw_square, np.float32(0.3))
        radius -= u
        self.mask = clip01((1 - radius) * (0.45 / canvas.soft) + 0.5)
        canvas.paint(self.box, self.mask, self.skin)
        # Rounds the head: darker towards the rim and on the side away from the light.
        shadow = np.maximum(radius - 0.35, 0)
        shadow += np.maximum(self.u * -p.light_x - 0.1, 0)
        shadow *= 0.55
        np.minimum(shadow, 0.6, out=shadow)
        shadow *= self.mask
        canvas.paint(self.box, shadow, self.shade)

    def nose(self):
        p, canvas = self.p, self.canvas
        width, tip, strength = p.nose_width, p.nose_tip, p.nose_strength
        away = np.where(p.light_x > 0, np.float32(-1), np.float32(1))
        x, y, stretch = self.place(away * p.nose_bridge * 1.5, p.nose_y * 0.45, 0.06)
        bridge = p.nose_bridge * 1.5, p.nose_y * 0.75
        canvas.glow(x, y, *bridge, self.shade, strength, stretch)
        x, y, stretch = self.place(-away * p.nose_bridge * 0.3, p.nose_y * 0.40, 0.10)
        canvas.glow(x, y, p.nose_bridge, p.nose_y * 0.8, self.shine, 0.8, stretch)
        x, y, stretch = self.place(0, p.nose_y, 0.13)
        under = width * 1.45, tip * 1.5
        canvas.glow(x, y + 0.05, *under, self.shade, strength, stretch)
        canvas.ellipse(x, y - 0.02, width * 0.62, tip, self.skin, 0.8, stretch)
        for side in (-1, 1):
            x, y, stretch = self.place(side * width * 0.82, p.nose_y, 0.05)
            canvas.ellipse(x, y, width * 0.30, tip * 0.6, self.skin, 0.8, stretch)
            x, y, stretch = self.place(side * width * 0.48, p.nose_y + tip * 0.55, 0.08)
            canvas.ellipse(x, y, p.nostril * 1.5, p.nostril, self.dark, 0.75, stretch)
        x, y, stretch = self.place(0, p.nose_y - 0.03, 0.16)
        canvas.glow(x, y, width * 0.5, tip, self.shine, 0.8, stretch)

    def cheeks(self):
        """Paints blush and the folds between nose and mouth, deeper in a smile."""
        p, canvas = self.p, self.canvas
        fold = p.fold * (1 + 3 * np.maximum(p.smile, 0))
        for side in (-1, 1):
            x, y, stretch = self.place(side * 0.58 * p.head_width, p.cheek_y)
            canvas.glow(x, y, 0.26, 0.22, self.blush, p.cheek, stretch)
            x, y, stretch = self.place(side * (p.nose_width + 0.10), p.nose_y + 0.12)
            canvas.glow(x, y, 0.05, 0.22, self.shade, fold, stretch, -0.45 * side)

    def beard(self):
        p, canvas = self.p, self.canvas
        short = _has(p.hair_length, 0.3)
        strength = p.beard_dark * p.stubble * short
        x, y, _ = self.place(0, p.beard_line)
        opacity = (self.u - x) * (1 / p.head_width)
        opacity *= opacity
        opacity *= -1.8
        opacity += (self.v - y - 0.05) * 4
        clip01(opacity)
        opacity *= self.mask
        opacity *= strength * _has(p.beard, 0.25)
        canvas.paint(self.box, opacity, self.hair)
        lip = 0.5 * (p.nose_y + p.nose_tip + p.mouth_y)
        x, y, stretch = self.place(0, lip, 0.05)
        strength = strength * _has(p.moustache, 0.3)
        reach = p.mouth_length * 0.95
        canvas.ellipse(x, y, reach, 0.055, self.hair, strength, stretch)

    def mouth(self):
        p, canvas = self.p, self.canvas
        length = p.mouth_length * p.stretch * (1 + p.smile)
        gap = np.maximum(p.mouth_open, 0)
        bend = p.smile * 0.8 + p.lip_bend
        x, y, stretch = self.place(0, p.mouth_y, 0.03)
        y = y + bend * 0.4
        above, below = p.lip_upper + 0.3 * gap, p.lip_lower + 0.7 * gap
        box, opacity, _, _ = canvas.lens(x, y, length, above, below, bend, stretch)
        canvas.paint(box, opacity * 0.9, self.lips)
        teeth = _has(p.teeth, 0.5) * np.minimum(gap * 25, 1)
        inside = self.dark + (self.white - self.dark) * teeth
        inner = length * 0.92, 0.3 * gap + 0.008, 0.7 * gap + 0.008
        box, opacity, _, _ = canvas.lens(x, y, *inner, bend, stretch)
        canvas.paint(box, opacity, inside)
        x, y, stretch = self.place(0, p.mouth_y + below + 0.07)
        canvas.glow(x, y, length * 0.7, 0.06, self.shade, 0.4, stretch)

    def eye(self, side):
        p, canvas = self.p, self.canvas
        x, y, stretch = self.place(side * p.eye_x, p.eye_y)
        turn = p.eye_slant * -side
        canvas.glow(
            x, y - 0.03, p.eye_length * 1.5, 0.20, self.shade, p.socket, stretch
        )
        above, below = p.eye_upper * p.eye_open, p.eye_lower * (0.5 + 0.5 * p.eye_open)
        lid = p.eye_length, above + p.lash + 0.01, below
        box, opacity, _, _ = canvas.lens(x, y, *lid, 0, stretch, turn)
        canvas.paint(box, opacity * 0.9, self.dark)
        ball = p.eye_length * 0.96, above, below * 0.85
        box, opacity, a, b = canvas.lens(x, y, *ball, 0, stretch, turn)
        canvas.paint(box, opacity, self.white)
        a -= p.gaze_x
        b -= p.gaze_y - 0.01
        for radius, colour in ((p.iris, self.iris), (p.iris * 0.5, self.dark * 0.5)):
            ball = canvas.disc_opacity(a, b, radius, radius)
            canvas.paint(box, ball * opacity, colour)
        x, y = x + (p.gaze_x - 0.02) * stretch, y + p.gaze_y - 0.035
        canvas.ellipse(x, y, 0.018, 0.018, _rgb(1, 1, 1), 0.8)

    def moles(self):
        p = self.p
        spots = (p.mole_0, p.mole_0_x, p.mole_0_y), (p.mole_1, p.mole_1_x, p.mole_1_y)
        for chance, x, y in spots:
            u, v, stretch = self.place(x, y)
            # The draw that decides whether there is a mole also gives its size.
            size, there = 0.02 + 0.06 * chance, _has(chance, 0.3)
            self.canvas.ellipse(u, v, size, size, self.shade * 0.6, there, stretch)

    def hair_front(self):
        p, canvas = self.p, self.canvas
        wide = p.head_width + p.hair_side + p.hair_puff
        high = p.skull + p.hair_volume + p.hair_puff
        cap = disc(self.u - p.hair_move * 0.5, self.v, wide, high)
        cap = clip01((1 - cap) * (0.4 / canvas.soft) + 0.5)
        x, y, _ = self.place(0, p.hairline)
        across = self.u - x
        line = across * p.hairline_bend
        line += p.hair_part + p.hair_move
        line *= across
        line -= self.v - y
        # Strands: a triangle wave along the hairline.
        across *= p.fringe_rate
        across -= np.floor(across)
        across -= 0.5
        np.abs(across, out=across)
        across *= np.maximum(p.fringe, 0)
        line -= across
        line *= 1 / (1.5 * canvas.soft)
        line += 0.5
        cap *= clip01(line)
        canvas.paint(self.box, cap, self.hair)
        box, a, b = canvas.local(-0.7 * p.light_x, -0.85 * p.skull, 0.55, 0.22)
        gloss = np.maximum(1 - disc(a, b, 0.55, 0.22), 0)
        gloss *= cap[:, box[0], box[1]]
        canvas.paint(box, gloss * 0.5, np.minimum(self.hair * 1.5 + 0.06, 1))

    def brow(self, side):
        p, canvas = self.p, self.canvas
        height = p.eye_y - p.brow_gap - p.brow_raise
        x, y, stretch = self.place(side * (p.eye_x + p.brow_out), height, 0.02)
        turn = (p.brow_slant + p.brow_frown) * -side
        bend = -p.brow_arch * p.brow_length * p.brow_length
        shape = p.brow_length, p.brow_thick, p.brow_thick, bend
        box, opacity, _, _ = canvas.lens(x, y + bend * 0.5, *shape, stretch, turn)
        canvas.paint(box, opacity * p.brow_dark, self.hair * 0.85)

    def glasses(self):
        """Paints the frame, which its owner does not wear in every picture."""
        p, canvas = self.p, self.canvas
        worn = _has(p.glasses, 0.22) * _has(p.wears, 0.75)
        wide, high, rim = p.glasses_width, p.glasses_height, p.glasses_rim
        frame = self.dark * 0.7
        for side in (-1, 1):
            x, y, stretch = self.place(side * p.eye_x, p.eye_y + 0.02, 0.05)
            canvas.ring(x, y, wide, high, rim, frame, worn, stretch)
        x, y, stretch = self.place(0, p.eye_y, 0.08)
        canvas.ellipse(x, y, p.eye_x - wide * 0.9, rim, frame, worn, stretch)

    def occluder(self):
        p = self.p
        shape = p.block_x, p.block_y, p.block_width, p.block_height
        colour, there = self.scene_colour("block"), _has(p.occluded, 0.18)
        self.canvas.ellipse(*shape, colour, there, 1, p.block_turn)

    def developed(self):
        """Returns uint8 pixels: exposure, light from one side, cast shadow, grain."""
        p, canvas = self.p, self.canvas
        across = canvas.columns * (1.5 * p.shadow_x)
        light = across + (canvas.rows * (1.5 * p.shadow_y) + (p.shadow_at + 0.5))
        clip01(light)
        light *= -np.maximum(p.shadow, 0)
        light += canvas.columns * p.light_x + (canvas.rows * p.light_y + 1)
        light *= p.exposure * 255
        pixels = canvas.size * canvas.size
        starts = (p.noise_at.ravel() * (_GRAIN_LENGTH - pixels)).astype(np.intp)
        windows = np.lib.stride_tricks.sliding_window_view(_GRAIN, pixels)
        grain = windows[starts].reshape(light.shape)
        # Cubed, like the blur: most photographs have little of it.
        grain *= 36 * p.noise * p.noise * p.noise + 3
        grain += p.lift * 255
        images = np.empty((*light.shape, 3), np.uint8)
        for c, channel in enumerate(canvas.rgb):
            channel *= light
            channel += grain
            images[..., c] = np.clip(channel, 0, 255, out=channel)
        return images
