"""Verification sets made of a list like LFW's `pairs.txt` and a folder of images."""

from __future__ import annotations

import math
import os
import pathlib
import pickle

from ekd_tf.data.pairs import SIGNATURES
from ekd_tf.files.atomic import write_aside
from ekd_tf.files.user_text import is_utf8
from ekd_tf.files.user_text import open_text

_NAMED = 5


def write_pairs(path, images: list[bytes], issame: list[bool]) -> None:
    """Writes a verification set as insightface's and this package's readers take it."""
    content = images, issame
    # Protocol 4: the first with bytes as bytes, and read by every Python 3.
    write_aside(pathlib.Path(path), lambda file: pickle.dump(content, file, protocol=4))


def pairs_from_list(
    list_path, folder, suffix: str = ".jpg"
) -> tuple[list[bytes], list[bool]]:
    """Returns the images, pair by pair, and `issame` of a list like LFW's `pairs.txt`.

    Lines `name<tab>n<tab>m` are a pair of one person, `name<tab>n<tab>other<tab>m` of
    two; image n of a person is `<folder>/<name>/<name>_000n<suffix>`. A first line of
    one or two numbers, folds and pairs of either kind in each, is checked.
    """
    list_path, folder = os.fsdecode(list_path), os.fsdecode(folder)
    with open_text(list_path) as file:
        lines = [line.rstrip("\n") for line in file]
    counts = None
    paths, issame = [], []
    for number, line in enumerate(lines, 1):
        fields = line.split("\t") if "\t" in line else line.split()
        if number == 1 and len(fields) in (1, 2) and all(f.isdigit() for f in fields):
            counts = [int(f) for f in fields]
            continue
        if not fields:
            continue
        issame.append(len(fields) == 3)
        if issame[-1]:
            fields.insert(2, fields[0])
        try:
            first, n, second, m = fields
            chosen = (first, int(n)), (second, int(m))
            is_right = (first == second) == issame[-1] and chosen[0] != chosen[1]
        except ValueError:
            is_right = False
        if not is_right:
            raise ValueError(
                f"{list_path}: line {number} must be two images of one person, as "
                "name, n, m, or of two, as name, n, other name, m, separated by tabs. "
                f"Received: {line[:80]!r}"
            )
        line_paths = [
            os.path.join(folder, name, f"{name}_{k:04d}{suffix}") for name, k in chosen
        ]
        if not is_utf8(line) and not all(map(os.path.exists, line_paths)):
            raise ValueError(
                f"{list_path}: line {number} is not UTF-8 text and names no image of "
                f"{folder}: save the file as UTF-8, from Latin-1 by "
                f"`iconv -f latin1 -t utf-8`. Received: {line[:80]!r}"
            )
        paths += line_paths
    if not issame:
        raise ValueError(f"{list_path} lists no pair. Give a file like LFW's pairs.txt")
    expected = 2 * math.prod(counts) if counts else len(issame)
    if len(issame) != expected:
        raise ValueError(
            f"{list_path}: its first line announces {expected:,} pairs and "
            f"{len(issame):,} follow. Get the whole file"
        )
    return _read_all(list_path, paths), issame


def _read_all(path, paths):
    images, missing = [], []
    for image_path in paths:
        try:
            image = pathlib.Path(image_path).read_bytes()
        except OSError as error:
            missing.append(f"{image_path}: {error.strerror}")
            continue
        if not image.startswith(SIGNATURES):
            missing.append(f"{image_path}: neither JPEG nor PNG, BMP, GIF or WebP")
        images.append(image)
    if missing:
        listed = "\n  ".join(dict.fromkeys(missing[:_NAMED]))
        way_out = "Add them, or take their lines out of the list"
        if len(missing) == len(paths):
            way_out = "Give the folder that holds a folder per person"
        raise ValueError(
            f"{path}: {len(missing):,} of {len(paths):,} images cannot be read. "
            f"{way_out}:\n  {listed}"
        )
    return images
