"""Verification sets of given pairs: LFW, CFP-FP, AgeDB-30 and their kin."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ekd_tf.data import PairSet
from ekd_tf.evaluation.embed import Models
from ekd_tf.evaluation.embed import add_views
from ekd_tf.evaluation.plots import plot_roc
from ekd_tf.evaluation.plots import plot_similarities
from ekd_tf.evaluation.result import Result
from ekd_tf.evaluation.result import figures_table
from ekd_tf.evaluation.verification import VerificationReport
from ekd_tf.evaluation.verification import check_pairs
from ekd_tf.evaluation.verification import figure_names
from ekd_tf.evaluation.verification import verify_pairs
from ekd_tf.metrics import folds_of
from ekd_tf.metrics import normalize_rows
from ekd_tf.metrics import roc_curve

DEFAULT_FPRS = (1e-1, 1e-2, 1e-3, 1e-4)
_STRATIFIED = (
    ", each kind cut by itself: in the order given a fold would hold hardly any of a "
    "kind"
)


@dataclasses.dataclass(frozen=True)
class PairSetResult(Result):
    """What `PairSetEvaluation` found.

    Attributes:
        name: The set's name.
        reports: "student", "teacher", "baseline" -> "flip" and "plain" ->
            `VerificationReport`. "flip", with the mirror image's embedding added, is
            missing where the models embed no mirror images.
        curves: The same names -> `(fpr, tpr)`, with flip where there is one.
        images: The ROC and the histograms of the student's cosines.
    """

    name: str
    reports: dict[str, dict[str, VerificationReport]]
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    images: dict[str, np.ndarray]
    left_out: tuple[str, ...] = ()

    @property
    def student(self) -> VerificationReport:
        """The report of the model that is judged, with flip where there is one."""
        return _main(self.reports["student"])

    def scalars(self, model: str = "student") -> dict[str, float]:
        """Returns accuracy, AUC, EER and TPRs, with flip where there is one."""
        return _main(self.reports[model]).scalars(self.name)

    def to_dict(self) -> dict:
        """Returns the reports as JSON can hold them."""
        return {
            model: {kind: report.to_dict() for kind, report in kinds.items()}
            for model, kinds in self.reports.items()
        }

    def text(self) -> str:
        """Returns the table of figures and what had no figure."""
        lines = [
            (f"{model}, {'with' if kind == 'flip' else 'without'} flip", report)
            for model, kinds in self.reports.items()
            for kind, report in kinds.items()
        ]
        report = lines[0][1]
        parts = [
            figures_table(lines),
            f"{report.num_positive:,} positive and {report.num_negative:,} negative "
            f"pairs in ten folds{_STRATIFIED * report.stratified}.",
            *report.not_measurable,
            *_without_intervals(report),
        ]
        return "\n\n".join(parts)


def _without_intervals(report):
    if report.intervals.keys() == {"accuracy"}:
        return [
            "No interval of TPR, AUC and EER: a kind has fewer pairs than there are "
            "folds."
        ]
    return []


class PairSetEvaluation:
    """Verifies the pairs of a set, as insightface and TFace do.

    Args:
        pairs: The set.
        name: String, prefix of what is logged and written. Default: the set's name.
        fprs: Target FPRs, by the strict rule.
        seed: Int, of the resampling.
        replicates: Int >= 0: resamples of the folds for intervals; 0: none.
    """

    def __init__(
        self,
        pairs: PairSet,
        name: str | None = None,
        fprs: Sequence[float] = DEFAULT_FPRS,
        seed: int = 0,
        replicates: int = 0,
    ):
        self.name = pairs.name if name is None else name
        self.pairs = pairs
        self.source = pairs.images
        self._fprs = tuple(fprs)
        self._seed = seed
        self._replicates = replicates

    @property
    def fingerprint(self) -> str:
        """Changes with the pairs and with what is measured on them."""
        same = np.asarray(self.pairs.issame, bool)
        # Figures kept before such sets were cut kind by kind must not come back.
        kind = "stratified pairs" if folds_of(same, 10)[1] else "pairs"
        bits = np.packbits(same).tobytes().hex()
        return f"{kind} {self.pairs.images.fingerprint} {bits} {self._fprs}"

    def check(self) -> None:
        """Raises `ValueError` where there are too few pairs, or of one kind alone."""
        check_pairs(self.pairs.issame)

    def figure_names(self, gap: bool) -> list[str]:
        """Returns the names of the figures it will give; none is of a gap."""
        negatives = int(np.count_nonzero(~np.asarray(self.pairs.issame, bool)))
        return figure_names(self.name, self._fprs, negatives)

    def __call__(self, models: Models) -> PairSetResult:
        """Evaluates the models as they are now."""
        same = np.asarray(self.pairs.issame, bool)
        reports, scores = {}, {}
        for name, model in models.items():
            views = model.views(self.pairs.images)
            kinds = {"flip": add_views(views)} if views.shape[1] > 1 else {}
            kinds["plain"] = normalize_rows(views[:, 0])
            reports[name] = {
                kind: verify_pairs(
                    rows,
                    same,
                    self._fprs,
                    replicates=self._replicates,
                    seed=self._seed,
                )
                for kind, rows in kinds.items()
            }
            rows = _main(kinds)
            cosine = np.einsum("nd,nd->n", rows[::2], rows[1::2])
            scores[name] = (cosine[same], cosine[~same])
        curves = {name: roc_curve(*both)[:2] for name, both in scores.items()}
        images = {
            f"{self.name}/roc": plot_roc(curves, title=f"{self.name}, given pairs"),
            f"{self.name}/similarities": plot_similarities(
                *scores["student"],
                _main(reports["student"]).thresholds,
                title=f"student on {self.name}",
            ),
        }
        left_out = self.pairs.images.left_out
        return PairSetResult(self.name, reports, curves, images, left_out)


def _main(kinds):
    """Returns what was measured with flip, or else what there is."""
    return kinds.get("flip", kinds["plain"])
