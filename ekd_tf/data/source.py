"""The interface of every image source, and sources made of others."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ekd_tf import checks

# Labels lie below: RecordIO stores them as float32, which rounds larger ones.
MAX_LABEL = 1 << 24


class Source(abc.ABC):
    """Labelled face images addressed by position 0..n-1.

    Attributes:
        name: What messages call the source, such as its path.
        labels: int32 `(n,)`, values 0..num_identities-1.
        identities: What the set itself calls each identity, by label, or None.
        encoded: True when `read` returns encoded bytes, False when it returns pixels.
        left_out: `"path: reason"` of each image that is not among them because it
            cannot be read.
    """

    name: str
    labels: np.ndarray
    num_identities: int
    identities: Any = None
    encoded: bool = True
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A hash that changes with the images, their order or their labels.

        Of files names, sizes and times of change are hashed, as reading millions of
        images takes hours: a copy without its times counts as changed.
        """

    @abc.abstractmethod
    def read(self, indices: np.ndarray) -> Any:
        """Reads the images at `indices`, `(k,)`; several threads may at once.

        Returned is a list of k `bytes` when `encoded`, otherwise a uint8 array
        `(k, height, width, 3)`, RGB. An `OSError` or a `ValueError` says that one of
        the images cannot be read.
        """

    @abc.abstractmethod
    def describe(self, index: int) -> str:
        """Returns where image `index` lives, for messages."""

    def identity_names(self) -> list[str]:
        """Returns what tells each identity, by label, when others come or go."""
        known = self.identities
        if known is None:
            known = range(self.num_identities)
        return [str(identity) for identity in known]

    def origin(self) -> tuple[Source, np.ndarray, np.ndarray]:
        """Returns the source whose identities these are, `positions`, `identities`.

        Image i is image `positions[i]` of it, label j its label `identities[j]`.
        """
        return self, np.arange(len(self)), np.arange(self.num_identities)


class Images(Source):
    """The images at some positions of a source, with the labels they have there."""

    def __init__(
        self, source: Source, indices: np.ndarray, left_out: Iterable[str] = ()
    ):
        self._source = source
        self._indices = np.asarray(indices, np.int64)
        # Before and behind the source's, what the fingerprint is a hash of.
        self._kind, self._chosen = b"images", self._indices
        self.name = source.name
        self.labels = source.labels[self._indices]
        self.num_identities = source.num_identities
        self.identities = source.identities
        self.encoded = source.encoded
        self.left_out = (*source.left_out, *left_out)

    @property
    def fingerprint(self) -> str:
        little_endian = self._chosen.dtype.newbyteorder("<")
        chosen = self._chosen.astype(little_endian).tobytes()
        text = self._kind + self._source.fingerprint.encode()
        return hashlib.sha256(text + chosen).hexdigest()

    def read(self, indices: np.ndarray) -> Any:
        return self._source.read(self._indices[np.asarray(indices)])

    def describe(self, index: int) -> str:
        return self._source.describe(int(self._indices[index]))

    def origin(self) -> tuple[Source, np.ndarray, np.ndarray]:
        source, positions, identities = self._source.origin()
        return source, positions[self._indices], identities


class Subset(Images):
    """Some identities of a source, each once: `identities[j]` becomes label j.

    Images keep their order.
    """

    def __init__(self, source: Source, identities: ArrayLike):
        identities = np.array(identities, np.int64).reshape(-1)
        checks.check_range("len(identities)", len(identities), low=1)
        if len(np.unique(identities)) != len(identities):
            raise ValueError("`identities` must be distinct. Received a repeated one.")
        for value in (identities.min(), identities.max()):
            checks.check_range(
                "identities", value, low=0, high=source.num_identities, high_open=True
            )
        relabel = np.full(source.num_identities, -1, dtype=np.int32)
        relabel[identities] = np.arange(len(identities), dtype=np.int32)
        labels = relabel[source.labels]
        super().__init__(source, np.flatnonzero(labels >= 0))
        self._kind, self._chosen = b"", identities
        self.name = f"{source.name} ({len(identities)} identities)"
        self.labels = labels[self._indices]
        self.num_identities = len(identities)
        names = source.identity_names()
        self.identities = [names[identity] for identity in identities]

    def origin(self) -> tuple[Source, np.ndarray, np.ndarray]:
        source, positions, identities = super().origin()
        return source, positions, identities[self._chosen]


class JoinedSources(Source):
    """The images of several sources one after the other.

    Labels of each source are offset by the identities of those before it, so nobody of
    one source is anybody of another. All hold files, or all pixels of one size.
    """

    def __init__(self, sources: list[Source]):
        kinds = [
            "files" if s.encoded else str(np.shape(s.read(np.zeros(1, int)))[1:])
            for s in sources
        ]
        if len(set(kinds)) > 1:
            listed = ", ".join(f"{s.name} ({k})" for s, k in zip(sources, kinds))
            raise ValueError(
                "Synthetic faces are joined with others of their size, files with "
                f"files. Received: {listed}"
            )
        self.name = "+".join(source.name for source in sources)
        self.encoded = sources[0].encoded
        self._sources = sources
        self.left_out = tuple(line for each in sources for line in each.left_out)
        self._starts = np.cumsum([0, *(len(source) for source in sources)])
        firsts = np.cumsum([0, *(source.num_identities for source in sources)])
        self.num_identities = int(firsts[-1])
        self.identities = [
            f"{number}:{name}"
            for number, source in enumerate(sources)
            for name in source.identity_names()
        ]
        self.labels = np.concatenate(
            [source.labels + np.int32(first) for source, first in zip(sources, firsts)]
        )

    @property
    def fingerprint(self) -> str:
        together = " ".join(source.fingerprint for source in self._sources)
        return hashlib.sha256(together.encode()).hexdigest()

    def _locate(self, indices):
        """Returns the source's number and the position in it of each index."""
        numbers = np.searchsorted(self._starts, indices, side="right") - 1
        return numbers, indices - self._starts[numbers]

    def read(self, indices: np.ndarray) -> Any:
        numbers, positions = self._locate(np.asarray(indices, np.int64))
        images: list = [None] * len(numbers)
        for number in np.unique(numbers):
            rows = np.flatnonzero(numbers == number)
            for row, image in zip(rows, self._sources[number].read(positions[rows])):
                images[row] = image
        return images if self.encoded else np.array(images)

    def describe(self, index: int) -> str:
        number, position = self._locate(index)
        return self._sources[number].describe(int(position))


def split_identities(
    source: Source, holdout: int, seed: int = 0
) -> tuple[Source, Source]:
    """Splits a source into training and `holdout` identities, chosen by `seed`."""
    if holdout < 2 or source.num_identities - holdout < 2:
        raise ValueError(
            "`holdout` must leave at least 2 identities on either side, so it must be "
            f"in [2, {source.num_identities - 2}] for {source.name} with "
            f"{source.num_identities} identities. Received: holdout={holdout}"
        )
    generator = np.random.Generator(np.random.Philox(seed))
    order = generator.permutation(source.num_identities)
    train, heldout = np.sort(order[holdout:]), np.sort(order[:holdout])
    return Subset(source, train), Subset(source, heldout)


def number_identities(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers the labels that occur, in [0, 2^24), 0..C-1 in ascending order.

    Returns the new labels, int32 `(n,)`, and the old one of each, int32 `(C,)`.
    """
    # np.unique would sort millions of labels.
    occurs = np.bincount(labels) > 0
    numbers = np.cumsum(occurs, dtype=np.int32) - np.int32(1)
    return numbers[labels], np.flatnonzero(occurs).astype(np.int32)
