"""TFRecord frames and the Examples in them, read by position.

    record := u64 length | u32 masked crc32c of it | data | u32 masked crc32c of data

little-endian; the format is that of TensorFlow's `io/record_writer.cc`. TensorFlow's
own reader goes through a file from the start; batches of chosen images need any record.
The checksum of the length is checked at every read; that of the data is not: in Python
it takes longer than decoding the image.
"""

from __future__ import annotations

import functools
import re
import struct

import tensorflow as tf
from google.protobuf.message import DecodeError

from ekd_tf.files.positioned import PositionedFile

_HEAD = struct.Struct("<QI")
# Bytes of a record around its data: length, and two checksums.
OVERHEAD = _HEAD.size + 4
FIRST_READ = 8192
# An Example of one image and perhaps one label as protobuf writes it, in either order,
# up to the image and behind it: tags and lengths of the map's entries, then key and
# value of each.
_VARINT = rb"[\x80-\xff]{0,4}[\0-\x7f]"
_LABEL = rb"(?:\x0aN\x0a\x05label\x12N\x1aN\x0aN(N))?"
_IMAGE = rb"\x0aN\x0a\x05image\x12N\x0aN\x0a(N)"
_BEFORE_IMAGE = re.compile((rb"\x0aN" + _LABEL + _IMAGE).replace(b"N", _VARINT))
_AFTER_IMAGE = re.compile(_LABEL.replace(b"N", _VARINT))


def _crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC_TABLE = _crc_table()


# Lengths of a set's records are few thousand numbers.
@functools.lru_cache(1 << 13)
def masked_crc32c(data: bytes) -> int:
    """Returns the checksum TFRecord files hold of `data`: Castagnoli's, rotated."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_example(
    file: PositionedFile, offset: int, size: int = FIRST_READ
) -> tuple[bytes, int | None]:
    """Reads the Example that begins at `offset`.

    Args:
        file: The file.
        offset: Where the record begins.
        size: Bytes to read at once, the size of the record where it is known.

    Returns:
        `(image, label)`: the bytes feature `image` and the int64 feature `label`, None
        where it has none.

    Raises:
        ValueError: There is no whole record, or not of such an Example; the message
            names file and offset.
        OSError: The file cannot be read.
    """
    block = file.read(offset, size)
    stop = _HEAD.size + _length(file, offset, block)
    if len(block) < stop:
        block += file.read(offset + len(block), stop - len(block))
    if len(block) < stop:
        length, got = stop - _HEAD.size, len(block) - _HEAD.size
        reason = f"it has {length} bytes and the file ends after {got} of them"
        raise file.damage(offset, reason)
    plain = _unpack_plain(block, stop)
    if plain:
        return plain
    try:
        example = tf.train.Example.FromString(block[_HEAD.size : stop])
        features = example.features.feature
        (image,) = features["image"].bytes_list.value
        labels = features["label"].int64_list.value
    except (DecodeError, ValueError):
        reason = "it is no tf.train.Example with one bytes feature image"
        raise file.damage(offset, reason) from None
    return image, labels[0] if labels else None


def _unpack_plain(block, stop):
    """Returns `(image, label)` of an Example of nothing else, or None.

    Its message of four levels is not unpacked but compared with what stands around the
    image of such an Example, in a third of protobuf's time. Lengths that say again
    where the image ends are not looked at.
    """
    before = _BEFORE_IMAGE.match(block, _HEAD.size)
    if not before:
        return None
    label, length = before.groups()
    start = before.end()
    end = start + _number(length)
    after = _AFTER_IMAGE.fullmatch(block, end, stop)
    if not after:
        return None
    # With a label on either side protobuf decides.
    if label is not None and after[1] is not None:
        return None
    label = label or after[1]
    return block[start:end], None if label is None else _number(label)


def _number(varint):
    number = 0
    for byte in reversed(varint):
        number = number << 7 | byte & 0x7F
    return number


def record_offsets(file: PositionedFile, count: int) -> list[int]:
    """Returns where the records of a file begin, without reading their data.

    Raises:
        ValueError: The file does not consist of `count` whole records.
    """
    offsets, at = [], 0
    while at < file.size:
        offsets.append(at)
        at += _length(file, at, file.read(at, _HEAD.size)) + OVERHEAD
    if at != file.size or len(offsets) != count:
        raise ValueError(
            f"{file.path} holds {len(offsets):,} records to byte {at:,} of "
            f"{file.size:,}, not {count:,}. Delete it and convert again"
        )
    return offsets


def _length(file, offset, block):
    if len(block) < _HEAD.size:
        raise file.damage(offset, "the file ends before its length")
    length, checksum = _HEAD.unpack_from(block)
    if checksum != masked_crc32c(block[:8]):
        raise file.damage(offset, "the checksum of its length is wrong")
    return length
