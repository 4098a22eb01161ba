"""Turns the words of flags into objects; the only module that names every class."""

from __future__ import annotations

import re

import keras
import numpy as np

from ekd_tf import checks
from ekd_tf.data import BatchSampler
from ekd_tf.data import FolderFaces
from ekd_tf.data import InMemoryFaces
from ekd_tf.data import JoinedSources
from ekd_tf.data import RecordIOFaces
from ekd_tf.data import Source
from ekd_tf.data import SyntheticFaces
from ekd_tf.data import TFRecordFaces
from ekd_tf.data import evaluation_batches
from ekd_tf.data import read_tface
from ekd_tf.data import split_identities
from ekd_tf.heads import ArcFace
from ekd_tf.heads import CosFace
from ekd_tf.losses import EKDLoss
from ekd_tf.models import build_backbone
from ekd_tf.models import list_backbones
from ekd_tf.teachers import load_embedder
from ekd_tf.training.schedules import ConstantSchedule
from ekd_tf.training.schedules import CosineSchedule
from ekd_tf.training.schedules import StepSchedule

HEADS = {"arcface": ArcFace, "cosface": CosFace}
LOSSES = {"ekd": EKDLoss}
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
SCHEDULES = ("constant", "step", "cosine")
SOURCES = ("recordio", "tfrecord", "tface", "folder", "synthetic")
# A plus sign inside a path joins nothing.
_JOINT = re.compile(rf"\+(?=(?:{'|'.join(SOURCES)}):)")
# Flag words of a synthetic source and the arguments they set.
SYNTHETIC_WORDS = {
    "identities": "identities",
    "images": "images_per_identity",
    "size": "size",
    "seed": "seed",
    "first": "first_identity",
}


def make_source(spec: str, cache_dir=None, skip_corrupt: int = 0) -> Source:
    """Opens the images a specification names.

    Args:
        spec: `recordio:DIR` with a `train.rec` of insightface, `tfrecord:DIR` written
            by `tools/convert_dataset.py`, `tface:INDEX` of TFace, with `,root=DIR`
            where its files are not beside it, `folder:DIR` with one directory per
            identity, or `synthetic:identities=200,images=20,size=64,seed=0,first=0`
            for drawn faces; a word left out keeps its default. Several joined by `+`
            are one source that keeps all their identities apart.
        cache_dir: Folder for indices of sources in read-only folders, or None.
        skip_corrupt: How many damaged records to accept when a source is opened.

    Raises:
        ValueError: Unknown kind or word, or the source cannot be opened.
    """
    parts = _JOINT.split(spec)
    if len(parts) > 1:
        return JoinedSources([make_source(p, cache_dir, skip_corrupt) for p in parts])
    kind, _, rest = spec.partition(":")
    checks.check_choice("data", kind, SOURCES)
    if kind == "recordio":
        return RecordIOFaces(rest, cache_dir, skip_corrupt)
    if kind == "tfrecord":
        return TFRecordFaces(rest)
    if kind == "tface":
        index, _, root = rest.partition(",root=")
        return read_tface(index, root or None)
    if kind == "folder":
        return FolderFaces(rest)
    arguments = {}
    for item in filter(None, rest.split(",")):
        word, _, value = item.partition("=")
        checks.check_choice("data=synthetic", word, tuple(SYNTHETIC_WORDS))
        arguments[SYNTHETIC_WORDS[word]] = _integer(f"data=synthetic:{word}", value)
    return InMemoryFaces(SyntheticFaces(**arguments))


def make_sources(
    data: str,
    heldout_data: str | None,
    holdout_identities: int,
    seed: int,
    cache_dir=None,
    skip_corrupt: int = 0,
) -> tuple[Source, Source | None]:
    """Opens the training source and the held-out one.

    Args:
        data: Specification of the training images, see `make_source`.
        heldout_data: Specification of a source of other identities, or None.
        holdout_identities: Int: identities of `data` to hold out, 0 for none. Not
            together with `heldout_data`.
        seed: Int, chooses which are held out.
        cache_dir: As for `make_source`.
        skip_corrupt: As for `make_source`, of `data` alone.

    Returns:
        `(train, heldout)`; `heldout` is None when neither is asked for.
    """
    if heldout_data and holdout_identities:
        raise ValueError(
            "Give `--heldout_data` or `--holdout_identities`, not both. Received: "
            f"{heldout_data!r} and {holdout_identities}"
        )
    source = make_source(data, cache_dir, skip_corrupt)
    if heldout_data:
        return source, make_source(heldout_data, cache_dir)
    if holdout_identities:
        return split_identities(source, holdout_identities, seed)
    return source, None


def make_sampler(
    source: Source, general: int, identities: int, images_per_identity: int, seed: int
) -> BatchSampler:
    """Returns the sampler of the training batches; see `BatchSampler`."""
    return BatchSampler(
        source.labels,
        general=general,
        identities=identities,
        images_per_identity=images_per_identity,
        seed=seed,
    )


def set_precision(name: str) -> str:
    """Sets the Keras policy and returns the loss scaling that goes with it."""
    checks.check_choice("precision", name, PRECISIONS)
    keras.mixed_precision.set_global_policy(name)
    return "dynamic" if name == "mixed_float16" else "none"


def make_student(name: str, **arguments) -> keras.Model:
    """Builds a backbone by name; see `ekd_tf.models`."""
    checks.check_choice("model", name, list_backbones())
    return build_backbone(name, **arguments)


def make_teacher(spec: str) -> keras.Model | None:
    """Loads the teacher: None for "none", else a `.keras` file or a workdir."""
    return None if spec == "none" else load_embedder(spec)


def make_head(name: str, num_identities: int, scale: float, margin: float | None):
    """Builds a margin head, or None for "none".

    Args:
        name: "arcface", "cosface" or "none".
        num_identities: Int.
        scale: Float > 0 of the logits.
        margin: Float: radians for ArcFace, cosine for CosFace; None for the
            head's default.
    """
    checks.check_choice("head", name, (*HEADS, "none"))
    if name == "none":
        return None
    arguments = {} if margin is None else {"margin": margin}
    return HEADS[name](num_identities=num_identities, scale=scale, **arguments)


def make_losses(spec: str, **arguments_by_name) -> dict:
    """Builds the distillation losses of `ekd:1` or `ekd:8,other:2`.

    Args:
        spec: Comma-separated `name:weight`; a weight left out is 1. Empty: none.
        **arguments_by_name: Per loss, a dict of its arguments.

    Returns:
        Dict of names to `(loss, weight)`.
    """
    losses = {}
    for item in filter(None, spec.split(",")):
        name, _, weight = item.partition(":")
        checks.check_choice("distill", name, tuple(LOSSES))
        if name in losses:
            raise ValueError(f"`--distill` names {name!r} twice. Received: {spec!r}")
        weight = _number(f"distill={name}", weight or "1")
        checks.check_range(f"distill={name}", weight, low=0, low_open=True)
        losses[name] = (LOSSES[name](**arguments_by_name.get(name, {})), weight)
    return losses


def make_schedule(
    name: str,
    learning_rate: float,
    steps: int,
    warmup_steps: int,
    boundaries: list[int],
    drop_factor: float,
):
    """Builds the learning rate as a function of the step.

    Args:
        name: One of `SCHEDULES`.
        learning_rate: Float > 0 at full height.
        steps: Int, length of the run.
        warmup_steps: Int >= 0.
        boundaries: Steps at which "step" drops the rate.
        drop_factor: Float in (0, 1), what it is multiplied by there.
    """
    checks.check_choice("schedule", name, SCHEDULES)
    if name == "step":
        return StepSchedule(learning_rate, boundaries, drop_factor, warmup_steps)
    if name == "cosine":
        return CosineSchedule(learning_rate, steps, warmup_steps=warmup_steps)
    return ConstantSchedule(learning_rate, warmup_steps)


def sample_images(source: Source, input_size: int, count: int = 64) -> np.ndarray:
    """Returns a few real inputs spread over a source, uint8, for parity checks."""
    count = min(count, len(source))
    indices = np.linspace(0, len(source) - 1, count).astype(np.int64)
    return np.concatenate(list(evaluation_batches(source, indices, input_size, 64)))


def numbers(name: str, texts: list[str]) -> list[float]:
    """Reads a list flag of numbers."""
    return [_number(name, text) for text in texts]


def _integer(name, text):
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"`{name}` must be an integer. Received: {text!r}") from None


def _number(name, text):
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"`{name}` must be a number. Received: {text!r}") from None
