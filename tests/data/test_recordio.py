"""insightface's RecordIO sets as a source of faces."""

import io
import os
import re
import tracemalloc

import numpy as np
import pytest
import records
from dataset_writers import frame
from PIL import Image

from ekd_tf.data import evaluation_batches
from ekd_tf.data.decoding import ImageReader
from ekd_tf.data.sources.recordio import RecordIOFaces
from ekd_tf.data.sources.recordio import build_index
from ekd_tf.data.sources.recordio import read_idx
from ekd_tf.data.sources.recordio import unpack
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.files.positioned import PositionedFile

FACES = [(4, b"jpeg of four"), (4, b"another"), (6, b"six"), (9, b"nine.")]


@pytest.fixture
def root(tmp_path):
    records.write(tmp_path, records.insightface(FACES))
    (tmp_path / "property").write_text("3,112,112")
    return tmp_path


def png(value):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(file, format="PNG")
    return file.getvalue()


def test_reads_images_by_position(root, warnings_logged):
    faces = RecordIOFaces(root)
    assert (len(faces), faces.num_identities, faces.encoded) == (4, 3, True)
    np.testing.assert_array_equal(faces.labels, [0, 0, 1, 2])
    assert faces.labels.dtype == np.int32
    np.testing.assert_array_equal(faces.identities, [4, 6, 9])
    assert faces.read(np.array([3, 0, 3])) == [b"nine.", b"jpeg of four", b"nine."]
    assert faces.read([]) == []
    assert faces.name == str(root / "train.rec")
    # Frame, header and image of the first: 8 + 24 + 12 bytes.
    assert faces.describe(1) == f"{root}/train.rec: record at offset 44"
    assert warnings_logged == []


def test_without_idx_the_same_images_are_found(root, warnings_logged):
    with_idx = RecordIOFaces(root)
    (root / "train.idx").unlink()
    without = RecordIOFaces(root)
    assert without.read(range(4)) == with_idx.read(range(4))
    np.testing.assert_array_equal(without.labels, with_idx.labels)
    assert without.fingerprint == with_idx.fingerprint
    assert warnings_logged == [
        f"{root}/train.rec has no .idx: searching it for records"
    ]


def test_takes_the_path_of_a_file_and_other_names(tmp_path):
    for name in ("train", "val", "odd name"):
        records.write(tmp_path, records.insightface(FACES), name=name)
    assert RecordIOFaces(tmp_path).name == str(tmp_path / "train.rec")
    assert RecordIOFaces(str(tmp_path / "odd name.rec")).read([2]) == [b"six"]
    (tmp_path / "train.rec").unlink()
    words = r"must hold one \.rec file or a train\.rec\. Found: odd name\.rec, val\.rec"
    with pytest.raises(ValueError, match=words):
        RecordIOFaces(tmp_path)
    (tmp_path / "val.rec").unlink()
    assert len(RecordIOFaces(tmp_path)) == 4


def test_a_file_cut_or_rewritten_while_in_use_is_said(root):
    faces = RecordIOFaces(root)
    os.truncate(root / "train.rec", 60)
    assert faces.read([0]) == [b"jpeg of four"]
    words = r"record at offset 44: the file has changed since its index was read: "
    with pytest.raises(ValueError, match=words):
        faces.read([1])
    with pytest.raises(ValueError, match="offset 120: the file has changed.*byte 121"):
        faces.read([3])
    other = [(label + 1, image) for label, image in FACES]
    records.write(root, records.insightface(other))
    with pytest.raises(ValueError, match="its label is 5 and was 4 when the index"):
        faces.read([0])


def test_fingerprint_follows_file_and_labels_and_not_the_place(tmp_path):
    def fingerprint(name, images, seconds=5):
        records.write(tmp_path / name, records.insightface(images))
        os.utime(tmp_path / name / "train.rec", (seconds, seconds))
        return RecordIOFaces(tmp_path / name).fingerprint

    first = fingerprint("a", FACES)
    assert first == fingerprint("b", FACES)
    longer = fingerprint("c", [*FACES[:3], (9, b"nine and more")])
    relabelled = fingerprint("d", [*FACES[:3], (6, b"nine.")])
    replaced = fingerprint("e", [*FACES[:3], (9, b"NINE.")], seconds=6)
    assert len({first, longer, relabelled, replaced}) == 4


def test_records_of_all_kinds_in_one_batch(tmp_path, rng):
    magic = b"\x0a\x23\xd7\xce"
    # Of one part, of two labels, longer than what is read at once, and in parts.
    images = [b"plain", b"labels", rng.bytes(20_000), b"abcd" + magic + b"efgh"]
    entries = [
        (1, records.record(3, images[0])),
        (2, records.record(9, images[1], labels=(4, 1))),
        (3, records.record(4, images[2])),
        (4, frame(records.record(5, images[3])[8:])),
    ]
    records.write(tmp_path, entries)
    faces = RecordIOFaces(tmp_path)
    assert faces.read([3, 0, 2, 1, 0]) == [images[k] for k in (3, 0, 2, 1, 0)]


def test_a_damaged_record_is_replaced_and_counted_like_a_bad_image(
    tmp_path, warnings_logged
):
    images = [(k // 3, png(k)) for k in range(6)]
    offsets = records.write(tmp_path, records.insightface(images))
    content = bytearray((tmp_path / "train.rec").read_bytes())
    content[offsets[4] : offsets[4] + 4] = b"\0\0\0\0"
    content[offsets[0] + 32 : offsets[0] + 36] = b"\0\0\0\0"
    (tmp_path / "train.rec").write_bytes(content)
    faces = RecordIOFaces(tmp_path, unreadable=Unreadable(2))
    np.testing.assert_array_equal(faces.labels, [0, 0, 0, 1, 1, 1])
    reader = ImageReader(faces, {"image": 8}, unreadable=Unreadable(2))
    indices = reader.replace_unreadable(np.arange(6))
    np.testing.assert_array_equal(indices, [1, 1, 2, 3, 5, 5])
    assert reader.unreadable.lines == [
        f"{tmp_path}/train.rec: record at offset 0: not an image in a format that is "
        "read",
        f"{tmp_path}/train.rec: record at offset {offsets[4]}: it begins with "
        "0x00000000, not the magic number 0xced7230a",
    ]
    # The damage is said at every start.
    warnings_logged.clear()
    RecordIOFaces(tmp_path, unreadable=Unreadable(2))
    assert len(warnings_logged) == 1
    with pytest.raises(
        ValueError, match="cannot decode 2 images|cannot decode .*offset"
    ):
        RecordIOFaces(tmp_path)
    with pytest.raises(ValueError, match="offset 0: not an image"):
        list(evaluation_batches(faces, [0, 1], 8, 2))


@pytest.mark.realdata
def test_real_faces(realdata, tmp_path):
    faces = RecordIOFaces(realdata / "celeba900", cache_dir=tmp_path)
    assert (len(faces), faces.num_identities) == (21571, 900)
    for data in faces.read([0, 9999, 21570]):
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (112, 112)
    again = RecordIOFaces(realdata / "celeba900", cache_dir=tmp_path)
    assert again.fingerprint == faces.fingerprint


def generated(root, count):
    """Writes `count` faces of 12 bytes, 62 per identity, without a Python loop."""
    words = np.zeros((count, 11), "<u4")
    words[:, 0] = 0xCED7230A
    words[:, 1] = 36
    words[:, 3] = (np.arange(count) // 62).astype("<f4").view("<u4")
    words.tofile(root / "train.rec")
    lines = (f"{key + 1}\t{44 * key}\n" for key in range(count))
    (root / "train.idx").write_text("".join(lines))


def test_memory_is_that_of_the_index_arrays(tmp_path):
    count = 58_000
    generated(tmp_path, count)
    tracemalloc.start()
    try:
        for _ in range(2):
            # The first opening's arrays are gone before the second's.
            faces = None
            tracemalloc.reset_peak()
            faces = RecordIOFaces(tmp_path)
            kept, peak = tracemalloc.get_traced_memory()
            # An offset of 8 bytes and a label of 4 each, and as much while looking.
            assert kept < 13 * count + 1e6
            assert peak < 30 * count + 2e6
    finally:
        tracemalloc.stop()
    assert (len(faces), faces.labels[-1]) == (count, (count - 1) // 62)
    assert len(faces.read([count - 1])[0]) == 12


def test_what_the_system_does_not_give_is_refused_with_a_way_out(root, monkeypatch):
    def fail(number, text):
        def raise_it(*_, **__):
            raise OSError(number, text)

        return raise_it

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", fail(13, "Permission denied"))
        with pytest.raises(ValueError, match=f"cannot read {root}: Permission denied"):
            RecordIOFaces(root)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail(5, "Input/output error"))
        words = r"cannot read .*train\.rec: Input/output error. Check .* and the disk"
        with pytest.raises(ValueError, match=words):
            RecordIOFaces(root)


# --- The index -----------------------------------------------------------------

LISTED = [(0, b"jpeg of zero"), (0, b"another"), (2, b"two"), (3, b"three.")]


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


def spoil(root, at, data):
    content = bytearray((root / "train.rec").read_bytes())
    content[at : at + len(data)] = data
    (root / "train.rec").write_bytes(content)


def test_an_idx_that_lists_more_than_the_file_holds(tmp_path):
    entries = records.insightface(LISTED, header=False)
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


def test_layouts_of_insightface_and_of_im2rec(tmp_path, with_idx, warnings_logged):
    offsets = records.write(tmp_path / "a", records.insightface(LISTED))
    check(index(tmp_path / "a", with_idx), offsets[:4], [0, 0, 2, 3])
    # Key 0 is an image.
    entries = [(k, records.record(label, b"x", k)) for k, label in enumerate([4, 1, 4])]
    offsets = records.write(tmp_path / "b", entries)
    check(index(tmp_path / "b", with_idx), offsets, [4, 1, 4])
    # A label whose bits are the magic number splits the header itself.
    header = records.record(0, b"face", labels=(3, 0))[8:]
    header = header[:8] + b"\x0a\x23\xd7\xce" + header[12:]
    entries = [(1, frame(header)), (2, records.record(5, b"z"))]
    offsets = records.write(tmp_path / "c", entries)
    check(index(tmp_path / "c", with_idx), offsets, [3, 5])
    assert warnings_logged == []


def test_the_order_of_the_idx_counts_whatever_ends_its_lines(tmp_path):
    offsets = records.write(tmp_path, records.insightface(LISTED))
    lines = (tmp_path / "train.idx").read_text().splitlines()
    for end in ("\n", "\r\n"):
        (tmp_path / "train.idx").write_bytes(end.join(reversed(lines)).encode())
        check(index(tmp_path), offsets[3::-1], [3, 2, 0, 0])


def test_damage_stops_or_is_counted(tmp_path, with_idx, warnings_logged):
    entries = records.insightface(LISTED, header=False)
    offsets = records.write(tmp_path, entries)
    spoil(tmp_path, offsets[2], b"spoiled!")
    words = rf"cannot decode .*train\.rec: record at offset {offsets[2]}: it begins"
    with pytest.raises(ValueError, match=words):
        index(tmp_path, with_idx)
    assert warnings_logged == []
    # It stays, with the label of the image before.
    check(index(tmp_path, with_idx, 1), offsets, [0, 0, 0, 3], damaged=1)
    (message,) = warnings_logged
    assert f"train.rec: record at offset {offsets[2]}: it begins with" in message
    # 1,000 labels behind the header, and a first one: that of the next image.
    records.write(tmp_path, entries)
    spoil(tmp_path, offsets[1] + 8, b"\xe8\x03\0\0")
    with pytest.raises(ValueError, match=f"offset {offsets[1]}: its 31 bytes are few"):
        index(tmp_path, with_idx)
    spoil(tmp_path, 0, b"spoiled!")
    check(index(tmp_path, with_idx, 2), offsets, [2, 2, 2, 3], damaged=2)


def test_files_without_images_are_refused(tmp_path, with_idx):
    for entries in ([], [(0, records.record(0, b"", labels=(1, 1)))]):
        records.write(tmp_path, entries)
        words = r"train\.rec holds no image that can be read"
        if with_idx and not entries:
            words = r"train\.idx is empty.* or delete it"
        with pytest.raises(ValueError, match=words):
            index(tmp_path, with_idx)
    (tmp_path / "train.rec").unlink()
    with pytest.raises(ValueError, match=r"Found: none\. Give the path of the \.rec"):
        RecordIOFaces(tmp_path)
    with pytest.raises(ValueError, match="cannot read .*gone: No such file"):
        RecordIOFaces(tmp_path / "gone")


def test_a_malformed_idx_is_refused_by_line(tmp_path):
    path = tmp_path / "a.idx"
    for text, line in (
        ("1\t0\n2\n", "line 2 is not key<tab>offset but b'2'"),
        ("1 0\n", "line 1"),
        ("1\t0\n\n3\t9\n", "line 2"),
        ("1\t0\n2\t-4\n", "line 2"),
        ("1\t0\n2\t4\t4\n", "line 2"),
        ("1\t0\n2\t\n", "line 2"),
        ("1\t0\r2\t4\n", "line 1"),
        ("<html>", "line 1"),
        (f"1\t{2**64}", "line 1"),
    ):
        path.write_bytes(text.encode())
        with pytest.raises(ValueError, match=rf"a\.idx: {line}"):
            read_idx(PositionedFile(path))


def test_impossible_labels_are_refused(tmp_path, with_idx):
    first = records.record(0, b"x", 1)
    for label in (-1, 0.5, 2**24, 3e9, float("nan"), float("inf")):
        records.write(tmp_path, [(1, first), (2, records.record(label, b"y", 2))])
        words = f"offset {len(first)}: its label is {label:.10g}. Labels must be"
        with pytest.raises(ValueError, match=re.escape(words)):
            index(tmp_path, with_idx)
        check(index(tmp_path, with_idx, 1), [0, len(first)], [0, 0], damaged=1)
    with pytest.raises(ValueError, match="its label is inf.*Number the identities"):
        RecordIOFaces(tmp_path, unreadable=Unreadable(1)).read([1])


def test_files_that_belong_to_another_set_are_mentioned(root, warnings_logged):
    (root / "property").write_text("85742,112,112")
    lines = (root / "train.idx").read_text().splitlines(keepends=True)
    (root / "train.idx").write_text("".join(lines[:2]))
    RecordIOFaces(root)
    beyond, classes = warnings_logged
    assert "train.idx: its records end at byte 84 of" in beyond
    assert "property tells 85742 identities, the images of" in classes
    # The second start reads no record again.
    warnings_logged.clear()
    assert RecordIOFaces(root).read([1]) == [b"another"]
    assert warnings_logged == [classes]
