"""Data sets of the Hugging Face library as a source of faces."""

import io

import numpy as np
import pytest
from PIL import Image
from refusals import refused

from ekd_tf.data import HuggingFaceFaces

pytestmark = pytest.mark.keras3


def encoded(number):
    rng = np.random.default_rng(number)
    file = io.BytesIO()
    pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=70 + number)
    return file.getvalue()


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """The library, which keeps what it makes in a folder of its own."""
    library = pytest.importorskip("datasets", reason="needs the extra hf")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    library.disable_progress_bars()
    return library


def make(datasets, labels, kind=None, images=None):
    rows = {
        "image": [
            data and {"bytes": data, "path": None}
            for data in images or map(encoded, range(len(labels)))
        ],
        "label": labels,
        "other": list(range(len(labels))),
    }
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": kind or datasets.Value("int64"),
            "other": datasets.Value("int64"),
        }
    )
    return datasets.Dataset.from_dict(rows, features=features)


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
    assert faces.read(order) == [encoded(int(k)) for k in order]
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
        path = tmp_path / "faces" / person / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))
    faces = HuggingFaceFaces(str(tmp_path / "faces"))
    assert faces.identity_names() == ["ann", "zoe"]
    assert sorted(faces.read([0, 1, 2])) == sorted(map(encoded, range(3)))


def test_says_what_is_wrong(datasets, tmp_path, monkeypatch):
    path = str(tmp_path / "set")
    make(datasets, LABELS).save_to_disk(path)
    refused("no column 'who', .*label=COLUMN", HuggingFaceFaces, path, label="who")
    with pytest.raises(ValueError, match=f"`hf:{tmp_path}/none` cannot be opened: "):
        HuggingFaceFaces(f"{tmp_path}/none")
    make(datasets, [1, None, 2]).save_to_disk(f"{path}2")
    refused("must be whole numbers or texts and none", HuggingFaceFaces, f"{path}2")
    with pytest.raises(ValueError, match="'other' holds no images. Name another"):
        HuggingFaceFaces(path, image="other")
    refused("it has no split 'test', it has", HuggingFaceFaces, path, split="test")
    names = datasets.ClassLabel(names=["ann", "zoe"])
    make(datasets, [0, -1], names).save_to_disk(f"{path}3")
    refused("some rows have no label .*split=NAME", HuggingFaceFaces, f"{path}3")
    make(datasets, [0, 1], images=[encoded(0), None]).save_to_disk(f"{path}4")
    refused("set4: row 1: it holds no image", HuggingFaceFaces(f"{path}4").read, [1])
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    refused(r"pip install '.\[hf\]'", HuggingFaceFaces, path)
