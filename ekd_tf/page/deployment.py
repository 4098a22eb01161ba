"""What lies beside a model: its calibrated thresholds and what was exported of it."""

from __future__ import annotations

import json
import os
import pathlib

from absl import logging

from ekd_tf.evaluation.calibration import CARD_FILE
from ekd_tf.evaluation.calibration import calibrations_of
from ekd_tf.evaluation.calibration import read_card

_FIGURES = ("kind", "size_bytes", "parity", "verification", "median_ms", "p95_ms")


def deployment(model_file: str | os.PathLike) -> dict:
    """Returns calibrations and exports of a model for the page; JSON-able.

    "calibrations" has the entries of the cards of the model and of its exports, by
    file; "exports" the figures of all artefacts, from the cards or, where there is
    none, the run's `reports/export*.json`.
    """
    folder = pathlib.Path(model_file).parent
    calibrations, exports = {}, []
    cards = [folder / CARD_FILE, *sorted(folder.glob(f"export/*/*/{CARD_FILE}"))]
    for path in filter(pathlib.Path.is_file, cards):
        try:
            card = read_card(path)
        except ValueError as error:
            logging.warning("The page is without one card: %s", error)
            continue
        where = path.parent.relative_to(folder)
        for name, entry in calibrations_of(card).items():
            calibrations[(where / name).as_posix()] = entry
        exports += [card["metrics"]] if "metrics" in card else []
    if not exports:
        files = sorted(folder.glob("reports/export*.json"))
        exports = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return {
        "calibrations": calibrations,
        "exports": [
            {
                "name": f"{export['name']}, version {export['version']}",
                "artefacts": [
                    {figure: artefact.get(figure) for figure in _FIGURES}
                    for artefact in export["artefacts"]
                ],
            }
            for export in exports
            if "artefacts" in export
        ],
    }
