"""RecordIO frames: the bytes of a `.rec` file to payloads.

    part := u32 0xced7230a | u32 (cflag << 29 | length) | data | zeros to 4 bytes

little-endian. A payload that holds the magic number where a reader looks for it, at a
position divisible by 4, is split there and the number left out: the first part has
cflag 1, middle ones 2, the last 3. All others are one part with cflag 0. The format is
that of dmlc-core `src/recordio.cc`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from ekd_tf.files.positioned import PositionedFile

MAGIC = 0xCED7230A
WHOLE, FIRST, MIDDLE, LAST = range(4)
LENGTH_BITS = 29

_MAGIC_BYTES = struct.pack("<I", MAGIC)
PART = struct.Struct("<II")
# Read at once with the frame around it: nearly every face of 112x112 fits.
_FIRST_READ = 8192
_SCAN_BYTES = 1 << 22


def read_record(file: PositionedFile, offset: int) -> tuple[bytes, int]:
    """Reads the record that begins at `offset`.

    Returns:
        `(payload, end)`, `end` being the offset of what follows.

    Raises:
        ValueError: There is no whole record; the message names file and offset.
        OSError: The file cannot be read.
    """
    parts = []
    at = offset
    while True:
        block = file.read(at, _FIRST_READ)
        if len(block) < PART.size:
            where = f"in its part at offset {at}" if block else f"before byte {at + 1}"
            raise file.damage(offset, f"the file ends {where}")
        magic, word = PART.unpack_from(block)
        cflag, length = word >> LENGTH_BITS, word & ((1 << LENGTH_BITS) - 1)
        if magic != MAGIC or cflag not in ((MIDDLE, LAST) if parts else (WHOLE, FIRST)):
            reason = f"it begins with {magic:#010x}, not the magic number {MAGIC:#010x}"
            if magic == MAGIC:
                where = "before the last part has come" if parts else "without a first"
                reason = f"cflag {cflag} {where}"
            raise file.damage(
                offset, reason + (f" in its part at offset {at}" if parts else "")
            )
        stop = PART.size + length
        data = block[PART.size : stop]
        if len(data) < length:
            data += file.read(at + len(block), stop - len(block))
        if len(data) < length:
            end = at + PART.size + len(data)
            raise file.damage(
                offset, f"it has {length} bytes and the file ends at byte {end}"
            )
        at += stop + -length % 4
        if cflag == WHOLE:
            return data, at
        parts.append(data)
        if cflag == LAST:
            return _MAGIC_BYTES.join(parts), at


def walk(file: PositionedFile) -> Iterator[tuple[int, bytes | str]]:
    """Goes through a file that has no index.

    After damage it goes on at the next aligned magic number with cflag 0 or 1 whose
    length lies inside the file.

    Yields:
        `(offset, payload)`, or `(offset, reason)` once for each damaged stretch.
    """
    offset = 0
    while offset < file.size:
        try:
            payload, end = read_record(file, offset)
        except ValueError as error:
            yield offset, str(error)
            offset = _resynchronise(file, offset + 4)
        else:
            yield offset, payload
            offset = end


def _resynchronise(file, offset):
    """Returns the offset of the next possible record, or the end of the file."""
    while offset < file.size:
        block = file.read(offset, _SCAN_BYTES)
        words = np.frombuffer(block[: len(block) // 4 * 4], "<u4").astype(np.int64)
        magics = np.flatnonzero(words[:-1] == MAGIC)
        after = words[magics + 1]
        ends = offset + magics * 4 + PART.size + (after & ((1 << LENGTH_BITS) - 1))
        good = magics[(after >> LENGTH_BITS <= FIRST) & (ends <= file.size)]
        if len(good):
            return offset + 4 * int(good[0])
        # The last word may be a magic number whose length is in the next block.
        if len(block) < _SCAN_BYTES:
            break
        offset += len(block) - 4
    return file.size
