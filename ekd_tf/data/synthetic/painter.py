"""Paints a synthetic face from its parameters, back to front.

The head is an ellipsoid: a feature sits on its surface at head coordinates and slides,
with foreshortening, as the head turns. Colours pass through the lamp and the camera of
their picture (white balance, saturation) before they are painted, light and grain fall
on the finished picture.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from ekd_tf.data.synthetic.canvas import Canvas
from ekd_tf.data.synthetic.canvas import clip01
from ekd_tf.data.synthetic.canvas import disc
from ekd_tf.data.synthetic.parameters import splitmix64


def _table(text):
    return np.array(text.split(), np.float32).reshape(-1, 3)


_SKIN = _table("""
    0.95 0.80 0.70  0.90 0.72 0.58  0.80 0.60 0.45  0.62 0.43 0.31  0.44 0.29 0.21
""")
# Few and mostly dark, as among people: hair must not give an identity away.
_HAIR = _table("""
    0.08 0.07 0.07  0.10 0.08 0.07  0.20 0.13 0.09  0.28 0.18 0.11
    0.42 0.28 0.16  0.72 0.56 0.33  0.48 0.22 0.11  0.55 0.54 0.52
""")
_IRIS = _table("""
    0.16 0.10 0.07  0.22 0.14 0.08  0.30 0.20 0.10  0.28 0.38 0.50  0.33 0.42 0.28
""")


def _grain():
    """Returns a strip of noise, the sum of four uniforms less its mean."""
    states = np.arange(1 << 18, dtype=np.uint64).reshape(4, -1)
    units = (splitmix64(states) >> np.uint64(40)).astype(np.float32)
    return units.sum(0) * np.float32(2.0**-24) - 2


_GRAIN = _grain()


def _rgb(red, green, blue):
    return np.array((red, green, blue), np.float32)[:, None, None, None]


def _colours(rows):
    return np.ascontiguousarray(rows.T)[:, :, None, None]


def _pick(table, tone):
    """Returns one row of a colour table per picture, each equally often."""
    return _colours(table[(tone.ravel() * len(table)).astype(np.intp)])


def _blend(table, tone):
    """Returns a colour between two neighbours of a table, `tone` of the way along."""
    at = tone.ravel() * (len(table) - 1)
    low = np.minimum(at.astype(np.intp), len(table) - 2)
    part = (at - low.astype(np.float32))[:, None]
    return _colours(table[low] + (table[low + 1] - table[low]) * part)


def _has(chance, probability):
    """Returns 1 where a number uniform in (0, 1) says the feature is there, else 0."""
    return (chance < probability).astype(np.float32)


class FacePainter(Canvas):
    """One batch of faces; `paint` makes the pictures."""

    def __init__(self, parameters: SimpleNamespace, size: int):
        super().__init__(parameters, size)
        p = parameters
        self.yaw_cos = np.sqrt(1 - p.yaw * p.yaw)
        self.pitch_cos = np.sqrt(1 - p.pitch * p.pitch)
        skin = _blend(_SKIN, p.skin_tone) + p.skin_warm * _rgb(1, 0, -1)
        hair = np.minimum(_pick(_HAIR, p.hair_tone) * p.hair_light, 0.8)
        red = np.minimum(np.maximum(p.lip_red + p.make_up, 0), 0.8)
        self.skin, self.hair = self._lit(skin), self._lit(hair)
        self.lips = self._lit(skin + (_rgb(0.66, 0.22, 0.24) - skin) * red)
        self.white = self._lit(0.80 + 0.12 * skin)
        self.iris = self._lit(_pick(_IRIS, p.eye_tone))
        self.shade = self._lit(skin * _rgb(0.62, 0.52, 0.48))
        self.blush = self._lit(skin * _rgb(1.0, 0.74, 0.70))
        self.shine = self._lit(np.minimum(skin * 1.16 + 0.04, 1))
        self.dark = self._lit(hair * 0.25 + 0.03)
        self.box, self.u, self.v = self._local((0, 0, 1), (1e3, 1e3))

    def paint(self) -> np.ndarray:
        """Returns the finished pictures, uint8 `(n, size, size, 3)` RGB."""
        self._background()
        self._body()
        mask = self._head()
        self._nose()
        self._cheeks()
        self._beard(mask)
        self._mouth()
        for side in (-1, 1):
            self._eye(side)
        self._moles()
        self._hair_front()
        for side in (-1, 1):
            self._brow(side)
        self._glasses()
        p = self.p
        radii, colour = (p.block_width, p.block_height), self._scene_colour("block")
        there = _has(p.occluded, 0.18)
        self._ellipse((p.block_x, p.block_y, 1), radii, colour, there, p.block_turn)
        return self._developed()

    def _lit(self, colour):
        """Returns a colour as the lamp and the camera of each picture render it."""
        p = self.p
        grey = (colour[0] + colour[1] + colour[2]) * (1 / 3)
        gains = (1 + p.warmth, 1 + p.tint, 1 - p.warmth)
        return np.stack(
            [(grey + (c - grey) * p.saturation) * g for c, g in zip(colour, gains)]
        )

    def _scene_colour(self, name):
        return self._lit(np.stack([getattr(self.p, f"{name}_{c}") for c in "rgb"]))

    def _place(self, x, y, out=0):
        """Projects a point of the head that stands `out` from the ellipsoid: a spot."""
        p = self.p
        aside = x / p.head_width
        # The floor keeps what a full turn would hide from dividing by zero.
        z = np.sqrt(np.maximum(1 - aside * aside - 0.5 * y * y, 0.12))
        u = x * self.yaw_cos + (p.depth * z + out) * p.yaw
        v = y * self.pitch_cos + (p.depth * z + out) * p.pitch
        stretch = self.yaw_cos - p.yaw * aside * p.depth / (p.head_width * z)
        return u, v, np.minimum(np.maximum(stretch, 0.35), 1.3)

    def _background(self):
        p = self.p
        ramp = self.columns * p.scene_x + (self.rows * p.scene_y + p.scene_edge)
        ramp = clip01(ramp * 0.8 + 0.5)
        wall, far = self._scene_colour("wall"), self._scene_colour("far")
        self.rgb[:] = ramp * (far - wall) + wall

    def _body(self):
        """Paints long hair behind the head, neck, shoulders and ears."""
        p = self.p
        width = p.head_width + np.maximum(p.hair_side + p.hair_puff, 0) + 0.03
        half = 0.5 * (1 + p.skull + np.maximum(p.hair_length, -0.3))
        spot, there = (p.hair_move, half - 1.02, 1), _has(-p.hair_length, 0.2)
        self._ellipse(spot, (width, half), self.hair * 0.8, there)
        neck = p.head_width * (0.78 - 0.5 * p.jaw_taper)
        behind = -0.25 * p.depth * p.yaw
        self._ellipse((behind, p.chin + 0.05, 1), (neck, 0.5), self.shade)
        self._ellipse((0, p.chin + 1.0, 1), (1.35, 0.78), self._scene_colour("cloth"))
        for side in (-1, 1):
            x = side * (p.head_width + p.ear_out - 0.03) + behind
            spot = x, p.ear_y - 0.4 * p.depth * p.pitch, 1
            self._ellipse(spot, (p.ear_size * 0.55, p.ear_size), self.skin * 0.92)
            inside = p.ear_size * 0.28, p.ear_size * 0.6
            self._ellipse(spot, inside, self.shade, 0.7)

    def _head(self):
        """Paints an ellipse with a tapered, more or less square jaw; returns it."""
        p = self.p
        low, is_jaw = np.maximum(self.v, 0), self.v > 0
        u = self.u - (0.1 * p.yaw) * low
        u *= low * low * (p.jaw_taper / p.head_width) + 1 / p.head_width
        u *= u
        v = self.v * np.where(is_jaw, 1 / p.chin, 1 / p.skull)
        v *= v
        square = np.where(is_jaw, p.jaw_square, np.float32(0.3))
        radius = u + v - u * v * square
        mask = clip01((1 - radius) * (0.45 / self.soft) + 0.5)
        self._mix(self.box, mask, self.skin)
        # Rounds the head: darker towards the rim and on the side away from the light.
        shadow = np.maximum(radius - 0.35, 0)
        shadow += np.maximum(self.u * -p.light_x - 0.1, 0)
        self._mix(self.box, np.minimum(shadow * 0.55, 0.6) * mask, self.shade)
        return mask

    def _nose(self):
        p, place = self.p, self._place
        width, tip, strength = p.nose_width, p.nose_tip, p.nose_strength
        away = np.where(p.light_x > 0, np.float32(-1), np.float32(1))
        spot = place(away * p.nose_bridge * 1.5, p.nose_y * 0.45, 0.06)
        bridge = p.nose_bridge * 1.5, p.nose_y * 0.75
        self._glow(spot, bridge, self.shade, strength)
        spot = place(-away * p.nose_bridge * 0.3, p.nose_y * 0.40, 0.10)
        self._glow(spot, (p.nose_bridge, p.nose_y * 0.8), self.shine, 0.8)
        x, y, stretch = place(0, p.nose_y, 0.13)
        under = (width * 1.45, tip * 1.5)
        self._glow((x, y + 0.05, stretch), under, self.shade, strength)
        self._ellipse((x, y - 0.02, stretch), (width * 0.62, tip), self.skin, 0.8)
        for side in (-1, 1):
            spot = place(side * width * 0.82, p.nose_y, 0.05)
            self._ellipse(spot, (width * 0.30, tip * 0.6), self.skin, 0.8)
            spot = place(side * width * 0.48, p.nose_y + tip * 0.55, 0.08)
            self._ellipse(spot, (p.nostril * 1.5, p.nostril), self.dark, 0.75)
        spot = place(0, p.nose_y - 0.03, 0.16)
        self._glow(spot, (width * 0.5, tip), self.shine, 0.8)

    def _cheeks(self):
        """Paints blush and the folds between nose and mouth, deeper in a smile."""
        p = self.p
        fold = p.fold * (1 + 3 * np.maximum(p.smile, 0))
        for side in (-1, 1):
            spot = self._place(side * 0.58 * p.head_width, p.cheek_y)
            self._glow(spot, (0.26, 0.22), self.blush, p.cheek)
            spot = self._place(side * (p.nose_width + 0.10), p.nose_y + 0.12)
            self._glow(spot, (0.05, 0.22), self.shade, fold, -0.45 * side)

    def _beard(self, head):
        p = self.p
        strength = p.beard_dark * p.stubble * _has(p.hair_length, 0.3)
        x, y, _ = self._place(0, p.beard_line)
        opacity = (self.u - x) * (1 / p.head_width)
        opacity *= opacity
        opacity = clip01(opacity * -1.8 + (self.v - y - 0.05) * 4) * head
        self._mix(self.box, opacity * (strength * _has(p.beard, 0.25)), self.hair)
        spot = self._place(0, 0.5 * (p.nose_y + p.nose_tip + p.mouth_y), 0.05)
        strength = strength * _has(p.moustache, 0.3)
        self._ellipse(spot, (p.mouth_length * 0.95, 0.055), self.hair, strength)

    def _mouth(self):
        p = self.p
        length = p.mouth_length * p.stretch * (1 + p.smile)
        gap = np.maximum(p.mouth_open, 0)
        bend = p.smile * 0.8 + p.lip_bend
        x, y, stretch = self._place(0, p.mouth_y, 0.03)
        spot = x, y + bend * 0.4, stretch
        above, below = p.lip_upper + 0.3 * gap, p.lip_lower + 0.7 * gap
        box, opacity, _, _ = self._lens(spot, (length, above, below), bend)
        self._mix(box, opacity * 0.9, self.lips)
        teeth = _has(p.teeth, 0.5) * np.minimum(gap * 25, 1)
        inner = length * 0.92, 0.3 * gap + 0.008, 0.7 * gap + 0.008
        box, opacity, _, _ = self._lens(spot, inner, bend)
        self._mix(box, opacity, self.dark + (self.white - self.dark) * teeth)
        spot = self._place(0, p.mouth_y + below + 0.07)
        self._glow(spot, (length * 0.7, 0.06), self.shade, 0.4)

    def _eye(self, side):
        p = self.p
        spot = x, y, stretch = self._place(side * p.eye_x, p.eye_y)
        turn = p.eye_slant * -side
        socket = p.eye_length * 1.5, 0.20
        self._glow((x, y - 0.03, stretch), socket, self.shade, p.socket)
        above, below = p.eye_upper * p.eye_open, p.eye_lower * (0.5 + 0.5 * p.eye_open)
        lid = p.eye_length, above + p.lash + 0.01, below
        box, opacity, _, _ = self._lens(spot, lid, 0, turn)
        self._mix(box, opacity * 0.9, self.dark)
        ball = p.eye_length * 0.96, above, below * 0.85
        box, opacity, a, b = self._lens(spot, ball, 0, turn)
        self._mix(box, opacity, self.white)
        a -= p.gaze_x
        b -= p.gaze_y - 0.01
        for radius, colour in ((p.iris, self.iris), (p.iris * 0.5, self.dark * 0.5)):
            disc = self._disc_opacity(a, b, (radius, radius))
            self._mix(box, disc * opacity, colour)
        spot = x + (p.gaze_x - 0.02) * stretch, y + p.gaze_y - 0.035, 1
        self._ellipse(spot, (0.018, 0.018), _rgb(1, 1, 1), 0.8)

    def _moles(self):
        p = self.p
        spots = (p.mole_0, p.mole_0_x, p.mole_0_y), (p.mole_1, p.mole_1_x, p.mole_1_y)
        for chance, x, y in spots:
            # The draw that decides whether there is a mole also gives its size.
            size, there = 0.02 + 0.06 * chance, _has(chance, 0.3)
            self._ellipse(self._place(x, y), (size, size), self.shade * 0.6, there)

    def _hair_front(self):
        p = self.p
        wide = p.head_width + p.hair_side + p.hair_puff
        high = p.skull + p.hair_volume + p.hair_puff
        cap = disc(self.u - p.hair_move * 0.5, self.v, (wide, high))
        cap = clip01((1 - cap) * (0.4 / self.soft) + 0.5)
        x, y, _ = self._place(0, p.hairline)
        across = self.u - x
        line = (across * p.hairline_bend + (p.hair_part + p.hair_move)) * across
        line -= self.v - y
        # Strands: a triangle wave along the hairline.
        strand = across * p.fringe_rate
        strand -= np.floor(strand)
        line -= np.abs(strand - 0.5) * np.maximum(p.fringe, 0)
        cap *= clip01(line * (1 / (1.5 * self.soft)) + 0.5)
        self._mix(self.box, cap, self.hair)
        radii = 0.55, 0.22
        box, a, b = self._local((-0.7 * p.light_x, -0.85 * p.skull, 1), radii)
        gloss = np.maximum(1 - disc(a, b, radii), 0) * cap[:, box[0], box[1]]
        self._mix(box, gloss * 0.5, np.minimum(self.hair * 1.5 + 0.06, 1))

    def _brow(self, side):
        p = self.p
        height = p.eye_y - p.brow_gap - p.brow_raise
        x, y, stretch = self._place(side * (p.eye_x + p.brow_out), height, 0.02)
        turn = (p.brow_slant + p.brow_frown) * -side
        bend = -p.brow_arch * p.brow_length * p.brow_length
        shape = p.brow_length, p.brow_thick, p.brow_thick
        spot = x, y + bend * 0.5, stretch
        box, opacity, _, _ = self._lens(spot, shape, bend, turn)
        self._mix(box, opacity * p.brow_dark, self.hair * 0.85)

    def _glasses(self):
        """Paints the frame, which its owner does not wear in every picture."""
        p = self.p
        worn = _has(p.glasses, 0.22) * _has(p.wears, 0.75)
        wide, rim, frame = p.glasses_width, p.glasses_rim, self.dark * 0.7
        for side in (-1, 1):
            spot = self._place(side * p.eye_x, p.eye_y + 0.02, 0.05)
            self._ring(spot, (wide, p.glasses_height), rim, frame, worn)
        spot = self._place(0, p.eye_y, 0.08)
        self._ellipse(spot, (p.eye_x - wide * 0.9, rim), frame, worn)

    def _developed(self):
        """Returns uint8 pixels: exposure, light from one side, cast shadow, grain."""
        p = self.p
        light = self.columns * (1.5 * p.shadow_x)
        light = light + (self.rows * (1.5 * p.shadow_y) + (p.shadow_at + 0.5))
        light = clip01(light) * -np.maximum(p.shadow, 0)
        light += self.columns * p.light_x + (self.rows * p.light_y + 1)
        light *= p.exposure * 255
        pixels = self.size * self.size
        starts = (p.noise_at.ravel() * (len(_GRAIN) - pixels)).astype(np.intp)
        windows = np.lib.stride_tricks.sliding_window_view(_GRAIN, pixels)
        # Cubed, like the blur: most photographs have little of it.
        grain = windows[starts].reshape(light.shape)
        grain = grain * (36 * p.noise * p.noise * p.noise + 3) + p.lift * 255
        images = np.clip(self.rgb * light + grain, 0, 255).astype(np.uint8)
        return np.ascontiguousarray(images.transpose(1, 2, 3, 0))
