"""Searches of a growing gallery: rank-1 among distractors, TPIR at FPIRs."""

from __future__ import annotations

import dataclasses

import numpy as np

from ekd_tf import metrics
from ekd_tf.data import Source
from ekd_tf.evaluation.embed import Models
from ekd_tf.evaluation.result import Result
from ekd_tf.evaluation.tables import format_table
from ekd_tf.metrics import format_fpr

RANKS = (1, 5, 10)
FPIRS = (0.01, 0.1)
# The part of the identities left out of the gallery, unknown people: those of one
# image, and as many others as are wanting.
_UNENROLLED = 0.2
_ROWS = 4096


def search_rates(
    search: metrics.GallerySearch,
) -> tuple[dict[int, float], dict[float, float]]:
    """Returns k -> rate of mates among the first k, and FPIR -> TPIR.

    Probes without a mate are the unknown people; where there are none, no TPIR is.
    """
    mated = search.mated
    if not mated.any():
        raise ValueError(
            "A rank needs probes with a mate in the gallery. Received: "
            f"{mated.size} probes, all without"
        )
    rank = search.rank[mated]
    rates = {k: float(np.mean(rank <= k)) for k in RANKS}
    if mated.all():
        return rates, {}
    unknown = search.best_other[~mated]
    tpir = metrics.tpir_at_fpir(search.mate_score[mated], rank, unknown, FPIRS)
    return rates, dict(zip(FPIRS, tpir.tolist()))


def search_scalars(
    prefix: str, rank: dict[int, float], tpir: dict[float, float]
) -> dict[str, float]:
    """Returns what `search_rates` found by the names it is logged under."""
    return {
        **{f"{prefix}/rank_{k}": rate for k, rate in rank.items()},
        **{f"{prefix}/tpir_at_fpir_{format_fpr(f)}": rate for f, rate in tpir.items()},
    }


@dataclasses.dataclass(frozen=True)
class IdentificationReport:
    """Figures of one model.

    Attributes:
        rank, tpir: As of `search_rates`, without distractors in the gallery.
        rank_1: Number of distractors -> fraction of probes with the mate first.
        num_probes, num_gallery: Numbers of mated probes and of enrolled identities.
        num_unknown: Number of searches by people who are not enrolled.
    """

    rank: dict[int, float]
    rank_1: dict[int, float]
    tpir: dict[float, float]
    num_probes: int
    num_gallery: int
    num_unknown: int

    def scalars(self, prefix: str) -> dict[str, float]:
        """Returns the rates by the names they are logged under."""
        return {
            **search_scalars(prefix, self.rank, self.tpir),
            **{
                f"{prefix}/rank_1_of_{count}_distractors": rate
                for count, rate in self.rank_1.items()
            },
        }

    def to_dict(self) -> dict:
        """Returns the report as JSON can hold it."""
        tpir = {format_fpr(fpir): rate for fpir, rate in self.tpir.items()}
        return {**dataclasses.asdict(self), "tpir": tpir}


@dataclasses.dataclass(eq=False)
class IdentificationEvaluation:
    """Enrols one image of each of most identities and searches with the others.

    Raises `ValueError` where no identity with two images is left to enrol.

    Args:
        name: Prefix of what is logged and written.
        source: Images of identities no model was trained on.
        distractors: Images of other people, which join the gallery; or None.
        seed: Chooses identities, gallery images and the order of distractors, so that
            a smaller number of them is part of a larger.
    """

    name: str
    source: Source
    distractors: Source | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        searches = split_searches(self.source.labels, rng)
        self._gallery, self._probes, self._unknown = searches
        count = 0 if self.distractors is None else len(self.distractors)
        self._order = rng.permutation(count)
        tens = 10 ** np.arange(1, 10)
        self._sizes = sorted({*tens[tens < count].tolist(), count} - {0})

    def __call__(self, models: Models) -> Result:
        """Evaluates the models as they are now; an `IdentificationReport` of each."""
        reports = {name: self._report(model) for name, model in models.items()}
        left_out = self.source.left_out
        if self.distractors is not None:
            left_out += self.distractors.left_out
        return Result(
            name=self.name,
            reports=reports,
            figures={n: report.scalars(self.name) for n, report in reports.items()},
            document={name: report.to_dict() for name, report in reports.items()},
            text=_text(reports, models.student.view),
            images={},
            left_out=left_out,
        )

    def _report(self, model):
        embeddings, labels = model(self.source), self.source.labels
        probes = np.concatenate([self._probes, self._unknown])
        search = metrics.GallerySearch(
            embeddings[probes],
            labels[probes],
            embeddings[self._gallery],
            labels[self._gallery],
        )
        rank, tpir = search_rates(search)
        rank_1 = {}
        others = model(self.distractors) if self._sizes else None
        for done, size in zip([0, *self._sizes], self._sizes):
            for start in range(done, size, _ROWS):
                chosen = self._order[start : min(start + _ROWS, size)]
                search.add_distractors(others[chosen])
            rank_1[size] = float(np.mean(search.rank[search.mated] == 1))
        return IdentificationReport(
            rank=rank,
            rank_1=rank_1,
            tpir=tpir,
            num_probes=self._probes.size,
            num_gallery=self._gallery.size,
            num_unknown=self._unknown.size,
        )


def _text(reports, view):
    """Returns the table of rates and the numbers of searches."""
    report = reports["student"]
    header = ["model", *(f"rank-{k}" for k in report.rank)]
    header += [f"rank-1 of {count:,}" for count in report.rank_1]
    header += [f"TPIR@{format_fpr(fpir)}" for fpir in report.tpir]
    rows = [
        [name, *r.rank.values(), *r.rank_1.values(), *r.tpir.values()]
        for name, r in reports.items()
    ]
    return (
        f"{format_table(rows, header)}\n\n{report.num_probes:,} probes, gallery of "
        f"{report.num_gallery:,} identities with one image each, "
        f"{report.num_unknown:,} searches by people not enrolled. Embeddings of {view}."
    )


def split_searches(
    labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divides images into a gallery, probes with a mate in it, and unknown people's.

    Returns row numbers. The gallery holds one image of each enrolled identity.
    """
    identities, number, counts = np.unique(
        labels, return_inverse=True, return_counts=True
    )
    able = rng.permutation(np.flatnonzero(counts > 1))
    single = identities.size - able.size
    enrolled = able[max(0, round(identities.size * _UNENROLLED) - single) :]
    if not enrolled.size:
        raise ValueError(
            "Identification needs identities with two images to enrol. Received: "
            f"{able.size} of {identities.size}, {_UNENROLLED:g} of all left out"
        )
    is_enrolled = np.isin(number.reshape(-1), enrolled)
    # The first image of each identity in a random order of all images.
    shuffled = rng.permutation(np.flatnonzero(is_enrolled))
    _, first = np.unique(labels[shuffled], return_index=True)
    gallery = np.sort(shuffled[first])
    probes = np.setdiff1d(np.flatnonzero(is_enrolled), gallery)
    return gallery, probes, np.flatnonzero(~is_enrolled)
