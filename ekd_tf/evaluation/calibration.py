"""The threshold a user of a model needs, with what it was found on."""

from __future__ import annotations

import dataclasses
import json
import pathlib

from ekd_tf.atomic import write_aside
from ekd_tf.checks import check_range
from ekd_tf.data import Source
from ekd_tf.evaluation.allpairs import PairBlocks
from ekd_tf.evaluation.intervals import labelled_intervals
from ekd_tf.evaluation.source_embedder import SourceEmbedder
from ekd_tf.evaluation.tables import format_fpr
from ekd_tf.evaluation.verification import check_two_kinds
from ekd_tf.evaluation.verification import is_measurable
from ekd_tf.evaluation.verification import not_measurable
from ekd_tf.metrics import streamed_roc

CARD_FILE = "card.json"
# Fewer resamples than a report has, of more pairs: one FPR alone is asked for.
_REPLICATES = 100
_MAX_PAIRS = 10_000_000


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A threshold and what stands behind it.

    Attributes:
        fpr: The FPR it was found for, by the strict rule.
        threshold: Cosine; a pair strictly above it is accepted.
        interval: Bootstrap 95 % interval of the threshold over identities, or None
            where it would take too many pairs.
        tpr: Fraction of the positives above it.
        pairs: Number of negative pairs it was found on.
        source: Name of the images.
        flip: Whether the embedding of the mirror image was added: a cosine compared
            with the threshold must be made in the same way.
    """

    fpr: float
    threshold: float
    interval: tuple[float, float] | None
    tpr: float
    pairs: int
    source: str
    flip: bool

    def text(self) -> str:
        """Returns the calibration in one sentence."""
        interval = ""
        if self.interval is not None:
            interval = f" [{self.interval[0]:.4f}, {self.interval[1]:.4f}]"
        return (
            f"Threshold {self.threshold:.4f}{interval} for FPR "
            f"{format_fpr(self.fpr)}: TPR {self.tpr:.4f} on {self.source}, "
            f"{self.pairs:,} negative pairs, {'with' if self.flip else 'without'} flip"
        )


def calibrate(
    embedder: SourceEmbedder, source: Source, fpr: float, seed: int = 0
) -> Calibration:
    """Finds the threshold for an FPR on all pairs of labelled images.

    Args:
        embedder: The model.
        source: Images of identities it was not trained on.
        fpr: Target FPR in (0, 1).
        seed: Int, of the resampling.

    Returns:
        `Calibration`.

    Raises:
        ValueError: Fewer than ten negatives would stand above the threshold, or the
            images have not both kinds of pairs.
    """
    check_range("calibrate_fpr", fpr, low=0, high=1, low_open=True, high_open=True)
    check_two_kinds(source.labels)
    blocks = PairBlocks(embedder(source), source.labels)
    roc = streamed_roc(blocks.scores, [fpr])
    (point,) = roc.points
    if not is_measurable(point):
        raise ValueError(*not_measurable([fpr], roc.num_negative))
    found = labelled_intervals(
        blocks, source.labels, [point], _REPLICATES, seed, _MAX_PAIRS
    )
    return Calibration(
        fpr=fpr,
        threshold=point.threshold,
        interval=found[fpr][1] if fpr in found else None,
        tpr=point.tpr,
        pairs=roc.num_negative,
        source=source.name,
        flip=embedder.flip,
    )


def card_path(model) -> pathlib.Path:
    """Returns where the card of a model lies: in its directory, or beside its file."""
    path = pathlib.Path(model)
    return (path if path.is_dir() else path.parent) / CARD_FILE


def write_calibration(path, calibration: Calibration) -> None:
    """Puts a calibration into a model's card, whose other entries stay.

    Args:
        path: The card, made if missing.
        calibration: What `calibrate` found.

    Raises:
        ValueError: What is there is no card.
    """
    path = pathlib.Path(path)
    card = _read_card(path) if path.exists() else {}
    card["calibration"] = dataclasses.asdict(calibration)
    text = json.dumps(card, indent=2) + "\n"
    write_aside(path, lambda file: file.write(text.encode("utf-8")))


def read_calibration(path) -> Calibration | None:
    """Reads a calibration from a model's card; None where there is none.

    Raises:
        ValueError: The file is no card, or its calibration is not what
            `write_calibration` writes.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return None
    found = _read_card(path).get("calibration")
    if found is None:
        return None
    try:
        interval = found["interval"]
        return Calibration(**{**found, "interval": interval and tuple(interval)})
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"The calibration in {path} cannot be read ({error}); write it anew with "
            "ekd_tf.evaluate --calibrate_fpr"
        ) from None


def _read_card(path):
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a model card: {error}") from error
    if not isinstance(card, dict):
        raise ValueError(f"{path} is no model card: it must hold a JSON object")
    return card
