"""Which flags count only beside others: one without effect is refused, not ignored."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from collections.abc import Iterable

# Of the rows of a batch that distillation losses need and the margin loss does not see.
BALANCED_IDENTITIES = 8
CACHE = "cache:"
_SCALED = ("kd", "shrinkteanet", "margin_distillation", "proxyless_kd", "ada_distill")
_OF_CENTRES = ("kd", "shrinkteanet", "margin_distillation", "proxyless_kd")


@dataclasses.dataclass(frozen=True)
class Needs:
    """What gives some flags their effect.

    Attributes:
        flags: Their names, separated by spaces.
        other: What they need, as an option is written.
        holds: Function of all values, by name: whether it is there.
    """

    flags: str
    other: str
    holds: Callable[[dict], bool]


def _distills(*names):
    def holds(values):
        losses = {item.partition(":")[0] for item in values["distill"].split(",")}
        return bool(losses & set(names))

    return holds


def _evaluates(values):
    return any(
        values[name] for name in ("heldout_data", "holdout_identities", "eval_sets")
    )


TRAIN = (
    Needs("drop_at", "--schedule=step", lambda v: v["schedule"] == "step"),
    Needs(
        "drop_factor",
        "--schedule=step and --drop_at",
        lambda v: v["schedule"] == "step" and bool(v["drop_at"]),
    ),
    Needs(
        "images_per_identity",
        "--balanced_identities above 0",
        lambda v: v["balanced_identities"] > 0,
    ),
    Needs(
        "activation", "--model=mobilefacenet", lambda v: v["model"] == "mobilefacenet"
    ),
    Needs("dropout", "--model=iresnet...", lambda v: v["model"] != "mobilefacenet"),
    Needs("combined_margins", "--head=combined", lambda v: v["head"] == "combined"),
    Needs(
        "margin margin_weight head_gradient head_sample_rate",
        "a --head",
        lambda v: v["head"] != "none",
    ),
    Needs(
        "scale",
        "a --head, or one of " + ", ".join(_SCALED) + " in --distill",
        lambda v: v["head"] != "none" or _distills(*_SCALED)(v),
    ),
    Needs(
        "teacher_centres",
        "one of " + ", ".join(_OF_CENTRES) + " in --distill",
        _distills(*_OF_CENTRES),
    ),
    Needs(
        "evaluate_every best_metric",
        "--heldout_data, --holdout_identities or --eval_sets",
        _evaluates,
    ),
    Needs(
        "num_virtual_devices",
        "--strategy=mirrored or multi_worker",
        lambda v: v["strategy"] != "none",
    ),
)


def idle_flags(values: dict, defaults: dict, rules: Iterable[Needs]) -> dict[str, str]:
    """Returns the flags that were changed and have no effect -> what they need.

    Args:
        values: Name -> value of every flag.
        defaults: Name -> default. A flag that has it is never idle.
        rules: What needs what.
    """
    return {
        name: rule.other
        for rule in rules
        for name in rule.flags.split()
        if values[name] != defaults[name] and not rule.holds(values)
    }


def check_effects(values: dict, defaults: dict, rules: Iterable[Needs]) -> None:
    """Raises `ValueError` for the flags that `idle_flags` finds."""
    idle = idle_flags(values, defaults, rules)
    if idle:
        raise ValueError(
            "; ".join(
                f"`{as_option(name, values[name])}` has no effect without {other}"
                for name, other in idle.items()
            )
            + ". Leave it out"
        )


def as_option(name: str, value) -> str:
    """Spells a flag with its value as on a command line."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    if isinstance(value, (list, tuple)):
        value = ",".join(map(str, value))
    return f"--{name}={value}"


def complete(values: dict) -> dict:
    """Returns the flags of `ekd_tf.train` with what others decide filled in.

    Balanced rows are for distillation: without it there are none unless asked for. A
    teacher's folder that `ekd_tf.embed_teacher` wrote is a cache without being called
    one.

    Args:
        values: Name -> value.

    Raises:
        ValueError: There are no training images.
    """
    values = dict(values)
    if not values["data"]:
        raise ValueError(
            "`--data` is missing: give your images, as in --data=folder:DIR; to try "
            "it on drawn faces, --data=synthetic:identities=400,images=20,size=48"
        )
    if values["balanced_identities"] is None:
        values["balanced_identities"] = BALANCED_IDENTITIES if values["distill"] else 0
    if is_cache(values["teacher"]) and not values["teacher"].startswith(CACHE):
        values["teacher"] = CACHE + values["teacher"]
    return values


def is_cache(spec: str) -> bool:
    """Tells whether a model's specification is a cache of embeddings instead."""
    return spec.startswith(CACHE) or (pathlib.Path(spec) / "cache.json").is_file()
