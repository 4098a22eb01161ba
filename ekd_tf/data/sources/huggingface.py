"""Data sets of Hugging Face's `datasets`: Parquet, Arrow, folders, the hub."""

from __future__ import annotations

import functools
import hashlib
import os
from typing import Any

import numpy as np

from ekd_tf.data.source import Source
from ekd_tf.files.positioned import read_file


class HuggingFaceFaces(Source):
    """Reads a data set whose images are encoded files, memory-mapped as Arrow.

    Images are taken as the bytes they are. Labels are numbers, class names or texts,
    numbered 0..C-1 in ascending order; `identities` are the set's own.

    Args:
        path: What `datasets.load_dataset` or `load_from_disk` takes: a folder of
            Parquet files or images, a saved data set, or a name on the hub.
        split: Which split of it.
        image, label: The names of the columns.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        image: str = "image",
        label: str = "label",
    ):
        try:
            import datasets
        except ImportError as error:
            raise ValueError(
                f"`hf:{path}` needs datasets: pip install '.[hf]'"
            ) from error
        self.name = path
        rows = _load(datasets, path, split)
        for flag, column in (("image", image), ("label", label)):
            if column not in rows.column_names:
                raise ValueError(
                    f"`hf:{path}` has no column {column!r}, it has "
                    f"{', '.join(map(repr, rows.column_names))}. Name it: "
                    f"hf:{path},{flag}=COLUMN"
                )
        if not len(rows):
            raise ValueError(f"`hf:{path}` has no rows in its split {split!r}")
        self._column = image
        try:
            self._rows = rows.select_columns([image]).cast_column(
                image, datasets.Image(decode=False)
            )
        # Of Arrow, and not all of one class.
        except Exception as error:
            raise ValueError(
                f"`hf:{path}`: the column {image!r} holds no images. Name another: "
                f"hf:{path},image=COLUMN"
            ) from error
        self._print = rows._fingerprint
        values = rows.data.column(label).to_numpy()
        if rows._indices is not None:
            values = np.array(rows[label])
        names = getattr(rows.features[label], "names", None)
        identities, labels = _number(path, label, values, names)
        self.labels = labels.astype(np.int32)
        self.num_identities = len(identities)
        self.identities = [str(names[k] if names else k) for k in identities]

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the library's fingerprint of the data set, and of the labels."""
        digest = hashlib.sha256(f"{self._print} {self._column}".encode())
        digest.update(self.labels.tobytes())
        return digest.hexdigest()

    def read(self, indices: np.ndarray) -> list[bytes]:
        numbers = np.asarray(indices, int).tolist()
        images = self._rows[numbers][self._column]
        return [self._bytes(n, image or {}) for n, image in zip(numbers, images)]

    def _bytes(self, number, image):
        data, path = image.get("bytes"), image.get("path")
        if data is None and path is None:
            raise ValueError(f"{self.describe(number)}: it holds no image")
        return read_file(path) if data is None else data

    def describe(self, index: int) -> str:
        return f"{self.name}: row {index}"


def _load(datasets, path, split):
    """Returns the rows of a split, or raises `ValueError`, whatever was raised."""
    try:
        notes = ("dataset_info.json", "dataset_dict.json")
        if any(os.path.isfile(os.path.join(path, note)) for note in notes):
            loaded = datasets.load_from_disk(path)
            splits = loaded if isinstance(loaded, dict) else {str(loaded.split): loaded}
            if split in splits:
                return splits[split]
            # A set that was saved by itself may have no split to its name.
            if list(splits) == ["None"] and split == "train":
                return loaded
            raise ValueError(f"it has no split {split!r}, it has {', '.join(splits)}")
        return datasets.load_dataset(path, split=split)
    # The library and what it stands on raise dozens of kinds.
    except Exception as error:
        # "An error occurred while generating the dataset", and the cause says which.
        reasons = [str(each) for each in (error, error.__cause__) if each is not None]
        reason = " ".join(": ".join(reasons).split()) or type(error).__name__
        raise ValueError(f"`hf:{path}` cannot be opened: {reason[:300]}") from error


def _number(path, label, values, names) -> tuple[Any, np.ndarray]:
    if names and values.min() < 0:
        raise ValueError(
            f"`hf:{path}`: some rows have no label in the column {label!r} (-1), as "
            "splits for tests have. Give another split: split=NAME"
        )
    if values.dtype.kind in "iu" or all(isinstance(v, str) for v in values):
        return np.unique(values, return_inverse=True)
    raise ValueError(
        f"`hf:{path}`: labels in the column {label!r} must be whole numbers or texts "
        "and none may be missing. Name another column: label=COLUMN"
    )
