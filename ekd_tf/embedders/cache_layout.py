"""How the cache of a teacher's embeddings lies on disk.

A folder of two files, the second of which appears when the first is whole:

- `embeddings.bin`: `(images, views, dim)`, float16 or float32, raw as the teacher gives
  them; view 0 is the image, view 1 its mirror image, the others are `DrawnViews`.
- `cache.json`: what the rows are, and a checksum. Until then it is `writing.json`.

Or of one such folder for each shard, `shard-I-of-N`, whose rows lie one behind the
other.
"""

from __future__ import annotations

import pathlib
import re
import shlex
import zlib
from collections.abc import Iterator
from typing import Any

from ekd_tf import checks
from ekd_tf.data import Augmentation
from ekd_tf.data import DrawnViews
from ekd_tf.data import Source
from ekd_tf.embedders.frozen import FrozenEmbedder
from ekd_tf.files.rows import RowFile

ROWS = "embeddings.bin"
WRITING, FINISHED = "writing.json", "cache.json"
DTYPES = ("float16", "float32")
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
_SHARD = re.compile(r"shard-(\d+)-of-(\d+)")
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
) -> dict[str, Any]:
    """Returns what `cache.json` says of a cache before it is written.

    Args:
        model: The teacher.
        source: All its images.
        teacher, data: Both as flags name them: for the command that messages give.
        dtype: One of `DTYPES`.
        flip: Whether view 1 is the mirror image.
        drawn: Further views, or None.
        augmentation: What their draws are made into, on images of the teacher's size.
    """
    checks.check_choice("dtype", dtype, DTYPES)
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
    return note


def shards_in(folder: pathlib.Path) -> list[tuple[int, int]]:
    """Returns `(I, N)` of the shards in the folder of a cache, in order."""
    matches = [_SHARD.fullmatch(path.name) for path in folder.glob("shard-*")]
    found = [(int(match[1]), int(match[2])) for match in matches if match]
    found = [(index, count) for index, count in found if 1 <= index <= count]
    return sorted(found, key=lambda shard: (shard[1], shard[0]))


def is_cache_folder(folder: pathlib.Path) -> bool:
    """Returns whether a folder holds a cache, whole or in shards."""
    return (folder / FINISHED).is_file() or bool(shards_in(folder))


def shard_folder(folder: pathlib.Path, shard: tuple[int, int]) -> pathlib.Path:
    """Returns where shard `(I, N)` of a cache lies."""
    return folder / f"shard-{shard[0]}-of-{shard[1]}"


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
    """Returns the command that writes a cache or goes on with it."""
    words = ["python", "-m", "ekd_tf.embed_teacher"]
    words += [f"--teacher={note['teacher']}", f"--data={note['data']}"]
    words += [f"--output={folder}", f"--dtype={note['dtype']}"]
    words += [] if note["views"] > 1 else ["--noflip"]
    if drawn := note.get("drawn"):
        words += [f"--views={drawn['count']}", f"--augment={drawn['augment']}"]
        words += [f"--seed={drawn['seed']}"] if drawn["seed"] else []
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
