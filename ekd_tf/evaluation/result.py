"""What every protocol returns: figures to log, a report to keep, pictures."""

from __future__ import annotations

import abc
import json
import os
import pathlib
import urllib.parse
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ekd_tf.evaluation.tables import format_table
from ekd_tf.evaluation.verification import VerificationReport
from ekd_tf.metrics import format_fpr


class Result(abc.ABC):
    """What one protocol found for one set of images.

    Attributes:
        name: String, the set's; prefix of what is logged and written.
        images: Name -> uint8 `(height, width, 3)` picture, names as `heldout/roc`.
        left_out: `"path: reason"` of each image that could not be read.
    """

    name: str
    images: dict[str, np.ndarray]
    left_out: tuple[str, ...] = ()

    @abc.abstractmethod
    def scalars(self, model: str = "student") -> dict[str, float]:
        """Returns a model's figures by the names they are logged under."""

    @abc.abstractmethod
    def to_dict(self) -> dict:
        """Returns the reports as JSON can hold them."""

    @abc.abstractmethod
    def text(self) -> str:
        """Returns the figures as Markdown tables, and what had no figure."""

    def report(self) -> str:
        """Returns the text, and which images are not in its figures."""
        if not self.left_out:
            return self.text()
        lines = "\n".join(f"- {line}" for line in self.left_out)
        return (
            f"{self.text()}\n\n{len(self.left_out)} images cannot be read and are left "
            f"out:\n\n{lines}"
        )

    def write(self, folder: str | os.PathLike) -> None:
        """Writes `<name>.json`, and the pictures as `<name>_<what>.png`."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        found = self.to_dict()
        if self.left_out:
            found["left_out"] = list(self.left_out)
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        for name, image in self.images.items():
            Image.fromarray(image).save(folder / _picture_file(name))

    def section(self) -> str:
        """Returns a report's section: the text, and what `write` leaves as pictures."""
        pictures = [
            # A set may be named with spaces or brackets.
            f"![{name}]({urllib.parse.quote(_picture_file(name))})\n"
            for name in self.images
        ]
        return "\n".join([f"## {self.name}\n", f"{self.text()}\n", *pictures])


def _picture_file(name):
    return f"{name.replace('/', '_')}.png"


def figures_table(reports: Sequence[tuple[str, VerificationReport]]) -> str:
    """Lays out verification figures, one line per model.

    Args:
        reports: Pairs of a name and a report, all at the same FPRs. Intervals, where
            there are any, stand behind their figures.

    Returns:
        A Markdown table.
    """
    rows = []
    for name, report in reports:
        accuracy = f"{report.accuracy_mean:.4f} +- {report.accuracy_std:.4f}"
        row = [name, accuracy + _interval(report, "accuracy"), report.accuracy_best]
        row += [f"{report.auc:.6f}", f"{report.eer:.4f}" + _interval(report, "eer")]
        for fpr, tpr in report.tpr.items():
            interval = _interval(report, f"tpr_at_fpr_{format_fpr(fpr)}")
            row.append(tpr if tpr is None else f"{tpr:.4f}{interval}")
        rows.append(row)
    fprs = [f"TPR@{format_fpr(fpr)}" for fpr in reports[0][1].tpr]
    return format_table(rows, ["model", "accuracy", "best", "AUC", "EER", *fprs])


def _interval(report, name):
    if name not in report.intervals:
        return ""
    low, high = report.intervals[name]
    return f" [{low:.4f}, {high:.4f}]"
