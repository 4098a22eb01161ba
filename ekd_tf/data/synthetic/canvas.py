"""Pictures on which soft-edged shapes are painted in face coordinates.

Every operation on pixels is one that IEEE 754 rounds one way only (sums, products,
quotients, square roots, extremes), whereas `exp` or `sin` may differ in the last bit
between processors: a picture has the same bits in every batch and on every machine.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np


def clip01(values: np.ndarray) -> np.ndarray:
    """Clips an array to [0, 1] in place and returns it."""
    return np.clip(values, 0, 1, out=values)


def disc(x: np.ndarray, y: np.ndarray, radii: tuple) -> np.ndarray:
    """Returns (x / radius_x)^2 + (y / radius_y)^2: 1 on the rim of the ellipse."""
    x, y = x * (1 / radii[0]), y * (1 / radii[1])
    x *= x
    y *= y
    x += y
    return x


def _turned(tangent):
    """Returns cosine and sine of the angle whose half has this tangent, times two."""
    half = 0.5 * tangent
    scale = 1 / (1 + half * half)
    return (1 - half * half) * scale, tangent * scale


class Canvas:
    """A batch of pictures, each with its own frame from pixels to the face.

    Numbers of a picture are float32 `(n, 1, 1)`, colours `(3, n, 1, 1)` in [0, 1]. A
    shape is evaluated only in the box that holds it in every picture of the batch; its
    opacity is exactly 0 outside its own bounds, so the company a picture keeps cannot
    change it. Shapes take a spot `(x, y, stretch)`, the last a factor on horizontal
    lengths, and half-widths and half-heights as `radii`.
    """

    def __init__(self, parameters: SimpleNamespace, size: int):
        self.p = p = parameters
        self.size = size
        self.rgb = np.zeros((3, len(p.zoom), size, size), np.float32)
        grid = (np.arange(size, dtype=np.float32) * 2 + 1) / np.float32(size) - 1
        self.columns, self.rows = grid[None, None, :], grid[None, :, None]
        self.cos, self.sin = _turned(p.roll)
        # Face crops follow the features, so the outline moves the other way.
        slide = 0.62 * p.depth / p.zoom
        self.x0, self.y0 = p.shift_x - slide * p.yaw, p.shift_y - slide * p.pitch
        # Cubed: most photographs are sharp. No edge is sharper than 1.2 pixels.
        blur, pixel = 0.16 * p.blur * p.blur * p.blur, p.zoom * (2 / size)
        self.soft = np.sqrt(1.44 * pixel * pixel + blur * blur)

    def _local(self, spot, reach, turn=0):
        """Returns the box that holds half-width and half-height `reach` of a shape.

        And coordinates `(n, height, width)` in its axes, turned clockwise by a small
        angle in radians.
        """
        x, y, stretch = spot
        cos, sin = _turned(turn)
        reach_u = stretch * (cos * reach[0] + abs(sin) * reach[1])
        reach_v = abs(sin) * reach[0] + cos * reach[1]
        zoom = self.p.zoom
        middle_x = (self.cos * x - self.sin * y) / zoom + self.x0
        middle_y = (self.sin * x + self.cos * y) / zoom + self.y0
        far_x = (self.cos * reach_u + abs(self.sin) * reach_v) / zoom
        far_y = (abs(self.sin) * reach_u + self.cos * reach_v) / zoom
        box = self._span(middle_y, far_y), self._span(middle_x, far_x)
        columns = self.columns[:, :, box[1]] - middle_x
        rows = self.rows[:, box[0]] - middle_y
        # Both maps are linear, so one sum of a row and a column gives each coordinate.
        ux, uy = zoom * self.cos / stretch, zoom * self.sin / stretch
        vx, vy = -zoom * self.sin, zoom * self.cos
        along = (cos * ux + sin * vx) * columns + (cos * uy + sin * vy) * rows
        across = (cos * vx - sin * ux) * columns + (cos * vy - sin * uy) * rows
        return box, along, across

    def _span(self, middle, far):
        # A pixel and a half of margin covers the rounding of the box itself.
        low = (float(np.min(middle - far)) + 1) * self.size / 2 - 1.5
        high = (float(np.max(middle + far)) + 1) * self.size / 2 + 1.5
        return slice(*(int(min(max(end, 0), self.size)) for end in (low, high)))

    def _mix(self, box, opacity, colour):
        """Mixes `colour` into the box: `opacity` is `(n, height, width)` in [0, 1]."""
        for channel, value in zip(self.rgb, colour):
            view = channel[:, box[0], box[1]]
            change = value - view
            change *= opacity
            view += change

    def _disc_opacity(self, x, y, radii):
        """Returns a soft-edged disc: 1 inside, 0 outside, 1/2 on the rim."""
        slope = np.minimum(*radii) / (2 * self.soft)
        opacity = disc(x, y, radii)
        opacity *= -slope
        opacity += slope + 0.5
        return clip01(opacity)

    def _ellipse(self, spot, radii, colour, strength=1, turn=0):
        """Paints an ellipse; what is thinner than the edge's width fades instead."""
        least = 0.5 * self.soft
        wide, high = np.maximum(radii[0], least), np.maximum(radii[1], least)
        strength = strength * (radii[0] * radii[1]) / (wide * high)
        # The opacity of `_disc_opacity` ends where the disc's value is this, squared.
        reach = np.sqrt(1 + self.soft / np.minimum(wide, high))
        box, a, b = self._local(spot, (wide * reach, high * reach), turn)
        self._mix(box, self._disc_opacity(a, b, (wide, high)) * strength, colour)

    def _glow(self, spot, radii, colour, strength, turn=0):
        """Paints a spot that fades from its middle to nothing at its rim."""
        box, a, b = self._local(spot, radii, turn)
        opacity = np.maximum(1 - disc(a, b, radii), 0)
        opacity *= opacity
        self._mix(box, opacity * strength, colour)

    def _ring(self, spot, radii, rim, colour, strength):
        """Paints the outline of an ellipse, `rim` to either side of it."""
        least = np.minimum(*radii)
        reach = 1 + (rim + self.soft) / least
        box, a, b = self._local(spot, (radii[0] * reach, radii[1] * reach))
        opacity = np.abs(np.sqrt(disc(a, b, radii)) - 1)
        opacity *= -least / self.soft
        opacity += rim / self.soft + 0.5
        strength = strength * np.minimum(1, 2 * rim / self.soft)
        self._mix(box, clip01(opacity) * strength, colour)

    def _lens(self, spot, shape, bend, turn=0):
        """Returns box, opacity and axes of the area between two parabolas.

        `shape` is half the distance of the corners they meet at, and how far each is
        from the line between them, which `bend` lifts at the corners.
        """
        length, above, below = shape
        grow = np.maximum(1, self.soft / (above + below))
        above, below = above * grow, below * grow
        reach = length * np.sqrt(1 + self.soft / (above + below))
        reach_y = np.maximum(above, below) + 2 * abs(bend) + self.soft
        box, a, b = self._local(spot, (reach, reach_y), turn)
        ratio = a * (1 / length)
        ratio *= ratio
        b += bend * ratio
        ratio = 1 - ratio
        opacity = np.minimum(above * ratio + b, below * ratio - b)
        opacity /= self.soft
        opacity += 0.5
        return box, clip01(opacity) * (1 / grow), a, b
