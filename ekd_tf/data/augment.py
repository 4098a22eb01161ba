"""Augmentations whose random part is drawn outside and passed in.

Images are uint8 `(batch, height, width, 3)`, RGB, of known height and width.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from ekd_tf import checks

# Uniform numbers in [0, 1) an image's augmentation is made from; every kind has
# columns of its own, so that turning one on leaves what the others do.
NUM_DRAWS = 16
_CROP, _COLOR, _OCCLUSION = slice(0, 4), slice(4, 7), slice(7, 12)
_LOW_RESOLUTION, _JPEG = slice(12, 14), slice(14, 16)

# Where the upper edge of a mask may lie, as a fraction of the height: between the eyes
# (0.46 on the ArcFace template) and the tip of the nose (0.64).
OCCLUSION_TOP = (0.55, 0.65)
# The columns a mask covers, as fractions of the width.
OCCLUSION_COLUMNS = (0.125, 0.875)
# Side an image is shrunk to, as a fraction of its own.
LOW_RESOLUTION_SIDE = (0.25, 0.75)
JPEG_QUALITY = (20, 80)
# Views an image may have: seeds of the draws are image * _MOST_VIEWS + view.
_MOST_VIEWS = 1 << 16
_LUMA = (0.299, 0.587, 0.114)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images besides the flip; by default nothing.

    Attributes (all but `crop` in [0, 1]):
        crop: Pixels. Each edge moves inwards by a uniform 0..crop and the rest is
            resized to the full size.
        brightness: Largest shift either way, as a fraction of the range of 255.
        contrast: Largest relative change of the distance to the mean.
        saturation: Largest relative change of the distance to gray.
        occlusion: Probability that the lower face is covered.
        low_resolution: Probability that an image is shrunk and enlarged.
        jpeg: Probability of another JPEG compression.
    """

    crop: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    occlusion: float = 0.0
    low_resolution: float = 0.0
    jpeg: float = 0.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            high = None if name == "crop" else 1
            checks.check_range(f"--augment:{name}", value, low=0, high=high)

    def __bool__(self) -> bool:
        return any(dataclasses.astuple(self))

    def __str__(self) -> str:
        """Spells it as `--augment` takes it: `crop:4,jpeg:0.3`."""
        words = dataclasses.asdict(self).items()
        return ",".join(f"{name}:{value:g}" for name, value in words if value)

    def resized(self, size: int, other: int) -> Augmentation:
        """Returns what does the same to images of side `other` as this to `size`."""
        return dataclasses.replace(self, crop=self.crop * other / size)

    def __call__(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Augments a batch, in the order of a camera: scene, light, sensor, file.

        `draws` are float32 `(batch, NUM_DRAWS)` in [0, 1), of `augment_draws`.
        """
        side = min(images.shape[1:3])
        if self.crop:
            checks.check_range("--augment:crop", self.crop, high=side // 4)
            images = crop(images, self.crop * draws[:, _CROP])
        if self.occlusion:
            chosen, top, *color = tf.unstack(draws[:, _OCCLUSION], axis=1)
            top = tf.where(chosen < self.occlusion, _between(OCCLUSION_TOP, top), 1.0)
            images = occlude_lower_face(images, top, 255 * tf.stack(color, axis=1))
        if self.brightness or self.contrast or self.saturation:
            light = 2 * draws[:, _COLOR] - 1
            images = adjust_color(
                images,
                self.brightness * light[:, 0],
                1 + self.contrast * light[:, 1],
                1 + self.saturation * light[:, 2],
            )
        if self.low_resolution:
            chosen, place = tf.unstack(draws[:, _LOW_RESOLUTION], axis=1)
            sides = tf.cast(side * _between(LOW_RESOLUTION_SIDE, place), tf.int32)
            images = _where(
                chosen < self.low_resolution, lower_resolution, images, sides
            )
        if self.jpeg:
            chosen, place = tf.unstack(draws[:, _JPEG], axis=1)
            quality = tf.cast(tf.round(_between(JPEG_QUALITY, place)), tf.int32)
            images = _where(chosen < self.jpeg, compress_jpeg, images, quality)
        return images


def _between(interval, place):
    return interval[0] + (interval[1] - interval[0]) * place


def _to_uint8(pixels):
    return tf.saturate_cast(tf.round(pixels), tf.uint8)


def _where(chosen, function, images, values):
    """Applies `function(image, value)` to the chosen images of a batch."""

    def one(row):
        image, is_chosen, value = row
        return tf.cond(is_chosen, lambda: function(image, value), lambda: image)

    spec = tf.TensorSpec(images.shape[1:], images.dtype)
    return tf.map_fn(one, (images, chosen, values), fn_output_signature=spec)


def flip_images(images: tf.Tensor, flips: tf.Tensor) -> tf.Tensor:
    """Mirrors the images, of any dtype, that `flips`, bool `(batch,)`, chooses."""
    # One by one: a sixth of the time of tf.where on the batch.
    return _where(flips, lambda image, _: tf.reverse(image, [1]), images, flips)


def crop(images: tf.Tensor, margins: tf.Tensor) -> tf.Tensor:
    """Cuts the edges off and resizes what is left to the full size, bilinearly.

    `margins` are float32 `(batch, 4)`, pixels or parts of them to cut off at top, left,
    bottom and right: the outermost pixels of the result are at the new edges.
    """
    margins = tf.convert_to_tensor(margins, tf.float32)
    height, width = images.shape[1:3]
    last = tf.constant([height - 1, width - 1, height - 1, width - 1], tf.float32)
    boxes = tf.constant([0.0, 0.0, 1.0, 1.0]) + margins * [1.0, 1.0, -1.0, -1.0] / last
    rows = tf.range(tf.shape(images)[0])
    pixels = tf.image.crop_and_resize(images, boxes, rows, [height, width])
    return tf.ensure_shape(_to_uint8(pixels), images.shape)


def adjust_color(
    images: tf.Tensor, brightness: tf.Tensor, contrast: tf.Tensor, saturation: tf.Tensor
) -> tf.Tensor:
    r"""Changes saturation, then contrast, then brightness.

    $$ x' = g + s (x - g), \quad x'' = \mu + c (x' - \mu) + 255 b $$

    with b, c and s float32 `(batch,)`, g the luma of the pixel (ITU-R BT.601) and
    $\mu$ the mean of the image in each channel. Rounded and cut to 0..255 once, at the
    end.
    """
    numbers = tf.cast([brightness, contrast, saturation], tf.float32)
    b, c, s = tf.unstack(numbers[:, :, None, None, None])
    pixels = tf.cast(images, tf.float32)
    gray = tf.reduce_sum(pixels * _LUMA, axis=-1, keepdims=True)
    pixels = gray + s * (pixels - gray)
    mean = tf.reduce_mean(pixels, axis=[1, 2], keepdims=True)
    return _to_uint8(mean + c * (pixels - mean) + 255 * b)


def occlude_lower_face(
    images: tf.Tensor, top: tf.Tensor, color: tf.Tensor
) -> tf.Tensor:
    """Covers a block of the lower face with one colour, as a mask does.

    `top` is float32 `(batch,)`, the upper edge as a part of the height. The block
    reaches down to 1, over `OCCLUSION_COLUMNS`: 0.75 (1 - top) of the image. `color` is
    float32 `(batch, 3)`, RGB in 0..255.
    """
    top = tf.convert_to_tensor(top, tf.float32)
    height, width = images.shape[1:3]
    y = (tf.range(height, dtype=tf.float32) + 0.5) / height
    x = (tf.range(width, dtype=tf.float32) + 0.5) / width
    columns = (x >= OCCLUSION_COLUMNS[0]) & (x < OCCLUSION_COLUMNS[1])
    covered = (y >= top[:, None])[:, :, None] & columns
    return tf.where(covered[..., None], _to_uint8(color)[:, None, None, :], images)


def lower_resolution(image: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    """Shrinks uint8 `(height, width, 3)` to `side` pixels and enlarges it again."""
    small = tf.image.resize(image, [side, side], antialias=True)
    return _to_uint8(tf.image.resize(small, image.shape[:2]))


def compress_jpeg(image: tf.Tensor, quality: tf.Tensor) -> tf.Tensor:
    """Encodes uint8 `(height, width, 3)` as JPEG of a quality of 1..100, and back."""
    data = tf.raw_ops.EncodeJpegVariableQuality(images=image, quality=quality)
    decoded = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.ensure_shape(decoded, image.shape)


@dataclasses.dataclass(frozen=True)
class DrawnViews:
    """`count` views of every image; what is done in view v of image i is f(seed, i, v).

    A teacher that embedded them and a student that is trained on them see the same
    pixels, as a patient teacher's student should (Beyer et al., 2022,
    arXiv:2106.05237). With another `count` the first views stay what they are. With
    `flip` half of the views are mirrored.
    """

    count: int
    seed: int = 0
    flip: bool = True

    def __post_init__(self) -> None:
        checks.check_range("views", self.count, low=1, high=_MOST_VIEWS)

    def draw(self, images: tf.Tensor, views: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what views of images are made by: flips, bool `(batch,)`, and draws.

        `images` are int64 `(batch,)`, positions in their whole source, `views` int64
        `(batch,)`, 0..count-1. The draws are those an `Augmentation` takes.
        """

        def uniforms(seed):
            return tf.random.stateless_uniform([1 + NUM_DRAWS], seed, alg="philox")

        numbers = images * _MOST_VIEWS + views
        seeds = tf.stack([tf.fill(tf.shape(numbers), np.int64(self.seed)), numbers], 1)
        uniform = tf.map_fn(uniforms, seeds, fn_output_signature=tf.float32)
        return uniform[:, 0] < (0.5 if self.flip else 0.0), uniform[:, 1:]
