"""The gap between teacher and student at each FPR, and the pairs that make it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from ekd_tf import metrics
from ekd_tf.checks import check_whole
from ekd_tf.evaluation import verification
from ekd_tf.evaluation.allpairs import PairBlock
from ekd_tf.evaluation.allpairs import PairBlocks
from ekd_tf.evaluation.allpairs import all_pairs_roc
from ekd_tf.evaluation.allpairs import check_labels_of_rows
from ekd_tf.evaluation.tables import format_table
from ekd_tf.metrics import format_fpr


@dataclasses.dataclass(frozen=True)
class GapPoint:
    """Teacher and student at one FPR, each at its own threshold.

    A pair is critical when one model accepts it and the other does not. All
    figures but `fpr` are None where the FPR is not measurable.

    Attributes:
        gap: `teacher_tpr - student_tpr`: above 0 where the student is worse.
        baseline_tpr, closed: Of the student trained alone, and the share of the gap
            closed; None without one.
        critical_positive, critical_negative: Numbers of critical pairs.
        worst_positive, worst_negative: Rows `(i, j)` of the critical pairs on which the
            models differ most, in cosine above their own thresholds; the worst first.
        worst_cosines: For each worst pair, positives first, `(teacher, student)`.
        pairs: Behind these; in no file.
    """

    fpr: float
    teacher_tpr: float | None = None
    student_tpr: float | None = None
    gap: float | None = None
    baseline_tpr: float | None = None
    closed: float | None = None
    teacher_threshold: float | None = None
    student_threshold: float | None = None
    critical_positive: int | None = None
    critical_negative: int | None = None
    worst_positive: tuple[tuple[int, int], ...] | None = None
    worst_negative: tuple[tuple[int, int], ...] | None = None
    worst_cosines: tuple[tuple[float, float], ...] | None = None
    pairs: CriticalPairs | None = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass(frozen=True)
class GapReport:
    """What `measure_gap` measured: a point per FPR, in the order asked for."""

    points: tuple[GapPoint, ...]
    num_positive: int
    num_negative: int

    @property
    def not_measurable(self) -> tuple[str, ...]:
        """A sentence that names the FPRs with too few negatives; none if there are."""
        gaps = {point.fpr: point.gap for point in self.points}
        return verification.not_measurable(gaps, self.num_negative)

    @property
    def lowest(self) -> GapPoint | None:
        """The point of the lowest FPR that is measurable."""
        measured = [point for point in self.points if point.gap is not None]
        return min(measured, key=lambda point: point.fpr, default=None)

    def to_dict(self) -> dict:
        """Returns the report as JSON can hold it, FPRs spelled as `1e-3`."""
        points = {format_fpr(point.fpr): dict(vars(point)) for point in self.points}
        for point in points.values():
            del point["fpr"], point["pairs"]
        not_measurable = list(self.not_measurable)
        return {**vars(self), "points": points, "not_measurable": not_measurable}

    def to_table(self) -> str:
        """Returns the report as a Markdown table, one line per FPR."""
        header = ["FPR", "teacher TPR", "student TPR", "gap", "critical +/-"]
        with_baseline = any(point.baseline_tpr is not None for point in self.points)
        header += ["baseline TPR", "closed"] * with_baseline
        rows = []
        for point in self.points:
            critical = f"{point.critical_positive} / {point.critical_negative}"
            row = [format_fpr(point.fpr), point.teacher_tpr, point.student_tpr]
            row += [point.gap, None if point.gap is None else critical]
            row += [point.baseline_tpr, point.closed] * with_baseline
            rows.append(row)
        return format_table(rows, header)


def measure_gap(
    student_embeddings: np.ndarray,
    teacher_embeddings: np.ndarray,
    labels: np.ndarray,
    fprs: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4),
    worst: int = 10,
    baseline_embeddings: np.ndarray | None = None,
    rocs: Sequence[metrics.ROC] | None = None,
    progress: Callable | None = None,
) -> GapReport:
    """Compares teacher and student on all pairs of the same images.

    Args:
        student_embeddings, teacher_embeddings: Float arrays `(n, dim)` of the same
            images in the same order; dims may differ. Normalised here.
        labels, fprs, progress: As for `verify_embeddings`.
        worst: How many critical pairs of each kind to name.
        baseline_embeddings: Those of a student trained without the teacher, or None.
        rocs: Those of student, teacher and, if there is one, baseline at these FPRs,
            to save their passes. Default: computed here.
    """
    check_whole("worst", worst, 0)
    models = {
        "student_embeddings": student_embeddings,
        "teacher_embeddings": teacher_embeddings,
    }
    if baseline_embeddings is not None:
        models["baseline_embeddings"] = baseline_embeddings
    labels = check_labels_of_rows(labels, **models)
    if rocs is None:
        rocs = [all_pairs_roc(rows, labels, fprs) for rows in models.values()]
    points = list(zip(*(roc.points(fprs) for roc in rocs)))
    critical = [
        CriticalPairs(student.threshold, teacher.threshold, worst)
        if verification.is_measurable(teacher)
        else None
        for student, teacher, *_ in points
    ]
    if any(critical):
        # The first goes ahead of the second: one line for both.
        student_blocks = PairBlocks(student_embeddings, labels, progress=progress)
        teacher_blocks = PairBlocks(teacher_embeddings, labels)
        for student_block, teacher_block in zip(student_blocks, teacher_blocks):
            for pairs in filter(None, critical):
                pairs.update(student_block.cosine, teacher_block)
    return GapReport(
        points=tuple(_point(pairs, *each) for pairs, each in zip(critical, points)),
        num_positive=rocs[0].num_positive,
        num_negative=rocs[0].num_negative,
    )


def closed_share(
    student: float | None, baseline: float | None, teacher: float | None
) -> float | None:
    """Returns `(student - baseline) / (teacher - baseline)` of TPRs.

    None where one is missing or the baseline is not below the teacher.
    """
    if student is None or baseline is None or teacher is None or baseline >= teacher:
        return None
    return (student - baseline) / (teacher - baseline)


def _point(critical, student, teacher, baseline=None):
    if critical is None:
        return GapPoint(fpr=teacher.target_fpr)
    baseline_tpr = None if baseline is None else baseline.tpr
    positive, negative = critical.worst_of("positive"), critical.worst_of("negative")
    return GapPoint(
        fpr=teacher.target_fpr,
        teacher_tpr=teacher.tpr,
        student_tpr=student.tpr,
        gap=teacher.tpr - student.tpr,
        baseline_tpr=baseline_tpr,
        closed=closed_share(student.tpr, baseline_tpr, teacher.tpr),
        teacher_threshold=teacher.threshold,
        student_threshold=student.threshold,
        critical_positive=sum(n["positive"] for n in critical.counts.values()),
        critical_negative=sum(n["negative"] for n in critical.counts.values()),
        worst_positive=tuple(pair for _, pair, _ in positive),
        worst_negative=tuple(pair for _, pair, _ in negative),
        worst_cosines=tuple(cosines for _, _, cosines in positive + negative),
        pairs=critical,
    )


class CriticalPairs:
    """Counts critical pairs block by block and keeps the worst.

    Both are by the model that is right and by kind: `counts["teacher"]["positive"]`.
    `worst` has `(-distance, (i, j), (teacher, student))`, sorted: rows decide ties.
    """

    def __init__(self, student_threshold: float, teacher_threshold: float, keep: int):
        # In float32 like the scores, or rounding would move pairs that tie.
        thresholds = [teacher_threshold, student_threshold]
        self._thresholds = np.array(thresholds, np.float32)
        self._keep = keep
        kinds, models = ("positive", "negative"), ("teacher", "student")
        self.counts = {model: dict.fromkeys(kinds, 0) for model in models}
        self.worst = {model: {kind: [] for kind in kinds} for model in models}

    def worst_of(self, kind: str) -> list:
        """Returns the worst pairs of a kind, whichever model is right."""
        both = self.worst["teacher"][kind] + self.worst["student"][kind]
        return sorted(both)[: self._keep]

    def update(self, student: np.ndarray, block: PairBlock) -> None:
        """Takes in the student's cosines `(r, c)` of a block of the teacher's."""
        teacher_threshold, student_threshold = self._thresholds
        critical = (block.cosine > teacher_threshold) != (student > student_threshold)
        same = np.zeros_like(critical) if block.positive is None else block.positive
        if block.negative is not None:
            critical &= same | block.negative
        rows, columns = np.nonzero(critical)
        same = same[rows, columns]
        pairs = np.sort([block.rows[rows], block.columns[columns]], axis=0)
        cosines = np.stack([block.cosine[rows, columns], student[rows, columns]])
        above = cosines - self._thresholds[:, None]
        distance = np.abs(above[0] - above[1])
        teacher_is_right = (above[0] > 0) == same
        for right, kinds in self.worst.items():
            is_right = teacher_is_right == (right == "teacher")
            for kind in kinds:
                chosen = np.flatnonzero(is_right & (same == (kind == "positive")))
                self.counts[right][kind] += chosen.size
                if not self._keep or not chosen.size:
                    continue
                # All that tie with the last one kept.
                last = min(self._keep, chosen.size) - 1
                least = -np.partition(-distance[chosen], last)[last]
                chosen = chosen[distance[chosen] >= least]
                entries = zip(
                    (-distance[chosen]).tolist(),
                    map(tuple, pairs[:, chosen].T.tolist()),
                    map(tuple, cosines[:, chosen].T.tolist()),
                )
                kinds[kind] = sorted([*kinds[kind], *entries])[: self._keep]
