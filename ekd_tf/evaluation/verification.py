"""How well embeddings verify identities: accuracy, TPR at FPRs, AUC, EER."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from ekd_tf import metrics
from ekd_tf.checks import check_range
from ekd_tf.checks import check_whole
from ekd_tf.evaluation.allpairs import PairBlocks
from ekd_tf.evaluation.allpairs import check_labels_of_rows
from ekd_tf.evaluation.allpairs import count_pairs
from ekd_tf.evaluation.allpairs import draw_pairs
from ekd_tf.evaluation.allpairs import labelled_intervals
from ekd_tf.evaluation.tables import format_table
from ekd_tf.metrics import format_fpr
from ekd_tf.metrics.roc import tpr_within

# A TPR whose threshold rests on fewer negatives than this is mostly chance: with
# 10 the FPR really reached is uncertain by about a third.
MIN_NEGATIVES = 10
# Beyond it all images are one to a verifier.
COLLAPSED_COSINE = 0.99
FOLDS, DRAWN_PAIRS = 10, 6000
DEFAULT_FPRS = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclasses.dataclass(frozen=True)
class VerificationReport:
    """What `verify_embeddings` or `verify_pairs` measured.

    Attributes:
        accuracy_mean, accuracy_std: Mean k-fold accuracy in [0, 1], and population
            standard deviation over the folds.
        accuracy_best: Accuracy at the one threshold best for these very pairs, an upper
            bound of what a threshold chosen elsewhere reaches.
        threshold: Cosine: mean of the thresholds the folds chose.
        tpr, thresholds: FPR -> TPR in [0, 1] and cosine, or None where the FPR is not
            measurable.
        num_positive, num_negative: Numbers of pairs behind `tpr`, `auc` and `eer`.
        num_pairs: Number of pairs behind the accuracy.
        stratified: Whether its folds were cut kind by kind; see `metrics.folds_of`.
        intervals: Name of a figure (`accuracy`, `tpr_at_fpr_1e-3`,
            `threshold_at_fpr_1e-3`, `auc`, `eer`) -> bootstrap 95 % interval.
        roc: Of the pairs behind `tpr`; in no file.
    """

    accuracy_mean: float
    accuracy_std: float
    accuracy_best: float
    threshold: float
    tpr: dict[float, float | None]
    thresholds: dict[float, float | None]
    auc: float
    eer: float
    num_positive: int
    num_negative: int
    num_pairs: int
    stratified: bool
    intervals: dict[str, tuple[float, float]]
    roc: metrics.ROC = dataclasses.field(compare=False, repr=False)

    @property
    def not_measurable(self) -> tuple[str, ...]:
        """A sentence that names the FPRs with too few negatives; none if there are."""
        return not_measurable(self.tpr, self.num_negative)

    @property
    def without_interval(self) -> tuple[str, ...]:
        """A sentence that names the FPRs whose TPR has no interval; none if all do."""
        missing = [
            format_fpr(fpr)
            for fpr, tpr in self.tpr.items()
            if tpr is not None and f"tpr_at_fpr_{format_fpr(fpr)}" not in self.intervals
        ]
        if not missing or not self.intervals:
            return ()
        return (
            f"No interval at FPR {', '.join(missing)}: its pairs are too many to keep "
            "for resampling, or resamples leave the figure undefined.",
        )

    @property
    def collapsed(self) -> tuple[str, ...]:
        """A sentence about embeddings that are all alike; none if they are not."""
        (median,) = self.roc.points([0.5])
        if median.threshold <= COLLAPSED_COSINE:
            return ()
        return (
            "The embeddings have collapsed: half of all negative pairs have a cosine "
            f"of {median.threshold:.4f} or more.",
        )

    def scalars(self, prefix: str) -> dict[str, float]:
        """Returns the figures by the names they are logged under."""
        return {
            f"{prefix}/accuracy": self.accuracy_mean,
            f"{prefix}/auc": self.auc,
            f"{prefix}/eer": self.eer,
            **tpr_scalars(prefix, self.tpr),
        }

    def to_dict(self) -> dict:
        """Returns the report as JSON can hold it, FPRs spelled as `1e-3`."""
        report = {name: value for name, value in vars(self).items() if name != "roc"}
        for name in ("tpr", "thresholds"):
            report[name] = {format_fpr(k): v for k, v in report[name].items()}
        report["intervals"] = {k: list(v) for k, v in self.intervals.items()}
        for name in ("not_measurable", "without_interval", "collapsed"):
            report[name] = list(getattr(self, name))
        return report


def tpr_scalars(prefix: str, tpr: dict[float, float | None]) -> dict[str, float]:
    """Returns the TPRs that are measurable by the names they are logged under."""
    return {
        f"{prefix}/tpr_at_fpr_{format_fpr(fpr)}": value
        for fpr, value in tpr.items()
        if value is not None
    }


def figures_table(reports: Sequence[tuple[str, VerificationReport]]) -> str:
    """Lays out named reports at the same FPRs as a Markdown table, a line each."""
    rows = []
    for name, report in reports:
        accuracy = f"{report.accuracy_mean:.4f} +- {report.accuracy_std:.4f}"
        row = [name, accuracy + _interval(report, "accuracy"), report.accuracy_best]
        row += [f"{report.auc:.6f}", f"{report.eer:.4f}" + _interval(report, "eer")]
        for fpr, tpr in report.tpr.items():
            interval = _interval(report, f"tpr_at_fpr_{format_fpr(fpr)}")
            row.append(tpr if tpr is None else f"{tpr:.4f}{interval}")
        rows.append(row)
    fprs = [f"TPR@{format_fpr(fpr)}" for fpr in reports[0][1].tpr]
    return format_table(rows, ["model", "accuracy", "best", "AUC", "EER", *fprs])


def _interval(report, name):
    if name not in report.intervals:
        return ""
    low, high = report.intervals[name]
    return f" [{low:.4f}, {high:.4f}]"


def verify_embeddings(
    embeddings: np.ndarray,
    labels: np.ndarray,
    fprs: Sequence[float] = DEFAULT_FPRS,
    seed: int = 0,
    replicates: int = 0,
    progress: Callable | None = None,
) -> VerificationReport:
    """Measures verification of identities the model was not trained on.

    Accuracy comes from ten folds over 6,000 drawn pairs or as many as there are, half
    of them positive, so that it reads like that of LFW. TPR at FPR (strict rule: never
    above the target), AUC and EER come from all pairs. An FPR with fewer than 10
    negatives behind it is not measurable: its TPR and threshold are None.

    Args:
        embeddings: Float array `(n, dim)`. Normalised here.
        labels: Integer array `(n,)`, identities.
        fprs: Target FPRs in [0, 1).
        seed: Of the drawing.
        replicates: Resamples behind an interval: of folds for the accuracy, of
            identities for TPRs and thresholds. 0: no intervals.
        progress: As for `PairBlocks`.
    """
    labels = check_labels_of_rows(labels, embeddings=embeddings)
    embeddings = np.asarray(embeddings)
    each = check_drawable(labels)
    # Before pairs are drawn: rows that cannot be used are named by their numbers.
    blocks = PairBlocks(embeddings, labels, progress=progress)
    left, right, same = draw_pairs(labels, each, seed)
    distances = metrics.squared_distances(embeddings[left], embeddings[right])
    roc = metrics.streamed_roc(blocks.scores, fprs)
    intervals = {}
    if check_whole("replicates", replicates, 0):
        measurable = [p for p in roc.points(fprs) if is_measurable(p)]
        intervals = labelled_intervals(blocks, labels, measurable, replicates, seed)
    return _report(distances, same, roc, fprs, intervals, replicates, seed)


def verify_pairs(
    embeddings: np.ndarray,
    same: np.ndarray,
    fprs: Sequence[float] = DEFAULT_FPRS,
    replicates: int = 1000,
    seed: int = 0,
) -> VerificationReport:
    """Measures verification of given pairs, as LFW and its kin are.

    Rows 2i and 2i + 1 of `embeddings`, float `(2 * pairs, dim)`, are pair i; `same`,
    bool `(pairs,)`, says whether it shows one identity. Accuracy is that of insightface
    and TFace; see `metrics.kfold_accuracy`. TPR, AUC and EER come from the same pairs,
    all folds together. Intervals are of `replicates` resamples of the folds; those of
    TPRs, AUC and EER take pairs of both kinds in every fold. All else is as for
    `verify_embeddings`.
    """
    embeddings, same = np.asarray(embeddings), np.asarray(same, bool)
    if embeddings.ndim != 2 or len(embeddings) != 2 * same.size:
        raise ValueError(
            "`embeddings` must have two rows per pair. Received: "
            f"embeddings.shape={embeddings.shape}, {same.size} pairs"
        )
    check_pairs(same)
    distances = metrics.squared_distances(embeddings[::2], embeddings[1::2])
    cosines = 1 - distances / 2
    roc = metrics.ROC.of(cosines[same], cosines[~same])
    intervals = {}
    if check_whole("replicates", replicates, 0):
        measurable = [p.target_fpr for p in roc.points(fprs) if is_measurable(p)]
        intervals = _pair_intervals(cosines, same, measurable, replicates, seed)
    return _report(distances, same, roc, fprs, intervals, replicates, seed)


def _report(distances, same, roc, fprs, intervals, replicates, seed):
    for fpr in fprs:
        check_range("fprs", fpr, 0, 1, high_open=True)
    accuracy, chosen, stratified = metrics.kfold_accuracy(distances, same, FOLDS)
    if replicates:
        (interval,) = metrics.fold_intervals(
            lambda rows: [accuracy[rows].mean()], np.arange(FOLDS), replicates, seed
        )
        intervals = {"accuracy": tuple(interval.tolist()), **intervals}
    points = roc.points(fprs)
    measured = {p.target_fpr: p if is_measurable(p) else None for p in points}
    return VerificationReport(
        accuracy_mean=float(accuracy.mean()),
        accuracy_std=float(accuracy.std()),
        accuracy_best=metrics.best_accuracy(distances, same),
        threshold=float(1 - chosen.mean() / 2),
        tpr={fpr: p and p.tpr for fpr, p in measured.items()},
        thresholds={fpr: p and p.threshold for fpr, p in measured.items()},
        auc=roc.auc(),
        eer=roc.eer(),
        num_positive=roc.num_positive,
        num_negative=roc.num_negative,
        num_pairs=same.size,
        stratified=stratified,
        intervals=intervals,
        roc=roc,
    )


def _pair_intervals(cosines, same, fprs, replicates, seed):
    """Returns intervals of AUC, EER and TPRs by resampling folds of pairs."""
    fold, _ = metrics.folds_of(same, FOLDS)
    kinds = np.unique(np.stack([fold, same]), axis=1).shape[1]
    if kinds < 2 * FOLDS:
        return {}

    def statistics(rows):
        scores, kind = cosines[rows], same[rows]
        roc = metrics.ROC.of(scores[kind], scores[~kind])
        return [roc.auc(), roc.eer(), *(point.tpr for point in roc.points(fprs))]

    names = ["auc", "eer", *(f"tpr_at_fpr_{format_fpr(fpr)}" for fpr in fprs)]
    intervals = metrics.fold_intervals(statistics, fold, replicates, seed)
    return {name: tuple(ends) for name, ends in zip(names, intervals.tolist())}


def is_measurable(point: metrics.OperatingPoint) -> bool:
    """Returns whether enough negatives stand behind an operating point."""
    return point.negatives_allowed >= MIN_NEGATIVES


def measurable_curve(
    roc: metrics.ROC, fprs: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a ROC's `(fpr, tpr)` at those of some FPRs that are measurable.

    They rise to 1, which is always kept. Default: the lowest that is measurable, and
    all of `roc.curve()` above it.
    """
    curve, lowest = roc.curve(), min(MIN_NEGATIVES / roc.num_negative, 1.0)
    if fprs is None:
        fprs = np.unique(np.append(lowest, curve[0]))
    # A decade written as a power of ten may lie an ulp below it.
    fprs = fprs[fprs >= lowest * (1 - 1e-9)]
    return fprs, tpr_within(curve, fprs)


def not_measurable(
    tpr: Mapping[float, float | None], num_negative: int | None = None
) -> tuple[str, ...]:
    """Says in one sentence why some FPRs have no TPR; nothing where all have one."""
    fprs = [fpr for fpr, value in tpr.items() if value is None]
    if not fprs:
        return ()
    needed = [str(int(np.ceil(MIN_NEGATIVES / fpr))) for fpr in fprs if fpr]
    needed += ["more than any number of"] * (0 in fprs)
    there = "" if num_negative is None else f", and there are {num_negative}"
    return (
        f"TPR at FPR {', '.join(map(format_fpr, fprs))} is not measurable: it takes "
        f"{', '.join(needed)} negative pairs{there}",
    )


def check_drawable(labels: np.ndarray) -> int:
    """Returns how many pairs of each kind `verify_embeddings` can draw.

    Raises `ValueError` where they are fewer than folds.
    """
    available = count_pairs(labels)
    each = min(DRAWN_PAIRS // 2, *available)
    if 2 * each < FOLDS:
        raise ValueError(
            f"Verification needs {FOLDS} pairs or more, half of them of one identity. "
            f"Received: {len(labels)} images of {len(np.unique(labels))} identities, "
            f"which make {available[0]} positive and {available[1]} negative pairs, "
            f"so that {2 * each} can be drawn"
        )
    return each


def check_pairs(same: np.ndarray) -> None:
    """Raises `ValueError` unless given pairs are enough for `verify_pairs`."""
    positive = int(same.sum())
    if min(positive, same.size - positive) == 0 or same.size < FOLDS:
        raise ValueError(
            f"Verification needs {FOLDS} pairs or more, of one identity and of two. "
            f"Received: {positive} positive and {same.size - positive} negative pairs"
        )
