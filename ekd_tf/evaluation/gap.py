"""The gap between teacher and student at each FPR, and the pairs that make it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ekd_tf.checks import check_range
from ekd_tf.evaluation.allpairs import PairBlock
from ekd_tf.evaluation.allpairs import PairBlocks
from ekd_tf.evaluation.allpairs import check_labels
from ekd_tf.evaluation.tables import format_table
from ekd_tf.evaluation.verification import check_two_kinds
from ekd_tf.evaluation.verification import is_measurable
from ekd_tf.evaluation.verification import not_measurable
from ekd_tf.metrics import StreamedRoc
from ekd_tf.metrics import format_fpr
from ekd_tf.metrics import streamed_roc


@dataclasses.dataclass(frozen=True)
class GapPoint:
    """Teacher and student at one FPR, each at its own threshold.

    A pair is critical when one model accepts it and the other does not. All
    figures but `fpr` are None where the FPR is not measurable.

    Attributes:
        fpr: Target FPR.
        teacher_tpr: Float in [0, 1].
        student_tpr: Float in [0, 1].
        gap: `teacher_tpr - student_tpr`: above 0 where the student is worse.
        baseline_tpr: Float in [0, 1] of the student trained alone; None without one.
        closed: `(student_tpr - baseline_tpr) / (teacher_tpr - baseline_tpr)`, the
            share of the baseline's gap that the student closes: 1 where it reaches
            the teacher, below 0 where it is worse than the baseline. None without a
            baseline, and where that is not below the teacher.
        teacher_threshold: Cosine.
        student_threshold: Cosine.
        critical_positive: Number of critical positive pairs.
        critical_negative: Number of critical negative pairs.
        worst_positive: Rows `(i, j)` of the critical positives on which the models
            differ most, in cosine above their own thresholds; the worst first.
        worst_negative: The same among critical negatives.
        worst_cosines: For each worst pair, positives first, `(teacher, student)`.
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


@dataclasses.dataclass(frozen=True)
class GapReport:
    """What `compare` measured.

    Attributes:
        points: One `GapPoint` per FPR, in the order asked for.
        num_positive: Number of positive pairs.
        num_negative: Number of negative pairs.
    """

    points: tuple[GapPoint, ...]
    num_positive: int
    num_negative: int

    @property
    def not_measurable(self) -> tuple[str, ...]:
        """A sentence that names the FPRs with too few negatives; none if there are."""
        missing = [point.fpr for point in self.points if point.gap is None]
        return not_measurable(missing, self.num_negative)

    def to_dict(self) -> dict:
        """Returns the report as JSON can hold it, FPRs spelled as `1e-3`."""
        report = dataclasses.asdict(self)
        report["points"] = {
            format_fpr(point.pop("fpr")): point for point in report["points"]
        }
        report["not_measurable"] = list(self.not_measurable)
        return report

    def to_table(self) -> str:
        """Returns the report as a Markdown table, one line per FPR."""
        header = ["FPR", "teacher TPR", "student TPR", "gap", "critical +/-"]
        rows = [
            [
                format_fpr(point.fpr),
                point.teacher_tpr,
                point.student_tpr,
                point.gap,
                None
                if point.gap is None
                else f"{point.critical_positive} / {point.critical_negative}",
            ]
            for point in self.points
        ]
        if any(point.baseline_tpr is not None for point in self.points):
            header += ["baseline TPR", "closed"]
            for row, point in zip(rows, self.points):
                row += [point.baseline_tpr, point.closed]
        return format_table(rows, header)


def compare(
    student_embeddings: np.ndarray,
    teacher_embeddings: np.ndarray,
    labels: np.ndarray,
    fprs: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4),
    worst: int = 10,
    baseline_embeddings: np.ndarray | None = None,
    rocs: Sequence[StreamedRoc] | None = None,
) -> GapReport:
    """Compares teacher and student on all pairs of the same images.

    Memory does not grow with the number of pairs: the thresholds come from two passes
    over each model's pairs, the critical ones from one over both.

    Args:
        student_embeddings: Float array `(n, student_dim)`. Normalised here.
        teacher_embeddings: Float array `(n, teacher_dim)`, the same images in the
            same order. Normalised here.
        labels: Integer array `(n,)`, identities.
        fprs: Target FPRs in [0, 1], by the strict rule.
        worst: Int >= 0, how many critical pairs of each kind to name.
        baseline_embeddings: Float array `(n, dim)` of a student trained without the
            teacher, or None.
        rocs: What `all_pairs_roc` gave for the student, the teacher and, if there is
            one, the baseline at these FPRs, to save their passes. Default: computed
            here.

    Raises:
        ValueError: Lengths differ, there are not both kinds of pairs, or an
            embedding is not finite or all zero.
    """
    models = {
        "student_embeddings": student_embeddings,
        "teacher_embeddings": teacher_embeddings,
    }
    if baseline_embeddings is not None:
        models["baseline_embeddings"] = baseline_embeddings
    labels = check_labels(labels, **models)
    check_two_kinds(labels)
    check_range("worst", worst, low=0)
    blocks = [PairBlocks(embeddings, labels) for embeddings in models.values()]
    if rocs is None:
        rocs = [streamed_roc(b.scores, fprs) for b in blocks]
    critical = [
        _Critical(of_student.threshold, of_teacher.threshold, worst)
        if is_measurable(of_teacher)
        else None
        for of_student, of_teacher in zip(rocs[0].points, rocs[1].points)
    ]
    if any(critical):
        for of_student, of_teacher in zip(blocks[0], blocks[1]):
            for found in filter(None, critical):
                found.update(of_student.cosine, of_teacher)
    return GapReport(
        points=tuple(
            _point(found, *(roc.points[k] for roc in rocs))
            for k, found in enumerate(critical)
        ),
        num_positive=rocs[0].num_positive,
        num_negative=rocs[0].num_negative,
    )


def closed_share(
    student: float | None, baseline: float | None, teacher: float | None
) -> float | None:
    """Returns which share of the baseline's gap to the teacher a student closes.

    `(student - baseline) / (teacher - baseline)`: 1 where it reaches the teacher,
    below 0 where it is worse than the baseline.

    Args:
        student: TPR of the student that is judged, None where it has none.
        baseline: TPR of a student trained without the teacher, or None.
        teacher: TPR of the teacher, or None.

    Returns:
        Float; None where a TPR is missing or the baseline is not below the teacher.
    """
    if None in (student, baseline, teacher) or baseline >= teacher:
        return None
    return (student - baseline) / (teacher - baseline)


def _point(critical, student, teacher, baseline=None):
    if critical is None:
        return GapPoint(fpr=teacher.target_fpr)
    positive, negative = critical.worst(True), critical.worst(False)
    closed = None
    if baseline is not None:
        closed = closed_share(student.tpr, baseline.tpr, teacher.tpr)
    return GapPoint(
        fpr=teacher.target_fpr,
        teacher_tpr=teacher.tpr,
        student_tpr=student.tpr,
        gap=teacher.tpr - student.tpr,
        baseline_tpr=None if baseline is None else baseline.tpr,
        closed=closed,
        teacher_threshold=teacher.threshold,
        student_threshold=student.threshold,
        critical_positive=critical.counts[True],
        critical_negative=critical.counts[False],
        worst_positive=tuple(pair for _, pair, _ in positive),
        worst_negative=tuple(pair for _, pair, _ in negative),
        worst_cosines=tuple(cosines for _, _, cosines in positive + negative),
    )


class _Critical:
    """Counts critical pairs block by block and keeps the worst of each kind."""

    def __init__(self, student_threshold: float, teacher_threshold: float, keep: int):
        # In float32 like the scores, or rounding would move pairs that tie.
        self._thresholds = np.float32(teacher_threshold), np.float32(student_threshold)
        self._keep = keep
        self._worst = {True: [], False: []}
        self.counts = {True: 0, False: 0}

    def update(self, student: np.ndarray, block: PairBlock) -> None:
        """Takes in the student's cosines `(r, c)` of a block of the teacher's."""
        of_teacher, of_student = self._thresholds
        critical = (block.cosine > of_teacher) != (student > of_student)
        for kind, mask in ((True, block.positive), (False, block.negative)):
            if block.positive is None and kind:
                continue
            found = np.nonzero(critical if mask is None else critical & mask)
            self.counts[kind] += found[0].size
            self._keep_worst(kind, block, found, student)

    def worst(self, kind: bool) -> list:
        """Returns `(distance, (i, j), (teacher, student))`, the worst first."""
        return [(-d, pair, cosines) for d, pair, cosines in self._worst[kind]]

    def _keep_worst(self, kind, block, found, student):
        if not self._keep or not found[0].size:
            return
        cosines = np.stack([block.cosine[found], student[found]])
        above = cosines - np.array(self._thresholds)[:, None]
        distance = np.abs(above[0] - above[1])
        # All that tie with the last one kept, so that rows decide between them.
        if distance.size > self._keep:
            last = np.partition(distance, -self._keep)[-self._keep]
            chosen = np.flatnonzero(distance >= last)
        else:
            chosen = np.arange(distance.size)
        pairs = np.stack(
            [block.rows[found[0][chosen]], block.columns[found[1][chosen]]]
        )
        entries = zip(
            (-distance[chosen]).tolist(),
            map(tuple, np.sort(pairs, axis=0).T.tolist()),
            map(tuple, cosines[:, chosen].T.tolist()),
        )
        self._worst[kind] = sorted([*self._worst[kind], *entries])[: self._keep]
