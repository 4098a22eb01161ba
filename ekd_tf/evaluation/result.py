"""What every protocol returns: figures to log, a report to keep, pictures."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import urllib.parse
from typing import Any

import numpy as np
from PIL import Image

from ekd_tf.evaluation.gap import GapReport
from ekd_tf.files.atomic import write_aside
from ekd_tf.files.atomic import write_text


@dataclasses.dataclass(frozen=True)
class Result:
    """What one protocol found for one set of images.

    Attributes:
        name: The set's; prefix of what is logged and written.
        reports: "teacher", "student", "baseline" -> the protocol's report.
        figures: The same names -> figures by the names they are logged under.
        document: The reports as JSON can hold them.
        text: The figures as Markdown tables, and what had no figure.
        images: Name -> uint8 `(height, width, 3)` picture, names as `heldout/roc`.
        left_out: `"path: reason"` of each image that could not be read.
        gap: Of teacher and student, where all pairs were compared.
    """

    name: str
    reports: dict[str, Any]
    figures: dict[str, dict[str, float]]
    document: dict
    text: str
    images: dict[str, np.ndarray]
    left_out: tuple[str, ...] = ()
    gap: GapReport | None = None

    @property
    def student(self) -> Any:
        """The report of the model that is judged."""
        return self.reports["student"]

    def scalars(self, model: str = "student") -> dict[str, float]:
        """Returns a model's figures by the names they are logged under."""
        return self.figures[model]

    def report(self) -> str:
        """Returns the text, and which images are not in its figures."""
        if not self.left_out:
            return self.text
        lines = "\n".join(f"- {line}" for line in self.left_out)
        return (
            f"{self.text}\n\n{len(self.left_out)} images cannot be read and are left "
            f"out:\n\n{lines}"
        )

    def write(self, folder: str | os.PathLike) -> None:
        """Writes `<name>.json`, and the pictures as `<name>_<what>.png`."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        left_out = {"left_out": list(self.left_out)} if self.left_out else {}
        text = json.dumps({**self.document, **left_out}, indent=2) + "\n"
        write_text(folder / f"{self.name}.json", text)
        for name, image in self.images.items():
            save = functools.partial(Image.fromarray(image).save, format="PNG")
            write_aside(folder / _picture_file(name), save)

    def section(self) -> str:
        """Returns a section of Markdown: `report`, and the pictures `write` leaves."""
        pictures = [
            # A set may be named with spaces or brackets.
            f"![{name}]({urllib.parse.quote(_picture_file(name))})\n"
            for name in self.images
        ]
        return "\n".join([f"## {self.name}\n", f"{self.report()}\n", *pictures])


def _picture_file(name):
    return f"{name.replace('/', '_')}.png"
