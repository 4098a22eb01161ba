"""Makes sources, samplers, losses, heads and schedules of what flags say."""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np

from ekd_tf import checks
from ekd_tf import data
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.files.positioned import open_regular
from ekd_tf.files.positioned import reason_of
from ekd_tf.heads import HEADS
from ekd_tf.heads import MarginHead
from ekd_tf.losses import LOSSES
from ekd_tf.losses import check_centres
from ekd_tf.mining import PairMiner
from ekd_tf.run.config import BEST
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.settings import has_argument
from ekd_tf.run.settings import number
from ekd_tf.run.settings import read_words
from ekd_tf.run.settings import settings_of
from ekd_tf.training.gradient_share import LARGEST_SHARE
from ekd_tf.training.gradient_share import GradientShare
from ekd_tf.training.schedules import CosineSchedule
from ekd_tf.training.schedules import StepSchedule
from ekd_tf.training.schedules import WarmupSchedule

# What the run decides of a loss.
_OF_RUN = ("student_dim", "teacher_dim", "num_identities", "head", "scale")
SOURCES = tuple("recordio tfrecord tface webdataset hf folder synthetic".split())
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


def make_source(
    spec: str, cache_dir: Any = None, unreadable: Unreadable | None = None
) -> data.Source:
    """Opens the images that `--data` names; see ekd_tf/data/README.md.

    Several joined by `+` are one source that keeps all their identities apart.

    Args:
        spec: `KIND:PATH` of `SOURCES`, or `synthetic:identities=200,images=20,size=64`.
        cache_dir: Folder for indices of sources in read-only folders, or None.
        unreadable: Counts the damaged records met when a source is opened. Default:
            none is allowed.
    """
    parts = _JOINT.split(spec)
    if len(parts) > 1:
        return data.JoinedSources(
            [make_source(p, cache_dir, unreadable) for p in parts]
        )
    kind, colon, rest = spec.partition(":")
    if not colon:
        raise ValueError(
            f"`--data` must be KIND:PATH, such as folder:{spec}. Received: {spec!r}"
        )
    checks.check_choice("data", kind, SOURCES)
    if kind != "synthetic" and not rest.partition(",")[0]:
        raise ValueError(
            f"`--data={kind}:` names no images: give {kind}:"
            f"{'NAME' if kind == 'hf' else 'PATH'}. Received: {spec!r}"
        )
    if kind == "recordio":
        return data.RecordIOFaces(rest, cache_dir, unreadable)
    if kind == "tfrecord":
        return data.TFRecordFaces(rest, unreadable)
    if kind == "tface":
        index, _, root = rest.partition(",root=")
        return data.read_tface(index, root or None, unreadable)
    if kind == "webdataset":
        shards, _, label = rest.partition(",label=")
        return data.WebDatasetFaces(shards, label, cache_dir, unreadable)
    if kind == "hf":
        name, *given = rest.split(",")
        columns: dict[str, Any] = read_words(
            "--data=hf", given, settings_of(data.HuggingFaceFaces)
        )
        return data.HuggingFaceFaces(name, **columns)
    if kind == "folder":
        return data.FolderFaces(rest)
    words = filter(None, rest.split(","))
    asked = read_words("--data=synthetic", words, dict.fromkeys(SYNTHETIC_WORDS, 0))
    arguments: dict[str, Any] = {SYNTHETIC_WORDS[w]: asked[w] for w in asked}
    flags = {SYNTHETIC_WORDS[w]: f"data=synthetic:{w}" for w in asked}
    with checks.flag_words(**flags):
        return data.SyntheticFaces(**arguments)


def folders_of(spec: str) -> list[str]:
    """Returns the DIR of each `folder:DIR` of a specification of `make_source`."""
    parts = (part.partition(":") for part in _JOINT.split(spec))
    return [rest for kind, _, rest in parts if kind == "folder"]


def make_sampler(
    source: data.Source,
    general: int,
    identities: int,
    images_per_identity: int,
    seed: int,
) -> data.BatchSampler:
    """Returns the sampler of the training batches; see `BatchSampler`."""
    with checks.flag_words(general="general_batch", identities="balanced_identities"):
        return data.BatchSampler(
            source.labels,
            general=general,
            identities=identities,
            images_per_identity=images_per_identity,
            seed=seed,
        )


def make_augmentation(spec: str, input_size: int) -> data.Augmentation:
    """Builds what `crop:4,jpeg:0.3` does to images of a side; see `Augmentation`."""
    words = [item.replace(":", "=", 1) for item in spec.split(",") if item]
    arguments: dict[str, Any] = read_words(
        "--augment", words, settings_of(data.Augmentation)
    )
    augmentation = data.Augmentation(**arguments)
    checks.check_range("--augment:crop", augmentation.crop, low=0, high=input_size // 4)
    return augmentation


def make_head(
    name: str, num_identities: int, scale: float, margin: str | None, **arguments: Any
) -> MarginHead | None:
    """Builds a margin head of `HEADS`, or None for "none".

    `margin` is radians, or a cosine for CosFace; of "combined" three, `1,0.3,0.2`:
    factor, radians, cosine. None for the head's default.
    """
    checks.check_choice("head", name, (*HEADS, "none"))
    if name == "none":
        return None
    combined = ("margin1", "margin2", "margin3")
    names = combined if name == "combined" else ("margin",)
    if margin is not None:
        margins = [number("margin", text) for text in margin.split(",")]
        if len(margins) != len(names):
            raise ValueError(
                f"`--margin` of --head={name} must be "
                f"{'M1,M2,M3' if name == 'combined' else 'one number'}. Received: "
                f"--margin={margin}"
            )
        arguments.update(zip(names, margins))
    flag_of = dict.fromkeys(combined, "margin")
    with checks.flag_words(
        gradient="head_gradient", sample_rate="head_sample_rate", **flag_of
    ):
        return HEADS[name](num_identities=num_identities, scale=scale, **arguments)


def has_margin_loss(config: TrainConfig) -> bool:
    """Returns whether a run has a margin loss, as shares of its gradient need."""
    return bool(config.head != "none" and config.margin_weight and config.general_batch)


def weighted(config: TrainConfig) -> str:
    """Returns `--distill` with what it leaves open, of which "best" is made."""
    if config.distill == "best":
        return BEST
    items = []
    for item in config.distill.split(","):
        name, weight, words = _split(item)
        if name in LOSSES and weight is None:
            share = getattr(LOSSES[name], "usual_share", 1.0)
            weight = f"{100 * share:g}%" if has_margin_loss(config) else "1"
            item = ":".join([name, weight, *words])
        items.append(item)
    return ",".join(items)


def _split(item):
    """Returns name, weight or None, and words of a loss such as `ekd:30%:memory=0`."""
    name, *words = item.split(":")
    weight = words.pop(0) if words and "=" not in words[0] else None
    return name, weight, words


def _read_losses(spec):
    """Reads `ekd` or `ekd:30%:memory=0,cosine:10`, and makes no loss of it.

    Returns names -> `(weight, arguments)`. The weight, by default 1, is a float, or
    "30%" for a share of the margin loss's gradient.
    """
    losses: dict[str, tuple[float | str, dict[str, Any]]] = {}
    for item in filter(None, spec.split(",")):
        name, weight, words = _split(item)
        checks.check_choice("distill", name, (*LOSSES, "best"))
        if name == "best":
            raise ValueError(
                f"`--distill=best` takes no weight and no other loss: give {BEST} and "
                f"change that. Received: {spec!r}"
            )
        if name in losses:
            raise ValueError(f"`--distill` names {name!r} twice. Received: {spec!r}")
        place = f"--distill={name}"
        own_weight = _weight(place, "1" if weight is None else weight)
        make = LOSSES[name]
        settings = settings_of(make, {*_OF_RUN, "centres", "miner", "name"})
        of_miner = settings_of(PairMiner) if has_argument(make, "miner") else {}
        read = read_words(place, words, {**settings, **of_miner})
        arguments: dict[str, Any] = {k: v for k, v in read.items() if k in settings}
        mined_by: dict[str, Any] = {k: v for k, v in read.items() if k in of_miner}
        if mined_by:
            with checks.flag_words(**{k: f"distill={name}:{k}" for k in mined_by}):
                arguments["miner"] = PairMiner(**mined_by)
        losses[name] = own_weight, arguments
    return losses


def make_losses(
    spec: str,
    centres: Callable[[], np.ndarray | None] = lambda: None,
    **run_arguments: Any,
) -> dict:
    """Builds distillation losses.

    Args:
        spec: As `--distill`; a loss without a weight has 1.
        centres: Gives the teacher's class centres, see `load_centres`, or None; called
            where a loss needs them, since they may be averages of millions of rows.
        **run_arguments: `student_dim`, `teacher_dim`, `num_identities`, `head` and
            `scale`, of which a loss receives what it takes.

    Returns:
        Names -> `(loss, weight)`, the weight a float or a `GradientShare`.
    """
    losses: dict[str, tuple] = {}
    for name, (own_weight, arguments) in _read_losses(spec).items():
        place, make = f"distill={name}", LOSSES[name]
        given = {
            k: value for k, value in run_arguments.items() if has_argument(make, k)
        }
        if has_argument(make, "centres"):
            given["centres"] = centres()
            if given["centres"] is None:
                raise ValueError(
                    f"`--{place}` needs the teacher's class centres, which are not had "
                    "here"
                )
        with checks.flag_words(**{k: f"{place}:{k}" for k in arguments}):
            loss = make(**given, **arguments)
        if isinstance(own_weight, str):
            own_weight = GradientShare(float(own_weight.rstrip("%")) / 100)
        losses[name] = loss, own_weight
    return losses


def load_centres(path: str, num_identities: int, teacher_dim: int) -> np.ndarray:
    """Reads the teacher's class centres, float32 `(num_identities, teacher_dim)`."""
    try:
        with open(path, "rb", opener=open_regular) as file:
            centres = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"`--teacher_centres={path}` cannot be read: {reason_of(error)}"
        ) from None
    shape = getattr(centres, "shape", "several arrays")
    dtype = getattr(centres, "dtype", np.dtype("float32"))
    if shape != (num_identities, teacher_dim) or dtype.kind not in "fiu":
        raise ValueError(
            f"`--teacher_centres={path}` must hold numbers: a row for each of the "
            f"{num_identities} training identities and a column for each of the "
            f"{teacher_dim} entries of the teacher's embedding. Received: "
            f"shape={shape}, dtype={dtype}"
        )
    with np.errstate(over="ignore"):
        centres = centres.astype(np.float32)
    with checks.flag_words(centres=f"teacher_centres={path}"):
        check_centres(centres)
    return centres


def make_schedule(
    name: str,
    learning_rate: float,
    steps: int,
    warmup_steps: int,
    boundaries: Sequence[int],
    lr_gamma: float,
) -> WarmupSchedule:
    """Builds a learning rate by name; "step" drops the rate at the boundaries."""
    checks.check_choice("schedule", name, ("constant", "step", "cosine"))
    with checks.flag_words(base="learning_rate", factor="lr_gamma"):
        if name == "cosine":
            return CosineSchedule(learning_rate, steps, warmup_steps)
        if name == "constant":
            boundaries = ()
        return StepSchedule(learning_rate, boundaries, lr_gamma, warmup_steps)


def _weight(name, text):
    """Reads `8` as a float, and leaves `30%` as it is."""
    weight = number(name, text.removesuffix("%"))
    if not text.endswith("%"):
        checks.check_range(name, weight, low=0, low_open=True)
        return weight
    checks.check_range(f"{name} (%)", weight, 0, 100 * LARGEST_SHARE, low_open=True)
    return text
