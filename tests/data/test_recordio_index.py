"""The index of a RecordIO file: which records are images, whose, and where."""

import numpy as np
import pytest
import records

from ekd_tf.data.sources import recordio_index
from ekd_tf.data.sources.recordio import RecordIOFaces
from ekd_tf.data.sources.recordio_index import build_index
from ekd_tf.data.sources.recordio_index import read_idx
from ekd_tf.data.sources.recordio_index import unpack
from ekd_tf.data.sources.recordio_index import unpack_plain
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.files.positioned import PositionedFile

FACES = [(0, b"jpeg of zero"), (0, b"another"), (2, b"two"), (3, b"three.")]


@pytest.fixture(params=[True, False], ids=["idx", "no idx"])
def with_idx(request):
    return request.param


def index(root, with_idx=True, allowed=0):
    idx = PositionedFile(root / "train.idx") if with_idx else None
    return build_index(PositionedFile(root / "train.rec"), idx, Unreadable(allowed))


def check(found, offsets, labels, damaged=0):
    np.testing.assert_array_equal(found[0], offsets)
    np.testing.assert_array_equal(found[1], labels)
    assert (found[0].dtype, found[1].dtype) == (np.int64, np.int32)
    assert found[2] == damaged


def test_unpacks_labels_of_both_kinds():
    assert unpack(records.record(7, b"face")[8:]) == (7, b"face")
    assert unpack(records.record(0, b"face", labels=(7, 1))[8:]) == (7, b"face")
    assert unpack(records.record(7, b"")[8:]) == (7, b"")
    assert unpack(records.record(0, b"", labels=(1, 9))[8:]) == (None, b"")
    for short in (b"", b"x" * 23, records.record(0, b"", labels=(1, 2))[8:-4]):
        with pytest.raises(ValueError, match=f"its {len(short)} bytes are fewer than"):
            unpack(short)


def test_plain_records_are_unpacked_at_once():
    plain = records.record(7, b"face", key=3)
    assert unpack_plain(plain, 7) == unpack_plain(plain + b"next", 7) == b"face"
    assert unpack_plain(records.record(7, b""), 7) == b""
    for block, label in [
        (plain, 8),
        (b"", 7),
        (plain[:15], 7),
        (plain[:-1], 7),
        (b"x" + plain[1:], 7),
        (records.record(7, b"face", labels=(7, 1)), 7),
        *((records.record(7, b"face", cflag=cflag), 7) for cflag in (1, 2, 3, 5)),
        # Shorter than its header.
        (plain[:4] + b"\x17\0\0\0" + plain[8:], 7),
    ]:
        assert unpack_plain(block, label) is None


def test_insightface_layout(tmp_path, with_idx, warnings_logged):
    offsets = records.write(tmp_path, records.insightface(FACES))
    check(index(tmp_path, with_idx), offsets[:4], [0, 0, 2, 3])
    assert warnings_logged == []


def test_shuffled_layout_without_header_and_keys_from_0(tmp_path, with_idx):
    # As im2rec writes: key 0 is an image.
    entries = [(k, records.record(label, b"x", k)) for k, label in enumerate([4, 1, 4])]
    offsets = records.write(tmp_path, entries)
    check(index(tmp_path, with_idx), offsets, [4, 1, 4])


def test_the_order_of_the_idx_counts(tmp_path):
    offsets = records.write(tmp_path, records.insightface(FACES))
    lines = (tmp_path / "train.idx").read_text().splitlines(keepends=True)
    (tmp_path / "train.idx").write_text("".join(reversed(lines)))
    check(index(tmp_path), offsets[3::-1], [3, 2, 0, 0])


def test_an_image_whose_bytes_hold_the_magic_number(tmp_path, with_idx):
    from dataset_writers import frame

    magic = b"\x0a\x23\xd7\xce"
    image = records.record(3, b"abcd" + magic + b"efgh")[8:]
    # A label whose bits are the magic number splits the header itself.
    header = records.record(0, b"face", labels=(3, 0))[8:]
    header = header[:8] + magic + header[12:]
    entries = [(1, frame(image)), (2, frame(header)), (3, records.record(5, b"z"))]
    offsets = records.write(tmp_path, entries)
    check(index(tmp_path, with_idx), offsets, [3, 3, 5])


def test_windows_do_not_matter(tmp_path, rng, monkeypatch):
    images = [(int(k), bytes(int(k) + 3)) for k in np.sort(rng.integers(0, 60, 300))]
    offsets = records.write(tmp_path, records.insightface(images))
    for window, text, rows in (
        (1 << 22, 1 << 20, 1 << 15),
        (64, 7, 100),
        (4, 30, 2),
        (1000, 100, 1),
    ):
        monkeypatch.setattr(recordio_index, "_ROWS", rows)
        monkeypatch.setattr(recordio_index, "_WINDOW", window)
        monkeypatch.setattr(recordio_index, "_TEXT", text)
        check(index(tmp_path), offsets[:300], [label for label, _ in images])


@pytest.mark.parametrize("label", [-1, 0.5, 2**24, 3e9, float("nan"), float("inf")])
def test_impossible_labels_are_refused(tmp_path, with_idx, label):
    first = records.record(0, b"x", 1)
    records.write(tmp_path, [(1, first), (2, records.record(label, b"y", 2))])
    words = rf"train\.rec: record at offset {len(first)}: its label is {label:.10g}\. "
    with pytest.raises(ValueError, match=words.replace("+", r"\+")) as error:
        index(tmp_path, with_idx)
    assert "Number the identities from 0" in str(error.value)
    found = index(tmp_path, with_idx, allowed=1)
    check(found, [0, len(first)], [0, 0], damaged=1)
    with pytest.raises(ValueError, match=words.replace("+", r"\+")[:-3]):
        RecordIOFaces(tmp_path, unreadable=Unreadable(1)).read([1])


def test_no_image_is_refused(tmp_path, with_idx):
    records.write(tmp_path, [(0, records.record(0, b"", labels=(1, 1)))])
    with pytest.raises(ValueError, match=r"train\.rec holds no image that can be read"):
        index(tmp_path, with_idx)


def test_an_empty_file_is_refused(tmp_path):
    records.write(tmp_path, [])
    with pytest.raises(ValueError, match=r"train\.rec holds no image"):
        index(tmp_path, with_idx=False)
    with pytest.raises(ValueError, match=r"train\.idx is empty.* or delete it"):
        index(tmp_path)


def spoil(root, at, data):
    content = bytearray((root / "train.rec").read_bytes())
    content[at : at + len(data)] = data
    (root / "train.rec").write_bytes(content)


def test_damage_stops_or_is_counted(tmp_path, with_idx, warnings_logged):
    offsets = records.write(tmp_path, records.insightface(FACES))
    spoil(tmp_path, offsets[2], b"spoiled!")
    words = rf"cannot decode .*train\.rec: record at offset {offsets[2]}: it begins"
    with pytest.raises(ValueError, match=words):
        index(tmp_path, with_idx)
    assert warnings_logged == []
    # It stays, with the label of the image before.
    found = index(tmp_path, with_idx, allowed=1)
    check(found, offsets[:4], [0, 0, 0, 3], damaged=1)
    (message,) = warnings_logged
    assert f"train.rec: record at offset {offsets[2]}: it begins with" in message


def test_a_damaged_first_record_has_the_label_of_the_next(tmp_path, with_idx):
    offsets = records.write(tmp_path, records.insightface(FACES[2:]))
    spoil(tmp_path, 0, b"spoiled!")
    found = index(tmp_path, with_idx, allowed=1)
    check(found, offsets[:2], [3, 3], damaged=1)


def test_a_record_shorter_than_its_header_is_damaged(tmp_path, with_idx):
    entries = records.insightface(FACES, header=False)
    offsets = records.write(tmp_path, entries)
    # 1,000 labels behind the header.
    spoil(tmp_path, offsets[1] + 8, b"\xe8\x03\0\0")
    with pytest.raises(ValueError, match=f"offset {offsets[1]}: its 31 bytes are few"):
        index(tmp_path, with_idx)
    check(index(tmp_path, with_idx, 1), offsets, [0, 0, 2, 3], damaged=1)


def test_an_idx_that_lists_more_than_the_file_holds(tmp_path):
    entries = records.insightface(FACES, header=False)
    offsets = records.write(tmp_path, entries)
    content = (tmp_path / "train.rec").read_bytes()
    (tmp_path / "train.rec").write_bytes(content[: offsets[2]])
    words = (
        rf"train\.idx lists 2 of 4 records beyond the end of .*train\.rec, which has "
        rf"{offsets[2]} bytes: the file was cut or .* Copy both again"
    )
    with pytest.raises(ValueError, match=words):
        index(tmp_path)
    check(index(tmp_path, allowed=2), offsets, [0] * 4, damaged=2)
    # Cut inside the last record.
    (tmp_path / "train.rec").write_bytes(content[:-5])
    with pytest.raises(ValueError, match="has 30 bytes and the file ends at byte"):
        index(tmp_path)


def test_records_the_idx_does_not_list_are_mentioned(tmp_path, warnings_logged):
    offsets = records.write(tmp_path, records.insightface(FACES, header=False))
    lines = (tmp_path / "train.idx").read_text().splitlines(keepends=True)
    (tmp_path / "train.idx").write_text("".join(lines[:2]))
    check(index(tmp_path), offsets[:2], [0, 0])
    (message,) = warnings_logged
    assert f"train.idx: its records end at byte {offsets[2]} of" in message


@pytest.mark.parametrize("ending", ["\n", "\r\n", ""])
def test_reads_an_idx_whatever_ends_its_lines(tmp_path, ending):
    path = tmp_path / "a.idx"
    path.write_bytes(f"7\t0{ending or chr(10)}0\t123456789012{ending}".encode())
    np.testing.assert_array_equal(read_idx(PositionedFile(path)), [0, 123456789012])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("1\t0\n2\n", "line 2 is not key<tab>offset but b'2'"),
        ("1 0\n", "line 1"),
        ("1\t0\n\n3\t9\n", "line 2"),
        ("1\t0\n2\t-4\n", "line 2"),
        ("1\t0\n2\t4\t4\n", "line 2"),
        ("1\t0\n2\t\n", "line 2"),
        ("1\t0\r2\t4\n", "line 1"),
        ("<html>", "line 1"),
    ],
)
def test_a_malformed_idx_is_refused_by_line(tmp_path, text, line, monkeypatch):
    path = tmp_path / "a.idx"
    path.write_bytes(text.encode())
    for size in (1 << 20, 3):
        monkeypatch.setattr(recordio_index, "_TEXT", size)
        with pytest.raises(ValueError, match=rf"a\.idx: {line}"):
            read_idx(PositionedFile(path))
