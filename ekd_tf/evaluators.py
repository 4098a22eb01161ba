"""Turns the words of flags into what is evaluated: trained models and pair sets.

Row 4 of the architecture, above the factory, which builds what is trained.
"""

from __future__ import annotations

import pathlib
import re

from ekd_tf import checks
from ekd_tf import factory
from ekd_tf.data import LinkedImages
from ekd_tf.data import Source
from ekd_tf.data import read_pairs
from ekd_tf.effects import is_cache
from ekd_tf.evaluation import EmbeddingCache
from ekd_tf.evaluation import LabelledEvaluation
from ekd_tf.evaluation import PairSetEvaluation
from ekd_tf.evaluation import SourceEmbedder
from ekd_tf.evaluation.labelled import DEFAULT_FPRS
from ekd_tf.teachers import FrozenEmbedder
from ekd_tf.teachers import KerasEmbedder
from ekd_tf.teachers import OnnxEmbedder
from ekd_tf.teachers import SavedModelEmbedder
from ekd_tf.teachers import TFLiteEmbedder
from ekd_tf.teachers import open_torch

# Below it the negatives of `LinkedImages` that are none decide.
_LEAST_LINKED_FPR = 1e-3
_KINDS = ("pairs", "allpairs", *factory.SOURCES)


def open_embedder(spec: str) -> FrozenEmbedder:
    """Opens a trained model of any format, for inference alone.

    Args:
        spec: A `.keras`, `.onnx` or `.tflite` file, a SavedModel's directory, or the
            workdir of a run. `@LOW..HIGH` behind a file tells which numbers a model of
            float input takes pixels 0 and 255 as; default `@0..255`. Or
            `FAMILY:FILE`, a torch state_dict; see `teachers.open_torch`.

    Raises:
        ValueError: It cannot be opened, or is no model of images to embeddings.
    """
    if is_cache(spec):
        raise ValueError(
            f"{spec} is a cache, which holds embeddings of one data set and embeds "
            "nothing else: give the model they are of"
        )
    from_torch = open_torch(spec)
    if from_torch is not None:
        return from_torch
    told = re.fullmatch(r"(.+)@(-?[\d.]+)\.\.(-?[\d.]+)", spec)
    path = pathlib.Path(told[1] if told else spec)
    pixels = factory.numbers("model", told.groups()[1:]) if told else []
    if path.suffix == ".onnx":
        return OnnxEmbedder(path, *pixels)
    if path.suffix == ".tflite":
        return TFLiteEmbedder(path, *pixels)
    if (path / "saved_model.pb").is_file():
        return SavedModelEmbedder(path, *pixels)
    if pixels:
        raise ValueError(f"A Keras model takes pixels of 0 .. 255. Received: {spec!r}")
    return KerasEmbedder(path)


def make_source_embedder(spec: str, **arguments) -> SourceEmbedder | None:
    """Opens a trained model to embed whole sources with; None for "none".

    Args:
        spec: As for `open_embedder`.
        **arguments: Further arguments of `SourceEmbedder`.
    """
    if spec == "none":
        return None
    return source_embedder(open_embedder(spec), **arguments)


def source_embedder(model: FrozenEmbedder, **arguments) -> SourceEmbedder:
    """Returns what embeds whole sources by an opened model."""
    return SourceEmbedder(
        model,
        model.input_size,
        traceable=model.traceable,
        fingerprint=model.fingerprint,
        **arguments,
    )


def make_cache(folder: str | None) -> EmbeddingCache | None:
    """Opens the folder embeddings are kept in; None for no folder."""
    return EmbeddingCache(folder) if folder else None


def make_evaluations(
    specs: list[str],
    heldout: Source | None,
    seed: int,
    fprs=DEFAULT_FPRS,
    replicates: tuple[int, int] = (0, 0),
    worst: int = 10,
) -> list:
    """Builds what a model is evaluated on, in a run or after it.

    Args:
        specs: `NAME:KIND:PATH` each: `NAME:pairs:PATH` of a verification set,
            `allpairs` in place of `pairs` for every pair of its images (see
            `LinkedImages`; at FPRs of 1e-3 and above), or NAME and images as
            `factory.make_source` takes them.
        heldout: The identities the run holds out, evaluated as "heldout"; or None.
        seed: Int, of drawn pairs and of resampling.
        fprs: Floats, the target FPRs.
        replicates: Two ints, resamples behind an interval: of identities and of
            folds. 0: no intervals.
        worst: Int, see `LabelledEvaluation`.

    Returns:
        `LabelledEvaluation`s and `PairSetEvaluation`s, the held-out one first.

    Raises:
        ValueError: A specification has no name or one that is taken, or its images
            cannot be opened.
    """
    of_identities, of_folds = replicates

    def labelled(name, source, fprs=fprs):
        return LabelledEvaluation(name, source, fprs, seed, of_identities, worst)

    found = {}
    if heldout is not None:
        found["heldout"] = labelled("heldout", heldout)
    for spec in specs:
        name, _, rest = spec.partition(":")
        kind, colon, path = rest.partition(":")
        taken = name in found or name in _KINDS
        if not re.fullmatch(r"[\w.-]+", name) or not colon or taken:
            raise ValueError(
                "`--eval_sets` must be NAME:KIND:PATH with a name of its own, such as "
                f"lfw:pairs:lfw.bin or faces:folder:DIR. Received: {spec!r}"
            )
        checks.check_choice("eval_sets", kind, _KINDS)
        if kind == "pairs":
            found[name] = PairSetEvaluation(
                read_pairs(path), name, fprs, seed, of_folds
            )
        elif kind == "allpairs":
            linked = tuple(fpr for fpr in fprs if fpr >= _LEAST_LINKED_FPR)
            source = LinkedImages(read_pairs(path))
            found[name] = labelled(name, source, linked or (_LEAST_LINKED_FPR,))
        else:
            found[name] = labelled(name, factory.make_source(rest))
    return list(found.values())
