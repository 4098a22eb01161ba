"""Faces drawn by code: the data set that is always there.

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

# Pixels painted at once. Fewer cost more calls per picture, more overflow the cache;
# it also bounds the memory of a large call.
_CHUNK_PIXELS = 1 << 17
_MAX_SIZE = 256


def _check_size(size):
    if size % 16 != 0 or not 32 <= size <= _MAX_SIZE:
        raise ValueError(
            f"`size` must be a multiple of 16 in [32, {_MAX_SIZE}] pixels. "
            f"Received: size={size}"
        )


def _check_counters(name, values):
    """Returns `values` as an array once they are known to be integers >= 0 in 1-D."""
    values = np.asarray(values)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise ValueError(
            f"`{name}` must be a one-dimensional array of integers. "
            f"Received: {name}.shape={values.shape}, dtype={values.dtype}"
        )
    if values.size:
        check_range(name, int(values.min()), low=0)
    return values


def render(
    seed: int, identities: np.ndarray, samples: np.ndarray, size: int = 112
) -> np.ndarray:
    """Paints faces.

    Args:
        seed: Integer in [0, 2^63): which world of people.
        identities: Integer array `(n,)`, >= 0: which person.
        samples: Integer array `(n,)`, >= 0: which photograph of the person.
        size: Integer, side of a picture in pixels: a multiple of 16 in [32, 256]. The
            same face under the same conditions is drawn at every size; only the grain
            of the noise differs.

    Returns:
        uint8 array `(n, size, size, 3)`, RGB. Picture i depends on `seed`,
        `identities[i]`, `samples[i]` and `size` alone: order and company do not change
        a bit. No images give an array of length 0.

    Raises:
        ValueError: If an argument is out of range, or the arrays differ in length.
    """
    _check_size(size)
    check_range("seed", seed, low=0, high=2**63, high_open=True)
    identities = _check_counters("identities", identities)
    samples = _check_counters("samples", samples)
    if len(identities) != len(samples):
        raise ValueError(
            "`identities` and `samples` must have the same length. "
            f"Received: {len(identities)} and {len(samples)}"
        )
    images = np.empty((len(identities), size, size, 3), np.uint8)
    step = max(1, _CHUNK_PIXELS // (size * size))
    for start in range(0, len(identities), step):
        part = slice(start, start + step)
        numbers = parameters(seed, identities[part], samples[part])
        images[part] = FacePainter(numbers, size).paint()
    return images


class SyntheticFaces(Source):
    """A source of synthetic faces, images of one identity next to each other.

    Args:
        identities: Integer > 0, number of people.
        images_per_identity: Integer > 0.
        size: Integer, side of a picture in pixels: a multiple of 16 in [32, 256].
        seed: Integer in [0, 2^63). Another seed is another world of people.
        first_identity: Integer >= 0. The people are `first_identity` to
            `first_identity + identities - 1`, so ranges that do not overlap give
            disjoint sets, for training and for testing.

    """

    encoded = False
    name = "synthetic"
    # Of the arguments: equal for sources of equal pixels and labels.
    fingerprint = ""

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
        _check_size(size)
        check_range("seed", seed, low=0, high=2**63, high_open=True)
        check_range("first_identity", first_identity, low=0)
        self.num_identities = identities
        self.images_per_identity = images_per_identity
        self.size = size
        self.seed = seed
        self.first_identity = first_identity
        self.labels = np.repeat(
            np.arange(identities, dtype=np.int32), images_per_identity
        )
        arguments = identities, images_per_identity, size, seed, first_identity
        text = "synthetic faces " + " ".join(
            str(int(number)) for number in (GENERATOR_VERSION, *arguments)
        )
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]

    def _locate(self, indices):
        """Returns the identity and the number of the photograph of each index."""
        indices = _check_counters("indices", indices)
        if indices.size:
            check_range("indices", int(indices.max()), high=len(self) - 1)
        indices = indices.astype(np.int64)
        person, photograph = np.divmod(indices, self.images_per_identity)
        return self.first_identity + person, photograph

    def read(self, indices) -> np.ndarray:
        identities, samples = self._locate(indices)
        return render(self.seed, identities, samples, size=self.size)

    def identity_names(self) -> list[str]:
        first = self.first_identity
        return [str(first + label) for label in range(self.num_identities)]

    def describe(self, index: int) -> str:
        identities, samples = self._locate([index])
        return (
            f"synthetic identity {identities[0]}, image {samples[0]} (seed {self.seed})"
        )
