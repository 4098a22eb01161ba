import io
import json
import os
import tarfile

import numpy as np
import pytest
from refusals import refused

from ekd_tf.data import WebDatasetFaces
from ekd_tf.data.sources.tar import tar_members
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.data.unreadable import UnreadableError
from ekd_tf.files.positioned import PositionedFile

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def image(number):
    return b"image %d " % number * (number % 7 * 100 + 1)


def write(path, members, form=tarfile.USTAR_FORMAT, mode="w"):
    with tarfile.open(path, mode, format=form) as archive:
        for name, data in members:
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return path


def samples(numbers, label=lambda n: n // 2, folder=""):
    for n in numbers:
        yield f"{folder}{n:05d}.jpg", image(n)
        yield f"{folder}{n:05d}.cls", b"%d" % label(n)


def damaged(words, path):
    """Checks that shards cannot be opened for damage."""
    refused(words, WebDatasetFaces, path, error=UnreadableError)


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "faces-0000.tar", samples(range(4)))
    write(tmp_path / "faces-0001.tar", [])
    write(tmp_path / "faces-0002.tar", samples(range(4, 7)))
    return tmp_path


def test_reads_the_shards_of_a_folder_a_pattern_or_a_path(root):
    faces = WebDatasetFaces(root)
    np.testing.assert_array_equal(faces.labels, [0, 0, 1, 1, 2, 2, 3])
    assert faces.describe(5).startswith(f"{root}/faces-0002.tar: record at offset ")
    some = WebDatasetFaces(f"{root}/faces-{{0001..0002}}.tar")
    assert some.read([0]) == [image(4)] and len(some) == 3
    assert len(WebDatasetFaces(root / "faces-0000.tar")) == 4


def test_a_folder_without_a_shard_that_names_count_is_refused(tmp_path):
    for number in (0, 2):
        write(tmp_path / f"faces-{number:05d}-of-00003.tar", samples([number]))
    missing = r"faces-00001-of-00003\.tar is missing, by the names of the others"
    refused(missing, WebDatasetFaces, tmp_path)
    assert len(WebDatasetFaces(tmp_path / "faces-00000-of-00003.tar")) == 1
    write(tmp_path / "faces-00001-of-00003.tar", samples([1]))
    assert len(WebDatasetFaces(tmp_path)) == 3


def test_the_index_is_kept_until_a_shard_changes(root, monkeypatch):
    first = WebDatasetFaces(root)
    with monkeypatch.context() as patch:
        patch.setattr("ekd_tf.data.sources.webdataset._read_index", None)
        again = WebDatasetFaces(root)
    assert again.fingerprint == first.fingerprint
    assert again.read([6]) == [image(6)]
    assert again.identity_names() == ["0", "1", "2", "3"]
    write(root / "faces-0002.tar", samples(range(4, 9)))
    changed = WebDatasetFaces(root)
    assert len(changed) == 9 and changed.fingerprint != first.fingerprint


@pytest.mark.parametrize("form", FORMATS)
def test_takes_what_archivers_write(tmp_path, form):
    long = "a" * 60 + "/" + "b" * 80
    members = [
        ("README.md", b"not an image"),
        *samples([0], folder="./"),
        # The order within a sample is free, as are suffixes' cases.
        (f"{long}/x.y.cls", b"7\n"),
        (f"{long}/x.JPEG", image(1)),
        ("empty.txt", b""),
        (".hidden.jpg", b"x"),
        *samples([2], label=lambda n: 7),
        ("last.webp", image(3)),
        ("last.cls", b"1000000"),
    ]
    path = write(tmp_path / "a.tar", members, form)
    # Zeros between archives that were joined, and behind the last.
    path.write_bytes(path.read_bytes() + bytes(512 * 4096) + path.read_bytes())
    faces = WebDatasetFaces(path)
    np.testing.assert_array_equal(faces.labels, [0, 1, 1, 2] * 2)
    assert faces.identity_names() == ["0", "7", "1000000"]
    assert faces.read(range(4)) == [image(n) for n in (0, 1, 2, 3)]


def test_pax_headers_of_size_and_path_count(tmp_path):
    def member(name, kind, data, size=None):
        about = tarfile.TarInfo(name)
        about.size, about.type = len(data) if size is None else size, kind
        return about.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)

    records = b"19 path=long/0.jpg\n" + b"13 size=%d\n" % len(image(5))
    assert [len(line) + 1 for line in records.splitlines()] == [19, 13]
    (tmp_path / "a.tar").write_bytes(
        member("x", b"x", records)
        + member("short.jpg", b"0", image(5), size=0)
        + member("long/0.cls", b"0", b"3")
    )
    faces = WebDatasetFaces(tmp_path / "a.tar")
    assert faces.read([0]) == [image(5)] and faces.identity_names() == ["3"]


def test_labels_may_be_a_field_of_json(tmp_path):
    members = []
    for n, person in enumerate(["zoe", "ann", "zoe"]):
        members += [(f"{n}.png", image(n))]
        members += [(f"{n}.json", json.dumps({"who": person, "id": n}).encode())]
    write(tmp_path / "a.tar", members)
    faces = WebDatasetFaces(tmp_path, label="who")
    np.testing.assert_array_equal(faces.labels, [1, 0, 1])
    assert faces.identity_names() == ["ann", "zoe"]
    # An index of other labels is not taken for it.
    assert WebDatasetFaces(tmp_path, label="id").num_identities == 3
    refused("a.tar: .*: 0 has an image and no .cls", WebDatasetFaces, tmp_path)
    # The field "cls" is not the member of that name.
    of_both = [*samples([0]), ("00000.json", b'{"cls": 8}')]
    write(tmp_path / "a.tar", of_both)
    for label, identity in (("", "0"), ("cls", "8"), ("", "0")):
        assert WebDatasetFaces(tmp_path, label).identity_names() == [identity]


def test_a_bad_label_costs_its_sample_alone(tmp_path):
    members = [*samples(range(5)), ("00009.jpg", image(9))]
    members[3] = ("00001.cls", b"x")
    write(tmp_path / "a.tar", members)
    unreadable = Unreadable(2)
    faces = WebDatasetFaces(tmp_path, unreadable=unreadable)
    assert faces.read(range(4)) == [image(n) for n in (0, 2, 3, 4)]
    one, other = unreadable.lines
    assert "its label b'x' is not a decimal number" in one
    assert "00009 has an image and no .cls" in other and "--sort=name" in other
    # A key ends at the first dot: these would be one sample.
    dots = [(f"J.{n}.{kind}", b"1") for n in (1, 2) for kind in ("jpg", "cls")]
    (tmp_path / "dots").mkdir()
    write(tmp_path / "dots" / "a.tar", dots)
    damaged("J has two .cls members: names must have no dot", tmp_path / "dots")
    # One more than is allowed is said once.
    with pytest.raises(UnreadableError) as caught:
        WebDatasetFaces(tmp_path)
    assert caught.value.lines == (one,)
    # Opened again by one process it is met again, by another too.
    WebDatasetFaces(tmp_path, unreadable=unreadable)
    damaged("is not a decimal number", tmp_path)


def test_every_cut_is_said_and_keeps_what_is_whole(tmp_path):
    path = write(tmp_path / "a.tar", samples(range(3)))
    whole = path.read_bytes()
    ends = np.cumsum([512 * (3 + -(-len(image(n)) // 512)) for n in range(3)])
    for length in (0, 3, *range(600, int(ends[2]), 611)):
        path.write_bytes(whole[:length])
        # Of the block of a label one byte is needed.
        expected = int(np.sum(ends - 511 <= length))
        unreadable = Unreadable(9)
        if not expected:
            refused("a.tar", WebDatasetFaces, path, unreadable=unreadable)
        elif length not in ends:
            faces = WebDatasetFaces(path, unreadable=unreadable)
            assert faces.read(range(expected)) == [image(n) for n in range(expected)]
            assert len(unreadable.lines) == 1
            # At the next start, too.
            damaged("a.tar: ", path)


def test_links_and_impossible_sizes_are_damage(tmp_path):
    path = write(tmp_path / "a.tar", samples([0]))
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("00001.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "00000.jpg"
        archive.addfile(link)
    damaged("a link to another .*--hard-derefer", path)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        hole = tarfile.TarInfo("GNUSparseFile.0/00000.jpg")
        hole.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.name": "00000.jpg"}
        archive.addfile(hole)
    damaged("it is sparse: write the archive without -S", path)
    header = bytearray(tarfile.TarInfo("0.jpg").tobuf(tarfile.USTAR_FORMAT)[:512])
    header[124:136] = b"-0000001000\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + bytes(1024))
    damaged("its size is b'-0000001000", path)
    pax = tarfile.TarInfo("x")
    pax.type, pax.size = b"x", 8
    for record in (b"0 path=x", b"9 size=-5", b"no recor"):
        data = pax.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0")
        path.write_bytes(data + bytes(1024))
        damaged("its PAX records are damaged", path)


def test_damage_is_named_by_shard_and_offset(tmp_path):
    path = write(tmp_path / "a.tar", samples(range(3)))
    whole = path.read_bytes()
    at = whole.index(b"00001.jpg")
    path.write_bytes(whole[: at + 3] + b"\x01" + whole[at + 4 :])
    damaged(f"a.tar: record at offset {at}: .*its checksum is wrong", path)
    # It costs its sample alone.
    unreadable = Unreadable(1)
    faces = WebDatasetFaces(path, unreadable=unreadable)
    assert faces.read(range(2)) == [image(0), image(2)]
    assert faces.left_out == tuple(unreadable.lines)
    path.write_bytes(whole[: whole.index(b"image 2") + 3])
    damaged("00002.jpg has .* the file ends after 3", path)
    path.write_bytes(whole)
    faces = WebDatasetFaces(path)
    path.write_bytes(whole[:1000])
    refused("the file has changed since its index was", faces.read, [2])
    # While its headers are read.
    path.write_bytes(bytes(2048))
    file = PositionedFile(path)
    path.write_bytes(bytes(1024))
    (error,) = tar_members(file)
    assert "offset 1024: the file has changed" in str(error)


def test_says_what_to_do_with_what_it_cannot_read(tmp_path):
    for name in ("packed", "pipe"):
        (tmp_path / name).mkdir()
    packed = tmp_path / "packed"
    write(packed / "a-0000.tar.gz", samples([0]), mode="w:gz")
    write(packed / "a-0001.tar", samples([1]))
    os.mkfifo(tmp_path / "pipe" / "faces-0000.tar")
    refused("holds no .tar file", WebDatasetFaces, tmp_path)
    write(tmp_path / "a.tar", [("a.txt", b"x")])
    for name, words in (
        ("packed", f"is compressed.*: gunzip {packed}/\\*.gz$"),
        ("pipe", "faces-0000.tar: It is no regular file"),
        ("none.tar", "cannot read .*none.tar: No such file"),
        ("a.tar", "hold no image"),
    ):
        refused(words, WebDatasetFaces, tmp_path / name)
    (tmp_path / "b.tar").write_bytes(b"no archive at all" * 100)
    damaged("no header of a tar member", tmp_path / "b.tar")
