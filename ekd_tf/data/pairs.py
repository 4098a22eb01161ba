"""Verification sets: pairs of faces, some of one person, some of two."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib

import numpy as np

from ekd_tf.data.source import Images
from ekd_tf.data.source import Source
from ekd_tf.files.positioned import PositionedFile
from ekd_tf.files.restricted_pickle import RefusedPickle
from ekd_tf.files.restricted_pickle import Unfinished
from ekd_tf.files.restricted_pickle import read_pickle

# What the files of the formats that are decoded begin with.
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF8", b"RIFF")
_CODES = "b1 u1 i1 u2 i2 f2 u4 i4 f4 u8 i8 f8".split()
_MAX_BYTES = 1 << 32


class PairImages(Source):
    """Encoded images in memory, of which 2i and 2i + 1 are pair i; all labels are 0."""

    num_identities = 1

    def __init__(self, name: str, images: list[bytes]):
        self.name = name
        self.labels = np.zeros(len(images), np.int32)
        self._images = images

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for image in self._images:
            digest.update(b"%d " % len(image) + image)
        return digest.hexdigest()

    def read(self, indices: np.ndarray) -> list[bytes]:
        return [self._images[index] for index in indices]

    def describe(self, index: int) -> str:
        return f"{self.name}: image {index % 2 + 1} of pair {index // 2 + 1}"


@dataclasses.dataclass(frozen=True)
class PairSet:
    """Pairs of faces to verify, in the order of their folds: images 2i and 2i + 1."""

    name: str
    images: Source
    issame: np.ndarray


def read_pairs(path: str | os.PathLike) -> PairSet:
    """Reads a verification set of insightface (`lfw.bin`, `cfp_fp.bin`, ...).

    A pickle of `(images, issame)`, by Python 2 or 3 and NumPy 1 or 2; an image is
    bytes, a bytearray or a uint8 array (n,) or (n, 1). Nothing in the file is run.
    """
    file = PositionedFile(path)
    try:
        if file.size > _MAX_BYTES:
            raise RefusedPickle(f"it has {file.size:,} bytes, more than 4 GB")
        images, issame = _contents(file.read(0, file.size))
    except RefusedPickle as error:
        raise ValueError(
            f"{file.path} is not read as a verification set: {error}. Get it from "
            "another place, or make it from a list of pairs and a folder"
        ) from None
    return PairSet(pathlib.Path(path).stem, PairImages(file.path, images), issame)


def _contents(data):
    """Returns the images, bytes each, and issame of a pickle."""
    value = _read(data)
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise RefusedPickle("it does not hold two items, images and issame")
    images, issame = map(_whole, value)
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
    images = [_image(k, _whole(image)) for k, image in enumerate(images)]
    return images, np.array([bool(same) for same in issame])


def _image(k, value):
    if isinstance(value, np.ndarray) and value.dtype == np.uint8:
        if value.ndim == 1 or value.shape[1:] == (1,):
            value = value.tobytes()
    if isinstance(value, bytes) and value.startswith(SIGNATURES):
        return value
    raise RefusedPickle(
        f"image {k % 2 + 1} of pair {k // 2 + 1} is neither JPEG nor PNG, BMP, GIF "
        "or WebP"
    )


def _whole(value):
    return value.values if isinstance(value, _Array) else value


def _read(data):
    """Returns what a pickle holds of lists, bytes, numbers and arrays.

    An array comes as `_Array` where its state follows, an array of objects as a list.
    """
    # Repeating a remembered text could otherwise make any number of bytes.
    budget = len(data)

    def encode(text, encoding):
        nonlocal budget
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise RefusedPickle(f"it encodes text as {encoding!r:.80}, not latin1")
        budget -= len(text)
        if budget < 0:
            raise RefusedPickle("it unfolds to more than it is long")
        return text.encode("latin1")

    def as_bytes(content, encoding=None):
        if encoding is not None:
            return encode(content, encoding)
        if not isinstance(content, bytes):
            raise RefusedPickle("it makes a bytearray of something else than bytes")
        return content

    names = {
        "numpy.ndarray": None,
        "numpy.dtype": lambda code, *_: _DType(code),
        "_codecs.encode": encode,
        "builtins.bytearray": as_bytes,
        "__builtin__.bytearray": as_bytes,
    }
    # numpy.core is what NumPy 1 writes, numpy._core NumPy 2.
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray._reconstruct"] = lambda *_: _Array()
        names[f"{core}.multiarray.scalar"] = _scalar
        names[f"{core}.numeric._frombuffer"] = lambda raw, dtype, shape, order: _array(
            shape, dtype, raw, order
        )
    return read_pickle(data, names, "verification set")


class _DType(Unfinished):
    """`numpy.dtype` of a few kinds; any other is refused where it is used."""

    def __init__(self, code):
        self.code = code.decode("ascii") if isinstance(code, bytes) else code
        self.order = "<"

    def finish(self, state):
        self.order = ">" if state[1] in (">", b">") else "<"


class _Array(Unfinished):
    values: np.ndarray | list | None = None

    def finish(self, state):
        # An early NumPy left the version in front out.
        shape, dtype, columns_first, raw = state[-4:]
        self.values = _array(shape, dtype, raw, "F" if columns_first else "C")


def _scalar(dtype, raw):
    text = getattr(dtype, "code", None)
    # What np.bytes_ is: an image as it stands in a list of bytes.
    if isinstance(raw, bytes) and text == f"S{len(raw)}":
        return raw
    return _array((1,), dtype, raw)[0]


def _array(shape, dtype, raw, order="C"):
    if not isinstance(dtype, _DType):
        raise RefusedPickle("it holds an array without type")
    shape = tuple(shape)
    if len(shape) > 2 or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise RefusedPickle(f"it holds an array of {len(shape)} dimensions")
    if dtype.code in ("O8", "O4") and isinstance(raw, list):
        if shape != (len(raw),):
            raise RefusedPickle(
                f"it holds {len(raw):,} objects as an array of shape {shape}"
            )
        return raw
    if dtype.code not in _CODES or not isinstance(raw, bytes):
        raise RefusedPickle(f"it holds an array of type {dtype.code!r:.80}")
    if np.prod(shape, dtype=object) * int(dtype.code[1:]) != len(raw):
        raise RefusedPickle(
            f"it holds an array of shape {shape} with {len(raw):,} bytes"
        )
    # bool of bytes other than 0 and 1 is undefined: read as numbers.
    code = dtype.order + dtype.code.replace("b", "u")
    return np.frombuffer(raw, code).reshape(shape, order=order)


class LinkedImages(Images):
    """Every distinct image of a verification set, labelled by what its pairs say.

    Images of one identity are those that pairs of one identity link, directly or
    over others. A set names nobody, so two images it does not link are two identities
    here though they may show one: people of several pairs make some of the negative
    pairs positive. In LFW's view-1 test set about 350 of 1,198,326 are (a good model's
    cosine is above 0.5): read TPRs at FPRs well above 3e-4.
    """

    def __init__(self, pairs: PairSet):
        images = pairs.images.read(np.arange(len(pairs.images)))
        numbers: dict = {}
        # Equal bytes are one image, whichever pairs it stands in.
        rows = np.array([numbers.setdefault(image, len(numbers)) for image in images])
        labels = np.arange(len(numbers))
        for pair in np.flatnonzero(pairs.issame):
            left, right = labels[rows[2 * pair : 2 * pair + 2]]
            labels[labels == right] = left
        first = np.unique(rows, return_index=True)[1]
        super().__init__(pairs.images, first)
        identities, labels = np.unique(labels, return_inverse=True)
        self.labels = labels.reshape(-1).astype(np.int32)
        self._kind, self._chosen = b"", self.labels
        self.num_identities = len(identities)
        self.name = f"{pairs.images.name}, all pairs"

    # Its identities are its own.
    origin = Source.origin
