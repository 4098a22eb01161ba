"""A batch of pictures on which soft-edged shapes are painted in face coordinates.

Every operation on pixels is an addition, a product, a quotient, a square root, a
minimum or a maximum. IEEE 754 rounds those one way only, whereas `exp` or `sin` may
differ in the last bit between processors and between vector lanes; so a picture has the
same bits in every batch and on every machine.
"""

from __future__ import annotations

import numpy as np


def clip01(values):
    """Clips an array to [0, 1] in place and returns it."""
    return np.clip(values, 0, 1, out=values)


def disc(x, y, radius_x, radius_y):
    """Returns (x / radius_x)^2 + (y / radius_y)^2: 1 on the rim of the ellipse."""
    value = x * (1 / radius_x)
    value *= value
    other = y * (1 / radius_y)
    other *= other
    value += other
    return value


def turned(tangent):
    """Returns cosine and sine of the angle whose half has this tangent, times two."""
    half = 0.5 * tangent
    scale = 1 / (1 + half * half)
    return (1 - half * half) * scale, tangent * scale


class Canvas:
    """Pictures of one size, each with its own frame from pixels to the face.

    Positions are in face units (see `synthetic_parameters`), per-picture numbers are
    float32 `(n, 1, 1)` and colours `(3, n, 1, 1)` in [0, 1]. A shape is evaluated only
    in the box that holds it in every picture of the batch; since its opacity is exactly
    zero outside its own bounds, the company a picture keeps cannot change it.

    Args:
        size: Side of a picture in pixels.
        zoom: Face units from the middle of the picture to its edge.
        roll: Tilt in radians, for small angles; clockwise is positive.
        x0: Where the face's origin lies, -1 (left edge) to 1 (right edge).
        y0: The same from top to bottom.
        blur: Width in face units over which every edge is softened, >= 0. Edges are
            never sharper than 1.2 pixels, which is the antialiasing.
    """

    def __init__(self, size, zoom, roll, x0, y0, blur):
        self.size, self.zoom, self.x0, self.y0 = size, zoom, x0, y0
        self.rgb = np.zeros((3, len(zoom), size, size), np.float32)
        grid = (np.arange(size, dtype=np.float32) * 2 + 1) / np.float32(size) - 1
        self.columns, self.rows = grid[None, None, :], grid[None, :, None]
        self.cos, self.sin = turned(roll)
        pixel = zoom * (2 / size)
        self.soft = np.sqrt(1.44 * pixel * pixel + blur * blur)

    def local(self, x, y, reach_x, reach_y, stretch=1, turn=0):
        """Returns the box around a feature and coordinates about its middle.

        Args:
            x: Middle of the feature.
            y: Middle of the feature.
            reach_x: Half-width of what must be inside the box, along its own axis.
            reach_y: Half-height of the same.
            stretch: Factor on horizontal lengths: foreshortening.
            turn: Rotation of the feature in radians, for small angles.

        Returns:
            `(box, along, across)`: a pair of slices over rows and columns, and float32
            `(n, height, width)` coordinates in the feature's own axes.
        """
        cos, sin = turned(turn)
        reach_u = stretch * (cos * reach_x + abs(sin) * reach_y)
        reach_v = abs(sin) * reach_x + cos * reach_y
        middle_x = (self.cos * x - self.sin * y) / self.zoom + self.x0
        middle_y = (self.sin * x + self.cos * y) / self.zoom + self.y0
        far_x = (self.cos * reach_u + abs(self.sin) * reach_v) / self.zoom
        far_y = (abs(self.sin) * reach_u + self.cos * reach_v) / self.zoom
        box = self._span(middle_y, far_y), self._span(middle_x, far_x)
        columns = self.columns[:, :, box[1]] - middle_x
        rows = self.rows[:, box[0]] - middle_y
        # Both maps are linear, so one sum of a row and a column gives each coordinate.
        ux, uy = self.zoom * self.cos / stretch, self.zoom * self.sin / stretch
        vx, vy = -self.zoom * self.sin, self.zoom * self.cos
        along = (cos * ux + sin * vx) * columns + (cos * uy + sin * vy) * rows
        across = (cos * vx - sin * ux) * columns + (cos * vy - sin * uy) * rows
        return box, along, across

    def everywhere(self):
        """Returns the box of the whole picture and its face coordinates."""
        return self.local(0, 0, 1e3, 1e3)

    def _span(self, middle, far):
        # A pixel and a half of margin covers the rounding of the box itself.
        low = (float(np.min(middle - far)) + 1) * self.size / 2 - 1.5
        high = (float(np.max(middle + far)) + 1) * self.size / 2 + 1.5
        return slice(*(int(min(max(end, 0), self.size)) for end in (low, high)))

    def paint(self, box, opacity, colour):
        """Mixes `colour` into the box: `opacity` is `(n, height, width)` in [0, 1]."""
        for channel, value in zip(self.rgb, colour):
            view = channel[:, box[0], box[1]]
            change = value - view
            change *= opacity
            view += change

    def disc_opacity(self, x, y, radius_x, radius_y):
        """Returns a soft-edged disc: 1 inside, 0 outside, 1/2 on the rim."""
        slope = np.minimum(radius_x, radius_y) / (2 * self.soft)
        opacity = disc(x, y, radius_x, radius_y)
        opacity *= -slope
        opacity += slope + 0.5
        return clip01(opacity)

    def ellipse(self, x, y, radius_x, radius_y, colour, strength=1, stretch=1, turn=0):
        """Paints an ellipse; what is thinner than the edge's width fades instead."""
        least = 0.5 * self.soft
        wide, high = np.maximum(radius_x, least), np.maximum(radius_y, least)
        strength = strength * (radius_x * radius_y) / (wide * high)
        # The opacity of `disc_opacity` ends where the disc's value is this, squared.
        reach = np.sqrt(1 + self.soft / np.minimum(wide, high))
        box, a, b = self.local(x, y, wide * reach, high * reach, stretch, turn)
        opacity = self.disc_opacity(a, b, wide, high)
        opacity *= strength
        self.paint(box, opacity, colour)

    def glow(self, x, y, radius_x, radius_y, colour, strength, stretch=1, turn=0):
        """Paints a spot that fades from its middle to nothing at its rim."""
        box, a, b = self.local(x, y, radius_x, radius_y, stretch, turn)
        opacity = np.maximum(1 - disc(a, b, radius_x, radius_y), 0)
        opacity *= opacity
        opacity *= strength
        self.paint(box, opacity, colour)

    def ring(self, x, y, radius_x, radius_y, rim, colour, strength, stretch=1):
        """Paints the outline of an ellipse, `rim` to either side of it."""
        reach = 1 + (rim + self.soft) / np.minimum(radius_x, radius_y)
        box, a, b = self.local(x, y, radius_x * reach, radius_y * reach, stretch)
        opacity = np.sqrt(disc(a, b, radius_x, radius_y))
        opacity -= 1
        np.abs(opacity, out=opacity)
        opacity *= -np.minimum(radius_x, radius_y) / self.soft
        opacity += rim / self.soft + 0.5
        clip01(opacity)
        opacity *= strength * np.minimum(1, 2 * rim / self.soft)
        self.paint(box, opacity, colour)

    def lens(self, x, y, length, above, below, bend, stretch=1, turn=0):
        """Returns the area between two parabolas that meet at `+-length`.

        Args:
            length: Half the distance of the corners.
            above: Height of the upper parabola over the line between the corners, > 0.
            below: Depth of the lower one, > 0.
            bend: How far the corners are lifted over the middle.

        The others are those of `local`.

        Returns:
            `(box, opacity, along, across)`; `across` is measured from the bent line.
        """
        grow = np.maximum(1, self.soft / (above + below))
        above, below = above * grow, below * grow
        reach = length * np.sqrt(1 + self.soft / (above + below))
        reach_y = np.maximum(above, below) + 2 * abs(bend) + self.soft
        box, a, b = self.local(x, y, reach, reach_y, stretch, turn)
        ratio = a * (1 / length)
        ratio *= ratio
        b += bend * ratio
        np.subtract(1, ratio, out=ratio)
        opacity = np.minimum(above * ratio + b, below * ratio - b)
        opacity /= self.soft
        opacity += 0.5
        clip01(opacity)
        opacity *= 1 / grow
        return box, opacity, a, b
