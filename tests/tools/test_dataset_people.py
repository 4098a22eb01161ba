"""People listed twice and images of others, found by a teacher's cache."""

import zlib

import convert_dataset
import dataset_people as convert_dataset_people
import numpy as np
import pytest
from PIL import Image
from refusals import refused

from ekd_tf.data import FolderFaces
from ekd_tf.data import JoinedSources
from ekd_tf.embedders import CacheWriter
from ekd_tf.embedders import describe_cache
from ekd_tf.run import factory

DIM = 24


class Teacher:
    fingerprint, input_size = "of the teacher", 16


def write_faces(root, people):
    for name, images in people.items():
        (root / name).mkdir(parents=True)
        for k in range(images):
            seed = zlib.crc32(f"{name} {k}".encode())
            pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{k}.png")
    return FolderFaces(root)


@pytest.fixture
def joined(tmp_path, request):
    """Sets A and B: two of B's identities are A's, or one image is another's."""
    of_a = {f"a{k:02d}": 6 for k in range(24)}
    a = write_faces(tmp_path / "A", of_a)
    b = write_faces(tmp_path / "B", {"b0": 4, "b1": 8, "b2": 5})
    source, rng = JoinedSources([a, b]), np.random.default_rng(0)
    centres = rng.normal(size=(27, DIM))
    twice = "people" in request.node.name
    if twice:
        centres[24], centres[25] = centres[3], centres[7]
    rows = centres[source.labels] + 0.3 * rng.normal(size=(len(source), DIM))
    if not twice:
        # Image 2 of a00 shows a05.
        rows[2] = centres[5]
    rows = np.stack([rows, rows], axis=1).astype(np.float32)
    spec = f"folder:{tmp_path}/A+folder:{tmp_path}/B"
    note = describe_cache(Teacher(), source, "t.onnx", spec, "float32")
    CacheWriter(tmp_path / "cache", note).write(lambda first: [rows[first:]])
    return spec, source, f"cache:{tmp_path / 'cache'}"


def run(**settings):
    convert_dataset.main(convert_dataset.ConvertSettings(**settings))


def test_lists_people_of_both_sets_and_drops_or_merges_them(joined, tmp_path, capsys):
    spec, source, teacher = joined
    found = tmp_path / "pairs.tsv"
    run(data=spec, overlap=True, teacher=teacher, list=str(found))
    assert "2 of 27 identities may be another one" in capsys.readouterr().out
    lines = [line.split("\t") for line in found.read_text().splitlines()[2:]]
    # The smaller one of each pair: 4 images of b0, 6 of a07 for 8 of b1.
    details = {line[2].rpartition(",")[0] for line in lines}
    assert details == {"identity 24 is identity 3", "identity 7 is identity 25"}
    assert len(lines) == 4 + 6
    convert_dataset.convert(source, "recordio", tmp_path / "less", drop=found)
    less = factory.make_source(f"recordio:{tmp_path}/less")
    assert (len(less), less.num_identities) == (len(source) - 10, 25)
    convert_dataset.convert(source, "recordio", tmp_path / "one", merge=found)
    one = factory.make_source(f"recordio:{tmp_path}/one")
    assert (len(one), one.num_identities) == (len(source), 25)
    assert sorted(np.bincount(one.labels)) == [5] + [6] * 22 + [10, 14]


def test_lists_images_of_strangers_and_draws_them(joined, tmp_path, capsys):
    spec, _, teacher = joined
    found = tmp_path / "outliers.tsv"
    run(data=spec, outliers=True, teacher=teacher, list=str(found))
    assert "1 of 161 images have a cosine below" in capsys.readouterr().out
    (line,) = found.read_text().splitlines()[2:]
    assert line.startswith("2\toutlier\tcosine ") and "with identity 0\t" in line
    with Image.open(tmp_path / "outliers.png") as sheet:
        assert sheet.size == (6 * 112 + 8, 112)
    with pytest.raises(ValueError, match="a line that is no overlap: 'cosine"):
        convert_dataset.convert(
            factory.make_source(spec), "recordio", tmp_path / "x", merge=found
        )


def test_says_what_it_needs(joined, tmp_path):
    spec, _, teacher = joined
    overlap = {"data": spec, "overlap": True, "list": str(tmp_path / "x")}
    words = (
        "--teacher=cache:DIR, which python -m .* --data=folder:.*/A\\+folder:.*/B --o"
    )
    for given in ("t.onnx", None):
        refused(words, run, teacher=given, **overlap)
    words = "Give one of --overlap and --outliers"
    refused(words, run, outliers=True, teacher=teacher, **overlap)
    few = write_faces(tmp_path / "few", {"p": 2, "q": 2})
    note = describe_cache(Teacher(), few, "t.onnx", "folder:few", "float32")
    rows = np.ones((4, 2, DIM), np.float32)
    CacheWriter(tmp_path / "c2", note).write(lambda first: [rows[first:]])
    look = convert_dataset.look_at_people
    for cache, words in (
        (f"cache:{tmp_path / 'c2'}", "at least 20 identities must have 4 images"),
        (teacher, "must be of the images of --data"),
    ):
        refused(words, look, few, cache, tmp_path / "x", False)


def test_three_identities_of_one_person_become_one():
    lines = [(0, "identity 0 is identity 1, cosine 0.9")]
    lines += [(1, "identity 1 is identity 2, cosine 0.8")]
    merged = convert_dataset_people.merged_labels(np.array([0, 1, 2, 3]), lines)
    assert merged.tolist() == [2, 2, 2, 3]
