"""Looks at every image of a source once: what cannot be used, and what is doubtful."""

from __future__ import annotations

import collections
import concurrent.futures
import hashlib
import typing

import numpy as np

from ekd_tf.data.image_pixels import decodable
from ekd_tf.data.image_pixels import open_image
from ekd_tf.data.image_pixels import orientation
from ekd_tf.data.source import Source
from ekd_tf.files.atomic import write_text
from ekd_tf.files.positioned import reason_of
from ekd_tf.files.user_text import one_line
from ekd_tf.files.user_text import open_text

_CHUNK = 256
_THREADS = 2
REASONS = ("undecodable", "duplicate", "few images", "odd size")


class Finding(typing.NamedTuple):
    """Position of an image, one of `REASONS`, and what is wrong with it in words."""

    index: int
    reason: str
    detail: str


def inspect_images(
    source: Source, min_images: int, progress
) -> tuple[list[Finding], int]:
    """Reads and decodes every image of a source of files once.

    Found, in order, are images that do not decode, all copies of images whose bytes
    occur in more than one identity, all images of identities with fewer than
    `min_images` that decode, and images of another size than most. Returned is also how
    many images EXIF data turn, which is fine. `progress` is told how many are done.
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
            progress(len(chunk))
    good = np.ones(count, bool)
    good[[finding.index for finding in findings]] = False
    findings += _duplicates(source, digests, good)
    findings += _few_images(source, good, min_images)
    findings += _odd_sizes(sizes, good)
    findings.sort(key=lambda f: (f.index, REASONS.index(f.reason)))
    return findings, turned


def _look(source, index):
    """Returns digest, (height, width), whether it is turned, and why it is bad."""
    nothing = b"\0" * 16, (0, 0), False
    try:
        (data,) = source.read([index])
    except (OSError, ValueError) as error:
        # The list has the place in a column of its own.
        return (*nothing, reason_of(error).removeprefix(f"{source.describe(index)}: "))
    reason = decodable(data)
    if reason:
        return (*nothing, reason)
    with open_image(data) as image:
        size, turned = (image.height, image.width), orientation(image)
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return digest, size[::-1] if turned > 4 else size, turned != 1, None


def _duplicates(source, digests, good):
    groups = collections.defaultdict(list)
    for index in np.flatnonzero(good).tolist():
        groups[bytes(digests[index])].append(index)
    for group in groups.values():
        for index in group:
            label = source.labels[index]
            other = next((k for k in group if source.labels[k] != label), None)
            if other is not None:
                detail = f"the same bytes as {source.describe(other)}"
                yield Finding(index, "duplicate", detail)


def _few_images(source, good, min_images):
    counts = np.bincount(source.labels[good], minlength=source.num_identities)
    names = source.identity_names()
    for index in np.flatnonzero(counts[source.labels] < min_images):
        label = source.labels[index]
        detail = f"identity {names[label]} has {counts[label]} of {min_images} images"
        yield Finding(int(index), "few images", detail)


def _odd_sizes(sizes, good):
    if not good.any():
        return
    kinds, counts = np.unique(sizes[good], axis=0, return_counts=True)
    usual = kinds[counts.argmax()]
    for index in np.flatnonzero(good & np.any(sizes != usual, axis=1)):
        (height, width), (rows, columns) = sizes[index], usual
        detail = f"{width}x{height}, most are {columns}x{rows}"
        yield Finding(int(index), "odd size", detail)


def write_list(path, source: Source, findings: list[Finding]) -> None:
    """Writes findings in a source, for `read_list`."""
    lines = [f"# source {source.fingerprint}", "# position\treason\tdetail\twhere"]
    lines += [f"# left out\t{one_line(line)}" for line in source.left_out]
    for finding in findings:
        fields = (finding.reason, finding.detail, source.describe(finding.index))
        lines.append("\t".join([str(finding.index), *map(one_line, fields)]))
    write_text(path, "\n".join(lines) + "\n")


def read_list(path, source: Source) -> list[tuple[int, str]]:
    """Reads position and detail of each line of a list that `write_list` wrote."""
    with open_text(path) as file:
        lines = file.read().removeprefix("\ufeff").rstrip("\n").split("\n")
    if not lines[0].startswith("# source "):
        raise ValueError(
            f"{path} lacks its first line, `# source ...`: put it back as it was made, "
            "or make the list again"
        )
    if lines[0] != f"# source {source.fingerprint}":
        raise ValueError(
            f"{path} was made of another data set than {source.name}, or that has "
            "changed since. Make it again"
        )
    listed = []
    for number, line in enumerate(lines[1:], 2):
        if line.startswith("#") or not line.strip():
            continue
        word, _, rest = line.partition("\t")
        if not word.isdigit() or int(word) >= len(source):
            raise ValueError(
                f"{path}: line {number} begins with no position of an image: "
                f"{line[:60]!r}"
            )
        detail = rest.split("\t")[1] if "\t" in rest else ""
        listed.append((int(word), detail))
    return listed
