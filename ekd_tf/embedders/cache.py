"""The embeddings of a teacher on disk, to be read in place of it.

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
from typing import Any

import numpy as np

from ekd_tf import checks
from ekd_tf import metrics
from ekd_tf.data import Augmentation
from ekd_tf.data import DrawnViews
from ekd_tf.data import Source
from ekd_tf.embedders.frozen import FrozenEmbedder
from ekd_tf.files.atomic import write_text
from ekd_tf.files.lock import locked
from ekd_tf.files.outputs import make_folder
from ekd_tf.files.rows import JoinedRows
from ekd_tf.files.rows import RowFile
from ekd_tf.files.rows import read_note

_ROWS = "embeddings.bin"
_WRITING, _FINISHED = "writing.json", "cache.json"
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
        "skip_corrupt": skip_corrupt,
    }
    if drawn:
        note["drawn"] = {
            "count": drawn.count,
            "seed": drawn.seed,
            "augment": str(augmentation or ""),
        }
    return note


def _shards_in(folder):
    """Returns `(N, I)` -> folder of the shards in the folder of a cache, in order."""
    shards = {}
    for path in folder.glob("shard-*"):
        match = re.fullmatch(r"shard-(\d+)-of-(\d+)", path.name)
        if match and 1 <= int(match[1]) <= int(match[2]):
            shards[int(match[2]), int(match[1])] = path
    return dict(sorted(shards.items()))


def is_cache(spec: str) -> bool:
    """Returns whether `cache:DIR` or a folder is given, written to its end or not."""
    folder = pathlib.Path(spec)
    there = any((folder / name).is_file() for name in (_FINISHED, _WRITING))
    return spec.startswith("cache:") or there or bool(_shards_in(folder))


def _images_of(note):
    """Returns the range of images that a folder's rows are of."""
    index, count = note.get("shard", (1, 1))
    first, last = ((k * note["images"]) // count for k in (index - 1, index))
    return range(first, last)


def _row_file(folder, note_name, note):
    """Returns the rows of a folder, whole or not, beside the note of that name."""
    images = len(_images_of(note))
    return RowFile(folder / _ROWS, folder / note_name, note, images, note["dtype"])


def _differences(one, other):
    """Yields what it is, and both values, where two notes are of other caches."""
    for key, (words, name) in _IDENTITY.items():
        if one.get(key) != other.get(key):
            was, now = _words(one.get(name)), _words(other.get(name))
            # A name that stayed hides what changed below it.
            changed = "one whose files have changed since"
            yield words, was, changed if was == now else now


def _words(value):
    """Words the views of a note; whatever else it says is left as it is."""
    if isinstance(value, dict):
        augment = value["augment"] and f" of --augment={value['augment']}"
        return f"{value['count']}{augment} by --seed={value['seed']}"
    return "none" if value is None else value


def _command(note, folder):
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


def _checksum(path):
    """Returns the size and the CRC-32 of a file."""
    crc = 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
        return {"bytes": file.tell(), "crc32": crc}


def _check_bytes(part, note, folder, name):
    """Raises `ValueError` unless a finished folder holds the bytes of its note."""
    path, expected = part / _ROWS, note.get("checksums", {}).get(_ROWS)
    if not path.is_file() or _checksum(path) != expected:
        raise ValueError(
            f"{name} is damaged: {path} is missing or has other bytes than were "
            f"written. Remove {part} and write it again: {_command(note, folder)}"
        )


def _map_rows(part, note):
    """Returns the rows of a finished folder, mapped from it and read-only."""
    shape = (len(_images_of(note)), *note["shape"])
    return np.memmap(part / _ROWS, note["dtype"], mode="r", shape=shape)


class CacheWriter:
    """Writes a cache folder, made if missing, or continues one.

    `note` is from `describe_cache`. A `shard` `(I, N)` is the I-th of N parts of the
    images, counted from 1.
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
        for name in (_FINISHED, _WRITING):
            there = read_note(self.folder / name)
            differing = [
                f"{words} ({was}, now {now})"
                for words, was, now in _differences(there or self._note, self._note)
            ]
            if differing:
                raise ValueError(
                    f"{self.folder} holds the cache of another {'; '.join(differing)}. "
                    "Use another --output, or remove that folder"
                )
        self.images = _images_of(self._note)

    def write(self, compute: Callable[[int], Iterable[np.ndarray]]) -> np.ndarray:
        """Computes the rows that are missing and declares the cache whole.

        `compute` is a function of the first image wanted, counted in the whole source,
        that yields `(k, views, dim)` from there to the end of `images`. Returned are
        all rows of this folder, mapped from it.
        """
        finished = self.folder / _FINISHED
        if finished.is_file():
            _check_bytes(self.folder, read_note(finished), self._whole, "The cache")
        else:
            # Two that append to one file would spoil it.
            way_out = "Wait for it to end, or end it"
            with locked(self.folder, f"the cache {self.folder}", way_out):
                # Another process may have ended it before the lock was had.
                if not finished.is_file():
                    self._complete(compute)
                (self.folder / "lock").unlink(missing_ok=True)
        return _map_rows(self.folder, read_note(finished))

    def _complete(self, compute):
        file = _row_file(self.folder, _WRITING, self._note)
        file.fill(lambda done: self._stored(compute, self.images.start + done))
        note = read_note(self.folder / _WRITING)
        note["checksums"] = {_ROWS: _checksum(self.folder / _ROWS)}
        write_text(self.folder / _FINISHED, json.dumps(note, indent=2) + "\n")
        (self.folder / _WRITING).unlink()

    def _stored(self, compute, first):
        for rows in compute(first):
            with np.errstate(over="ignore"):
                stored = rows.astype(self._note["dtype"])
            lost = (stored == 0).all(axis=2) & (rows != 0).any(axis=2)
            bad = lost | ~np.isfinite(stored).all(axis=2)
            bad = np.flatnonzero(bad.any(axis=1))
            if bad.size:
                complaint, largest = "are not finite", np.abs(rows[bad[0]]).max()
                if np.isfinite(largest):
                    complaint = f"do not fit float16 (largest entry {largest:g}; use "
                    complaint += "--dtype=float32 and another --output)"
                text = f"Embeddings {complaint}, the first of image {first + bad[0]}"
                raise metrics.UnusableRows(text, first + bad, complaint)
            yield stored
            first += len(rows)


class TeacherCache:
    """A finished cache, its bytes checked once and mapped into memory.

    One that is missing, unfinished or damaged, or has shards that do not belong
    together, is a `ValueError` with the command that mends it.

    Attributes:
        note, name: Dict, `cache.json`; and the teacher and the cache, for messages.
        fingerprint, input_size, embedding_dim: As of the teacher, a `FrozenEmbedder`.
        rows: `(images, views + drawn views, dim)`, read-only, or `JoinedRows`.
        plain: How many of the views are not drawn: image and perhaps mirror image.
        drawn: The `DrawnViews`, or None.
        augmentation: What was drawn there, on images of `input_size`.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)
        name = f"`--teacher=cache:{folder}`"
        folders = self._folders(name)
        notes = [_finished_note(part, self.folder, name) for part in folders]
        for number, (part, note) in enumerate(zip(folders, notes), 1):
            place = [number, len(folders)] if part != self.folder else [1, 1]
            held = note.get("shard", [1, 1])
            if held != place:
                raise ValueError(
                    f"{name}: {part} holds shard {held[0]} of {held[1]}. Name it "
                    f"shard-{held[0]}-of-{held[1]}, beside the others, and give the "
                    "folder above"
                )
            for words, was, now in _differences(notes[0], note):
                raise ValueError(
                    f"{name} has shards of another {words}: {was} in {folders[0]}, "
                    f"{now} in {part}. Remove one and write it again"
                )
        for part, note in zip(folders, notes):
            _check_bytes(part, note, self.folder, name)
        self.note = notes[0]
        self.name = f"{self.note['teacher']} in cache:{folder}"
        self.fingerprint = self.note["teacher_fingerprint"]
        self.input_size = self.note["input_size"]
        parts = [_map_rows(part, note) for part, note in zip(folders, notes)]
        self.rows = parts[0] if len(parts) == 1 else JoinedRows(parts)
        self.embedding_dim = self.rows.shape[-1]
        self.plain = self.note["views"]
        self.drawn, self.augmentation = None, Augmentation()
        if drawn := self.note.get("drawn"):
            self.drawn = DrawnViews(drawn["count"], drawn["seed"], self.plain > 1)
            words = [word.split(":") for word in drawn["augment"].split(",") if word]
            self.augmentation = Augmentation(**{k: float(v) for k, v in words})

    def _folders(self, name):
        """Returns the folder, or those of its shards in order."""
        shards = _shards_in(self.folder)
        if not shards or (self.folder / _FINISHED).is_file():
            return [self.folder]
        counts = sorted({count for count, _ in shards})
        if len(counts) > 1:
            raise ValueError(
                f"{name} has shards of several divisions, such as of {counts[0]} and "
                f"of {counts[-1]}. Remove those of one"
            )
        (count,), folders = counts, list(shards.values())
        missing = [k for k in range(1, count + 1) if (count, k) not in shards]
        if missing:
            note = read_note(folders[0] / _FINISHED) or read_note(folders[0] / _WRITING)
            example = {**note, "shard": [missing[0], count]}
            way_out = f": {_command(example, self.folder)}" if note else ""
            raise ValueError(
                f"{name} lacks {len(missing)} of {count} shards, the first of them "
                f"--shard={missing[0]}/{count}. Write it{way_out}"
            )
        return folders

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
        whole_note = {**note, "data": data, "shard": None}
        raise ValueError(
            f"`--teacher=cache:{self.folder}` must be of the images of --data. It is "
            f"of {note['images']:,} images of {note['source']}, and {reason}. Write "
            f"one of these: {_command(whole_note, 'ANOTHER_DIR')}"
        )

    def class_centres(self, source: Source) -> np.ndarray:
        """Averages an identity's unit embeddings, of all its views that are not drawn.

        Returns float32 `(identities, dim)`, not normalised: their length tells how
        alike the images are. 0 for an identity without images.
        """
        whole, _, identities = source.origin()
        count, views, dim = self.rows.shape
        sums = np.zeros((whole.num_identities, dim), np.float64)
        step = max(1, _CHUNK // (views * dim * 8))
        for first in range(0, count, step):
            chunk = self.rows[first : first + step].astype(np.float32)
            units = np.zeros((len(chunk), dim))
            with metrics.naming_images(self.name, whole.describe):
                for view in range(self.plain):
                    units += metrics.normalize_rows(chunk[:, view], first_row=first)
            labels = whole.labels[first : first + step]
            order = np.argsort(labels, kind="stable")
            present, starts = np.unique(labels[order], return_index=True)
            sums[present] += np.add.reduceat(units[order], starts, axis=0)
        images = np.bincount(whole.labels, minlength=whole.num_identities)
        means = sums / np.maximum(self.plain * images, 1)[:, None]
        return means.astype(np.float32)[identities]


def _finished_note(part, folder, name):
    """Returns the note of a whole folder; raises `ValueError` for another."""
    if note := read_note(part / _FINISHED):
        return note
    note = read_note(part / _WRITING)
    if not note:
        missing = part.relative_to(folder.parent) / _FINISHED
        raise ValueError(
            f"{name} holds no {missing}. Write one: python -m ekd_tf.embed_teacher "
            f"--teacher=MODEL --data=DATA --output={shlex.quote(str(folder))}"
        )
    done, images = _row_file(part, _WRITING, note).done, len(_images_of(note))
    raise ValueError(
        f"{name} is unfinished, {done:,} of {images:,} images are done. Finish it: "
        f"{_command(note, folder)}"
    )
