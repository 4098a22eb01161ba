"""The embeddings of a teacher that were written before, read in place of it."""

from __future__ import annotations

import os
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ekd_tf.data import Augmentation
from ekd_tf.data import DrawnViews
from ekd_tf.data import Source
from ekd_tf.embedders.cache_writer import FINISHED
from ekd_tf.embedders.cache_writer import WRITING
from ekd_tf.embedders.cache_writer import check_bytes
from ekd_tf.embedders.cache_writer import command
from ekd_tf.embedders.cache_writer import differences
from ekd_tf.embedders.cache_writer import images_of
from ekd_tf.embedders.cache_writer import map_rows
from ekd_tf.embedders.cache_writer import row_file
from ekd_tf.embedders.cache_writer import shards_in
from ekd_tf.files.rows import read_note
from ekd_tf.metrics import normalize_rows

_CHUNK = 1 << 24


class JoinedRows:
    """Arrays of equal rows, one behind the other, read as one without copying."""

    def __init__(self, parts: Sequence[np.ndarray]):
        self._parts = parts
        ends = np.cumsum([len(part) for part in parts])
        self._starts = [0, *ends[:-1]]
        self.shape = (int(ends[-1]), *parts[0].shape[1:])
        self.dtype: DTypeLike = parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """Returns rows by a slice, by positions, or by `(positions, views)`."""
        rows, *rest = key if isinstance(key, tuple) else (key,)
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        found = np.empty((len(rows), *self.shape[1 + len(rest) :]), self.dtype)
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        for owner in np.unique(owners):
            mine = owners == owner
            inside = rows[mine] - self._starts[owner]
            found[mine] = self._parts[owner][(inside, *(each[mine] for each in rest))]
        return found


class TeacherCache:
    """A finished cache, its bytes checked once and mapped into memory.

    One that is missing, unfinished or damaged, or has shards that do not belong
    together, is a `ValueError` with the command that mends it.

    Attributes:
        note: Dict, `cache.json`.
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
            for words, was, now in differences(notes[0], note):
                raise ValueError(
                    f"{name} has shards of another {words}: {was} in {folders[0]}, "
                    f"{now} in {part}. Remove one and write it again"
                )
        for part, note in zip(folders, notes):
            check_bytes(part, note, self.folder, name)
        self.note = notes[0]
        self.fingerprint = self.note["teacher_fingerprint"]
        self.input_size = self.note["input_size"]
        parts = [map_rows(part, note) for part, note in zip(folders, notes)]
        self.rows = parts[0] if len(parts) == 1 else JoinedRows(parts)
        self.embedding_dim = self.rows.shape[-1]
        self.plain = self.note["views"]
        self.drawn, self.augmentation = None, Augmentation()
        drawn = self.note.get("drawn")
        if drawn:
            self.drawn = DrawnViews(drawn["count"], drawn["seed"], self.plain > 1)
            words = [word.split(":") for word in drawn["augment"].split(",") if word]
            self.augmentation = Augmentation(**{k: float(v) for k, v in words})

    def _folders(self, name):
        """Returns the folder, or those of its shards in order."""
        shards = shards_in(self.folder)
        if not shards or (self.folder / FINISHED).is_file():
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
            note = read_note(folders[0] / FINISHED) or read_note(folders[0] / WRITING)
            example = {**note, "shard": [missing[0], count]}
            way_out = f": {command(example, self.folder)}" if note else ""
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
            f"one of these: {command(whole_note, 'ANOTHER_DIR')}"
        )

    def class_centres(self, source: Source) -> np.ndarray:
        """Averages the unit embeddings of each identity of a source.

        Over its images and their views that are not drawn. Returns float32
        `(identities, dim)`, not normalised: their length tells how alike the images
        are. 0 for an identity without images.
        """
        whole, _, identities = source.origin()
        count, views, dim = self.rows.shape
        sums = np.zeros((whole.num_identities, dim), np.float64)
        step = max(1, _CHUNK // (views * dim * 8))
        for first in range(0, count, step):
            chunk = self.rows[first : first + step].astype(np.float32)
            units = np.zeros((len(chunk), dim))
            for view in range(self.plain):
                units += normalize_rows(chunk[:, view], first_row=first)
            labels = whole.labels[first : first + step]
            order = np.argsort(labels, kind="stable")
            present, starts = np.unique(labels[order], return_index=True)
            sums[present] += np.add.reduceat(units[order], starts, axis=0)
        images = np.bincount(whole.labels, minlength=whole.num_identities)
        means = sums / np.maximum(self.plain * images, 1)[:, None]
        return means.astype(np.float32)[identities]


def _finished_note(part, folder, name):
    """Returns the note of a whole folder; raises `ValueError` for another."""
    note = read_note(part / FINISHED)
    if note:
        return note
    note = read_note(part / WRITING)
    if not note:
        raise ValueError(
            f"{name} holds no {part.relative_to(folder.parent) / FINISHED}. Write one: "
            "python -m ekd_tf.embed_teacher --teacher=MODEL --data=DATA "
            f"--output={shlex.quote(str(folder))}"
        )
    done, images = row_file(part, WRITING, note).done, len(images_of(note))
    raise ValueError(
        f"{name} is unfinished, {done:,} of {images:,} images are done. Finish it: "
        f"{command(note, folder)}"
    )
