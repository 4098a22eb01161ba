"""What a teacher gave for every image of a source, on disk: written once, then read.

A folder of four files, of which the last appears when all others are whole:

- `embeddings.bin`: `(images, views, dim)`, float16 or float32, raw as the teacher gives
  them; view 0 is the image, view 1 its mirror image.
- `centres.npy`: float32 `(identities, dim)`, see `class_centres`.
- `writing.json`: what the rows are, while they are being written.
- `cache.json`: the same, with checksums, once all is there.
"""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import zlib
from collections.abc import Callable

import numpy as np

from ekd_tf import checks
from ekd_tf.data import Source
from ekd_tf.files.atomic import write_aside
from ekd_tf.files.atomic import write_text
from ekd_tf.files.outputs import make_folder
from ekd_tf.files.rows import RowFile
from ekd_tf.files.rows import read_note
from ekd_tf.metrics import normalize_rows

ROWS, CENTRES = "embeddings.bin", "centres.npy"
WRITING, FINISHED = "writing.json", "cache.json"
DTYPES = ("float16", "float32")
# What tells one cache from another, in words, and what messages name it by.
_IDENTITY = {
    "teacher_fingerprint": ("teacher", "teacher"),
    "input_size": ("input size of the teacher", "input_size"),
    "source_fingerprint": ("data", "source"),
    "images": ("number of images", "images"),
    "views": ("number of views", "views"),
    "dtype": ("dtype", "dtype"),
}
_CHUNK = 1 << 24


class CacheWriter:
    """Writes a cache folder, or goes on with one; the `cache` of a `SourceEmbedder`.

    Args:
        folder: Where; made if missing.
        dtype: One of `DTYPES`.
        teacher, data: The teacher and the images as flags name them: for the command
            that messages give.

    Raises:
        ValueError: The folder cannot be made, or `dtype` is unknown.
    """

    def __init__(self, folder: str | os.PathLike, dtype: str, teacher: str, data: str):
        checks.check_choice("dtype", dtype, DTYPES)
        self._folder = make_folder("output", folder)
        self._dtype = dtype
        self._specs = {"teacher": teacher, "data": data}

    def rows(self, description: dict, count: int, compute: Callable) -> np.ndarray:
        """Returns the rows of `count` images, computing those that are missing.

        As `EmbeddingCache.rows`. Raises `ValueError` where the folder holds another
        cache, or a row cannot be stored.
        """
        note = {
            **self._specs,
            "teacher_fingerprint": description["model"],
            "input_size": description["input_size"],
            "source": description["name"],
            "source_fingerprint": description["source"],
            "images": count,
            "views": 1 + description["flip"],
            "dtype": self._dtype,
        }
        for name in (FINISHED, WRITING):
            _check_same(self._folder / name, note)
        finished = (self._folder / FINISHED).is_file()
        file = _row_file(self._folder, FINISHED if finished else WRITING, note)
        return file.fill(lambda first: self._stored(first, compute(first)))

    def finish(self, source: Source) -> np.ndarray:
        """Adds the class centres `(identities, dim)` and declares the cache whole."""
        note = read_note(self._folder / WRITING)
        if not note:
            # It was whole before.
            return np.load(self._folder / CENTRES)
        rows = _map_rows(self._folder, note)
        centres = class_centres(rows, source.labels, source.num_identities)
        write_aside(self._folder / CENTRES, lambda file: np.save(file, centres))
        note["checksums"] = {n: _checksum(self._folder / n) for n in (ROWS, CENTRES)}
        write_text(self._folder / FINISHED, json.dumps(note, indent=2) + "\n")
        (self._folder / WRITING).unlink()
        return centres

    def _stored(self, first, batches):
        for rows in batches:
            with np.errstate(over="ignore"):
                stored = rows.astype(self._dtype)
            bad = np.flatnonzero(~np.isfinite(stored).all(axis=(1, 2)))
            if bad.size:
                given = rows[bad[0]]
                reason = "is not finite"
                if np.isfinite(given).all():
                    reason = (
                        f"does not fit float16 (largest entry {np.abs(given).max():g}):"
                        " use --dtype=float32 and another --output"
                    )
                number = first + int(bad[0])
                raise ValueError(f"The teacher's embedding of image {number} {reason}")
            yield stored
            first += len(rows)


class TeacherCache:
    """A finished cache, its bytes checked once and mapped into memory.

    Args:
        folder: Written by `python -m ekd_tf.embed_teacher`.

    Attributes:
        note: Dict, `cache.json`.
        fingerprint, input_size, embedding_dim: As of the teacher, a `FrozenEmbedder`.
        rows: `(images, views, dim)`, read-only.
        centres: Float32 `(identities, dim)`.

    Raises:
        ValueError: There is no cache, it is unfinished or damaged; the message has the
            command that mends it.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)
        name = f"`--teacher=cache:{folder}`"
        self.note = read_note(self.folder / FINISHED)
        if not self.note:
            note = read_note(self.folder / WRITING)
            if not note:
                raise ValueError(
                    f"{name} holds no {FINISHED}. Write one: python -m "
                    "ekd_tf.embed_teacher --teacher=MODEL --data=DATA "
                    f"--output={shlex.quote(str(folder))}"
                )
            done = _row_file(self.folder, WRITING, note).done
            raise ValueError(
                f"{name} is unfinished, {done:,} of {note['images']:,} images are "
                f"done. Finish it: {_command(note, folder)}"
            )
        for file, expected in self.note["checksums"].items():
            path = self.folder / file
            if not path.is_file() or _checksum(path) != expected:
                raise ValueError(
                    f"{name} is damaged: {path} is missing or has other bytes than "
                    "were written. Remove the folder and write it again: "
                    f"{_command(self.note, folder)}"
                )
        self.fingerprint = self.note["teacher_fingerprint"]
        self.input_size = self.note["input_size"]
        self.rows = _map_rows(self.folder, self.note)
        self.embedding_dim = self.rows.shape[-1]
        self.centres = np.load(self.folder / CENTRES)

    def has(self, source: Source) -> bool:
        """Returns whether every image of a source has its rows here."""
        whole = source.origin()[0]
        same = whole.fingerprint == self.note["source_fingerprint"]
        return same and len(whole) == self.note["images"]

    def check_source(self, source: Source) -> None:
        """Raises `ValueError` unless every image of a source has its rows here."""
        if self.has(source):
            return
        whole, note = source.origin()[0], self.note
        reason, data = f"--data has {len(whole):,} of {whole.name}", "DATA"
        if (len(whole), whole.name) == (note["images"], note["source"]):
            reason = "these have changed since: a name, a label, a size or a time"
            data = note["data"]
        if len(whole) == note["images"]:
            reason += ". A copy counts as the same with its times (cp -a, rsync -a)"
        raise ValueError(
            f"`--teacher=cache:{self.folder}` must be of the images of --data. It is "
            f"of {note['images']:,} images of {note['source']}, and {reason}. Write "
            f"one of these: {_command({**note, 'data': data}, 'ANOTHER_DIR')}"
        )


def class_centres(
    rows: np.ndarray, labels: np.ndarray, num_identities: int
) -> np.ndarray:
    """Averages the embeddings of each identity, over its images and their views.

    Args:
        rows: `(images, views, dim)`, raw; normalised to unit length here.
        labels: Integers `(images,)` in [0, num_identities).
        num_identities: Int.

    Returns:
        Float32 `(num_identities, dim)`, not normalised: their length tells how alike
        the images are. 0 for an identity without images.

    Raises:
        ValueError: An embedding is all zero.
    """
    count, views, dim = rows.shape
    sums = np.zeros((num_identities, dim), np.float64)
    step = max(1, _CHUNK // (views * dim * 8))
    for first in range(0, count, step):
        chunk = rows[first : first + step].astype(np.float32)
        units = np.zeros((len(chunk), dim))
        for view in range(views):
            units += normalize_rows(chunk[:, view], first_row=first)
        order = np.argsort(labels[first : first + step], kind="stable")
        present, starts = np.unique(
            labels[first : first + step][order], return_index=True
        )
        sums[present] += np.add.reduceat(units[order], starts, axis=0)
    images = np.bincount(labels, minlength=num_identities)
    means = sums / np.maximum(views * images, 1)[:, None]
    return means.astype(np.float32)


def _row_file(folder, note_name, note):
    path = folder / note_name
    return RowFile(folder / ROWS, path, note, note["images"], note["dtype"])


def _map_rows(folder, note):
    shape = (note["images"], *note["shape"])
    return np.memmap(folder / ROWS, note["dtype"], mode="r", shape=shape)


def _check_same(path, note):
    """Raises `ValueError` where a folder holds another cache than is to be written."""
    there = read_note(path)
    differing = []
    for key, (words, name) in _IDENTITY.items():
        if there and there.get(key) != note[key]:
            was, now = there.get(name), note[name]
            # A name that stayed hides what changed below it.
            change = f"now {now}" if was != now else "whose files have changed since"
            differing.append(f"{words} ({was}, {change})")
    if differing:
        raise ValueError(
            f"{path.parent} holds the cache of another {'; '.join(differing)}. Use "
            "another --output, or remove that folder"
        )


def _command(note, folder):
    """Returns the command that writes a cache or goes on with it."""
    words = ["python", "-m", "ekd_tf.embed_teacher"]
    words += [f"--teacher={note['teacher']}", f"--data={note['data']}"]
    words += [f"--output={folder}", f"--dtype={note['dtype']}"]
    words += [] if note["views"] > 1 else ["--noflip"]
    return shlex.join(words)


def _checksum(path):
    """Returns the size and the CRC-32 of a file."""
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
        return {"bytes": file.tell(), "crc32": crc}
