"""Turns flags into what is evaluated: trained models and pair sets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ekd_tf import checks
from ekd_tf import data
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.embedders import FrozenEmbedder
from ekd_tf.embedders import in_other_ranges
from ekd_tf.embedders import open_embedder
from ekd_tf.evaluation import LabelledEvaluation
from ekd_tf.evaluation import PairSetEvaluation
from ekd_tf.evaluation import SourceEmbedder
from ekd_tf.evaluation.untrained import check_reading
from ekd_tf.evaluation.verification import DEFAULT_FPRS
from ekd_tf.run import factory

# Below it the negatives of `LinkedImages` that are none decide.
_LEAST_LINKED_FPR = 1e-3
_KINDS = ("pairs", "allpairs", *factory.SOURCES)


def check_range_of_pixels(
    spec: str,
    embedder: Any,
    source: data.Source,
    input_size: int,
    seed: int = 0,
    unreadable: Unreadable | None = None,
    role: str = "teacher",
) -> str:
    """Returns a line that says a model's AUC on a sample of some labelled images.

    A `ValueError` says that it is at a loss as it is given pixels, and is not in
    another range. A wrong order of colours is not found: it moves the AUC by less than
    the choice of the images.

    `spec` is the model as the flag `role` names it, and `embedder` has `some` of
    `SourceEmbedder`. It is compared with bare pixels, resized to `input_size`.
    """
    others = (
        (other, source_embedder(open_embedder(other), unreadable=unreadable).some)
        for other in in_other_ranges(spec)
    )
    auc, better = check_reading(
        embedder.some, others, source, input_size, seed, unreadable, role
    )
    if auc is None:
        return f"AUC of the {role}: none, no two images of {source.name} are of one"
    if better:
        raise ValueError(
            f"`--{role}={spec}` is given pixels of a wrong range: its AUC on a sample "
            f"of {source.name} is {auc:.3f}, with --{role}={better[0]} it is "
            f"{better[1]:.3f}. Give that one"
        )
    return f"AUC of the {role} on a sample of {source.name}: {auc:.3f}"


def make_source_embedder(spec: str, **arguments: Any) -> SourceEmbedder | None:
    """Opens a model, as `open_embedder` does, to embed sources; None for "none"."""
    if spec == "none":
        return None
    return source_embedder(open_embedder(spec), **arguments)


def source_embedder(model: FrozenEmbedder, **arguments: Any) -> SourceEmbedder:
    """Returns what embeds whole sources by an opened model."""
    return SourceEmbedder(
        model,
        model.input_size,
        traceable=model.traceable,
        fingerprint=model.fingerprint,
        **arguments,
    )


def make_evaluations(
    specs: Sequence[str],
    heldout: data.Source | None,
    seed: int,
    fprs: Sequence[float] = DEFAULT_FPRS,
    replicates: Sequence[int] = (0, 0),
    worst: int = 10,
    unreadable: Unreadable | None = None,
) -> list[Any]:
    """Builds what a model is evaluated on, in a run or after it.

    Args:
        specs: `--eval_sets`, `NAME:KIND:PATH` each. Of KIND `allpairs` every pair of a
            verification set counts, at FPRs of 1e-3 and above (see `LinkedImages`).
        heldout: What the run holds out, evaluated first, as "heldout"; or None.
        seed: Of drawn pairs and of resampling.
        replicates: Resamples behind an interval: of identities and of folds. 0: none.
        worst: See `LabelledEvaluation`.
        unreadable: Counts the unreadable images, which are left out.
    """
    identity_replicates, fold_replicates = replicates

    def labelled(name, source, fprs=fprs):
        images = data.readable_images(source, unreadable)
        return LabelledEvaluation(name, images, fprs, seed, identity_replicates, worst)

    by_name: dict[str, Any] = {}
    if heldout is not None:
        by_name["heldout"] = labelled("heldout", heldout)
    for spec in specs:
        name, _, rest = spec.partition(":")
        kind, colon, path = rest.partition(":")
        taken = name in by_name or name in _KINDS
        if not re.fullmatch(r"[\w.-]+", name) or not colon or taken:
            raise ValueError(
                "`--eval_sets` must be NAME:KIND:PATH with a name of its own, such as "
                f"lfw:pairs:lfw.bin or faces:folder:DIR. Received: {spec!r}"
            )
        checks.check_choice("eval_sets", kind, _KINDS)
        if kind == "pairs":
            pairs = data.readable_pairs(data.read_pairs(path), unreadable)
            by_name[name] = PairSetEvaluation(pairs, name, fprs, seed, fold_replicates)
        elif kind == "allpairs":
            limited = tuple(fpr for fpr in fprs if fpr >= _LEAST_LINKED_FPR)
            images = data.LinkedImages(data.read_pairs(path))
            by_name[name] = labelled(name, images, limited or (_LEAST_LINKED_FPR,))
        else:
            by_name[name] = labelled(name, factory.make_source(rest, None, unreadable))
    for name, evaluation in by_name.items():
        try:
            evaluation.check()
        except ValueError as error:
            way_out = f"Give another set as --eval_sets={name}:..., or leave it out"
            if name == "heldout":
                way_out = "Hold out more: a larger --holdout_identities, or another "
                way_out += "--heldout_data"
            raise ValueError(
                f"`{name}` cannot be evaluated on. {error}. {way_out}"
            ) from None
    return list(by_name.values())
