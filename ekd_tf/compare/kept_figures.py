"""Figures of a model on sets, kept in a file so that none is computed twice."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from collections.abc import Sequence

from ekd_tf.compare.comparison import RunFigures
from ekd_tf.evaluation.labelled import LabelledEvaluation
from ekd_tf.evaluation.pair_sets import PairSetEvaluation
from ekd_tf.evaluation.source_embedder import Models
from ekd_tf.evaluation.source_embedder import SourceEmbedder
from ekd_tf.files.atomic import write_aside


def kept_figures(
    path,
    fingerprint: str,
    open_model: Callable[[], SourceEmbedder],
    evaluations: Sequence[LabelledEvaluation | PairSetEvaluation],
) -> dict[str, RunFigures]:
    """Evaluates a model, or reads what an earlier call found.

    Args:
        path: The JSON file that keeps figures, by the fingerprints of model and set.
        fingerprint: String, changes when the model does.
        open_model: Opens the model; called only if a figure is missing.
        evaluations: The sets.

    Returns:
        Name of the set -> `RunFigures`.

    Raises:
        ValueError: As the evaluations, such as for embeddings that are not finite.
    """
    path = pathlib.Path(path)
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    found, models = {}, None
    for evaluation in evaluations:
        key = f"{fingerprint} {evaluation.fingerprint}"
        if key not in kept:
            models = models or Models(open_model())
            result = evaluation(models)
            figures = RunFigures.of(result.student, result.curves["student"])
            kept[key] = figures.to_dict()
            text = json.dumps(kept) + "\n"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_aside(path, lambda file, text=text: file.write(text.encode()))
        found[evaluation.name] = RunFigures.from_dict(kept[key])
    return found
