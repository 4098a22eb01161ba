"""Finds, by a teacher's cache, people who are listed twice and images of others."""

from __future__ import annotations

import re

import numpy as np
from dataset_inspection import Finding

from ekd_tf.data import Source
from ekd_tf.embedders import TeacherCache
from ekd_tf.evaluation.embed import add_views
from ekd_tf.export.parity import unit
from ekd_tf.metrics import naming_images
from ekd_tf.run.progress import begin_line

# Of the halves of one person, how many are less alike than two that are listed.
MISSED = 0.05
# How often a stranger's image is as near to a centre as one that is not listed.
FPR = 1e-3
# Images an identity needs for halves, or to tell which of its images is another's.
_FEWEST = 4
_BLOCK = 2048
_CHUNK = 4096
_MOST_PAIRS = 1_000_000
_SAME = re.compile(r"identity (\d+) is identity (\d+),")


class People:
    """Unit embeddings of a source's images, read in chunks, and their sums."""

    def __init__(self, source: Source, cache: TeacherCache):
        cache.check_source(source)
        self._source, self._cache = source, cache
        self._positions = source.origin()[1]
        self.counts = np.bincount(source.labels, minlength=source.num_identities)

    def chunks(self):
        """Yields the numbers of some images and their embeddings, float32."""
        done = begin_line(self._source.name, len(self._source), "embeddings")
        for first in range(0, len(self._source), _CHUNK):
            numbers = np.arange(first, min(first + _CHUNK, len(self._source)))
            rows = self._cache.rows[self._positions[numbers]][:, : self._cache.plain]
            with naming_images(self._cache.name, self._source.describe, numbers):
                units = add_views(rows.astype(np.float32))
            yield numbers, units
            done(len(numbers))

    def sums(self, chosen=None) -> np.ndarray:
        """Sums the embeddings of each identity, float32, of all images or some."""
        shape = self._source.num_identities, self._cache.embedding_dim
        sums = np.zeros(shape, np.float32)
        for numbers, rows in self.chunks():
            if chosen is not None:
                numbers, rows = numbers[chosen[numbers]], rows[chosen[numbers]]
            np.add.at(sums, self._source.labels[numbers], rows)
        return sums


def find_overlap(source: Source, cache: TeacherCache):
    """Finds identities that may be one person.

    Two are listed where their centres are as alike as the centres of two halves of
    one identity's images are in all but `MISSED` of the identities.

    Returns:
        A `Finding` for each image of the smaller identity of each pair, the most alike
        pairs first, and the least cosine of a pair.
    """
    people = People(source, cache)
    least = _least_cosine_of_halves(source, people)
    centres = unit(people.sums())
    pairs = []
    for first in range(0, len(centres), _BLOCK):
        block = centres[first : first + _BLOCK]
        for other in range(first, len(centres), 4 * _BLOCK):
            cosines = block @ centres[other : other + 4 * _BLOCK].T
            alike = cosines >= least
            if other == first:
                # Each pair once, and none with itself.
                alike = np.triu(alike, 1)
            if len(pairs) + np.count_nonzero(alike) > _MOST_PAIRS:
                raise ValueError(
                    f"{source.name}: more than {_MOST_PAIRS:,} pairs of identities are "
                    f"as alike as {least:.3f}. This teacher does not tell them apart"
                )
            for i, j in np.argwhere(alike).tolist():
                pairs.append((float(cosines[i, j]), first + i, other + j))
    findings, listed, names = [], set(), source.identity_names()
    images = np.split(
        np.argsort(source.labels, kind="stable"), np.cumsum(people.counts)[:-1]
    )
    for cosine, one, other in sorted(pairs, reverse=True):
        if people.counts[one] < people.counts[other]:
            one, other = other, one
        if other in listed or one in listed:
            continue
        listed.add(other)
        detail = f"identity {other} is identity {one}, cosine {cosine:.3f}"
        detail += f", {names[other]} is {names[one]}" * (source.identities is not None)
        findings += [Finding(int(k), "overlap", detail) for k in images[other]]
    return findings, least


def _least_cosine_of_halves(source, people):
    order = np.argsort(source.labels, kind="stable")
    firsts = np.cumsum(people.counts) - people.counts
    place = np.empty(len(source), np.int64)
    place[order] = np.arange(len(source)) - firsts[source.labels[order]]
    even = place % 2 == 0
    enough = people.counts >= _FEWEST
    if enough.sum() < 20:
        raise ValueError(
            f"{source.name}: at least 20 identities must have {_FEWEST} images, to "
            f"know how alike images of one person are. Received: {enough.sum()}"
        )
    halves = unit(people.sums(even)), unit(people.sums(~even))
    return float(np.quantile(np.sum(halves[0] * halves[1], axis=1)[enough], MISSED))


def find_outliers(source: Source, cache: TeacherCache):
    """Finds images that are no more like their identity than a stranger's.

    Returns:
        A `Finding` for each image whose cosine with the centre of its identity's other
        images is below what images of other people reach at `FPR`, the least alike
        first, and that cosine.
    """
    people = People(source, cache)
    sums = people.sums()
    generator = np.random.default_rng(0)
    own, strange = np.empty(len(source), np.float32), []
    for numbers, rows in people.chunks():
        labels = source.labels[numbers]
        own[numbers] = np.sum(unit(sums[labels] - rows) * rows, axis=1)
        others = generator.integers(1, source.num_identities, len(labels))
        others = (labels + others) % source.num_identities
        strange.append(np.sum(unit(sums[others]) * rows, axis=1))
    least = float(np.quantile(np.concatenate(strange), 1 - FPR))
    tested = people.counts[source.labels] >= _FEWEST
    suspects = np.flatnonzero(tested & (own < least))
    names = source.identity_names()
    return [
        Finding(
            int(k),
            "outlier",
            f"cosine {own[k]:.3f} with identity {names[source.labels[k]]}",
        )
        for k in suspects[np.argsort(own[suspects])]
    ], least


def merged_labels(labels: np.ndarray, findings) -> np.ndarray:
    """Returns the labels where `(index, detail)` of `find_overlap` are made one."""
    into = {}
    for _, detail in findings:
        same = _SAME.match(detail)
        if not same:
            raise ValueError(
                f"The list to merge by has a line that is no overlap: {detail!r}. "
                "Make one with --overlap"
            )
        into[int(same[1])] = int(same[2])
    merged = labels.copy()
    for index, detail in findings:
        label = int(_SAME.match(detail)[1])
        # Who is two others is one with both.
        while label in into:
            label = into[label]
        merged[index] = label
    return merged


def draw_sheet(source: Source, findings, path, side: int = 112):
    """Draws the first twenty outliers, each beside five images of its identity."""
    from PIL import Image

    from ekd_tf.data import evaluation_batches
    from ekd_tf.data.unreadable import Unreadable

    findings = findings[:20]
    sheet = Image.new("RGB", (6 * side + 8, len(findings) * side), "white")
    for row, finding in enumerate(findings):
        same = np.flatnonzero(source.labels == source.labels[finding.index])
        chosen = np.concatenate([[finding.index], same[same != finding.index][:5]])
        # In the place of a damaged image stands another of its identity.
        damaged = Unreadable(len(chosen))
        (images,) = evaluation_batches(source, chosen, side, len(chosen), damaged)
        for column, image in enumerate(images):
            left = column * side + (8 if column else 0)
            sheet.paste(Image.fromarray(image), (left, row * side))
    sheet.save(path)
