"""What the bytes of an encoded image say of it before it is decoded."""

from __future__ import annotations

# How an image is to be decoded, from the quick and sure to the slow; see `classify`.
EXPECTED, OTHER, UNKNOWN = range(3)
# From here on an image is shrunk before anything else is done with it.
LARGE_PIXELS = 1 << 24

_JPEG = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_PNG_EXIF = b"eXIf"
_EXIF = b"Exif\0\0"
# Beginnings of JPEGs that are remembered.
_HEADERS = 8
# Some cameras and scripts pad files after the end of the image.
_PADDING = 64
# Baseline, extended and progressive frames of Huffman-coded JPEG.
_FRAMES = {0xC0, 0xC1, 0xC2}
# Markers C0 to CF describe frames, but for these three.
_NO_FRAMES = {0xC4, 0xC8, 0xCC}
_APP1 = 0xE1
_ORIENTATION, _LONG = 0x0112, 4


def classify(data: bytes, size: int) -> int:
    """Says how an image is to be decoded, in a few microseconds.

    Looked at are the header and whether the end is there: damage in between shows
    only when the image is decoded.

    Args:
        data: The encoded image.
        size: Side in pixels that images are expected to have.

    Returns:
        `EXPECTED`: plain, which is a JPEG with one or three channels of 8 bits or a
        PNG, upright as it is stored, of `size` x `size`. `OTHER`: plain and of another
        size, up to `LARGE_PIXELS`. `UNKNOWN`: anything else, and files that are cut.
    """
    exif = None
    if data.startswith(_JPEG) and data.find(_JPEG_END, -_PADDING) > 0:
        at, exif = _jpeg_frame(data)
        if not at or data[at + 4] != 8 or data[at + 9] not in (1, 3):
            return UNKNOWN
        found = _number(data, at + 5, 2), _number(data, at + 7, 2)
    elif data.startswith(_PNG) and data.find(_PNG_END, -_PADDING) > 0:
        found = _number(data, 20, 4), _number(data, 16, 4)
        at = data.find(_PNG_EXIF)
        if at > 0:
            exif = data[at + 4 :]
    else:
        return UNKNOWN
    if exif and exif_orientation(exif) != 1:
        return UNKNOWN
    if found == (size, size):
        return EXPECTED
    return OTHER if found[0] * found[1] <= LARGE_PIXELS else UNKNOWN


def exif_orientation(exif: bytes) -> int:
    """Returns the orientation EXIF data tells, 1 to 8; 1 where they are damaged.

    Args:
        exif: A TIFF header and what follows it, perhaps after `Exif` and two zeros.
    """
    start = len(_EXIF) if exif.startswith(_EXIF) else 0
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(exif[start : start + 4])
    if order is None:
        return 1

    def number(at, length):
        return int.from_bytes(exif[start + at : start + at + length], order)

    directory = number(4, 4)
    for entry in range(number(directory, 2)):
        at = directory + 2 + 12 * entry
        if start + at + 12 > len(exif):
            break
        if number(at, 2) == _ORIENTATION:
            # Kept as a short, by a few programs as a long.
            found = number(at + 8, 4 if number(at + 2, 2) == _LONG else 2)
            return found if 1 <= found <= 8 else 1
    return 1


class BatchClassifier:
    """Says how a batch is to be decoded, much quicker than image by image.

    JPEGs one encoder made have all bytes up to their size in common, so what was
    understood of one image is only compared with the next. Used by several threads.

    Args:
        size: Side in pixels that images are expected to have.
    """

    def __init__(self, size: int):
        self._size = size
        self._expected = ()

    def __call__(self, images) -> int:
        """Returns the slowest way of `classify` that one of `images` asks for."""
        slowest = EXPECTED
        for data in images:
            if not (data.startswith(self._expected) and data.endswith(_JPEG_END)):
                slowest = max(slowest, self._classify(data))
        return slowest

    def _classify(self, data):
        kind = classify(data, self._size)
        if kind == EXPECTED and data.startswith(_JPEG):
            header = data[: _jpeg_frame(data)[0] + 10]
            if header not in self._expected:
                self._expected = (header, *self._expected)[:_HEADERS]
        return kind


def _jpeg_frame(data):
    """Returns where the frame begins, and the EXIF data that come before it.

    The frame is marker, length, bits, height, width, channels. None for what is not
    there.
    """
    at, exif = 2, None
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAMES:
            return at, exif
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES:
            break
        if marker == 0xFF:
            # A marker may be preceded by any number of fill bytes.
            at += 1
            continue
        stop = at + 2 + _number(data, at + 2, 2)
        if marker == _APP1 and exif is None and data.startswith(_EXIF, at + 4):
            exif = data[at + 4 : stop]
        at = stop
    return None, None


def _number(data, at, length):
    return int.from_bytes(data[at : at + length], "big")
