"""What the bytes of an encoded image say of it before it is decoded."""

from __future__ import annotations

# How an image is to be decoded, from the quick and sure to the slow; see `classify`.
EXPECTED, OTHER, UNKNOWN = range(3)

_JPEG = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_GIF = b"GIF8"
# Beginnings of JPEGs that are remembered.
_HEADERS = 8
# Some cameras and scripts pad files after the end of the image.
_PADDING = 64
# Baseline, extended and progressive frames of Huffman-coded JPEG.
_FRAMES = {0xC0, 0xC1, 0xC2}
# Markers C0 to CF describe frames, but for these three.
_NO_FRAMES = {0xC4, 0xC8, 0xCC}


def classify(data: bytes, size: int) -> int:
    """Says how an image is to be decoded, in a few microseconds.

    Looked at are the header and whether the end is there: damage in between shows
    only when the image is decoded.

    Args:
        data: The encoded image.
        size: Side in pixels that images are expected to have.

    Returns:
        `EXPECTED`: a JPEG with one or three channels of 8 bits, or a PNG, of `size` x
        `size`. `OTHER`: the same of another size, a GIF, or a BMP of 24 bits or more.
        `UNKNOWN`: anything else, and files that are cut.
    """
    found = None
    if data.startswith(_JPEG) and data.find(_JPEG_END, -_PADDING) > 0:
        at = _jpeg_frame(data)
        if at and data[at + 4] == 8 and data[at + 9] in (1, 3):
            found = _number(data, at + 5, 2), _number(data, at + 7, 2)
    elif data.startswith(_PNG) and data.find(_PNG_END, -_PADDING) > 0:
        found = _number(data, 20, 4), _number(data, 16, 4)
    elif data.startswith(_GIF) or (data.startswith(b"BM") and data[28:29] >= b"\x18"):
        return OTHER
    if found is None:
        return UNKNOWN
    return EXPECTED if found == (size, size) else OTHER


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
            header = data[: _jpeg_frame(data) + 10]
            if header not in self._expected:
                self._expected = (header, *self._expected)[:_HEADERS]
        return kind


def _jpeg_frame(data):
    """Returns where the frame begins: marker, length, bits, height, width, channels."""
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAMES:
            return at
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES:
            return None
        # A marker may be preceded by any number of fill bytes.
        at += 1 if marker == 0xFF else 2 + _number(data, at + 2, 2)
    return None


def _number(data, at, length):
    return int.from_bytes(data[at : at + length], "big")
