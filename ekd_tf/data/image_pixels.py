"""Encoded bytes of one image -> RGB pixels, by Pillow or TensorFlow.

Both give the same pixels of what both read, in the same time (0.3 ms for a JPEG of
112x112). TensorFlow reads less, but needs no interpreter, which trains meanwhile.
`tools/run_tflite.py`, which stands alone, repeats the rules of `read_image`.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib

import numpy as np
import tensorflow as tf
from PIL import Image
from PIL import UnidentifiedImageError

# An image of more would take more than 2 GB while it is read.
MOST_PIXELS = 1 << 28
# A larger image is shrunk before anything else is done with it.
LARGE_PIXELS = 1 << 24
_ORIENTATION, _BITS, _PHOTOMETRIC = 0x0112, 0x0102, 0x0106
# Pillow's way from some modes to RGB is over another.
_FIRST = {"P": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "La": "LA"}
_limit = threading.Lock()

# Some cameras and scripts pad files after the end of the image.
_PADDING = 64


def plain_size(data: bytes) -> tuple[int, int] | None:
    """Returns height and width of an image TensorFlow reads right, None of any other.

    Those are JPEGs of one or three channels of 8 bits and PNGs, of at most
    `LARGE_PIXELS` pixels, without EXIF data. Only header and end are looked at, in 2 us
    (Pillow: 25): other damage shows when the image is decoded.
    """
    size = None
    if data.startswith(b"\xff\xd8\xff") and data.find(b"\xff\xd9", -_PADDING) > 0:
        size = _jpeg_size(data)
    elif data.startswith(b"\x89PNG") and data.find(b"IEND\xaeB`\x82", -_PADDING) > 0:
        if len(data) > 32 and b"eXIf" not in data:
            size = struct.unpack_from(">II", data, 16)[::-1]
    return size if size and size[0] * size[1] <= LARGE_PIXELS else None


def _jpeg_size(data):
    """Reads the segments of a JPEG up to that of its frame."""
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        # Baseline, extended and progressive frames of Huffman-coded JPEG.
        if marker in (0xC0, 0xC1, 0xC2):
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            return (height, width) if bits == 8 and channels in (1, 3) else None
        # The other markers C0 to CF describe other frames, but for these three.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return None
        if data.startswith(b"\xff\xe1", at) and data.startswith(b"Exif", at + 4):
            return None
        # A marker may be preceded by any number of fill bytes.
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def read_image(data: bytes, shrink: bool = False) -> np.ndarray:
    """Decodes an image of any format Pillow reads to uint8 `(height, width, 3)`, RGB.

    It is turned upright as its EXIF orientation says. Gray is repeated over the
    channels, of 16 bits the upper 8 are kept, alpha is dropped, and of several frames
    the first is read. Colour profiles are not applied. With `shrink` more than
    `LARGE_PIXELS` pixels are averaged to fewer.

    Raises `ValueError`, with the reason alone in one line, of no such image, a damaged
    one, more than `MOST_PIXELS` pixels, or pixels of 32 bits.
    """
    try:
        with open_image(data) as image:
            if shrink and (factor := _factor(image.width, image.height)) > 1:
                # JPEG alone can be decoded to a part of its size.
                image.draft(image.mode, (image.width // factor, image.height // factor))
            pixels = turn(_rgb(image), orientation(image))
    except UnidentifiedImageError:
        raise ValueError("not an image in a format that is read") from None
    # Damaged files raise nearly anything out of Pillow's parsers.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(reason) from error
    if shrink and (factor := _factor(*pixels.shape[:2])) > 1:
        pixels = np.asarray(Image.fromarray(pixels).reduce(factor))
    return pixels


def open_image(data: bytes) -> Image.Image:
    """Opens an image of at most `MOST_PIXELS` pixels; the caller closes it."""
    # Pillow's own limit, of the whole process, warns at 89 million pixels and raises
    # at twice as many; photographs are larger. It warns of damaged EXIF data, too.
    with _limit, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(io.BytesIO(data))
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(
                    f"it is {image.width}x{image.height}: images of more than "
                    f"{MOST_PIXELS:,} pixels are not read. Make it smaller"
                )
            if image.format == "TIFF":
                # Asks for the limit again.
                image.load()
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    return image


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation of an opened image, 1 to 8; 1 is upright."""
    # Where there is no EXIF data Pillow takes other notes for them, which TensorFlow,
    # browsers and phones do not.
    for note in ("xmp", "XML:com.adobe.xmp", "Raw profile type exif"):
        image.info.pop(note, None)
    # Recent versions of Pillow turn a TIFF themselves and take the tag away.
    try:
        # What is done with warnings is of the whole process.
        with _limit, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = image.getexif().get(_ORIENTATION, 1)
    # Damaged EXIF data raise nearly anything; the image is read all the same.
    except Exception:
        return 1
    return value if value in range(1, 9) else 1


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Returns pixels `(height, width, 3)` turned upright from an EXIF orientation."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _factor(*sides):
    """Returns by what to divide two sides to have `LARGE_PIXELS` pixels or fewer."""
    return int(np.ceil(np.sqrt(sides[0] * sides[1] / LARGE_PIXELS)))


def _rgb(image):
    image.load()
    # Older versions of Pillow read PNGs of 16 bits as "I".
    if image.mode.startswith("I;16") or (
        image.mode == "I" and image.format in ("PNG", "PPM")
    ):
        tags = getattr(image, "tag_v2", {})
        gray = np.asarray(image) >> (tags.get(_BITS, (16,))[0] - 8)
        if tags.get(_PHOTOMETRIC) == 0:
            # White is zero: Pillow inverts such images of 8 bits only.
            gray = 255 - gray
        return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(
            "its pixels have 32 bits and no known range. Save it with 8 or 16 bits"
        )
    image = image.convert(_FIRST.get(image.mode, image.mode))
    return np.asarray(image.convert("RGB"))


def decode_plain(data: tf.Tensor) -> tf.Tensor:
    """Decodes what has a `plain_size` to uint8 RGB, as Pillow does."""
    # Reads PNG too, and with the same pixels as tf.io.decode_png.
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def decode_image(data: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG, PNG, BMP or GIF to uint8 RGB, as `read_image` does.

    What TensorFlow does not read correctly is an error.
    """
    # The accurate inverse transform is not an argument of tf.io.decode_image.
    image = tf.cond(
        tf.io.is_jpeg(data), lambda: decode_plain(data), lambda: _decode_other(data)
    )
    return tf.ensure_shape(image, [None, None, 3])


def _decode_other(data):
    # TensorFlow takes the palette positions of a BMP below 24 bits for gray values;
    # without its bytes such an image fails like any other it cannot read.
    is_bmp = tf.equal(tf.strings.substr(data, 0, 2), b"BM")
    bits = tf.io.decode_raw(tf.strings.substr(data, 28, 2), tf.uint16)[0]
    is_webp = tf.equal(tf.strings.substr(data, 8, 4), b"WEBP")
    unread = is_webp | is_bmp & (tf.cast(bits, tf.int32) < 24)
    data = tf.where(unread, b"", data)
    return tf.io.decode_image(data, channels=3, expand_animations=False)


def fit(images: tf.Tensor, size: int) -> tf.Tensor:
    """Resizes uint8 `(..., height, width, 3)` to `size` x `size`, antialiased.

    Another aspect ratio is stretched; images of that size come back as they are.
    """
    images = tf.convert_to_tensor(images)
    height, width = images.shape[-3:-1]
    if height == width == size:
        return images

    def resize():
        resized = tf.image.resize(images, [size, size], antialias=True)
        # Halves are common, as weights are fractions of small numbers, and come out a
        # little above or below. All go up, so that another program that adds in
        # another order gets the same pixels.
        return tf.saturate_cast(tf.floor(resized + 0.501), tf.uint8)

    is_fit = tf.reduce_all(tf.equal(tf.shape(images)[-3:-1], size))
    fitted = tf.cond(is_fit, lambda: images, resize)
    return tf.ensure_shape(fitted, [*images.shape[:-3], size, size, 3])


def as_plain(data: bytes) -> tuple[bytes, tuple[int, int]]:
    """Returns what `decode_plain` takes, and its size: `data`, or what Pillow reads.

    Raises `ValueError`, with the reason alone, where it cannot.
    """
    size = plain_size(data)
    if size is not None:
        return data, size
    pixels = read_image(data, shrink=True)
    return _png(pixels), pixels.shape[:2]


def decodable(data: bytes) -> str | None:
    """Returns why an image cannot be decoded, None where it can."""
    try:
        decode_plain(tf.constant(as_plain(data)[0]))
    except ValueError as error:
        return str(error)
    except tf.errors.OpError:
        # Pillow has the better words, but passes over some damage.
        try:
            read_image(data)
        except ValueError as error:
            return str(error)
        return "it is damaged"
    return None


def _png(pixels):
    """Returns pixels as a PNG that is not compressed, in an eighth of Pillow's time."""
    height, width, _ = pixels.shape
    # The first byte of a row says that the row is not filtered.
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for name, content in (
        (b"IHDR", header),
        (b"IDAT", zlib.compress(rows, 0)),
        (b"IEND", b""),
    ):
        checksum = struct.pack(">I", zlib.crc32(name + content))
        png += struct.pack(">I", len(content)) + name + content + checksum
    return png
