"""What the bytes of an encoded image say of it before it is decoded."""

from __future__ import annotations

# How an image is to be decoded, from the quick and sure to the slow; see `classify`.
EXPECTED, OTHER, UNKNOWN = range(3)

_JPEG = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_GIF = b"GIF8"
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
        found = _jpeg_size(data)
    elif data.startswith(_PNG) and data.find(_PNG_END, -_PADDING) > 0:
        found = _number(data, 20, 4), _number(data, 16, 4)
    elif data.startswith(_GIF) or (data.startswith(b"BM") and data[28:29] >= b"\x18"):
        return OTHER
    if found is None:
        return UNKNOWN
    return EXPECTED if found == (size, size) else OTHER


def _jpeg_size(data):
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAMES:
            readable = data[at + 4] == 8 and data[at + 9] in (1, 3)
            size = _number(data, at + 5, 2), _number(data, at + 7, 2)
            return size if readable else None
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES:
            return None
        # A marker may be preceded by any number of fill bytes.
        at += 1 if marker == 0xFF else 2 + _number(data, at + 2, 2)
    return None


def _number(data, at, length):
    return int.from_bytes(data[at : at + length], "big")
