"""Every pair of a labelled set of images, by one model or by several."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ekd_tf.data import Source
from ekd_tf.evaluation.allpairs import all_pairs_roc
from ekd_tf.evaluation.allpairs import count_pairs
from ekd_tf.evaluation.embed import Models
from ekd_tf.evaluation.gap import GapReport
from ekd_tf.evaluation.gap import compare
from ekd_tf.evaluation.plots import contact_sheet
from ekd_tf.evaluation.plots import plot_roc
from ekd_tf.evaluation.plots import plot_similarities
from ekd_tf.evaluation.result import Result
from ekd_tf.evaluation.result import figures_table
from ekd_tf.evaluation.verification import VerificationReport
from ekd_tf.evaluation.verification import check_drawable
from ekd_tf.evaluation.verification import figure_names
from ekd_tf.evaluation.verification import verify_embeddings
from ekd_tf.metrics import format_fpr

DEFAULT_FPRS = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclasses.dataclass(frozen=True)
class LabelledResult(Result):
    """What `LabelledEvaluation` found.

    Attributes:
        name: The set's name.
        reports: "teacher", "student", "baseline" -> `VerificationReport`.
        gap: `GapReport` of teacher and student, or None.
        curves: The same names -> `(fpr, tpr)` of all pairs.
        images: The ROC, the histograms of the student's cosines with thresholds and,
            with a gap, the critical pairs on which the models differ most.
        view: What the embeddings are made of; see `SourceEmbedder.view`.
    """

    name: str
    reports: dict[str, VerificationReport]
    gap: GapReport | None
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    images: dict[str, np.ndarray]
    view: str
    left_out: tuple[str, ...] = ()

    @property
    def student(self) -> VerificationReport:
        """The report of the model that is judged."""
        return self.reports["student"]

    @property
    def teacher(self) -> VerificationReport | None:
        """The teacher's report, or None."""
        return self.reports.get("teacher")

    def scalars(self, model: str = "student") -> dict[str, float]:
        """Returns accuracy, AUC, EER and TPRs, and for the student the gap per FPR."""
        scalars = self.reports[model].scalars(self.name)
        if self.gap is not None and model == "student":
            for point in self.gap.points:
                fpr = format_fpr(point.fpr)
                if point.gap is not None:
                    scalars[f"{self.name}/gap_at_fpr_{fpr}"] = point.gap
                if point.closed is not None:
                    scalars[f"{self.name}/closed_at_fpr_{fpr}"] = point.closed
        return scalars

    def to_dict(self) -> dict:
        """Returns the reports as JSON can hold them."""
        reports = {name: report.to_dict() for name, report in self.reports.items()}
        # Both keys are there whether or not there is a teacher.
        return {
            "student": None,
            "teacher": None,
            **reports,
            "view": self.view,
            "gap": None if self.gap is None else self.gap.to_dict(),
        }

    def text(self) -> str:
        """Returns the tables of figures and of the gap, and what had no figure."""
        parts = [figures_table(list(self.reports.items()))]
        parts.append(
            f"All {self.student.num_positive:,} positive and "
            f"{self.student.num_negative:,} negative pairs; accuracy on "
            f"{self.student.num_pairs:,} drawn ones. Embeddings of {self.view}."
        )
        if self.gap is not None:
            parts.append(self.gap.to_table())
        parts += [*self.student.not_measurable, *self.student.without_interval]
        return "\n\n".join(parts)


class LabelledEvaluation:
    """Verifies all pairs of images of identities no model was trained on.

    Args:
        name: String, prefix of what is logged and written.
        source: The images; all of them are used.
        fprs: Target FPRs, by the strict rule.
        seed: Int, of the drawing of the pairs for the accuracy.
        replicates: Int >= 0: resamples of the identities for intervals; 0: none.
        worst: Int >= 0: critical pairs of each kind to name and, with a teacher, to
            draw, at the lowest FPR that is measurable.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        fprs: Sequence[float] = DEFAULT_FPRS,
        seed: int = 0,
        replicates: int = 0,
        worst: int = 10,
    ):
        self.name = name
        self.source = source
        self._fprs = tuple(fprs)
        self._seed = seed
        self._replicates = replicates
        self._worst = worst

    @property
    def fingerprint(self) -> str:
        """Changes with the images and with what is measured on them."""
        return f"labelled {self.source.fingerprint} {self._fprs} {self._seed}"

    def check(self) -> None:
        """Raises `ValueError` where the images make too few pairs to evaluate on."""
        check_drawable(self.source.labels)

    def figure_names(self, gap: bool) -> list[str]:
        """Returns the names of the figures it will give, with or without a gap."""
        negatives = count_pairs(self.source.labels)[1]
        return figure_names(self.name, self._fprs, negatives, gap)

    def __call__(self, models: Models) -> LabelledResult:
        """Evaluates the models as they are now."""
        labels = self.source.labels
        embeddings = {name: model(self.source) for name, model in models.items()}
        rocs = {
            name: all_pairs_roc(rows, labels, self._fprs)
            for name, rows in embeddings.items()
        }
        reports = {
            name: verify_embeddings(
                rows,
                labels,
                self._fprs,
                seed=self._seed,
                roc=rocs[name],
                replicates=self._replicates,
            )
            for name, rows in embeddings.items()
        }
        gap = None
        if "teacher" in embeddings:
            order = [n for n in ("student", "teacher", "baseline") if n in embeddings]
            gap = compare(
                embeddings["student"],
                embeddings["teacher"],
                labels,
                self._fprs,
                worst=self._worst,
                baseline_embeddings=embeddings.get("baseline"),
                rocs=[rocs[name] for name in order],
            )
        curves = {name: roc.curve() for name, roc in rocs.items()}
        images = self._pictures(curves, rocs["student"], reports["student"], gap)
        return LabelledResult(
            self.name,
            reports,
            gap,
            curves,
            images,
            models.student.view,
            self.source.left_out,
        )

    def _pictures(self, curves, roc, report, gap):
        images = {
            "roc": plot_roc(curves, title=f"{self.source.name}, all pairs"),
            "similarities": plot_similarities(
                (roc.values, roc.positive_counts),
                (roc.values, roc.negative_counts),
                report.thresholds,
                title=f"student on {self.source.name}",
            ),
        }
        if gap is not None:
            measured = [p for p in gap.points if p.gap is not None]
            point = min(measured, key=lambda p: p.fpr, default=None)
            if point is not None and point.worst_cosines:
                images["critical"] = contact_sheet(self.source, point)
        return {f"{self.name}/{what}": image for what, image in images.items()}
