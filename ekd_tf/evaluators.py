"""Turns the words of flags into what is evaluated: trained models and pair sets.

Row 4 of the architecture, above the factory, which builds what is trained.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re

from ekd_tf import factory
from ekd_tf.data import LinkedImages
from ekd_tf.data import PairSet
from ekd_tf.data import Source
from ekd_tf.data import read_pairs
from ekd_tf.data import readable_images
from ekd_tf.data import readable_pairs
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
from ekd_tf.unreadable import Unreadable

# Below them the negatives of `LinkedImages` that are none decide.
_LINKED_FPRS = (1e-1, 1e-2, 1e-3)


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


def make_pair_sets(specs: list[str]) -> list[PairSet]:
    """Reads verification sets.

    Args:
        specs: `NAME:PATH` of a `.bin` file each, or `PATH` alone, named by its file.

    Raises:
        ValueError: A file cannot be read, or two sets have one name.
    """
    found = {}
    for spec in specs:
        name, _, path = spec.rpartition(":")
        pairs = read_pairs(path)
        pairs = dataclasses.replace(pairs, name=name or pairs.name)
        if pairs.name in found:
            raise ValueError(
                f"Every pair set needs a name of its own: give NAME:PATH. Received "
                f"{pairs.name!r} twice"
            )
        found[pairs.name] = pairs
    return list(found.values())


def make_evaluations(
    specs: list[str],
    heldout: Source | None,
    seed: int,
    unreadable: Unreadable | None = None,
    flag: str = "evaluate",
) -> list:
    """Builds what a run is evaluated on while it goes on.

    Args:
        specs: `NAME:SPEC` each: `NAME:pairs:PATH` of a verification set, `allpairs`
            in place of `pairs` for every pair of its images (see `LinkedImages`), or
            NAME and images as `factory.make_source` takes them.
        heldout: The identities the run holds out, evaluated as "heldout"; or None.
        seed: Int, of drawn pairs.
        unreadable: Counts the unreadable images of all sets, which are left out: every
            image is decoded once.
        flag: What gave the specifications, for messages.

    Returns:
        `LabelledEvaluation`s and `PairSetEvaluation`s, the held-out one first.

    Raises:
        ValueError: A specification has no name or one that is taken, its images cannot
            be opened, or a set has too few pairs to be evaluated on.
        UnreadableError: More images are unreadable than are allowed.
    """
    found = {}
    if heldout is not None:
        images = readable_images(heldout, unreadable)
        found["heldout"] = LabelledEvaluation("heldout", images, seed=seed)
    for spec in specs:
        name, _, rest = spec.partition(":")
        if not re.fullmatch(r"[\w.-]+", name) or not rest or name in found:
            raise ValueError(
                f"`--{flag}` must be NAME:SPEC with a name of its own, such as "
                f"lfw:pairs:lfw.bin or faces:folder:DIR. Received: {spec!r}"
            )
        kind, _, path = rest.partition(":")
        if kind == "pairs":
            pairs = readable_pairs(read_pairs(path), unreadable)
            found[name] = PairSetEvaluation(pairs, name, seed=seed)
            continue
        if kind == "allpairs":
            source, fprs = LinkedImages(read_pairs(path)), _LINKED_FPRS
        else:
            source = factory.make_source(rest, unreadable=unreadable)
            fprs = DEFAULT_FPRS
        images = readable_images(source, unreadable)
        found[name] = LabelledEvaluation(name, images, fprs, seed=seed)
    for name, evaluation in found.items():
        way_out = (
            "Hold out more: a larger --holdout_identities, or another --heldout_data"
            if name == "heldout"
            else f"Give another set as --{flag}={name}:..., or leave it out"
        )
        check_evaluation(evaluation, way_out)
    return list(found.values())


def check_evaluation(evaluation, way_out: str) -> None:
    """Raises `ValueError` where a set has too few pairs to be evaluated on.

    Args:
        evaluation: `LabelledEvaluation` or `PairSetEvaluation`.
        way_out: The flag that mends it, in a sentence.
    """
    try:
        evaluation.check()
    except ValueError as error:
        raise ValueError(
            f"`{evaluation.name}` cannot be evaluated on. {error}. {way_out}"
        ) from None
