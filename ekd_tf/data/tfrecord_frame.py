"""TFRecord frames and the Examples in them, read by position.

    record := u64 length | u32 masked crc32c of it | data | u32 masked crc32c of data

little-endian; the format is that of TensorFlow's `io/record_writer.cc`. TensorFlow's
own reader goes through a file from the start; batches of chosen images need any record.
The checksum of the length is checked at every read; that of the data is not: in Python
it takes longer than decoding the image.
"""

from __future__ import annotations

import struct

import tensorflow as tf
from google.protobuf.message import DecodeError

from ekd_tf.data.positioned import PositionedFile

_HEAD = struct.Struct("<QI")
# Bytes of a record around its data: length, and two checksums.
OVERHEAD = _HEAD.size + 4
_FIRST_READ = 8192


def _crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC_TABLE = _crc_table()


def masked_crc32c(data: bytes) -> int:
    """Returns the checksum TFRecord files hold of `data`: Castagnoli's, rotated."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_example(file: PositionedFile, offset: int) -> tuple[bytes, int | None]:
    """Reads the Example that begins at `offset`.

    Returns:
        `(image, label)`: the bytes feature `image` and the int64 feature `label`, None
        where it has none.

    Raises:
        ValueError: There is no whole record, or not of such an Example; the message
            names file and offset.
        OSError: The file cannot be read.
    """
    block = file.read(offset, _FIRST_READ)
    length = _length(file, offset, block)
    stop = _HEAD.size + length
    data = block[_HEAD.size : stop]
    if len(data) < length:
        data += file.read(offset + len(block), stop - len(block))
    if len(data) < length:
        reason = f"it has {length} bytes and the file ends after {len(data)} of them"
        raise file.damage(offset, reason)
    try:
        features = tf.train.Example.FromString(data).features.feature
        (image,) = features["image"].bytes_list.value
        labels = features["label"].int64_list.value
    except (DecodeError, ValueError):
        reason = "it is no tf.train.Example with one bytes feature image"
        raise file.damage(offset, reason) from None
    return image, labels[0] if labels else None


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
