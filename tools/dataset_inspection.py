"""Looks at every image of a source once: what cannot be used, and what is doubtful."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib

import numpy as np

from ekd_tf.data.image_pixels import open_image
from ekd_tf.data.image_pixels import orientation
from ekd_tf.data.one_image import decodable
from ekd_tf.data.source import Source
from ekd_tf.files.user_text import KEEP
from ekd_tf.files.user_text import one_line
from ekd_tf.files.user_text import open_text

_CHUNK = 256
_THREADS = 2
REASONS = ("undecodable", "duplicate", "few images", "odd size")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One image and what is wrong with it.

    Attributes:
        index: Position in the source.
        reason: One of `REASONS`.
        detail: In words.
    """

    index: int
    reason: str
    detail: str


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What `inspect_images` saw.

    Attributes:
        findings: List of `Finding`, by index; an image may have several.
        turned: How many images are stored turned and have an EXIF orientation that
            says so. They are read upright, and nothing is wrong with them.
    """

    findings: list[Finding]
    turned: int


def inspect_images(source: Source, min_images: int = 2, progress=None) -> Inspection:
    """Reads and decodes every image once.

    Listed are images that do not decode, all copies of images whose bytes occur in more
    than one identity, all images of identities with fewer than `min_images` that
    decode, and images of another size than most.

    Args:
        source: A `Source` of encoded images.
        min_images: Integer >= 1.
        progress: Function called with the number of images after each chunk, or None.

    Raises:
        ValueError: The source holds pixels.
    """
    if not source.encoded:
        raise ValueError(f"{source.name} holds no image files that could be damaged")
    count = len(source)
    digests = np.zeros(count, "V16")
    sizes = np.zeros((count, 2), np.int32)
    findings = []
    turned = 0
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, count, _CHUNK):
            chunk = range(start, min(start + _CHUNK, count))
            looks = pool.map(lambda index: _look(source, index), chunk)
            for index, (digest, size, is_turned, reason) in zip(chunk, looks):
                digests[index] = digest
                sizes[index] = size
                turned += is_turned
                if reason:
                    findings.append(Finding(index, "undecodable", reason))
            if progress:
                progress(len(chunk))
    good = np.ones(count, bool)
    good[[finding.index for finding in findings]] = False
    findings += _duplicates(source, digests, good)
    findings += _few_images(source, good, min_images)
    findings += _odd_sizes(sizes, good)
    findings.sort(key=lambda f: (f.index, REASONS.index(f.reason)))
    return Inspection(findings, turned)


def _look(source, index):
    """Returns digest, (height, width), whether it is turned, and why it is bad."""
    nothing = b"\0" * 16, (0, 0), False
    try:
        (data,) = source.read([index])
    except (OSError, ValueError) as error:
        # The list has the place in a column of its own.
        return (*nothing, str(error).removeprefix(f"{source.describe(index)}: "))
    reason = decodable(data)
    if reason:
        return (*nothing, reason)
    with open_image(data) as image:
        size, turned = (image.height, image.width), orientation(image)
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return digest, size[::-1] if turned > 4 else size, turned != 1, None


def _duplicates(source, digests, good):
    indices = np.flatnonzero(good)
    _, groups, counts = np.unique(
        digests[indices], return_inverse=True, return_counts=True
    )
    repeated = np.flatnonzero(counts[groups] > 1)
    indices, groups = indices[repeated], groups[repeated]
    order = np.argsort(groups, kind="stable")
    cuts = np.flatnonzero(np.diff(groups[order])) + 1
    for group in np.split(indices[order], cuts):
        labels = source.labels[group]
        for index, label in zip(group, labels):
            others = group[labels != label]
            if len(others):
                detail = f"the same bytes as {source.describe(int(others[0]))}"
                yield Finding(int(index), "duplicate", detail)


def _few_images(source, good, min_images):
    counts = np.bincount(source.labels[good], minlength=source.num_identities)
    for index in np.flatnonzero(counts[source.labels] < min_images):
        label = source.labels[index]
        detail = f"identity {label} has {counts[label]} of {min_images} images"
        yield Finding(int(index), "few images", detail)


def _odd_sizes(sizes, good):
    if not good.any():
        return
    found, counts = np.unique(sizes[good], axis=0, return_counts=True)
    usual = found[counts.argmax()]
    for index in np.flatnonzero(good & np.any(sizes != usual, axis=1)):
        (height, width), (rows, columns) = sizes[index], usual
        detail = f"{width}x{height}, most are {columns}x{rows}"
        yield Finding(int(index), "odd size", detail)


def write_list(file, source: Source, findings: list[Finding]) -> None:
    """Writes findings as a list `read_list` takes.

    Args:
        file: Binary file object.
        source: The source they were found in.
        findings: What to list.
    """
    lines = [f"# source {source.fingerprint}", "# position\treason\tdetail\twhere"]
    for finding in findings:
        told = (finding.reason, finding.detail, source.describe(finding.index))
        lines.append("\t".join([str(finding.index), *map(one_line, told)]))
    file.write(("\n".join(lines) + "\n").encode("utf-8", KEEP))


def read_list(path, source: Source) -> np.ndarray:
    """Reads the positions of a list `write_list` wrote, perhaps with lines taken out.

    Returns:
        int64 array, ascending, without repeats.

    Raises:
        ValueError: The list was made for another source, or is malformed.
    """
    with open_text(path) as file:
        lines = file.read().rstrip("\n").split("\n")
    if lines[:1] != [f"# source {source.fingerprint}"]:
        raise ValueError(
            f"{path} was made of another data set than {source.name}, or that has "
            "changed since. Run --verify on it again"
        )
    positions = set()
    for number, line in enumerate(lines[1:], 2):
        if line.startswith("#"):
            continue
        word = line.partition("\t")[0]
        if not word.isdigit() or int(word) >= len(source):
            raise ValueError(
                f"{path}: line {number} begins with no position of an image: "
                f"{line[:60]!r}"
            )
        positions.add(int(word))
    return np.array(sorted(positions), np.int64)
