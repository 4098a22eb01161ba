"""People listed twice and images of others, found by a teacher's cache."""

import re
import types

import convert_dataset
import numpy as np
import pytest
from dataset_people import merged_labels
from pictures import write_people
from PIL import Image
from refusals import refused

from ekd_tf.data import FolderFaces
from ekd_tf.data import JoinedSources
from ekd_tf.embedders import CacheWriter
from ekd_tf.embedders import describe_cache
from ekd_tf.run import factory

DIM = 24
TEACHER = types.SimpleNamespace(fingerprint="of the teacher", input_size=16)


def write_faces(root, people, each):
    return FolderFaces(write_people(root, people, each, side=16))


def write_cache(path, source, spec, rows):
    note = describe_cache(TEACHER, source, "t.onnx", spec, "float32")
    views = np.stack([rows, rows], axis=1).astype(np.float32)
    CacheWriter(path, note).write(lambda first: [views[first:]])
    return f"cache:{path}"


@pytest.fixture
def joined(tmp_path, request):
    """Sets A and B: two of B's identities are A's, or one image is another's."""
    a = write_faces(tmp_path / "A", people=24, each=6)
    b = write_faces(tmp_path / "B", people=3, each=[4, 8, 5])
    source, rng = JoinedSources([a, b]), np.random.default_rng(0)
    centres = rng.normal(size=(27, DIM))
    twice = "people" in request.node.name
    if twice:
        centres[24], centres[25] = centres[3], centres[7]
    rows = centres[source.labels] + 0.3 * rng.normal(size=(len(source), DIM))
    if not twice:
        # Image 2 of the first identity shows the sixth.
        rows[2] = centres[5]
    spec = f"folder:{tmp_path}/A+folder:{tmp_path}/B"
    return spec, source, write_cache(tmp_path / "cache", source, spec, rows)


def run(**settings):
    convert_dataset.main(convert_dataset.ConvertSettings(**settings))


def test_lists_people_of_both_sets_and_drops_or_merges_them(joined, tmp_path, capsys):
    spec, source, teacher = joined
    found = tmp_path / "pairs.tsv"
    run(data=spec, overlap=True, teacher=teacher, list=str(found))
    assert "2 of 27 identities may be another one" in capsys.readouterr().out
    lines = [line.split("\t") for line in found.read_text().splitlines()[2:]]
    # The smaller one of each pair: 4 images of 24, and 6 of 7 for the 8 of 25.
    details = {re.sub(r"cosine 0\.\d+", "cosine", line[2]) for line in lines}
    # Those of A are called 0:p0, 0:p1, 0:p10, ... .
    assert details == {
        "identity 24 is identity 3, cosine, 1:p0 is 0:p11",
        "identity 7 is identity 25, cosine, 0:p15 is 1:p1",
    }
    assert len(lines) == 4 + 6
    convert_dataset.convert(source, "recordio", tmp_path / "less", drop=found)
    less = factory.make_source(f"recordio:{tmp_path}/less")
    assert (len(less), less.num_identities) == (len(source) - 10, 25)
    convert_dataset.convert(source, "recordio", tmp_path / "one", merge=found)
    one = factory.make_source(f"recordio:{tmp_path}/one")
    assert (len(one), one.num_identities) == (len(source), 25)
    assert sorted(np.bincount(one.labels)) == [5] + [6] * 22 + [10, 14]


def test_lists_images_of_strangers_and_draws_them(joined, tmp_path, capsys):
    spec, source, teacher = joined
    found = tmp_path / "outliers.tsv"
    run(data=spec, outliers=True, teacher=teacher, list=str(found))
    assert "1 of 161 images have a cosine below" in capsys.readouterr().out
    (line,) = found.read_text().splitlines()[2:]
    assert line.startswith("2\toutlier\tcosine ") and "with identity 0:p0\t" in line
    with Image.open(tmp_path / "outliers.png") as sheet:
        assert sheet.size == (6 * 112 + 8, 112)
    arguments = source, "recordio", tmp_path / "x"
    words = "a line that is no overlap: 'cosine"
    refused(words, convert_dataset.convert, *arguments, merge=found)


def test_says_what_it_needs(joined, tmp_path, monkeypatch):
    spec, source, teacher = joined
    overlap = {"data": spec, "overlap": True, "list": str(tmp_path / "x")}
    words = (
        "--teacher=cache:DIR, which python -m .* --data=folder:.*/A\\+folder:.*/B --o"
    )
    for given in ("t.onnx", None):
        refused(words, run, teacher=given, **overlap)
    words = "Give one of --overlap and --outliers"
    refused(words, run, outliers=True, teacher=teacher, **overlap)
    few = write_faces(tmp_path / "few", people=2, each=2)
    of_few = write_cache(tmp_path / "c2", few, "folder:few", np.ones((4, DIM)))
    look = convert_dataset.look_at_people
    for cache, words in (
        (of_few, "at least 20 identities must have 4 images"),
        (teacher, "must be of the images of --data"),
    ):
        refused(words, look, few, cache, tmp_path / "x", False)
    monkeypatch.setattr("dataset_people._MOST_PAIRS", 350)
    teacher = write_cache(tmp_path / "c3", source, spec, np.ones((len(source), DIM)))
    # 27 identities make 351 pairs.
    words = "more than 350 pairs.*This teacher does not tell them apart"
    refused(words, run, teacher=teacher, **overlap)


def test_three_identities_of_one_person_become_one():
    lines = [(0, "identity 0 is identity 1, cosine 0.9")]
    lines += [(1, "identity 1 is identity 2, cosine 0.8")]
    merged = merged_labels(np.array([0, 1, 2, 3]), lines)
    assert merged.tolist() == [2, 2, 2, 3]
