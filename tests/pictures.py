"""Random pictures and their bytes, for tests of what reads images."""

import io

import numpy as np
from PIL import Image

from ekd_tf.data.source import Source


def face(rng, height=16, width=16):
    """A smooth random RGB image, which lossy formats keep close."""
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, format=form, **options)
    return file.getvalue()


def flat(value, height=8, width=8, form="PNG"):
    """The file of an image whose every number is `value`."""
    pixels = np.full((height, width, 3), value, np.uint8)
    return encode(Image.fromarray(pixels), form)


def write_people(root, people, each, side, seed=0):
    """Writes `root/pK/N.png`, one person's images alike; returns the folder.

    `each` is how many images they have, all alike or person by person.
    """
    rng = np.random.default_rng(seed)
    for person, count in enumerate(np.broadcast_to(each, people)):
        of_person = rng.integers(0, 200, (side, side, 3))
        (root / f"p{person}").mkdir(parents=True)
        for k in range(count):
            image = of_person + rng.integers(0, 56, of_person.shape)
            path = root / f"p{person}" / f"{k}.png"
            Image.fromarray(image.astype(np.uint8)).save(path)
    return root


def pixels(image):
    return np.asarray(image.convert("RGB"))


class Files(Source):
    """Images in memory, bytes or pixels; None stands for a file that is not there."""

    fingerprint = "files"

    def __init__(self, files, labels=None):
        self.name = "files"
        self.files = files
        self.labels = np.asarray([0] * len(files) if labels is None else labels, "i4")
        self.num_identities = int(self.labels.max()) + 1
        self.encoded = not any(isinstance(file, np.ndarray) for file in files)

    def read(self, indices):
        for index in indices:
            if self.files[index] is None:
                raise FileNotFoundError(2, "No such file or directory", f"/{index}")
        images = [self.files[index] for index in indices]
        return images if self.encoded else np.stack(images)

    def describe(self, index):
        return f"{index}.jpg"


# What is stored for an upright image, by EXIF orientation: 6, say, is stored a quarter
# turn to the left, so that it must be turned to the right.
STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: np.swapaxes(upright, 0, 1),
    6: np.rot90,
    7: lambda upright: np.rot90(np.swapaxes(upright, 0, 1), 2),
    8: lambda upright: np.rot90(upright, -1),
}


def with_orientation(upright, orientation, form="PNG", endian="<", **options):
    """The file of an image `(height, width, 3)` stored as EXIF orientation says."""
    exif = Image.Exif()
    exif.endian = endian
    # As cameras do, another tag before and one behind.
    exif[0x010F], exif[0x0112], exif[0x0131] = "maker", orientation, "program"
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    return encode(stored, form, exif=exif, **options)


def kinds(rng):
    """Name -> `(file, pixels)`: what image files come in, and what they show."""
    image = face(rng, 12, 16)
    colour, gray = pixels(image), np.asarray(image.convert("L"))
    repeated = np.repeat(gray[..., None], 3, axis=2)
    # The upper eight bits are those of `gray`.
    deep = Image.fromarray(gray * np.uint16(256) + np.uint16(99))
    inverted = Image.fromarray(65535 - np.asarray(deep))
    palette, cmyk, alpha = image.convert("P"), image.convert("CMYK"), image.copy()
    alpha.putalpha(Image.fromarray(255 - gray))
    of_palette = pixels(palette)
    files = {}
    for name, shown, stored, form, options in (
        ("png", colour, image, "PNG", {}),
        ("gray png", repeated, image.convert("L"), "PNG", {}),
        ("gray png of 16 bits", repeated, deep, "PNG", {}),
        ("gray tiff of 16 bits", repeated, deep, "TIFF", {}),
        ("pressed", repeated, deep, "TIFF", {"compression": "tiff_lzw"}),
        ("white is zero", repeated, inverted, "TIFF", {"tiffinfo": {0x0106: 0}}),
        ("tiff", colour, image, "TIFF", {}),
        ("alpha", colour, alpha, "PNG", {}),
        ("gray with alpha", repeated, alpha.convert("LA"), "PNG", {}),
        ("palette", of_palette, palette, "PNG", {}),
        ("clear", of_palette, palette, "PNG", {"transparency": bytes(range(256))}),
        ("palette bmp", of_palette, palette, "BMP", {}),
        ("bmp", colour, image, "BMP", {}),
        ("gif", of_palette, palette, "GIF", {}),
        ("webp", colour, image, "WEBP", {"lossless": True}),
        ("cmyk tiff", pixels(cmyk), cmyk, "TIFF", {}),
    ):
        files[name] = encode(stored, form, **options), shown
    for orientation in STORED:
        for form in ("PNG", "TIFF", "WEBP"):
            options = {"lossless": True} if form == "WEBP" else {}
            data = with_orientation(colour, orientation, form, **options)
            files[f"{form}, orientation {orientation}"] = data, colour
    return files
