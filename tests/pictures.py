"""Random pictures and their bytes, for tests of what reads images."""

import io

import numpy as np
from PIL import Image


def face(rng, height=16, width=16):
    """A smooth random RGB image, which lossy formats keep close."""
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, format=form, **options)
    return file.getvalue()


def pixels(image):
    return np.asarray(image.convert("RGB"))
