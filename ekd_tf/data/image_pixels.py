"""Encoded bytes of one image -> RGB pixels, for all who read by Pillow and NumPy.

In tf.data TensorFlow decodes plain JPEG and PNG, to the same pixels, and whatever else
there is comes here: see `image_header` for which is which. `tools/run_tflite.py`, which
stands alone, repeats these rules.
"""

from __future__ import annotations

import io
import threading
import warnings

import numpy as np
from PIL import Image
from PIL import UnidentifiedImageError

from ekd_tf.data.image_header import LARGE_PIXELS
from ekd_tf.data.image_header import exif_orientation

# An image of more would take more than 2 GB while it is read.
MOST_PIXELS = 1 << 28
_ORIENTATION, _BITS, _PHOTOMETRIC = 0x0112, 0x0102, 0x0106
# Pillow's way from some modes to RGB is over another.
_FIRST = {"P": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "La": "LA"}
_limit = threading.Lock()


def read_image(data: bytes, shrink: bool = False) -> np.ndarray:
    """Decodes an image of any format Pillow reads.

    It is turned upright as its EXIF orientation says. Gray is repeated over the
    channels, of 16 bits the upper 8 are kept, alpha is dropped, and of several frames
    the first is read. Colour profiles are not applied.

    Args:
        data: The encoded image.
        shrink: Whether more than `LARGE_PIXELS` pixels may come back averaged to
            fewer, for those who make the image much smaller anyway.

    Returns:
        uint8 `(height, width, 3)`, RGB.

    Raises:
        ValueError: With the reason alone, in one line: no such image, a damaged one,
            more than `MOST_PIXELS` pixels, or pixels of 32 bits.
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
    """Opens an image without decoding it; the caller closes it.

    Raises:
        ValueError: It has more than `MOST_PIXELS` pixels.
        Exception: Whatever Pillow raises for damaged files.
    """
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
    if image.format == "TIFF":
        # Recent versions of Pillow turn a TIFF themselves and take the tag away.
        found = image.tag_v2.get(_ORIENTATION, 1)
        return found if found in range(1, 9) else 1
    return exif_orientation(image.info.get("exif") or b"")


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
