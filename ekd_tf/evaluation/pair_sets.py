"""Verification sets of given pairs: LFW, CFP-FP, AgeDB-30 and their kin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ekd_tf.data import PairSet
from ekd_tf.evaluation import verification
from ekd_tf.evaluation.embed import Models
from ekd_tf.evaluation.embed import add_views
from ekd_tf.evaluation.plots import plot_roc
from ekd_tf.evaluation.plots import plot_similarities
from ekd_tf.evaluation.result import Result
from ekd_tf.evaluation.verification import DEFAULT_FPRS
from ekd_tf.metrics import folds_of

_STRATIFIED = (
    ", each kind cut by itself: in the order given a fold would hold hardly any of a "
    "kind"
)
_NO_INTERVALS = (
    "No interval of TPR, AUC and EER: a kind has fewer pairs than there are folds."
)


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
        self._same = np.asarray(pairs.issame, bool)
        self._fprs = tuple(fprs)
        self._seed = seed
        self._replicates = replicates

    @property
    def fingerprint(self) -> str:
        """Changes with the pairs and with what is measured on them."""
        # Figures kept before such sets were cut kind by kind must not come back.
        kind = "stratified pairs" if folds_of(self._same, 10)[1] else "pairs"
        bits = np.packbits(self._same).tobytes().hex()
        return f"{kind} {self.source.fingerprint} {bits} {self._fprs}"

    def check(self) -> None:
        """Raises `ValueError` where there are too few pairs, or of one kind alone."""
        verification.check_pairs(self._same)

    def figure_names(self, gap: bool) -> list[str]:
        """Returns the names of the figures it will give; none is of a gap."""
        negatives = int(np.count_nonzero(~self._same))
        return verification.figure_names(self.name, self._fprs, negatives)

    def __call__(self, models: Models) -> Result:
        """Evaluates the models as they are now: a `VerificationReport` of each.

        With the mirror image's embedding added where the models embed it; text and
        document have both kinds, "flip" and "plain".
        """
        found = {
            name: self._verify(model.views(self.source))
            for name, model in models.items()
        }
        # With flip where there is one.
        reports = {name: next(iter(kinds.values())) for name, kinds in found.items()}
        curves = {name: report.roc.curve() for name, report in reports.items()}
        student = reports["student"]
        images = {
            f"{self.name}/roc": plot_roc(curves, title=f"{self.name}, given pairs"),
            f"{self.name}/similarities": plot_similarities(
                student.roc, student.thresholds, title=f"student on {self.name}"
            ),
        }
        return Result(
            name=self.name,
            reports=reports,
            figures={n: report.scalars(self.name) for n, report in reports.items()},
            document={
                model: {kind: report.to_dict() for kind, report in kinds.items()}
                for model, kinds in found.items()
            },
            text=_text(found),
            images=images,
            left_out=self.source.left_out,
        )

    def _verify(self, views):
        kinds = {"flip": views} if views.shape[1] > 1 else {}
        kinds["plain"] = views[:, :1]
        return {
            kind: verification.verify_pairs(
                add_views(rows),
                self._same,
                self._fprs,
                replicates=self._replicates,
                seed=self._seed,
            )
            for kind, rows in kinds.items()
        }


def _text(found):
    """Returns the table of figures and what had no figure."""
    lines = [
        (f"{model}, {'with' if kind == 'flip' else 'without'} flip", report)
        for model, kinds in found.items()
        for kind, report in kinds.items()
    ]
    report = lines[0][1]
    parts = [
        verification.figures_table(lines),
        f"{report.num_positive:,} positive and {report.num_negative:,} negative "
        f"pairs in ten folds{_STRATIFIED * report.stratified}.",
        *report.not_measurable,
    ]
    if report.intervals.keys() == {"accuracy"}:
        parts.append(_NO_INTERVALS)
    return "\n\n".join(parts)
