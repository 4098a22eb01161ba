"""IJB-B and IJB-C: verification of templates, and searches of galleries of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ekd_tf import metrics
from ekd_tf.checks import check_choice
from ekd_tf.checks import check_range
from ekd_tf.data import TemplateSet
from ekd_tf.evaluation.embed import Models
from ekd_tf.evaluation.identification import search_rates
from ekd_tf.evaluation.identification import search_scalars
from ekd_tf.evaluation.plots import plot_roc
from ekd_tf.evaluation.result import Result
from ekd_tf.evaluation.tables import format_table
from ekd_tf.evaluation.verification import is_measurable
from ekd_tf.evaluation.verification import measurable_curve
from ekd_tf.evaluation.verification import not_measurable
from ekd_tf.evaluation.verification import tpr_scalars
from ekd_tf.metrics import format_fpr

_PAIRS_AT_ONCE = 1 << 16


@dataclasses.dataclass(frozen=True)
class TemplateReport:
    """Figures of one model with one setting of the switches.

    Attributes:
        strict: FPR -> TPR by the strict rule, never above the target; None where fewer
            than ten negatives stand behind it.
        nearest, nearest_fpr: FPR -> TPR at the nearest FPR, as insightface reports it,
            and that FPR, which may lie above the target.
        num_negative: Number of negative pairs.
        rank, tpir: As of `search_rates`, the mean over galleries; empty without any.
    """

    strict: dict[float, float | None]
    nearest: dict[float, float]
    nearest_fpr: dict[float, float]
    num_negative: int
    rank: dict[int, float]
    tpir: dict[float, float]

    def scalars(self, prefix: str) -> dict[str, float]:
        """Returns the TPRs by the strict rule and the search figures, as logged."""
        searches = search_scalars(prefix, self.rank, self.tpir)
        return {**tpr_scalars(prefix, self.strict), **searches}

    def to_dict(self) -> dict:
        """Returns the report as JSON can hold it."""
        report = dataclasses.asdict(self)
        for name in ("strict", "nearest", "nearest_fpr", "tpir"):
            report[name] = {format_fpr(k): v for k, v in report[name].items()}
        return report


class IJBEvaluation:
    """Verifies pairs of templates and searches galleries of templates.

    Raises `ValueError` where there are no pairs, or a listed template has no image.
    """

    def __init__(
        self, templates: TemplateSet, fprs: Sequence[float], switches: Sequence[str]
    ):
        self.name = templates.name
        self._set = templates
        self._fprs = tuple(fprs)
        self._switches = [
            check_choice("ijb_switches", name.upper(), metrics.ALL_SWITCHES)
            for name in switches
        ]
        check_range("len(ijb_switches)", len(self._switches), low=1)
        if templates.pairs is None:
            raise ValueError(f"{templates.name} has no list of pairs of templates")
        self._numbers = np.unique(templates.template)
        pairs = templates.pairs
        self._rows = self._find(pairs.first), self._find(pairs.second)
        # Never the other way round: a gallery without probes finds nothing.
        self._galleries = templates.galleries if templates.probes else {}

    def __call__(self, models: Models) -> Result:
        """Evaluates the models as they are now: `TemplateReport`s, by switches.

        The ROC is of the first switches.
        """
        reports, figures, document, curves = {}, {}, {}, {}
        given = self._set
        for model, embedder in models.items():
            views = embedder.views(given.images)
            reports[model], figures[model], document[model] = {}, {}, {}
            for switches in self._switches:
                with metrics.naming_images(embedder.name, given.images.describe):
                    rows = metrics.pool_templates(
                        views, given.template, given.media, given.score, switches
                    )
                roc = self._roc(rows)
                report = self._report(roc, rows)
                reports[model][switches] = report
                figures[model].update(report.scalars(f"{self.name}/{switches}"))
                document[model][switches] = report.to_dict()
                if switches == self._switches[0]:
                    curves[f"{model} {switches}"] = measurable_curve(roc)
        return Result(
            name=self.name,
            reports=reports,
            figures=figures,
            document=document,
            text=_text(reports),
            images={f"{self.name}/roc": plot_roc(curves, title=f"{self.name} 1:1")},
            left_out=given.images.left_out,
        )

    def _find(self, templates):
        """Returns the rows of numbers of templates, int32."""
        rows = np.searchsorted(self._numbers, templates).astype(np.int32)
        rows[rows == len(self._numbers)] = 0
        missing = np.unique(templates[self._numbers[rows] != templates])
        if missing.size:
            raise ValueError(
                f"{self.name}: {missing.size} listed templates have no image, such as "
                f"{', '.join(map(str, missing[:5]))}"
            )
        return rows

    def _roc(self, templates):
        first, second = self._rows
        scores = np.empty(first.size, np.float32)
        for start in range(0, first.size, _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            scores[part] = np.einsum(
                "nd,nd->n", templates[first[part]], templates[second[part]]
            )
        same = self._set.pairs.same
        return metrics.ROC.of(scores[same], scores[~same])

    def _report(self, roc, templates):
        """Rank and TPIR are the means over galleries: each is searched by all."""
        ranks, tpirs = [], []
        probes = self._set.probes
        for gallery in self._galleries.values():
            # Probes of the other gallery's subjects are unknown to this one.
            search = metrics.GallerySearch(
                templates[self._find(probes.template)],
                probes.subject,
                templates[self._find(gallery.template)],
                gallery.subject,
            )
            rank, tpir = search_rates(search)
            ranks.append(rank)
            tpirs.append(tpir)
        tpr, fpr = roc.nearest(self._fprs)
        return TemplateReport(
            strict={
                point.target_fpr: point.tpr if is_measurable(point) else None
                for point in roc.points(self._fprs)
            },
            nearest=dict(zip(self._fprs, tpr.tolist())),
            nearest_fpr=dict(zip(self._fprs, fpr.tolist())),
            num_negative=roc.num_negative,
            rank=_means(ranks),
            tpir=_means(tpirs),
        )


def _means(rates):
    """Returns the mean of each rate over the dicts that are not empty."""
    measured = [each for each in rates if each]
    names = measured[0] if measured else ()
    return {name: float(np.mean([each[name] for each in measured])) for name in names}


def _text(reports):
    """Returns a table of verification, one of searches, and what has no figure."""
    rows, searches = [], []
    for model, kinds in reports.items():
        for switches, report in kinds.items():
            rows.append([model, switches, "strict", *report.strict.values()])
            rows.append([model, switches, "nearest", *report.nearest.values()])
            if report.rank:
                figures = [*report.rank.values(), *report.tpir.values()]
                searches.append([model, switches, *figures])
    fprs = [f"TPR@{format_fpr(fpr)}" for fpr in report.strict]
    parts = [format_table(rows, ["model", "switches", "rule", *fprs])]
    if searches:
        header = [f"rank-{k}" for k in report.rank]
        header += [f"TPIR@{format_fpr(fpir)}" for fpir in report.tpir]
        parts.append(format_table(searches, ["model", "switches", *header]))
    parts += not_measurable(report.strict, report.num_negative)
    return "\n\n".join(parts)
