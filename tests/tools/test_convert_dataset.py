"""tools/convert_dataset.py: any source to TFRecord and RecordIO, and lists."""

import dataclasses
import errno
import fcntl
import json
import os
from unittest import mock

import convert_dataset as tool
import numpy as np
import pytest
import records
from pictures import flat
from pictures import with_orientation
from refusals import refused

from ekd_tf.data import read_pairs
from ekd_tf.data.image_pixels import read_image
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.run import factory


@pytest.fixture
def source(tmp_path):
    """A folder of three identities with 2, 3 and 1 images."""
    for name, count in (("ann", 2), ("bo", 3), ("cy", 1)):
        for k in range(count):
            image = flat(10 * ord(name[0]) % 256 + k, form="JPEG")
            records.put(tmp_path / "faces" / name / f"{k}.jpg", image)
    return factory.make_source(f"folder:{tmp_path}/faces")


def everything(source):
    return list(zip(source.labels.tolist(), source.read(range(len(source)))))


def test_images_keep_their_bytes_from_format_to_format(tmp_path, source, monkeypatch):
    told, previous = [], source
    monkeypatch.setattr(
        "ekd_tf.run.progress.begin_line",
        lambda *what: told.append(what[:3]) or told.append,
    )
    for k, to in enumerate(("recordio", "tfrecord", "webdataset", "recordio")):
        out = tmp_path / f"out{k}"
        assert tool.convert(previous, to, out, shard_size=4) == (6, 0)
        # What the line of progress is begun with, and what it is told is done.
        assert told[2 * k :] == [(str(out), 6, "images"), 6]
        previous = factory.make_source(f"{to}:{out}")
        assert everything(previous) == everything(source)
    first, last = (
        {p.name: p.read_bytes() for p in out.iterdir() if p.suffix != ".npz"}
        for out in (tmp_path / "out0", tmp_path / "out3")
    )
    # TFRecord and WebDataset hold numbers.
    assert json.loads(first.pop("train.names.json")) == ["ann", "bo", "cy"]
    assert first == last and first["property"] == b"3,8,8"
    assert not list(tmp_path.glob("*.partial"))


def test_recordio_keeps_the_names_of_the_people_that_are_left(tmp_path, source):
    (tmp_path / "drop").write_text(f"# source {source.fingerprint}\n0\n1\n3\n")
    tool.convert(source, "recordio", tmp_path / "some", drop=tmp_path / "drop")
    some = factory.make_source(f"recordio:{tmp_path}/some")
    assert some.identity_names() == ["bo", "cy"]
    tool.convert(some, "recordio", tmp_path / "again")
    again = factory.make_source(f"recordio:{tmp_path}/again")
    assert again.identity_names() == ["bo", "cy"]


def test_drawn_faces_become_png(tmp_path):
    drawn = factory.make_source("synthetic:identities=2,images=2,size=32")
    tool.convert(drawn, "tfrecord", tmp_path / "out")
    images = factory.make_source(f"tfrecord:{tmp_path}/out").read(range(4))
    pixels = [read_image(data) for data in images]
    np.testing.assert_array_equal(pixels, drawn.read(np.arange(4)))


def test_an_interrupted_conversion_is_gone_on_with(tmp_path, source, monkeypatch):
    monkeypatch.setattr(tool, "CHUNK", 2)
    reads, real, out = [], source.read, tmp_path / "out"

    def read(indices):
        reads.append(list(indices))
        if len(reads) == 4:
            raise KeyboardInterrupt
        return real(indices)

    monkeypatch.setattr(source, "read", read)
    refused(None, tool.convert, source, "tfrecord", out, 2, error=KeyboardInterrupt)
    assert not out.exists()
    # The first image for its size, then two at a time; four were written.
    assert reads == [[0], [0, 1], [2, 3], [4, 5]]
    assert tool.convert(source, "tfrecord", out, 2) == (6, 4)
    assert reads[4:] == [[0], [4, 5]]
    assert everything(factory.make_source(f"tfrecord:{out}")) == everything(source)


def test_a_conversion_stopped_at_its_begin_or_end_is_gone_on_with(
    tmp_path, source, monkeypatch
):
    out, replace = tmp_path / "out", os.replace
    (tmp_path / "out.partial").mkdir()
    # A plan that was not written whole.
    (tmp_path / "out.partial" / f"{tool.PLAN_FILE}.tmp").write_text("{")

    def stop(path, target):
        if target == out:
            raise KeyboardInterrupt
        replace(path, target)

    with monkeypatch.context() as stopped:
        stopped.setattr(os, "replace", stop)
        refused(None, tool.convert, source, "recordio", out, error=KeyboardInterrupt)
    tool.convert(source, "recordio", out)
    names = ["property", "train.idx", "train.names.json", "train.rec"]
    assert sorted(os.listdir(out)) == names
    assert everything(factory.make_source(f"recordio:{out}")) == everything(source)


def test_a_full_disk_is_named(tmp_path, source, monkeypatch):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    out, add = tmp_path / "out", mock.Mock(side_effect=error)
    with monkeypatch.context() as full:
        full.setattr("dataset_writers.RecordIOWriter.add", add)
        words = r"out\.partial cannot be written: No space .* the same command goes on"
        refused(words, tool.convert, source, "recordio", out)
    assert tool.convert(source, "recordio", out) == (6, 0)


def test_the_try_of_another_is_left_alone(tmp_path, source, monkeypatch):
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    partial.mkdir()
    (partial / "mine.txt").write_text("x")
    words = r"out\.partial holds the unfinished conversion of something else. Finish"
    refused(words, tool.convert, source, "recordio", out)
    plan = {"source": "another", "images": "", "to": "recordio", "shard_size": None}
    (partial / tool.PLAN_FILE).write_text(json.dumps(plan))
    refused(words, tool.convert, source, "recordio", out)
    other = tmp_path / "other.partial"
    flock = fcntl.flock

    def of_nfs(file, how):
        if not file.writable():
            raise OSError(errno.EBADF, "Bad file descriptor")
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    with tool.open_partial(other, plan):
        again = tool.open_partial(other, plan)
        refused(r"other\.partial is in use by another", again.__enter__)


def test_listed_images_are_left_out_and_identities_numbered_anew(
    tmp_path, source, capsys
):
    (tmp_path / "faces" / "ann" / "0.jpg").write_bytes(b"bad")
    source = factory.make_source(f"folder:{tmp_path}/faces")
    path = tmp_path / "drop.tsv"
    tool.verify(source, path, 2)
    text = capsys.readouterr().out
    assert "6 images of 3 identities, 3 of them listed in" in text
    assert "1 undecodable" in text and "3 few images" in text
    assert f"convert with --drop={path}" in text
    out = tmp_path / "out"
    tool.convert(source, "tfrecord", out, 1, drop=path)
    kept = everything(factory.make_source(f"tfrecord:{out}"))
    assert kept == [(0, data) for _, data in everything(source)[2:5]]
    lines = [f"# source {source.fingerprint}", *map(str, range(6))]
    path.write_text("\n".join(lines))
    arguments = source, "tfrecord", tmp_path / "none"
    refused(r"drop\.tsv leaves no image of", tool.convert, *arguments, drop=path)


def verified_without_damage(tmp_path, spec, images):
    """Verifies and converts `spec`; returns position -> damage and the images left."""
    drop, out = tmp_path / "drop.tsv", tmp_path / "mended"
    arguments = {"verify": True, "list": str(drop), "min_images": 1}
    tool.main(tool.ConvertSettings(data=spec, **arguments))
    source = factory.make_source(spec, unreadable=Unreadable(10**9))
    assert len(source) == images
    tool.convert(source, "tfrecord", out, 1, drop=drop)
    mended = factory.make_source(f"tfrecord:{out}")
    lines = drop.read_text().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    listed = {int(row[0]): row[2] for row in rows if row[1] == "undecodable"}
    return listed, mended.read(range(len(mended)))


def test_verify_lists_every_damaged_record(tmp_path, capsys):
    images = [flat(20 * k, form="JPEG") for k in range(9)]
    images[2] = with_orientation(np.zeros((8, 8, 3), np.uint8), 8, "JPEG")
    entries = records.insightface([(k // 3, d) for k, d in enumerate(images)], False)
    offsets = records.write(tmp_path / "rec", entries)
    path = tmp_path / "rec" / "train.rec"
    content = bytearray(path.read_bytes())
    content[offsets[1]] ^= 255
    content[offsets[4] + 32 : offsets[4] + 40] = b"no image"
    # A label of 0.5.
    content[offsets[6] + 12 : offsets[6] + 16] = b"\0\0\0\x3f"
    path.write_bytes(content[:-30])
    found, left = verified_without_damage(tmp_path, f"recordio:{path}", 6)
    # Of three records nothing says whose they are.
    assert found == {3: "not an image in a format that is read"}
    comments = (tmp_path / "drop.tsv").read_text().split("# left out\t")[1:]
    for line, words in zip(
        comments, ("is not the magic number", "its label is 0.5", "the file ends")
    ):
        assert words in line
    assert left == [images[k] for k in (0, 2, 3, 5, 7)]
    text = capsys.readouterr().out
    assert "1 undecodable" in text and "3 records cannot be read" in text
    assert "1 have an EXIF orientation and are read upright" in text


def test_verify_lists_every_damaged_record_of_a_cut_tfrecord_set(tmp_path, source):
    tool.convert(source, "tfrecord", tmp_path / "set", 3)
    first, second = sorted((tmp_path / "set").glob("*.tfrecord"))
    content = bytearray(first.read_bytes())
    content[0] ^= 255
    first.write_bytes(content)
    # Of three records the last is gone, and the end of the one before.
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 3 * 2 - 9])
    spec = f"tfrecord:{tmp_path / 'set'}"
    refused("it was cut or replaced. Copy the folder", factory.make_source, spec)
    damaged = factory.make_source(spec, unreadable=Unreadable(2))
    words = "list them by --verify and give the list as"
    refused(words, tool.convert, damaged, "tfrecord", tmp_path / "whole", 1)
    found, left = verified_without_damage(tmp_path, spec, 6)
    assert list(found) == [0, 4, 5]
    assert found[0] == "the checksum of its length is wrong"
    assert "the file ends after" in found[4] and "the file ends before" in found[5]
    assert left == source.read([1, 2, 3])


def test_the_command_converts_or_says_why_not(tmp_path, source, capsys):
    out = str(tmp_path / "out")
    faces = f"folder:{tmp_path}/faces"
    settings = tool.ConvertSettings(data=faces, to="recordio", output=out)
    tool.main(settings)
    assert f"Wrote 6 images to recordio:{out}" in capsys.readouterr().out
    drawn = "synthetic:identities=3,images=2,size=32"
    for changes, words in (
        ({}, f"{out} exists. Choose another"),
        ({"to": None}, "Give --verify, --overlap, --outliers, or --to"),
        ({"output": None}, "`--to=recordio` needs --output"),
        ({"to": "pairs"}, "`--pairs` and `--to=pairs` go together"),
        ({"to": None, "verify": True, "data": drawn}, "holds no image files"),
    ):
        refused(words, tool.main, dataclasses.replace(settings, **changes))


def test_pairs_of_a_list(tmp_path):
    for k in (1, 2):
        records.put(tmp_path / "Ann" / f"Ann_{k:04d}.png", flat(k))
    pairs, out = tmp_path / "pairs.txt", str(tmp_path / "ann.bin")
    pairs.write_text("Ann\t1\t2\n")
    settings = {"to": "pairs", "output": out, "pairs": str(pairs), "suffix": ".png"}
    settings = tool.ConvertSettings(data=f"folder:{tmp_path}", **settings)
    tool.main(settings)
    assert read_pairs(out).images.read([1]) == [flat(2)]
    (tmp_path / "Ann" / "Ann_0002.png").write_bytes(b"")
    refused("Ann_0002.png: neither JPEG nor PNG", tool.main, settings)
    words = "takes --data=folder:DIR. Received: tface:x"
    refused(words, tool.main, dataclasses.replace(settings, data="tface:x"))
