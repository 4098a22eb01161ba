"""Synthetic faces: the data set that is always there.

A picture is a pure function of integers. `(seed, identity)` decides the geometry and
colours of a person, `(seed, identity, k)` the conditions of a photograph: pose, light,
expression, blur, noise, what stands in the way. Nothing is stored and nothing is drawn
in sequence, so any picture can be made alone. No TensorFlow.
"""

from __future__ import annotations

import hashlib

import numpy as np

from ekd_tf.checks import check_range
from ekd_tf.data.source import Source
from ekd_tf.data.synthetic.painter import FacePainter
from ekd_tf.data.synthetic.parameters import parameters

# Part of every fingerprint: raise it with any change that moves a pixel.
GENERATOR_VERSION = 1

# Pixels painted at once. Fewer cost more calls per picture, more overflow the cache.
_CHUNK_PIXELS = 1 << 17
_MAX_SIZE = 256


def render(
    seed: int, identities: np.ndarray, samples: np.ndarray, size: int = 112
) -> np.ndarray:
    """Paints faces, uint8 `(n, size, size, 3)`, RGB.

    Picture i is photograph `samples[i]` of person `identities[i]`, integers >= 0, in
    the world of people `seed`. It depends on these and `size` alone, to the bit. The
    same face is drawn at every size; only the grain differs.
    """
    images = np.empty((len(identities), size, size, 3), np.uint8)
    step = max(1, _CHUNK_PIXELS // (size * size))
    for start in range(0, len(identities), step):
        part = slice(start, start + step)
        numbers = parameters(seed, identities[part], samples[part])
        images[part] = FacePainter(numbers, size).paint()
    return images


class SyntheticFaces(Source):
    """A source of synthetic faces, images of one identity next to each other.

    A picture is drawn when it is first read, and kept: 20,000 of 48x48 take 138 MB.
    `size` is a multiple of 16 in [32, 256], `first_identity` the first person: ranges
    of people that do not overlap give disjoint sets, for training and for testing.
    """

    encoded = False

    def __init__(
        self,
        identities: int = 200,
        images_per_identity: int = 20,
        size: int = 64,
        seed: int = 0,
        first_identity: int = 0,
    ):
        check_range("identities", identities, low=1)
        check_range("images_per_identity", images_per_identity, low=1)
        if size % 16 != 0 or not 32 <= size <= _MAX_SIZE:
            raise ValueError(
                f"`size` must be a multiple of 16 in [32, {_MAX_SIZE}] pixels. "
                f"Received: size={size}"
            )
        check_range("seed", seed, low=0, high=2**63, high_open=True)
        check_range("first_identity", first_identity, low=0)
        self.num_identities = identities
        self.identities = range(first_identity, first_identity + identities)
        self.images_per_identity = images_per_identity
        self.size = size
        self.seed = seed
        self.first_identity = first_identity
        # As `--data` says it.
        self.name = (
            f"synthetic:identities={identities},images={images_per_identity},size={size}"
            + f",seed={seed}" * (seed > 0)
            + f",first={first_identity}" * (first_identity > 0)
        )
        self.labels = np.repeat(
            np.arange(identities, dtype=np.int32), images_per_identity
        )
        self._kept = {}

    @property
    def fingerprint(self) -> str:
        """A hash of the arguments and of the version of the generator."""
        sizes = self.num_identities, self.images_per_identity, self.size
        arguments = GENERATOR_VERSION, *sizes, self.seed, self.first_identity
        text = "synthetic faces " + " ".join(str(int(n)) for n in arguments)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _locate(self, indices):
        """Returns the identity and the number of the photograph of each index."""
        indices = np.asarray(indices, np.int64)
        for index in (indices.min(initial=0), indices.max(initial=0)):
            check_range("indices", int(index), low=0, high=len(self) - 1)
        person, photograph = np.divmod(indices, self.images_per_identity)
        return self.first_identity + person, photograph

    def read(self, indices: np.ndarray) -> np.ndarray:
        identities, photographs = self._locate(indices)
        indices = np.asarray(indices).tolist()
        rows = [row for row, index in enumerate(indices) if index not in self._kept]
        if rows:
            drawn = render(self.seed, identities[rows], photographs[rows], self.size)
            self._kept.update((indices[row], face) for row, face in zip(rows, drawn))
        shape = (len(indices), self.size, self.size, 3)
        return np.array([self._kept[i] for i in indices], np.uint8).reshape(shape)

    def describe(self, index: int) -> str:
        identity, photograph = self._locate(index)
        return f"synthetic identity {identity}, image {photograph} (seed {self.seed})"
