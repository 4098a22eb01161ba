"""How the cache of a teacher's embeddings lies on disk, and how it is written.

- `embeddings.bin`: `(images, views, dim)`, float16 or float32, raw as the teacher gives
  them; view 0 is the image, view 1 its mirror image, the others are `DrawnViews`.
- `cache.json`: what the rows are, and a checksum. Until then it is `writing.json`.

Or one such folder for each shard, `shard-I-of-N`.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import zlib
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import numpy as np

from ekd_tf import checks
from ekd_tf.data import Augmentation
from ekd_tf.data import DrawnViews
from ekd_tf.data import Source
from ekd_tf.embedders.frozen import FrozenEmbedder
from ekd_tf.files.atomic import write_text
from ekd_tf.files.lock import locked
from ekd_tf.files.outputs import make_folder
from ekd_tf.files.rows import RowFile
from ekd_tf.files.rows import read_note

ROWS = "embeddings.bin"
WRITING, FINISHED = "writing.json", "cache.json"
# What tells one cache from another, in words, and what messages name it by.
_IDENTITY = {
    "teacher_fingerprint": ("teacher", "teacher"),
    "input_size": ("input size of the teacher", "input_size"),
    "source_fingerprint": ("data", "source"),
    "images": ("number of images", "images"),
    "views": ("number of views", "views"),
    "drawn": ("drawn views", "drawn"),
    "dtype": ("dtype", "dtype"),
}
_CHUNK = 1 << 24


def describe_cache(
    model: FrozenEmbedder,
    source: Source,
    teacher: str,
    data: str,
    dtype: str = "float16",
    flip: bool = True,
    drawn: DrawnViews | None = None,
    augmentation: Augmentation | None = None,
    skip_corrupt: int = 0,
) -> dict[str, Any]:
    """Returns what `cache.json` says of a cache before it is written.

    `teacher`, `data` and `skip_corrupt` are flags of the command that messages give;
    the others are as for `write_cache`.
    """
    checks.check_choice("dtype", dtype, ("float16", "float32"))
    note: dict[str, Any] = {
        "teacher": teacher,
        "data": data,
        "teacher_fingerprint": model.fingerprint,
        "input_size": model.input_size,
        "source": source.name,
        "source_fingerprint": source.fingerprint,
        "images": len(source),
        "views": 1 + flip,
        "dtype": dtype,
    }
    if drawn:
        note["drawn"] = {
            "count": drawn.count,
            "seed": drawn.seed,
            "augment": str(augmentation or ""),
        }
    if skip_corrupt:
        note["skip_corrupt"] = skip_corrupt
    return note


def shards_in(folder: pathlib.Path) -> dict[tuple[int, int], pathlib.Path]:
    """Returns `(N, I)` -> folder of the shards in the folder of a cache, in order."""
    shards = {}
    for path in folder.glob("shard-*"):
        match = re.fullmatch(r"shard-(\d+)-of-(\d+)", path.name)
        if match and 1 <= int(match[1]) <= int(match[2]):
            shards[int(match[2]), int(match[1])] = path
    return dict(sorted(shards.items()))


def is_cache_folder(folder: pathlib.Path) -> bool:
    """Returns whether a folder holds a cache, whole or in shards."""
    return (folder / FINISHED).is_file() or bool(shards_in(folder))


def images_of(note: dict) -> range:
    """Returns the range of images that a folder's rows are of."""
    index, count = note.get("shard", (1, 1))
    first, last = ((k * note["images"]) // count for k in (index - 1, index))
    return range(first, last)


def row_file(folder: pathlib.Path, note_name: str, note: dict) -> RowFile:
    """Returns the rows of a folder, whole or not, beside the note of that name."""
    images = len(images_of(note))
    return RowFile(folder / ROWS, folder / note_name, note, images, note["dtype"])


def differences(one: dict, other: dict) -> Iterator[tuple]:
    """Yields what it is, and both values, where two notes are of other caches."""
    for key, (words, name) in _IDENTITY.items():
        if one.get(key) != other.get(key):
            was, now = _words(one.get(name)), _words(other.get(name))
            # A name that stayed hides what changed below it.
            changed = "one whose files have changed since"
            yield words, was, changed if was == now else now


def _words(value):
    """Words the views of a note; whatever else it says is left as it is."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        augment = value["augment"] and f" of --augment={value['augment']}"
        return f"{value['count']}{augment} by --seed={value['seed']}"
    return value


def command(note: dict, folder: Any) -> str:
    """Returns the command that writes a cache or continues it."""
    words = ["python", "-m", "ekd_tf.embed_teacher"]
    words += [f"--teacher={note['teacher']}", f"--data={note['data']}"]
    words += [f"--output={folder}", f"--dtype={note['dtype']}"]
    words += [] if note["views"] > 1 else ["--noflip"]
    if drawn := note.get("drawn"):
        words += [f"--views={drawn['count']}", f"--augment={drawn['augment']}"]
        words += [f"--seed={drawn['seed']}"] if drawn["seed"] else []
    if allowed := note.get("skip_corrupt"):
        words += [f"--skip_corrupt={allowed}"]
    if shard := note.get("shard"):
        words += [f"--shard={shard[0]}/{shard[1]}"]
    return shlex.join(words)


def checksum(path: pathlib.Path) -> dict[str, int]:
    """Returns the size and the CRC-32 of a file."""
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
        return {"bytes": file.tell(), "crc32": crc}


def check_bytes(part: pathlib.Path, note: dict, folder: Any, name: str) -> None:
    """Raises `ValueError` unless a finished folder holds the bytes of its note."""
    path, expected = part / ROWS, note.get("checksums", {}).get(ROWS)
    if not path.is_file() or checksum(path) != expected:
        raise ValueError(
            f"{name} is damaged: {path} is missing or has other bytes than were "
            f"written. Remove {part} and write it again: {command(note, folder)}"
        )


def map_rows(part: pathlib.Path, note: dict) -> np.ndarray:
    """Returns the rows of a finished folder, mapped from it and read-only."""
    shape = (len(images_of(note)), *note["shape"])
    return np.memmap(part / ROWS, note["dtype"], mode="r", shape=shape)


class CacheWriter:
    """Writes a cache folder, or continues one.

    Args:
        folder: Where; made if missing.
        note: From `describe_cache`.
        shard: `(I, N)`: write the I-th of N parts of the images, counted from 1.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        note: dict[str, Any],
        shard: tuple[int, int] = (1, 1),
    ):
        index, count = shard
        self._whole = self.folder = make_folder("output", folder)
        self._note = dict(note)
        if count > 1:
            if note["images"] < count:
                raise ValueError(
                    f"`--shard={index}/{count}` must have an image: there are "
                    f"{note['images']}"
                )
            self._note["shard"] = [index, count]
            folder = self._whole / f"shard-{index}-of-{count}"
            self.folder = make_folder("output", folder)
        for name in (FINISHED, WRITING):
            _check_same(self.folder / name, self._note)
        self.images = images_of(self._note)

    def write(self, compute: Callable[[int], Iterable[np.ndarray]]) -> np.ndarray:
        """Computes the rows that are missing and declares the cache whole.

        Args:
            compute: Function of the first image wanted, counted in the whole source,
                that yields `(k, views, dim)` from there to the end of `images`.

        Returns:
            All rows of this folder, mapped from it.
        """
        finished = self.folder / FINISHED
        if finished.is_file():
            check_bytes(self.folder, read_note(finished), self._whole, "The cache")
        else:
            # Two that append to one file would spoil it.
            way_out = "Wait for it to end, or end it"
            with locked(self.folder, f"the cache {self.folder}", way_out):
                # Another process may have ended it before the lock was had.
                if not finished.is_file():
                    self._complete(compute)
                (self.folder / "lock").unlink(missing_ok=True)
        return map_rows(self.folder, read_note(finished))

    def _complete(self, compute):
        file = row_file(self.folder, WRITING, self._note)
        start = self.images.start
        file.fill(lambda done: self._stored(start + done, compute(start + done)))
        note = read_note(self.folder / WRITING)
        note["checksums"] = {ROWS: checksum(self.folder / ROWS)}
        write_text(self.folder / FINISHED, json.dumps(note, indent=2) + "\n")
        (self.folder / WRITING).unlink()

    def _stored(self, first, batches):
        for rows in batches:
            with np.errstate(over="ignore"):
                stored = rows.astype(self._note["dtype"])
            bad = np.flatnonzero(~np.isfinite(stored).all(axis=(1, 2)))
            if bad.size:
                reason, largest = "is not finite", np.abs(rows[bad[0]]).max()
                if np.isfinite(largest):
                    reason = f"does not fit float16 (largest entry {largest:g}): "
                    reason += "use --dtype=float32 and another --output"
                number = first + int(bad[0])
                raise ValueError(f"The teacher's embedding of image {number} {reason}")
            yield stored
            first += len(rows)


def _check_same(path, note):
    """Raises `ValueError` where a folder holds another cache than is to be written."""
    there = read_note(path)
    differing = [
        f"{words} ({was}, now {now})"
        for words, was, now in (differences(there, note) if there else ())
    ]
    if differing:
        raise ValueError(
            f"{path.parent} holds the cache of another {'; '.join(differing)}. Use "
            "another --output, or remove that folder"
        )
