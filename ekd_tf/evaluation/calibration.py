"""The threshold a user of a model needs, with what it was found on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import pathlib

import numpy as np

from ekd_tf import metrics
from ekd_tf.checks import check_range
from ekd_tf.data import Source
from ekd_tf.evaluation.allpairs import PairBlocks
from ekd_tf.evaluation.allpairs import count_pairs
from ekd_tf.evaluation.allpairs import labelled_intervals
from ekd_tf.evaluation.embed import ONE_IMAGE
from ekd_tf.evaluation.embed import WITH_MIRROR_IMAGE
from ekd_tf.evaluation.embed import SourceEmbedder
from ekd_tf.evaluation.verification import MIN_NEGATIVES
from ekd_tf.evaluation.verification import check_drawable
from ekd_tf.files.atomic import write_text
from ekd_tf.files.model_parts import parts_beside
from ekd_tf.files.positioned import reason_of
from ekd_tf.files.user_text import without_folders
from ekd_tf.metrics import format_fpr

CARD_FILE = "card.json"
# Fewer resamples than a report has, of more pairs: one FPR alone is asked for.
_REPLICATES = 100
_MAX_PAIRS = 10_000_000


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A threshold of one model and what stands behind it.

    Attributes:
        fpr: The FPR it was found for, by the strict rule.
        threshold: Cosine; a pair strictly above it is accepted. Half way to the next
            higher score of `source`, so that rounding decides no pair of it.
        interval: Bootstrap 95 % interval of the threshold over identities, or None
            where it would take too many pairs.
        tpr: Fraction of the positives above it.
        pairs: Number of negative pairs it was found on.
        source: Name of the images.
        view: `ONE_IMAGE` or `WITH_MIRROR_IMAGE`: what embeddings must be made of for
            their cosine to be compared with the threshold.
    """

    fpr: float
    threshold: float
    interval: tuple[float, float] | None
    tpr: float
    pairs: int
    source: str
    view: str = ONE_IMAGE

    @classmethod
    def from_entry(cls, entry: dict) -> Calibration:
        """Reads a file's entry under "calibration" in a card."""
        interval = entry["interval"] and tuple(entry["interval"])
        values = {name: value for name, value in entry.items() if name != "sha256"}
        numbers = {name: float(values[name]) for name in ("fpr", "threshold", "tpr")}
        return cls(**{**values, **numbers, "interval": interval})

    @property
    def flip(self) -> bool:
        """Whether the embedding of the mirror image is added."""
        return self.view == WITH_MIRROR_IMAGE

    def text(self) -> str:
        """Returns the calibration in one sentence."""
        return (
            f"threshold {self.cosine()} for FPR {format_fpr(self.fpr)}: TPR "
            f"{self.tpr:.4f} on {self.source}, {self.pairs:,} negative pairs, each "
            f"embedding of {self.view}"
        )

    def cosine(self) -> str:
        """Returns the threshold with its interval, where there is one."""
        if self.interval is None:
            return f"{self.threshold:.4f}"
        return f"{self.threshold:.4f} [{self.interval[0]:.4f}, {self.interval[1]:.4f}]"


def calibrate(
    embedder: SourceEmbedder,
    source: Source,
    fpr: float,
    seed: int = 0,
    flip: bool = False,
) -> Calibration:
    """Finds the threshold for an FPR on all pairs of labelled images.

    They are of identities the model was not trained on, and enough for
    `check_calibration`; `seed` is of the resampling. With `flip` the embedding of the
    mirror image is added, for users who do so.
    """
    check_calibration(source, fpr)
    if flip and not embedder.flip:
        raise ValueError("`flip` needs an embedder of mirror images. Received: without")
    views = embedder.views(source)
    rows = embedder.unit(views if flip else views[:, :1], source)
    blocks = PairBlocks(rows, source.labels, progress=embedder.progress)
    roc = metrics.streamed_roc(blocks.scores, [fpr])
    (point,) = roc.points([fpr])
    intervals = labelled_intervals(
        blocks, source.labels, [point], _REPLICATES, seed, _MAX_PAIRS
    )
    return Calibration(
        fpr=fpr,
        threshold=between_scores(blocks, point.threshold),
        interval=intervals.get(f"threshold_at_fpr_{format_fpr(fpr)}"),
        tpr=point.tpr,
        pairs=roc.num_negative,
        # For a card, which is handed on.
        source=without_folders(source.name),
        view=WITH_MIRROR_IMAGE if flip else ONE_IMAGE,
    )


def check_calibration(source: Source, fpr: float) -> None:
    """Raises `ValueError` unless ten negatives lie above the threshold for an FPR."""
    check_range("calibrate_fpr", fpr, low=0, high=1, low_open=True, high_open=True)
    check_drawable(source.labels)
    _, negatives = count_pairs(source.labels)
    if metrics.allowed_negatives(negatives, [fpr])[0] < MIN_NEGATIVES:
        least = least_fpr(negatives)
        ask = f"ask for {format_fpr(least)} or more, or " * (least < 1)
        raise ValueError(
            f"`--calibrate_fpr={format_fpr(fpr)}` takes "
            f"{math.ceil(MIN_NEGATIVES / fpr):,} pairs of different people, and there "
            f"are {negatives:,}: {ask}give images of more people"
        )


def least_fpr(negatives: int) -> float:
    """Returns the least FPR that so many negative pairs can be calibrated for.

    It is rounded up to two digits, and 1 or more where they are too few for any.
    """
    least = MIN_NEGATIVES / max(negatives, 1)
    unit = 10.0 ** (math.floor(math.log10(least)) - 1)
    # Read, not multiplied: the product may lie a bit below what is printed.
    return float(f"{math.ceil(round(least / unit, 6)) * unit:.1e}")


def is_of_one_model(
    model: SourceEmbedder, other: SourceEmbedder, source: Source
) -> bool:
    """Returns whether two files hold one model, be it in another precision."""
    rows, others = model.views(source)[:, :1], other.views(source)[:, :1]
    if rows.shape != others.shape:
        return False
    # Quantised, 0.99 at the least; of two trainings of one network, about 0.
    units = model.unit(rows, source), other.unit(others, source)
    cosines = np.sum(units[0] * units[1], axis=1)
    return bool(np.mean(cosines) > 0.9)


def between_scores(blocks: PairBlocks, threshold: float) -> float:
    """Moves a threshold, the score of a pair, half way to the next higher score.

    That pair would else be decided by how a program rounds: the same model gives
    cosines that differ by 1e-7.
    """
    higher = [
        scores[scores > threshold].min(initial=1.0)
        for kinds in blocks.scores()
        for scores in kinds
    ]
    return max(float(threshold), (float(threshold) + float(min(higher))) / 2)


def file_hash(file: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file's bytes."""
    return hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest()


def model_hash(file: str | os.PathLike) -> str:
    """Returns the SHA-256 of a model's bytes, of several files that of their hashes."""
    hashes = [file_hash(file)]
    for part in parts_beside(file):
        below = filter(pathlib.Path.is_file, sorted(part.rglob("*")))
        hashes += map(file_hash, below if part.is_dir() else [part])
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


def write_calibration(
    file: str | os.PathLike, calibration: Calibration
) -> pathlib.Path:
    """Puts a calibration into the card beside a model's file; returns the card's path.

    Other entries of the card stay; it is made if missing.
    """
    file = pathlib.Path(file)
    path = file.with_name(CARD_FILE)
    card = read_card(path) if path.exists() else {}
    entry = {**dataclasses.asdict(calibration), "sha256": model_hash(file)}
    others = card.get("calibration")
    others = others if isinstance(others, dict) else {}
    card["calibration"] = {**others, file.name: entry}
    write_text(path, json.dumps(card, indent=2) + "\n")
    return path


def read_calibration(file: str | os.PathLike) -> Calibration | None:
    """Reads a model's calibration from the card beside it; None where there is none.

    Raises `ValueError` where the model has changed since.
    """
    file = pathlib.Path(file)
    path = file.with_name(CARD_FILE)
    if not path.exists() or not file.is_file():
        return None
    card, anew = read_card(path), "write it anew with ekd_tf.evaluate --calibrate_fpr"
    try:
        entry = card.get("calibration", {}).get(file.name)
        calibration = entry and Calibration.from_entry(entry)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"The calibration in {path} cannot be read ({error}); {anew}"
        ) from None
    if calibration and entry.get("sha256") != model_hash(file):
        raise ValueError(
            f"The calibration in {path} is of another {file.name}, which has changed "
            f"since; {anew}"
        )
    return calibration


def read_card(path: str | os.PathLike) -> dict:
    """Reads a model's card; `ValueError` where the file is none."""
    path = pathlib.Path(path)
    try:
        card = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise ValueError(f"{path} cannot be read as a model card: {reason}") from error
    if not isinstance(card, dict):
        raise ValueError(f"{path} is no model card: it must hold a JSON object")
    return card
