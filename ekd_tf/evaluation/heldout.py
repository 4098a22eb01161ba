"""A model and its teacher measured on identities neither was trained on."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from ekd_tf.data import Source
from ekd_tf.data import evaluation_batches
from ekd_tf.evaluation.allpairs import all_pair_scores
from ekd_tf.evaluation.embed import Embedder
from ekd_tf.evaluation.gap import GapReport
from ekd_tf.evaluation.gap import compare
from ekd_tf.evaluation.plots import plot_roc
from ekd_tf.evaluation.plots import plot_similarities
from ekd_tf.evaluation.tables import format_fpr
from ekd_tf.evaluation.tables import format_table
from ekd_tf.evaluation.verification import VerificationReport
from ekd_tf.evaluation.verification import verify
from ekd_tf.metrics import roc_curve

DEFAULT_FPRS = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclasses.dataclass(frozen=True)
class HeldoutResult:
    """What one evaluation found.

    Attributes:
        student: The model's `VerificationReport`.
        teacher: The teacher's, or None.
        gap: `GapReport` of the two, or None.
        curves: "student" and, with one, "teacher" -> `(fpr, tpr)` of all pairs.
        images: Name -> uint8 `(height, width, 3)` pictures: the ROC and the
            histograms of cosines with thresholds.
    """

    student: VerificationReport
    teacher: VerificationReport | None
    gap: GapReport | None
    curves: dict[str, tuple[np.ndarray, np.ndarray]]
    images: dict[str, np.ndarray]

    def scalars(self) -> dict[str, float]:
        """Returns what to log: accuracy, AUC, EER, TPRs, and the gap per FPR."""
        report = self.student
        scalars = {
            "heldout/accuracy": report.accuracy_mean,
            "heldout/auc": report.auc,
            "heldout/eer": report.eer,
        }
        for fpr, tpr in report.tpr.items():
            if tpr is not None:
                scalars[f"heldout/tpr_at_fpr_{format_fpr(fpr)}"] = tpr
        if self.gap is not None:
            for point in self.gap.points:
                if point.gap is not None:
                    scalars[f"heldout/gap_at_fpr_{format_fpr(point.fpr)}"] = point.gap
        return scalars

    def to_dict(self) -> dict:
        """Returns the reports as JSON can hold them."""
        return {
            "student": self.student.to_dict(),
            "teacher": None if self.teacher is None else self.teacher.to_dict(),
            "gap": None if self.gap is None else self.gap.to_dict(),
        }

    def table(self) -> str:
        """Returns the figures as a Markdown table, one line per model."""
        rows = []
        for name, report in (("teacher", self.teacher), ("student", self.student)):
            if report is not None:
                accuracy = f"{report.accuracy_mean:.4f} +- {report.accuracy_std:.4f}"
                rows.append([name, accuracy, report.eer, *report.tpr.values()])
        fprs = [f"TPR@{format_fpr(fpr)}" for fpr in self.student.tpr]
        return format_table(rows, ["model", "accuracy", "EER", *fprs])

    def text(self) -> str:
        """Returns the tables of figures and of the gap, and what had no figure."""
        parts = [self.table()]
        if self.gap is not None:
            parts.append(self.gap.to_table())
        parts += self.student.not_measurable
        return "\n\n".join(parts)

    def write(self, folder: pathlib.Path) -> None:
        """Writes `heldout.json`; the pictures are written as they are drawn."""
        path = pathlib.Path(folder) / "heldout.json"
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")


class HeldoutEvaluation:
    """Embeds held-out identities and verifies them, as often as asked.

    The teacher is embedded once, at the first call; the student at each.

    Args:
        source: The held-out identities. All their images are used.
        student: `keras.Model` or callable, uint8 images to embeddings.
        input_size: Side of the student's images in pixels.
        teacher: The same for the teacher, or None.
        teacher_size: Side of the teacher's images in pixels. Default: `input_size`.
        fprs: Target FPRs.
        batch_size: Images per forward pass.
        flip: Whether to add the embedding of the mirror image.
        seed: Int, of the drawing of the pairs for the accuracy.
    """

    def __init__(
        self,
        source: Source,
        student: Callable,
        input_size: int,
        teacher: Callable | None = None,
        teacher_size: int | None = None,
        fprs: Sequence[float] = DEFAULT_FPRS,
        batch_size: int = 128,
        flip: bool = True,
        seed: int = 0,
    ):
        self._source = source
        self._fprs = tuple(fprs)
        self._batch_size = batch_size
        self._seed = seed
        self._student = (Embedder(student, flip=flip), input_size)
        self._teacher = None
        if teacher is not None:
            self._teacher = (Embedder(teacher, flip=flip), teacher_size or input_size)
        self._teacher_embeddings = None

    def __call__(self, plots: pathlib.Path | None = None) -> HeldoutResult:
        """Evaluates the student as it is now.

        Args:
            plots: Folder to write `roc.png` and `similarities.png` to, or None.
        """
        labels = self._source.labels
        embeddings = self._embed(*self._student)
        student = self._verify(embeddings)
        scores = all_pair_scores(embeddings, labels)
        curves = {"student": roc_curve(*scores)[:2]}
        teacher = gap = None
        if self._teacher is not None:
            if self._teacher_embeddings is None:
                self._teacher_embeddings = self._embed(*self._teacher)
            teacher = self._verify(self._teacher_embeddings)
            gap = compare(self._teacher_embeddings, embeddings, labels, self._fprs)
            teacher_scores = all_pair_scores(self._teacher_embeddings, labels)
            curves = {"teacher": roc_curve(*teacher_scores)[:2], **curves}

        def path(name):
            return None if plots is None else pathlib.Path(plots) / name

        images = {
            "heldout/roc": plot_roc(
                curves, path("roc.png"), f"{self._source.name}, all pairs"
            ),
            "heldout/similarities": plot_similarities(
                *scores,
                student.thresholds,
                path("similarities.png"),
                f"student on {self._source.name}",
            ),
        }
        return HeldoutResult(student, teacher, gap, curves, images)

    def _embed(self, embedder, input_size):
        batches = evaluation_batches(
            self._source, np.arange(len(self._source)), input_size, self._batch_size
        )
        return embedder(batches)

    def _verify(self, embeddings):
        return verify(embeddings, self._source.labels, self._fprs, seed=self._seed)
