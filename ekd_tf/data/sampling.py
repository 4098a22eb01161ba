"""Batches of general and identity-balanced images as a function of (seed, index)."""

from __future__ import annotations

import functools

import numpy as np

from ekd_tf import checks
from ekd_tf.data.source import MAX_LABEL

# One stream of random numbers per purpose: with equal key, streams whose counters
# differ in the top word never overlap.
_EPOCH, _BALANCED, _FLIP, _AUGMENT, _VIEW = range(5)


def _generator(seed, index, purpose):
    key = np.array([seed, index], dtype=np.uint64)
    counter = np.array([0, 0, 0, purpose], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def flip_mask(seed: int, step: int, rows: int) -> np.ndarray:
    """Returns bool `(rows,)`, each True with probability 1/2, as f(seed, step)."""
    return _generator(seed, step, _FLIP).random(rows) < 0.5


def augment_draws(seed: int, step: int, rows: int, columns: int) -> np.ndarray:
    """Returns float32 `(rows, columns)`, uniform in [0, 1), as f(seed, step, row)."""
    generator = _generator(seed, step, _AUGMENT)
    return generator.random((rows, columns), dtype=np.float32)


def chosen_views(seed: int, step: int, rows: int, count: int) -> np.ndarray:
    """Returns int64 `(rows,)`, uniform in [0, count), as f(seed, step, row)."""
    return _generator(seed, step, _VIEW).integers(0, count, rows)


class BatchSampler:
    """Chooses which images form batch i, as a function of the arguments and i alone.

    Images are positions in `labels`, integers `(n,)`. A batch holds `general` rows,
    which visit every image once per epoch in an order of that epoch's own (batches run
    across epoch borders, nothing is dropped), and `identities * images_per_identity`
    balanced rows: distinct identities, each with images chosen without replacement and
    repeated only when it has fewer. Both kinds are spread evenly: of W equal contiguous
    shards, W dividing both counts, every one holds the same number of each.

    Attributes:
        steps_per_epoch: Batches until every image was a general row once; without
            general rows, until as many balanced rows as images were drawn.
    """

    def __init__(
        self,
        labels: np.ndarray,
        general: int,
        identities: int,
        images_per_identity: int = 2,
        seed: int = 0,
    ):
        labels = np.asarray(labels)
        if labels.ndim != 1 or not len(labels) or labels.dtype.kind not in "iu":
            raise ValueError(
                "`labels` must be a non-empty vector of integers. "
                f"Received: labels.shape={labels.shape}, dtype={labels.dtype}"
            )
        for label in (labels.min(), labels.max()):
            checks.check_range("labels", label, low=0, high=MAX_LABEL, high_open=True)
        self.general = general = checks.check_whole("general", general, 0)
        self.identities = identities = checks.check_whole("identities", identities, 0)
        self.images_per_identity = images_per_identity = checks.check_whole(
            "images_per_identity", images_per_identity, 1
        )
        self.seed = checks.check_range("seed", seed, low=0, high=2**63, high_open=True)
        if general == 0 and identities == 0:
            raise ValueError(
                "`general` or `identities` must be above 0. Received: general=0, "
                "identities=0"
            )
        balanced = identities * images_per_identity
        self.num_images = len(labels)
        self.batch_size = general + balanced
        self.steps_per_epoch = -(-self.num_images // (general or balanced))
        if identities:
            counts = np.bincount(labels)
            self._by_identity = np.argsort(labels, kind="stable").astype(np.int32)
            self._first = np.cumsum(counts) - counts
            self._counts = counts
            self._several = np.flatnonzero(counts >= 2)
            self._singles = np.flatnonzero(counts == 1)
            available = len(self._several) + len(self._singles)
            if available < identities:
                raise ValueError(
                    "`identities` must be at most the number of identities with "
                    f"images, {available}. Received: identities={identities}"
                )
        edges = np.arange(self.batch_size + 1) * general // self.batch_size
        self._is_general = np.diff(edges).astype(bool)
        # A batch needs two orders when it crosses a border; a third would only
        # keep memory.
        self._order = functools.lru_cache(maxsize=2)(self._epoch_order)

    def _epoch_order(self, epoch):
        order = np.arange(self.num_images, dtype=np.int32)
        _generator(self.seed, epoch, _EPOCH).shuffle(order)
        return order

    def _general_rows(self, index):
        start = index * self.general
        positions = np.arange(start, start + self.general, dtype=np.int64)
        epochs, offsets = np.divmod(positions, self.num_images)
        rows = np.empty(self.general, dtype=np.int64)
        for epoch in range(epochs[0], epochs[-1] + 1):
            chosen = epochs == epoch
            rows[chosen] = self._order(int(epoch))[offsets[chosen]]
        return rows

    def _choose_identities(self, generator):
        missing = self.identities - len(self._several)
        if missing <= 0:
            return generator.choice(self._several, self.identities, replace=False)
        singles = generator.choice(self._singles, missing, replace=False)
        return generator.permutation(np.concatenate([self._several, singles]))

    def _balanced_rows(self, index):
        generator = _generator(self.seed, index, _BALANCED)
        chosen = self._choose_identities(generator)
        count, wanted = self._counts[chosen], self.images_per_identity
        picks = np.empty((len(chosen), wanted), dtype=np.int64)
        # Floyd's algorithm, one column for all identities at a time: column k draws
        # from 0..top and takes top itself when the draw is already in the set.
        for k in range(wanted):
            top = np.maximum(count - wanted + k, 0)
            drawn = generator.integers(0, top, endpoint=True)
            taken = (picks[:, :k] == drawn[:, None]).any(axis=1)
            picks[:, k] = np.where(taken, top, drawn)
        # An identity with too few images shows each in turn from a random one on,
        # so that none is repeated more than once more than another.
        start = generator.integers(0, count)
        cycle = (start[:, None] + np.arange(wanted)) % count[:, None]
        picks = np.where((count < wanted)[:, None], cycle, picks)
        return self._by_identity[self._first[chosen][:, None] + picks].reshape(-1)

    def batch(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns batch `index`, an integer >= 0: positions and what they are.

        int64 `(batch_size,)` in `labels`, and float32 `(batch_size,)`, 1 for general
        rows and 0 for balanced ones.
        """
        index = int(index)
        indices = np.empty(self.batch_size, dtype=np.int64)
        if self.general:
            indices[self._is_general] = self._general_rows(index)
        if self.identities:
            indices[~self._is_general] = self._balanced_rows(index)
        return indices, self._is_general.astype(np.float32)
