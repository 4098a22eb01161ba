import sys

import numpy as np
import pytest
from pictures import flat
from records import put
from refusals import refused

from ekd_tf.data import HuggingFaceFaces

pytestmark = pytest.mark.keras3


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """The library, which keeps what it makes in a folder of its own."""
    library = pytest.importorskip("datasets", reason="needs the extra hf")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    library.disable_progress_bars()
    return library


def make(datasets, labels, kind=None, images=None):
    numbers, whole = list(range(len(labels))), datasets.Value("int64")
    images = images or map(flat, numbers)
    images = [data and {"bytes": data, "path": None} for data in images]
    rows = {"image": images, "label": labels, "other": numbers}
    features = {"image": datasets.Image(), "label": kind or whole, "other": whole}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


LABELS = [70, 3, 70, 9]


@pytest.mark.parametrize("form", ["parquet", "arrow", "dict"])
def test_takes_encoded_bytes_as_they_are(datasets, tmp_path, form):
    rows, path = make(datasets, LABELS), tmp_path / "set"
    if form == "parquet":
        path.mkdir()
        rows.to_parquet(path / "train-00000-of-00001.parquet")
    elif form == "arrow":
        rows.save_to_disk(path)
    else:
        datasets.DatasetDict(train=rows).save_to_disk(path)
    faces = HuggingFaceFaces(str(path))
    np.testing.assert_array_equal(faces.labels, [2, 0, 2, 1])
    assert faces.labels.dtype == np.int32 and faces.num_identities == 3
    assert faces.identity_names() == ["3", "9", "70"]
    order = np.array([3, 0, 3])
    assert faces.read(order) == [flat(int(k)) for k in order]
    assert faces.describe(2) == f"{path}: row 2"
    assert HuggingFaceFaces(str(path)).fingerprint == faces.fingerprint
    other = HuggingFaceFaces(str(path), label="other")
    assert other.num_identities == 4 and other.fingerprint != faces.fingerprint


def test_class_names_and_texts_tell_identities(datasets, tmp_path):
    kinds = (
        (datasets.ClassLabel(names=["ann", "bob", "zoe"]), [2, 0, 2]),
        (datasets.Value("string"), ["zoe", "ann", "zoe"]),
    )
    for number, (kind, labels) in enumerate(kinds):
        path = str(tmp_path / str(number))
        make(datasets, labels, kind).save_to_disk(path)
        faces = HuggingFaceFaces(path)
        np.testing.assert_array_equal(faces.labels, [1, 0, 1])
        assert faces.identity_names() == ["ann", "zoe"]


def test_folders_of_images_are_read_too(datasets, tmp_path):
    for number, person in enumerate(["ann", "zoe", "zoe"]):
        put(tmp_path / "faces" / person / f"{number}.png", flat(number))
    faces = HuggingFaceFaces(str(tmp_path / "faces"))
    assert faces.identity_names() == ["ann", "zoe"]
    assert sorted(faces.read([0, 1, 2])) == sorted(map(flat, range(3)))


def test_says_what_is_wrong(datasets, tmp_path, monkeypatch):
    names = datasets.ClassLabel(names=["ann", "zoe"])
    for name, rows in (
        ("set", make(datasets, LABELS)),
        ("none", make(datasets, [1, None, 2])),
        ("hidden", make(datasets, [0, -1], names)),
        ("empty", make(datasets, [0, 1], images=[flat(0), None])),
    ):
        rows.save_to_disk(tmp_path / name)
    for name, arguments, words in (
        ("set", {"label": "who"}, "no column 'who', .*label=COLUMN"),
        ("gone", {}, f"`hf:{tmp_path}/gone` cannot be opened: "),
        ("none", {}, "must be whole numbers or texts and none"),
        ("set", {"image": "other"}, "'other' holds no images. Name another"),
        ("set", {"split": "test"}, "it has no split 'test', it has"),
        ("hidden", {}, "some rows have no label .*split=NAME"),
    ):
        refused(words, HuggingFaceFaces, str(tmp_path / name), **arguments)
    # Its first file is whole.
    (tmp_path / "half").mkdir()
    make(datasets, LABELS).to_parquet(str(tmp_path / "half" / "a.parquet"))
    (tmp_path / "half" / "b.parquet").write_bytes(b"x")
    refused("half` .*generating .*size is 1", HuggingFaceFaces, str(tmp_path / "half"))
    faces = HuggingFaceFaces(str(tmp_path / "empty"))
    refused("empty: row 1: it holds no image", faces.read, [1])
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused(r"pip install '.\[hf\]'", HuggingFaceFaces, str(tmp_path / "set"))
