"""Every image looked at once: what is listed, and lists read back."""

import os

import numpy as np
from dataset_inspection import Finding
from dataset_inspection import inspect_images
from dataset_inspection import read_list
from dataset_inspection import write_list
from pictures import flat
from pictures import with_orientation
from records import put
from refusals import refused

from ekd_tf.data import FolderFaces


def tree(root, **identities):
    """Writes `a=[bytes or number, ...]` as a/0.jpg, ...: a number is a flat image."""
    for name, images in identities.items():
        for k, data in enumerate(images):
            data = data if isinstance(data, bytes) else flat(data, form="JPEG")
            put(root / name / f"{k}.jpg", data)
    return FolderFaces(root)


def found(source, min_images=2):
    return inspect_images(source, min_images, lambda count: None)[0]


def test_lists_all_copies_of_images_in_several_identities(tmp_path):
    source = tree(tmp_path, a=[1, 1, 2], b=[3, 1], c=[5, 5])
    first, last = tmp_path / "a" / "0.jpg", tmp_path / "b" / "1.jpg"
    assert found(source) == [
        (0, "duplicate", f"the same bytes as {last}"),
        (1, "duplicate", f"the same bytes as {last}"),
        (4, "duplicate", f"the same bytes as {first}"),
    ]


def test_lists_what_does_not_decode_and_identities_with_few_images_that_do(tmp_path):
    webp = flat(5, form="WEBP")
    source = tree(tmp_path, a=[1, 2, 3], b=[4, b"bad"], c=[webp, 6], d=[7])
    (tmp_path / "d" / "0.jpg").unlink()
    listed = found(source, min_images=2)
    gone = listed.pop(3)
    assert gone == (7, "undecodable", "No such file or directory")
    assert listed == [
        (3, "few images", "identity b has 1 of 2 images"),
        (4, "undecodable", "not an image in a format that is read"),
        (4, "few images", "identity b has 1 of 2 images"),
        (7, "few images", "identity d has 0 of 2 images"),
    ]
    few = [f.index for f in found(source, min_images=3) if f.reason == "few images"]
    assert few == [3, 4, 5, 6, 7]


def test_turned_images_are_counted_and_fine_and_odd_sizes_listed(tmp_path):
    upright = [flat(k, height=8, width=9, form="JPEG") for k in range(3)]
    # Stored 8 wide and 9 high, it is 9 wide.
    turned = with_orientation(np.zeros((8, 9, 3), np.uint8), 6, "JPEG")
    source = tree(tmp_path, a=upright[:2], b=[upright[2], turned, 9])
    assert inspect_images(source, 2, lambda count: None)[1] == 1
    assert found(source) == [(4, "odd size", "8x8, most are 9x8")]


def test_a_list_is_read_back_without_the_lines_taken_out(tmp_path):
    tree(tmp_path / "faces", a=[1, b"bad"], b=[2, 3])
    odd = os.fsencode(tmp_path) + b"/faces/b/Ren\xe9\n\xc2\x85 2.jpg"
    os.rename(tmp_path / "faces" / "b" / "1.jpg", odd)
    source, path = FolderFaces(tmp_path / "faces"), tmp_path / "list.tsv"
    findings = [Finding(k, "odd size", "9x9, most are 8x8") for k in (1, 3, 3, 2)]
    write_list(path, source, findings)
    # As some editors save it.
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_list(path, source) == [(f.index, f.detail) for f in findings]
    lines = path.read_bytes().split(b"\n")
    assert lines[2] == b"1\todd size\t9x9, most are 8x8\t%s/faces/a/1.jpg" % bytes(
        tmp_path
    )
    assert lines[3].endswith(b"/faces/b/Ren\xe9\\n\xc2\x85 2.jpg")
    for kept, expected in ((3, [1]), (2, [])):
        path.write_bytes(b"\n".join(lines[:kept]))
        assert [index for index, _ in read_list(path, source)] == expected


def test_lists_of_another_source_and_malformed_ones_are_refused(tmp_path):
    source, path = tree(tmp_path / "faces", a=[1, 2], b=[3, 4]), tmp_path / "list.tsv"
    head = f"# source {source.fingerprint}\n1\n"
    for text, words in (
        ("# source abc\n0\n", "was made of another data set than"),
        *((text, "lacks its first line") for text in ("", "0\n")),
        *((f"{head}{line}\n2\n", "line 3 begins with no") for line in ("x", "-1", "4")),
    ):
        path.write_text(text)
        refused(words, read_list, path, source)
    # As editors on Windows save it.
    path.write_text(f"\ufeff{head}\n2\n")
    assert [index for index, _ in read_list(path, source)] == [1, 2]
