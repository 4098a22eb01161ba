"""RecordIO frames: exact bytes, any payload back, damage named and passed over."""

import struct

import numpy as np
import pytest
from dataset_writers import frame

from ekd_tf.data.sources.recordio_frame import read_record
from ekd_tf.data.sources.recordio_frame import walk
from ekd_tf.files.positioned import PositionedFile

MAGIC = b"\x0a\x23\xd7\xce"


def part(cflag, data):
    """One part as the format's definition says."""
    word = struct.pack("<I", cflag << 29 | len(data))
    return MAGIC + word + data + b"\0" * (-len(data) % 4)


@pytest.fixture
def put(tmp_path):
    """Writes bytes to a file and opens it."""

    def put(data):
        path = tmp_path / "a.rec"
        path.write_bytes(data)
        return PositionedFile(path)

    return put


@pytest.mark.parametrize(
    ("payload", "parts"),
    [
        (b"", [(0, b"")]),
        (b"abcde", [(0, b"abcde")]),
        (MAGIC, [(1, b""), (3, b"")]),
        (b"abcd" + MAGIC + b"efg", [(1, b"abcd"), (3, b"efg")]),
        # Not where a reader looks.
        (b"abc" + MAGIC + b"e", [(0, b"abc" + MAGIC + b"e")]),
        (MAGIC + MAGIC + b"x", [(1, b""), (2, b""), (3, b"x")]),
        (b"abcd" + MAGIC + b"ef" + MAGIC, [(1, b"abcd"), (3, b"ef" + MAGIC)]),
        (MAGIC[:3], [(0, MAGIC[:3])]),
    ],
)
def test_exact_bytes(put, payload, parts):
    framed = b"".join(part(*p) for p in parts)
    assert frame(payload) == framed
    assert read_record(put(framed), 0) == (payload, len(framed))


def test_any_payload_comes_back(rng, put):
    # Payloads of pieces of the magic number, so that it occurs at every alignment,
    # cut off and repeated; and some too long for the first read.
    pieces = [MAGIC, MAGIC[:1], MAGIC[1:], MAGIC[:2], b"\0", b"abc", b"abcd"]
    payloads = []
    for length in rng.integers(0, 12, 400):
        payloads.append(b"".join(pieces[k] for k in rng.integers(0, 7, length)))
    payloads += [bytes(n) for n in (8183, 8184, 8185)]
    payloads += [MAGIC * 5000, rng.bytes(100_001) + MAGIC + rng.bytes(50_000)]
    assert any(frame(p).count(MAGIC) > 3 for p in payloads[:400])
    framed = [frame(p) for p in payloads]
    assert all(len(f) % 4 == 0 for f in framed)
    file = put(b"".join(framed))
    offsets = np.cumsum([0, *map(len, framed)])
    for offset, end, payload in zip(offsets, offsets[1:], payloads):
        assert read_record(file, int(offset)) == (payload, end)
    assert list(walk(file)) == list(zip(offsets, payloads))


def test_damage_is_named_with_file_and_offset(put):
    for data, reason in (
        (b"\0" * 8, "it begins with 0x00000000, not the magic number 0xced7230a"),
        (part(4, b"abcd"), "cflag 4 without a first"),
        (part(7, b"abcd"), "cflag 7 without a first"),
        (part(2, b""), "cflag 2 without a first"),
        (part(3, b""), "cflag 3 without a first"),
        (
            part(1, b"") + part(0, b""),
            "cflag 0 before the last part has come in its part at offset 8",
        ),
        (part(1, b"") + part(1, b""), "cflag 1 before the last part has come"),
        (part(1, b"abcd") + b"1234" * 3, "begins with 0x34333231.*part at offset 12"),
        (part(1, b"abcd"), "the file ends before byte 13"),
        (part(0, b"abcdefgh")[:-1], "it has 8 bytes and the file ends at byte 15"),
        (part(0, b"x" * 40_000)[:-9], "it has 40000 bytes and the file ends at"),
        (b"\x0a\x23\xd7\xce\0\0", "the file ends in its part at offset 0"),
        (b"", "the file ends before byte 1"),
    ):
        with pytest.raises(
            ValueError, match=rf"a\.rec: record at offset 0: .*{reason}"
        ):
            read_record(put(data), 0)


def test_padding_at_the_end_of_the_file_may_be_missing(put):
    assert read_record(put(part(0, b"abcde")[:-3]), 0)[0] == b"abcde"


def test_goes_on_after_damage_at_the_next_record(put, monkeypatch):
    good = [part(0, bytes([k]) * (k + 1)) for k in range(6)]
    # Inside the damage stand a magic number off the words, one that goes on a record
    # and one whose length leaves the file: none of them begins a record.
    noise = b"xx" + MAGIC + b"yy" + part(2, b"abcd") + MAGIC + b"\xff\xff\xff\x1f"
    data = b"".join([*good[:2], noise, *good[2:4], part(1, b"abcd"), *good[4:]])
    file = put(data)
    found = list(walk(file))
    payloads = [p for _, p in found if isinstance(p, bytes)]
    assert payloads == [bytes([k]) * (k + 1) for k in range(6)]
    at = len(good[0]) + len(good[1])
    later = at + len(noise) + len(good[2]) + len(good[3])
    reasons = [(o, p) for o, p in found if isinstance(p, str)]
    assert [o for o, _ in reasons] == [at, later]
    assert "not the magic number" in reasons[0][1]
    assert "before the last part" in reasons[1][1]
    # Wherever the windows of the search fall.
    for size in (8, 12, 20, 28):
        monkeypatch.setattr("ekd_tf.data.sources.recordio_frame._SCAN_BYTES", size)
        assert list(walk(file)) == found
