"""What an export wrote and measured, as values and as a table."""

from __future__ import annotations

import dataclasses

from ekd_tf.evaluation import format_table
from ekd_tf.export.parity import ParityReport
from ekd_tf.export.parity import Verification


@dataclasses.dataclass(frozen=True)
class ArtefactReport:
    """One artefact of an export: where, how large, how close, how fast.

    Attributes:
        kind: A key of `GATES`.
        path: Path of the file, or of the SavedModel's directory.
        size_bytes: Size of all its files.
        parity: Figures against the float32 Keras model.
        verification: Of its own embeddings, or None: no labels.
        median_ms, p95_ms: Median and 95th percentile of the latency of one image on one
            thread, warm; None if not measured.
        median_ms_2, p95_ms_2: The same on two threads.
        peak_bytes: Growth of the peak resident memory of a process that runs it;
            None if not measured.
        ops: Op name -> count; None if not a TFLite file.
        partitions: Pieces of the graph that XNNPACK runs; None likewise.
    """

    kind: str
    path: str
    size_bytes: int
    parity: ParityReport
    verification: Verification | None = None
    median_ms: float | None = None
    p95_ms: float | None = None
    median_ms_2: float | None = None
    p95_ms_2: float | None = None
    peak_bytes: int | None = None
    ops: dict[str, int] | None = None
    partitions: int | None = None


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What `export_student` wrote and measured.

    Attributes:
        name: The student's name.
        version: Int, the version written.
        path: The version's directory.
        rebuild: Figures of the float32 copy against the model as trained.
        keras: Verification of the float32 copy, or None: no labels.
        artefacts: One `ArtefactReport` each.
        notes: Sentences on what was measured and is worth knowing.
    """

    name: str
    version: int
    path: str
    rebuild: ParityReport
    keras: Verification | None
    artefacts: tuple[ArtefactReport, ...]
    notes: tuple[str, ...] = ()

    def to_table(self) -> str:
        """Returns the artefacts as a Markdown table, the Keras model first."""
        header = ["artefact", "MB", "least cosine", "mean cosine", "accuracy"]
        header += ["TPR@1e-3", "ms, 1 thread", "p95", "ms, 2 threads", "peak MB"]
        header += ["XNNPACK partitions"]
        rows = [["Keras", *[None] * 3, *_verified(self.keras), *[None] * 5]]
        for artefact in self.artefacts:
            peak = artefact.peak_bytes
            rows.append(
                [
                    artefact.kind,
                    f"{artefact.size_bytes / 1e6:.2f}",
                    f"{artefact.parity.min_cosine:.6f}",
                    f"{artefact.parity.mean_cosine:.6f}",
                    *_verified(artefact.verification),
                    artefact.median_ms,
                    artefact.p95_ms,
                    artefact.median_ms_2,
                    None if peak is None else f"{peak / 1e6:.1f}",
                    artefact.partitions,
                ]
            )
        return format_table(rows, header)

    def to_dict(self) -> dict:
        """Returns the report as plain values, ready for JSON."""
        values = dataclasses.asdict(self)
        return {**values, **{k: list(values[k]) for k in ("artefacts", "notes")}}

    @classmethod
    def from_dict(cls, values: dict) -> ExportReport:
        """Returns the report `to_dict` was made of."""

        def verification(figures):
            return figures and Verification(**figures)

        artefacts = [
            ArtefactReport(
                **{
                    **artefact,
                    "parity": ParityReport(**artefact["parity"]),
                    "verification": verification(artefact["verification"]),
                }
            )
            for artefact in values["artefacts"]
        ]
        return cls(
            **{
                **values,
                "rebuild": ParityReport(**values["rebuild"]),
                "keras": verification(values["keras"]),
                "artefacts": tuple(artefacts),
                "notes": tuple(values["notes"]),
            }
        )


def _verified(figures):
    return [None, None] if figures is None else [figures.accuracy, figures.tpr]
