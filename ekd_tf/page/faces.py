"""Small pictures of faces for a page, and what a picture's quality is measured by."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from ekd_tf.data import Source
from ekd_tf.data import evaluation_batches
from ekd_tf.data.image_pixels import open_image
from ekd_tf.page.columns import Column

_SIDE, _QUALITY = 64, 72
_MEASURED_SIDE, _BATCH = 112, 128


def thumbnails(source: Source, indices: Iterable[int], most: int) -> dict[int, str]:
    """Returns JPEGs of 64 x 64 pixels as data URIs, by number of the image.

    The first of `indices`, each once, whose URIs have `most` bytes in all.
    """
    wanted = list(dict.fromkeys(indices))
    uris: dict[int, str] = {}
    pictures = (
        picture
        for batch in evaluation_batches(source, np.array(wanted, int), _SIDE, _BATCH)
        for picture in batch
    )
    for index, picture in zip(wanted, pictures):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=_QUALITY, optimize=True)
        text = base64.b64encode(file.getvalue()).decode("ascii")
        most -= len(text)
        if most < 0:
            break
        uris[index] = f"data:image/jpeg;base64,{text}"
    return uris


def quality_columns(source: Source) -> list[Column]:
    """Slices images by sharpness, brightness and the smaller side they are stored at.

    Sharpness is the standard deviation of the Laplacian, brightness the mean, of gray
    levels 0..255 at 112 x 112 pixels.
    """
    sharpness, brightness = [], []
    batches = evaluation_batches(source, np.arange(len(source)), _MEASURED_SIDE, _BATCH)
    for batch in batches:
        gray = batch.astype(np.float32) @ np.float32([0.299, 0.587, 0.114])
        inner = gray[:, 1:-1, 1:-1]
        around = gray[:, :-2, 1:-1] + gray[:, 2:, 1:-1]
        around += gray[:, 1:-1, :-2] + gray[:, 1:-1, 2:]
        sharpness.append((around - 4 * inner).std(axis=(1, 2)))
        brightness.append(gray.mean(axis=(1, 2)))
    measured = {
        "sharpness": np.concatenate(sharpness),
        "brightness": np.concatenate(brightness),
        "size of the stored image, pixels": _sides(source),
    }
    return list(filter(None, (Column.of_numbers(*each) for each in measured.items())))


def _sides(source):
    if not source.encoded:
        return np.zeros(len(source))
    sides = []
    for numbers in np.array_split(np.arange(len(source)), -(-len(source) // _BATCH)):
        for data in source.read(numbers):
            with open_image(data) as image:
                sides.append(min(image.size))
    return np.array(sides)
