"""Verification sets: pairs of faces, some of one person, some of two."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import pickle

import numpy as np

from ekd_tf.data.pair_pickle import read_pair_pickle
from ekd_tf.data.source import Source
from ekd_tf.files.atomic import write_aside
from ekd_tf.files.positioned import PositionedFile
from ekd_tf.files.restricted_pickle import RefusedPickle
from ekd_tf.files.user_text import is_utf8
from ekd_tf.files.user_text import open_text

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_MAX_BYTES = 1 << 32
_NAMED = 5


class PairImages(Source):
    """Encoded images in memory, of which 2i and 2i + 1 are pair i.

    Labels say nothing: they are all 0.

    Args:
        name: What messages call the set.
        images: List of `bytes`.
        places: What messages call each image, or None for its number.
    """

    num_identities = 1

    def __init__(self, name: str, images: list[bytes], places: list[str] | None = None):
        self.name = name
        self.labels = np.zeros(len(images), np.int32)
        self._images = images
        self._places = places

    @property
    def fingerprint(self) -> str:
        """A hash of the images' bytes."""
        digest = hashlib.sha256()
        for image in self._images:
            digest.update(b"%d " % len(image) + image)
        return digest.hexdigest()

    def read(self, indices):
        return [self._images[index] for index in indices]

    def describe(self, index: int) -> str:
        if self._places:
            return self._places[index]
        return f"{self.name}: image {index % 2 + 1} of pair {index // 2 + 1}"


@dataclasses.dataclass(frozen=True)
class PairSet:
    """Pairs of faces to verify, in the order of their folds.

    Attributes:
        name: String, such as "lfw".
        images: A `Source` of encoded images, 2i and 2i + 1 being pair i.
        issame: Bool array `(pairs,)`.
    """

    name: str
    images: Source
    issame: np.ndarray


def read_pairs(path) -> PairSet:
    """Reads a verification set of insightface (`lfw.bin`, `cfp_fp.bin`, ...).

    A pickle of `(images, issame)`, by Python 2 or 3 and NumPy 1 or 2; an image is
    JPEG or PNG, as bytes, a bytearray or a uint8 array (n,) or (n, 1); images and
    issame are lists, tuples or arrays. Nothing in the file is run; see
    `restricted_pickle`.

    Args:
        path: The file. Its name without suffix becomes the name of the set.

    Raises:
        ValueError: The file cannot be read or is something else.
    """
    file = PositionedFile(path)
    try:
        if file.size > _MAX_BYTES:
            raise RefusedPickle(f"it has {file.size:,} bytes, more than 4 GB")
        images, issame = _contents(read_pair_pickle(file.read(0, file.size)))
    except RefusedPickle as error:
        raise ValueError(
            f"{file.path} is not read as a verification set: {error}. Get it from "
            "another place, or make it from a list of pairs and a folder"
        ) from None
    return PairSet(pathlib.Path(path).stem, PairImages(file.path, images), issame)


def _contents(value):
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise RefusedPickle("it does not hold two items, images and issame")
    images, issame = value
    if isinstance(issame, np.ndarray):
        issame = issame.tolist()
    if not isinstance(images, (tuple, list)) or not isinstance(issame, (tuple, list)):
        raise RefusedPickle("its images and issame are not two lists")
    if len(images) != 2 * len(issame) or not issame:
        raise RefusedPickle(
            f"{len(images):,} images for {len(issame):,} pairs; two per pair are needed"
        )
    for k, same in enumerate(issame):
        if not isinstance(same, (int, float, np.generic)) or same not in (0, 1):
            raise RefusedPickle(f"issame of pair {k + 1} is neither True nor False")
    images = [_image(k, image) for k, image in enumerate(images)]
    return images, np.array([bool(same) for same in issame])


def _image(k, value):
    if isinstance(value, np.ndarray) and value.dtype == np.uint8:
        if value.ndim == 1 or value.shape[1:] == (1,):
            value = value.tobytes()
    if isinstance(value, bytes) and value.startswith(_SIGNATURES):
        return value
    raise RefusedPickle(
        f"image {k % 2 + 1} of pair {k // 2 + 1} is neither JPEG nor PNG"
    )


class LinkedImages(Source):
    """Every distinct image of a verification set, labelled by what its pairs say.

    Images of one identity are those that pairs of one identity link, directly or
    over others. A set names nobody, so two images it does not link are two identities
    here though they may show one: people of several pairs make some of the negative
    pairs positive. In LFW's view-1 test set about 350 of 1,198,326 are (a good model's
    cosine is above 0.5): read TPRs at FPRs well above that share of 3e-4.

    Args:
        pairs: The set.
    """

    def __init__(self, pairs: PairSet):
        images = pairs.images.read(range(len(pairs.images)))
        numbers = {}
        # Equal bytes are one image, whichever pairs it stands in.
        of_row = [numbers.setdefault(image, len(numbers)) for image in images]
        firsts = np.unique(of_row, return_index=True)[1]
        labels = np.arange(len(numbers))
        for pair in np.flatnonzero(pairs.issame):
            left, right = labels[of_row[2 * pair]], labels[of_row[2 * pair + 1]]
            labels[labels == right] = left
        self._pairs = pairs
        self._rows = firsts
        identities, self.labels = np.unique(labels, return_inverse=True)
        self.labels = self.labels.reshape(-1).astype(np.int32)
        self.num_identities = len(identities)
        self.name = f"{pairs.images.name}, all pairs"

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._pairs.images.fingerprint.encode())
        digest.update(self.labels.astype("<i4").tobytes())
        return digest.hexdigest()

    def read(self, indices):
        return self._pairs.images.read(self._rows[np.asarray(indices)])

    def describe(self, index: int) -> str:
        return self._pairs.images.describe(int(self._rows[index]))


def write_pairs(path, pairs: PairSet) -> None:
    """Writes a verification set as insightface's and this package's readers take it.

    Images keep their bytes. The file appears whole or not at all.

    Args:
        path: The file to create or replace.
        pairs: What to write.
    """
    images = pairs.images.read(range(len(pairs.images)))
    # Protocol 4: the first with bytes as bytes, and read by every Python 3.
    content = images, [bool(same) for same in pairs.issame]
    write_aside(pathlib.Path(path), lambda file: pickle.dump(content, file, protocol=4))


def pairs_from_list(list_path, folder, suffix: str = ".jpg") -> PairSet:
    """Makes a verification set of a list like LFW's `pairs.txt` and aligned images.

    Lines `name<tab>n<tab>m` are a pair of one person, `name<tab>n<tab>other<tab>m` of
    two; image n of a person is `<folder>/<name>/<name>_000n.jpg`. A first line of one
    or two numbers, folds and pairs of either kind in each, is checked.

    Args:
        list_path: The text file. Its name without suffix becomes the name of the set.
        folder: The folder of a folder per person.
        suffix: Of the images' file names.

    Raises:
        ValueError: A line is anything else, images are missing, or the numbers of the
            first line do not fit.
    """
    list_path = os.fsdecode(list_path)
    with open_text(list_path) as file:
        lines = [line.rstrip("\n") for line in file]
    told = None
    paths, issame = [], []
    for number, line in enumerate(lines, 1):
        fields = line.split("\t") if "\t" in line else line.split()
        if number == 1 and len(fields) in (1, 2) and all(f.isdigit() for f in fields):
            told = [int(f) for f in fields]
            continue
        if not fields:
            continue
        if len(fields) == 3:
            fields = [fields[0], fields[1], fields[0], fields[2]]
            issame.append(True)
        else:
            issame.append(False)
        try:
            first, n, second, m = fields
            chosen = (first, int(n)), (second, int(m))
        except ValueError:
            raise ValueError(
                f"{list_path}: line {number} must be name, n, m or name, n, other "
                f"name, m, separated by tabs. Received: {line[:80]!r}"
            ) from None
        of_line = [
            os.path.join(os.fsdecode(folder), name, f"{name}_{k:04d}{suffix}")
            for name, k in chosen
        ]
        if not is_utf8(line) and not all(map(os.path.exists, of_line)):
            raise ValueError(
                f"{list_path}: line {number} is not UTF-8 text and names no image of "
                f"{os.fsdecode(folder)}: save the file as UTF-8, from Latin-1 by "
                f"`iconv -f latin1 -t utf-8`. Received: {line[:80]!r}"
            )
        paths += of_line
    _check_count(list_path, told, issame)
    return PairSet(
        pathlib.Path(list_path).stem,
        PairImages(list_path, _read_all(list_path, paths), paths),
        np.array(issame),
    )


def _check_count(path, told, issame):
    if not issame:
        raise ValueError(f"{path} lists no pair. Give a file like LFW's pairs.txt")
    expected = 2 * int(np.prod(told)) if told else len(issame)
    if len(issame) != expected:
        raise ValueError(
            f"{path}: its first line announces {expected:,} pairs and {len(issame):,} "
            "follow. Get the whole file"
        )


def _read_all(path, paths):
    images, missing = [], []
    for image_path in paths:
        try:
            images.append(pathlib.Path(image_path).read_bytes())
        except OSError as error:
            missing.append(f"{image_path}: {error.strerror}")
    if missing:
        listed = "\n  ".join(dict.fromkeys(missing[:_NAMED]))
        raise ValueError(
            f"{path}: {len(missing):,} of {len(paths):,} images cannot be read. Give "
            f"the folder that holds a folder per person:\n  {listed}"
        )
    return images
