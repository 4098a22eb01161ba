"""The gap between teacher and student at each FPR, and the pairs that make it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ekd_tf.checks import check_range
from ekd_tf.evaluation.allpairs import all_pair_scores
from ekd_tf.evaluation.allpairs import check_labels
from ekd_tf.evaluation.allpairs import pairs_at
from ekd_tf.evaluation.tables import format_fpr
from ekd_tf.evaluation.tables import format_table
from ekd_tf.evaluation.verification import check_two_kinds
from ekd_tf.evaluation.verification import is_measurable
from ekd_tf.evaluation.verification import not_measurable
from ekd_tf.metrics import operating_points


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
        teacher_threshold: Cosine.
        student_threshold: Cosine.
        critical_positive: Number of critical positive pairs.
        critical_negative: Number of critical negative pairs.
        worst_positive: Rows `(i, j)` of the critical positives on which the models
            differ most, in cosine above their own thresholds; the worst first.
        worst_negative: The same among critical negatives.
    """

    fpr: float
    teacher_tpr: float | None = None
    student_tpr: float | None = None
    gap: float | None = None
    teacher_threshold: float | None = None
    student_threshold: float | None = None
    critical_positive: int | None = None
    critical_negative: int | None = None
    worst_positive: tuple[tuple[int, int], ...] | None = None
    worst_negative: tuple[tuple[int, int], ...] | None = None


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
        """One sentence for each FPR that has too few negatives behind it."""
        return tuple(
            not_measurable(point.fpr, self.num_negative)
            for point in self.points
            if point.gap is None
        )

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
        return format_table(rows, header)


def compare(
    teacher_embeddings: np.ndarray,
    student_embeddings: np.ndarray,
    labels: np.ndarray,
    fprs: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4),
    worst: int = 10,
) -> GapReport:
    """Compares teacher and student on all pairs of the same images.

    Args:
        teacher_embeddings: Float array `(n, teacher_dim)`. Normalised here.
        student_embeddings: Float array `(n, student_dim)`, the same images in the
            same order. Normalised here.
        labels: Integer array `(n,)`, identities.
        fprs: Target FPRs in [0, 1], by the strict rule.
        worst: Int >= 0, how many critical pairs of each kind to name.

    Returns:
        `GapReport`.

    Raises:
        ValueError: Lengths differ, there are not both kinds of pairs, or an
            embedding is not finite or all zero.
    """
    labels = check_labels(
        labels,
        teacher_embeddings=teacher_embeddings,
        student_embeddings=student_embeddings,
    )
    check_two_kinds(labels)
    check_range("worst", worst, low=0)
    teacher = all_pair_scores(teacher_embeddings, labels)
    student = all_pair_scores(student_embeddings, labels)
    points = []
    for of_teacher, of_student in zip(
        operating_points(*teacher, fprs), operating_points(*student, fprs)
    ):
        if not is_measurable(of_teacher):
            points.append(GapPoint(fpr=of_teacher.target_fpr))
            continue
        thresholds = of_teacher.threshold, of_student.threshold
        num_positive, worst_positive = _critical(
            teacher[0], student[0], thresholds, labels, True, worst
        )
        num_negative, worst_negative = _critical(
            teacher[1], student[1], thresholds, labels, False, worst
        )
        points.append(
            GapPoint(
                fpr=of_teacher.target_fpr,
                teacher_tpr=of_teacher.tpr,
                student_tpr=of_student.tpr,
                gap=of_teacher.tpr - of_student.tpr,
                teacher_threshold=of_teacher.threshold,
                student_threshold=of_student.threshold,
                critical_positive=num_positive,
                critical_negative=num_negative,
                worst_positive=worst_positive,
                worst_negative=worst_negative,
            )
        )
    return GapReport(
        points=tuple(points),
        num_positive=teacher[0].size,
        num_negative=teacher[1].size,
    )


def _critical(teacher, student, thresholds, labels, same, worst):
    """Counts critical pairs of one kind and finds the rows of the worst."""
    teacher_threshold, student_threshold = thresholds
    critical = np.flatnonzero(
        (teacher > teacher_threshold) != (student > student_threshold)
    )
    distance = np.abs(
        (teacher[critical] - teacher_threshold)
        - (student[critical] - student_threshold)
    )
    # Stable, so that equal distances are named in the order of their rows.
    first = critical[np.argsort(-distance, kind="stable")[:worst]]
    return critical.size, tuple(map(tuple, pairs_at(labels, same, first).tolist()))
