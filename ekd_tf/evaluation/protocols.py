"""Verification of models on a set: every pair of labelled images, or given pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ekd_tf.data import PairSet
from ekd_tf.data import Source
from ekd_tf.evaluation import verification
from ekd_tf.evaluation.embed import Models
from ekd_tf.evaluation.gap import measure_gap
from ekd_tf.evaluation.plots import contact_sheet
from ekd_tf.evaluation.plots import plot_roc
from ekd_tf.evaluation.plots import plot_similarities
from ekd_tf.evaluation.result import Result
from ekd_tf.evaluation.verification import DEFAULT_FPRS
from ekd_tf.metrics import folds_of
from ekd_tf.metrics import format_fpr

_STRATIFIED = (
    ", each kind cut by itself: in the order given a fold would hold hardly any of a "
    "kind"
)
_NO_INTERVALS = (
    "No interval of TPR, AUC and EER: a kind has fewer pairs than there are folds."
)


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledEvaluation:
    """Verifies all pairs of images of identities no model was trained on.

    Args:
        name: Prefix of what is logged and written.
        source: The images; all of them are used.
        fprs, seed, replicates: As for `verify_embeddings`.
        worst: Critical pairs of each kind to name and, at the lowest FPR that is
            measurable, to draw.
    """

    name: str
    source: Source
    fprs: Sequence[float] = DEFAULT_FPRS
    seed: int = 0
    replicates: int = 0
    worst: int = 10

    @property
    def fingerprint(self) -> str:
        """Changes with the images and with what is measured on them."""
        return f"labelled {self.source.fingerprint} {tuple(self.fprs)} {self.seed}"

    def check(self) -> None:
        """Raises `ValueError` where the images make too few pairs to evaluate on."""
        verification.check_drawable(self.source.labels)

    def __call__(self, models: Models) -> Result:
        """Evaluates the models as they are now: a `VerificationReport` of each.

        With a teacher also the gap and the critical pairs.
        """
        labels, progress = self.source.labels, models.student.progress
        embeddings = {name: model(self.source) for name, model in models.items()}
        reports = {
            name: verification.verify_embeddings(
                rows, labels, self.fprs, self.seed, self.replicates, progress
            )
            for name, rows in embeddings.items()
        }
        figures = {name: report.scalars(self.name) for name, report in reports.items()}
        pictures = _pictures(self.name, reports, "all pairs")
        gap = None
        if "teacher" in embeddings:
            order = [n for n in ("student", "teacher", "baseline") if n in embeddings]
            gap = measure_gap(
                embeddings["student"],
                embeddings["teacher"],
                labels,
                self.fprs,
                self.worst,
                embeddings.get("baseline"),
                rocs=[reports[name].roc for name in order],
                progress=progress,
            )
            for point in gap.points:
                for name, value in (("gap", point.gap), ("closed", point.closed)):
                    if value is not None:
                        figure = f"{self.name}/{name}_at_fpr_{format_fpr(point.fpr)}"
                        figures["student"][figure] = value
            if gap.lowest is not None and gap.lowest.worst_cosines:
                sheet = contact_sheet(self.source, gap.lowest)
                pictures[f"{self.name}/critical"] = sheet
        view, student = models.student.view, reports["student"]
        parts = [
            verification.figures_table(list(reports.items())),
            f"All {student.num_positive:,} positive and {student.num_negative:,} "
            f"negative pairs; accuracy on {student.num_pairs:,} drawn ones. Embeddings "
            f"of {view}.",
            *([gap.to_table()] if gap else []),
            *student.not_measurable,
            *student.without_interval,
            *_collapsed(reports),
        ]
        return Result(
            name=self.name,
            reports=reports,
            figures=figures,
            document={
                # The key is there whether or not there is a teacher.
                "teacher": None,
                **{name: report.to_dict() for name, report in reports.items()},
                "view": view,
                "gap": gap and gap.to_dict(),
            },
            text="\n\n".join(parts),
            images=pictures,
            left_out=self.source.left_out,
            gap=gap,
        )


def _collapsed(reports):
    return [f"{name}: {text}" for name, r in reports.items() for text in r.collapsed]


@dataclasses.dataclass(eq=False)
class PairSetEvaluation:
    """Verifies given pairs, as LFW and its kin are, like insightface and TFace do.

    The name is by default the set's; `fprs`, `seed` and `replicates` are as for
    `verify_pairs`.
    """

    pairs: PairSet
    name: str = ""
    fprs: Sequence[float] = DEFAULT_FPRS
    seed: int = 0
    replicates: int = 0

    def __post_init__(self) -> None:
        self.name = self.name or self.pairs.name
        self.source = self.pairs.images
        self._same = np.asarray(self.pairs.issame, bool)

    @property
    def fingerprint(self) -> str:
        """Changes with the pairs and with what is measured on them."""
        # Figures kept before such sets were cut kind by kind must not come back.
        kind = "stratified pairs" if folds_of(self._same, 10)[1] else "pairs"
        bits = np.packbits(self._same).tobytes().hex()
        return f"{kind} {self.source.fingerprint} {bits} {tuple(self.fprs)}"

    def check(self) -> None:
        """Raises `ValueError` where there are too few pairs, or of one kind alone."""
        verification.check_pairs(self._same)

    def __call__(self, models: Models) -> Result:
        """Evaluates the models as they are now: a `VerificationReport` of each.

        With the mirror image's embedding added where the models embed it; text and
        document have both kinds, "flip" and "plain".
        """
        by_model = {}
        for name, model in models.items():
            views = model.views(self.source)
            kinds = {"flip": views} if views.shape[1] > 1 else {}
            kinds["plain"] = views[:, :1]
            by_model[name] = {
                kind: verification.verify_pairs(
                    model.unit(rows, self.source),
                    self._same,
                    self.fprs,
                    self.replicates,
                    self.seed,
                )
                for kind, rows in kinds.items()
            }
        # With flip where there is one.
        reports = {n: next(iter(kinds.values())) for n, kinds in by_model.items()}
        lines = [
            (f"{model}, {'with' if kind == 'flip' else 'without'} flip", report)
            for model, kinds in by_model.items()
            for kind, report in kinds.items()
        ]
        first = lines[0][1]
        parts = [
            verification.figures_table(lines),
            f"{first.num_positive:,} positive and {first.num_negative:,} negative "
            f"pairs in ten folds{_STRATIFIED * first.stratified}.",
            *first.not_measurable,
            *_collapsed(reports),
        ]
        if first.intervals.keys() == {"accuracy"}:
            parts.append(_NO_INTERVALS)
        return Result(
            name=self.name,
            reports=reports,
            figures={n: report.scalars(self.name) for n, report in reports.items()},
            document={
                model: {kind: report.to_dict() for kind, report in kinds.items()}
                for model, kinds in by_model.items()
            },
            text="\n\n".join(parts),
            images=_pictures(self.name, reports, "given pairs"),
            left_out=self.source.left_out,
        )


def _pictures(name, reports, pairs):
    """Draws the ROC of all models and the student's similarities."""
    curves = {m: verification.measurable_curve(r.roc) for m, r in reports.items()}
    student = reports["student"]
    return {
        f"{name}/roc": plot_roc(curves, title=f"{name}, {pairs}"),
        f"{name}/similarities": plot_similarities(
            student.roc, student.thresholds, title=f"student on {name}"
        ),
    }
