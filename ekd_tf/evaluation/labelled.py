"""Every pair of a labelled set of images, by one model or by several."""

from __future__ import annotations

from collections.abc import Sequence

from ekd_tf.data import Source
from ekd_tf.evaluation import verification
from ekd_tf.evaluation.allpairs import count_pairs
from ekd_tf.evaluation.embed import Models
from ekd_tf.evaluation.gap import compare
from ekd_tf.evaluation.plots import contact_sheet
from ekd_tf.evaluation.plots import plot_roc
from ekd_tf.evaluation.plots import plot_similarities
from ekd_tf.evaluation.result import Result
from ekd_tf.evaluation.verification import DEFAULT_FPRS
from ekd_tf.metrics import format_fpr


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
        verification.check_drawable(self.source.labels)

    def figure_names(self, gap: bool) -> list[str]:
        """Returns the names of the figures it will give, with or without a gap."""
        negatives = count_pairs(self.source.labels)[1]
        return verification.figure_names(self.name, self._fprs, negatives, gap)

    def __call__(self, models: Models) -> Result:
        """Evaluates the models as they are now: a `VerificationReport` of each.

        With a teacher also the gap and the critical pairs on which the two differ most.
        """
        labels = self.source.labels
        embeddings = {name: model(self.source) for name, model in models.items()}
        reports = {
            name: verification.verify_embeddings(
                rows,
                labels,
                self._fprs,
                seed=self._seed,
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
                rocs=[reports[name].roc for name in order],
            )
        figures = {name: report.scalars(self.name) for name, report in reports.items()}
        for point in gap.points if gap else ():
            for name, value in (("gap", point.gap), ("closed", point.closed)):
                if value is not None:
                    figure = f"{self.name}/{name}_at_fpr_{format_fpr(point.fpr)}"
                    figures["student"][figure] = value
        return Result(
            name=self.name,
            reports=reports,
            figures=figures,
            document={
                # Both keys are there whether or not there is a teacher.
                "student": None,
                "teacher": None,
                **{name: report.to_dict() for name, report in reports.items()},
                "view": models.student.view,
                "gap": gap and gap.to_dict(),
            },
            text=_text(reports, gap, models.student.view),
            images=self._pictures(reports, gap),
            left_out=self.source.left_out,
            gap=gap,
        )

    def _pictures(self, reports, gap):
        curves = {name: report.roc.curve() for name, report in reports.items()}
        student = reports["student"]
        images = {
            "roc": plot_roc(curves, title=f"{self.source.name}, all pairs"),
            "similarities": plot_similarities(
                student.roc, student.thresholds, title=f"student on {self.source.name}"
            ),
        }
        measured = [p for p in (gap.points if gap else ()) if p.gap is not None]
        lowest = min(measured, key=lambda point: point.fpr, default=None)
        if lowest is not None and lowest.worst_cosines:
            images["critical"] = contact_sheet(self.source, lowest)
        return {f"{self.name}/{what}": image for what, image in images.items()}


def _text(reports, gap, view):
    """Returns the tables of figures and of the gap, and what had no figure."""
    student = reports["student"]
    parts = [
        verification.figures_table(list(reports.items())),
        f"All {student.num_positive:,} positive and {student.num_negative:,} negative "
        f"pairs; accuracy on {student.num_pairs:,} drawn ones. Embeddings of {view}.",
        *([gap.to_table()] if gap else []),
        *student.not_measurable,
        *student.without_interval,
    ]
    return "\n\n".join(parts)
