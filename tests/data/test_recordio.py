"""insightface's RecordIO sets: frames, the index of a file, and a source of faces."""

import json
import os
import re

import numpy as np
import pytest
import records
from dataset_writers import frame
from records import part
from refusals import refused

from ekd_tf.data import JoinedSources
from ekd_tf.data import RecordIOFaces
from ekd_tf.data import Subset
from ekd_tf.data.image_pixels import read_image
from ekd_tf.data.sources.recordio import read_record
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.files.positioned import PositionedFile

MAGIC = b"\x0a\x23\xd7\xce"
FACES = [(4, b"jpeg of four"), (4, b"another"), (6, b"six"), (9, b"nine.")]


# --- Frames --------------------------------------------------------------------


def written(root, data):
    """Writes bytes to a file and opens it."""
    records.put(root / "a.rec", data)
    return PositionedFile(root / "a.rec")


def test_exact_bytes(tmp_path):
    for payload, parts in (
        (b"", [(0, b"")]),
        (b"abcde", [(0, b"abcde")]),
        (MAGIC, [(1, b""), (3, b"")]),
        (b"abcd" + MAGIC + b"efg", [(1, b"abcd"), (3, b"efg")]),
        # Not where a reader looks.
        (b"abc" + MAGIC + b"e", [(0, b"abc" + MAGIC + b"e")]),
        (MAGIC + MAGIC + b"x", [(1, b""), (2, b""), (3, b"x")]),
        (b"abcd" + MAGIC + b"ef" + MAGIC, [(1, b"abcd"), (3, b"ef" + MAGIC)]),
    ):
        framed = b"".join(part(*p) for p in parts)
        assert frame(payload) == framed
        assert read_record(written(tmp_path, framed), 0) == (payload, len(framed))
    # Padding at the end of the file may be missing.
    file = written(tmp_path, part(0, b"abcde")[:-3])
    assert read_record(file, 0)[0] == b"abcde"


def test_damage_is_named_with_file_and_offset(tmp_path):
    for data, reason in (
        (b"\0" * 8, "0x00000000 at byte 0 is not the magic number 0xced7230a"),
        (part(4, b"abcd"), "cflag 4 at byte 0, at its begin"),
        (part(2, b""), "cflag 2 at byte 0"),
        (part(1, b"") + part(0, b""), "cflag 0 at byte 8, within it"),
        (part(1, b"abcd") + b"1234" * 3, "0x34333231 at byte 12 is not the magic"),
        (part(1, b"abcd"), "the file ends at byte 12"),
        (part(0, b"abcdefgh")[:-1], "it has 8 bytes and the file ends at byte 15"),
        (MAGIC + b"\0\0", "the file ends at byte 6"),
        (part(0, b"abcd" + MAGIC + b"efgh"), "its 12 bytes hold a record that begins"),
    ):
        words = rf"a\.rec: record at offset 0: .*{reason}"
        refused(words, read_record, written(tmp_path, data), 0)


# --- The index of a file -------------------------------------------------------


@pytest.fixture(params=[True, False], ids=["idx", "no idx"])
def with_idx(request):
    return request.param


def opened(root, with_idx=True, allowed=0):
    """Opens a set as if for the first time; returns it and what cannot be read."""
    if not with_idx:
        (root / "train.idx").unlink(missing_ok=True)
    unreadable = Unreadable(allowed)
    faces = RecordIOFaces(root, unreadable=unreadable)
    for path in root.glob("*.npz"):
        path.unlink()
    return faces, unreadable.lines


def check(faces, offsets, labels):
    places = [f"{faces.name}: record at offset {offset}" for offset in offsets]
    assert [faces.describe(k) for k in range(len(faces))] == places
    assert faces.identities[faces.labels].tolist() == list(labels)


def spoil(root, at, data):
    content = bytearray((root / "train.rec").read_bytes())
    content[at : at + len(data)] = data
    (root / "train.rec").write_bytes(content)


def test_layouts_of_insightface_and_of_im2rec(tmp_path, with_idx):
    # Key 0 is an image.
    im2rec = [(k, records.record(n, b"x" * k, k)) for k, n in enumerate([4, 1, 4])]
    # A label whose bits are the magic number splits the header itself.
    header = records.record(0, b"face", labels=(3, 0))[8:]
    split = frame(header[:8] + MAGIC + header[12:])
    for name, entries, labels in (
        ("a", records.insightface(FACES), [4, 4, 6, 9]),
        ("b", im2rec, [4, 1, 4]),
        ("c", [(1, split), (2, records.record(5, b""))], [3, 5]),
    ):
        offsets = records.write(tmp_path / name, entries)[: len(labels)]
        check(opened(tmp_path / name, with_idx)[0], offsets, labels)


def test_the_order_of_the_idx_counts_whatever_ends_its_lines(tmp_path):
    offsets = records.write(tmp_path, records.insightface(FACES))
    lines = (tmp_path / "train.idx").read_text().splitlines()
    for end in ("\n", "\r\n"):
        (tmp_path / "train.idx").write_bytes(end.join(reversed(lines)).encode())
        check(opened(tmp_path)[0], offsets[3::-1], [9, 6, 4, 4])


def test_damage_stops_or_is_counted(tmp_path, with_idx):
    entries = records.insightface(FACES, header=False)
    offsets = records.write(tmp_path, entries)
    spoil(tmp_path, offsets[2], b"spoiled!")
    words = rf"cannot decode .*train\.rec: record at offset {offsets[2]}: 0x696f7073 at"
    refused(words, opened, tmp_path, with_idx)
    # It is left out: whose image it was is not known.
    faces, lines = opened(tmp_path, with_idx, 1)
    check(faces, [*offsets[:2], offsets[3]], [4, 4, 9])
    assert len(lines) == 1 and faces.left_out == tuple(lines)
    assert JoinedSources([faces, Subset(faces, [0])]).left_out == tuple(lines) * 2
    # A length that reaches into the records behind costs its own record alone.
    records.write(tmp_path, entries)
    spoil(tmp_path, offsets[0] + 4, b"\x60")
    faces, lines = opened(tmp_path, with_idx, 1)
    check(faces, offsets[1:], [4, 6, 9])
    assert "hold a record that begins" in lines[0]
    # 1,000 labels behind the header, and a first one: that of the next image.
    records.write(tmp_path, entries)
    spoil(tmp_path, offsets[1] + 8, b"\xe8\x03\0\0")
    refused(f"offset {offsets[1]}: its 31 bytes are few", opened, tmp_path, with_idx)
    spoil(tmp_path, 0, b"spoiled!")
    # Damage is said at every start, from the index that is kept too.
    for _ in range(2):
        unreadable = Unreadable(2)
        faces = RecordIOFaces(tmp_path, unreadable=unreadable)
        check(faces, offsets[2:], [6, 9])
        assert len(unreadable.lines) == 2


def test_without_idx_the_next_record_is_searched(tmp_path, monkeypatch):
    good = [records.record(k, bytes([k]) * (k + 1)) for k in range(6)]
    # Inside the damage stand a magic number off the words, one that goes on a record
    # and one whose length leaves the file: none of them begins a record.
    noise = b"xx" + MAGIC + b"yy" + part(2, b"abcd") + MAGIC + b"\xff\xff\xff\x1f"
    content = [*good[:2], noise, *good[2:4], part(1, b"abcd"), *good[4:]]
    (tmp_path / "train.rec").write_bytes(b"".join(content))
    offsets = np.cumsum([0, *map(len, content)])[:-1]
    # Wherever the windows of the search fall.
    for size in (8, 12, 20, 28, 1 << 22):
        monkeypatch.setattr("ekd_tf.data.sources.recordio._SCAN_BYTES", size)
        faces, lines = opened(tmp_path, False, 2)
        check(faces, np.delete(offsets, [2, 5]), range(6))
        assert "not the magic number" in lines[0] and "within it" in lines[1]


def test_an_idx_and_a_file_that_do_not_belong_together(tmp_path, caplog):
    offsets = records.write(tmp_path, records.insightface(FACES, header=False))
    path, idx = tmp_path / "train.rec", tmp_path / "train.idx"
    whole = idx.read_text()
    idx.write_text("".join(whole.splitlines(keepends=True)[:2]))
    check(opened(tmp_path)[0], offsets[:2], [4, 4])
    (record,) = caplog.records
    words = f"train.idx: its records end at byte {offsets[2]} of"
    assert words in record.getMessage()
    idx.write_text(whole)
    path.write_bytes(path.read_bytes()[: offsets[2]])
    words = (
        rf"train\.idx lists 2 of 4 records beyond the end of .*train\.rec, which has "
        rf"{offsets[2]} bytes: the file was cut or .* Copy both again"
    )
    refused(words, opened, tmp_path)
    check(opened(tmp_path, allowed=2)[0], offsets[:2], [4, 4])


def test_files_without_images_are_refused(tmp_path, with_idx):
    for entries in ([], [(0, records.record(0, b"", labels=(1, 1)))]):
        records.write(tmp_path, entries)
        words = r"train\.rec holds no image that can be read"
        if with_idx and not entries:
            words = r"train\.idx is empty.* or delete it"
        refused(words, opened, tmp_path, with_idx)
    refused("cannot read .*gone: No such file", RecordIOFaces, tmp_path / "gone")


def test_a_malformed_idx_is_refused_by_line(tmp_path):
    records.write(tmp_path, records.insightface(FACES))
    for text, line in (
        ("1\t0\n2\n", "line 2 is not key<tab>offset but b'2'"),
        ("1\t0\n\n3\t9\n", "line 2"),
        ("1\t0\n2\t-4\n", "line 2"),
        (f"1\t{2**64}", "line 1"),
    ):
        (tmp_path / "train.idx").write_bytes(text.encode())
        refused(rf"train\.idx: {line}", opened, tmp_path)


def test_impossible_labels_are_refused(tmp_path, with_idx):
    first = records.record(0, b"x", 1)
    for label in (-1, 0.5, 2**24, float("nan"), float("inf")):
        records.write(tmp_path, [(1, first), (2, records.record(label, b"y", 2))])
        words = f"offset {len(first)}: its label is {label:.10g}. Labels must be"
        refused(re.escape(words), opened, tmp_path, with_idx)


# --- A source of faces ---------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    records.write(tmp_path, records.insightface(FACES))
    return tmp_path


def test_without_idx_it_is_the_same_set(root, warnings_logged):
    faces = RecordIOFaces(root)
    assert faces.identity_names() == ["4", "6", "9"]
    # Frame, header and image of the first: 8 + 24 + 12 bytes.
    assert faces.describe(1) == f"{root}/train.rec: record at offset 44"
    (root / "train.idx").unlink()
    without = RecordIOFaces(root)
    assert without.read(range(4)) == [image for _, image in FACES]
    assert without.fingerprint == faces.fingerprint
    assert warnings_logged == [f"{faces.name} has no .idx: searching it for records"]


def test_names_beside_the_file_are_those_of_its_identities(tmp_path):
    images = [(label, bytes([label])) for label in (0, 0, 1, 2)]
    offsets = records.write(tmp_path, records.insightface(images, header=False))
    path, plain = tmp_path / "train.names.json", RecordIOFaces(tmp_path)
    people = ["ann", "bo\n", "\udce9"]
    path.write_text(json.dumps(people))
    faces = RecordIOFaces(tmp_path)
    assert faces.identity_names() == people
    assert Subset(faces, [2, 1]).identity_names() == people[:0:-1]
    assert faces.read(range(4)) == plain.read(range(4))
    assert faces.fingerprint == plain.fingerprint
    for text, words in (
        ("", "cannot be read: Expecting value.*delete it: people are numbers"),
        ("[" * 100_000, "cannot be read: "),
        ('{"ann": 0}', "must be a JSON list of distinct names"),
        ('["ann", "ann", "bo"]', "must be a JSON list of distinct names"),
        ('["ann", 1, "bo"]', "must be a JSON list of distinct names"),
        ('["ann", "bo"]', "has 2 names, and .*train.rec images of 3 identities"),
        ('["ann", "bo", "cy", "di"]', "has 4 names, and .*images of 3 identities"),
    ):
        path.write_text(text)
        refused(f"train.names.json {words}", RecordIOFaces, tmp_path)
    # The only image of one is damaged.
    path.write_text(json.dumps(people))
    spoil(tmp_path, offsets[2], b"spoiled!")
    assert opened(tmp_path, allowed=1)[0].identity_names() == ["ann", "\udce9"]


def test_takes_the_path_of_a_file_and_other_names(tmp_path):
    for name in ("train", "val", "odd name"):
        records.write(tmp_path, records.insightface(FACES), name=name)
    assert RecordIOFaces(tmp_path).name == str(tmp_path / "train.rec")
    assert RecordIOFaces(str(tmp_path / "odd name.rec")).read([2]) == [b"six"]
    (tmp_path / "train.rec").unlink()
    words = r"must hold one \.rec file or a train\.rec\. Found: odd name\.rec, val\.rec"
    refused(words, RecordIOFaces, tmp_path)
    (tmp_path / "val.rec").unlink()
    assert len(RecordIOFaces(tmp_path)) == 4


def test_a_file_cut_or_rewritten_while_in_use_is_said(root):
    faces = RecordIOFaces(root)
    os.truncate(root / "train.rec", 60)
    assert faces.read([0]) == [b"jpeg of four"]
    words = r"record at offset 44: the file has changed since its index was read: "
    refused(words, faces.read, [1])
    other = [(label + 1, image) for label, image in FACES]
    records.write(root, records.insightface(other))
    refused("its label is 5 and was 4 when the index", faces.read, [0])


@pytest.mark.realdata
def test_real_faces(realdata, tmp_path):
    faces = RecordIOFaces(realdata / "celeba900", cache_dir=tmp_path)
    assert (len(faces), faces.num_identities) == (21571, 900)
    for data in faces.read([0, 9999, 21570]):
        assert read_image(data).shape == (112, 112, 3)


def test_what_the_system_does_not_give_is_refused_with_a_way_out(root, monkeypatch):
    def fail(*_):
        raise OSError(5, "No luck")

    for name, words in (
        ("pread", r"cannot read .*train\.rec: No luck. Check .* and the disk"),
        ("listdir", f"cannot read {root}: No luck"),
    ):
        monkeypatch.setattr(os, name, fail)
        refused(words, RecordIOFaces, root)
