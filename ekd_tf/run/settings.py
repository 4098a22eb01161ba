"""The settings of a command: a frozen dataclass, one field for each flag.

`setting` makes a field; flags, the check for settings without effect, the arguments
that repeat a command and the table of the documentation are made from the fields.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Needs:
    """What gives a setting its effect.

    Attributes:
        text: What it needs, as an option is written.
        holds: Function of all settings: whether it is there.
    """

    text: str
    holds: Callable[[Any], bool]


def setting(
    default,
    help: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    needs: Needs | None = None,
    free: bool = False,
    shared: bool = False,
    repeated: bool = False,
):
    """Returns a field of a dataclass of settings.

    Its annotation is `str`, `int`, `float`, `bool` or `tuple`, of strings, with
    `| None` where it may be missing.

    Args:
        default: Its value where the flag is not given.
        help: Meaning and unit, for `--help` and the documentation.
        low: Least number that is taken, or None.
        high: Largest number that is taken, or None.
        choices: Strings that are taken; empty for any.
        needs: What gives it its effect; None: it always has one.
        free: Whether it may differ when a run is resumed.
        shared: Whether runs that are compared have it in common.
        repeated: For a tuple: one flag for each item, instead of commas.
    """
    return dataclasses.field(
        default=default,
        metadata={
            "help": help,
            "low": low,
            "high": high,
            "choices": choices,
            "needs": needs,
            "free": free,
            "shared": shared,
            "repeated": repeated,
        },
    )


def marked(kind: type, mark: str) -> frozenset[str]:
    """Returns the names of the settings that are `free`, `shared` or `repeated`."""
    fields = dataclasses.fields(kind)
    return frozenset(field.name for field in fields if field.metadata[mark])


def idle_settings(settings) -> dict[str, str]:
    """Returns the settings that were changed and have no effect -> what they need."""
    return {
        field.name: field.metadata["needs"].text
        for field in dataclasses.fields(settings)
        if field.metadata["needs"]
        and getattr(settings, field.name) != field.default
        and not field.metadata["needs"].holds(settings)
    }


def check_effects(settings) -> None:
    """Raises `ValueError` for the settings that `idle_settings` returns."""
    idle = idle_settings(settings)
    if idle:
        raise ValueError(
            "; ".join(
                f"`{as_option(name, getattr(settings, name))}` has no effect without "
                f"{needs}"
                for name, needs in idle.items()
            )
            + ". Leave it out"
        )


def as_option(name: str, value) -> str:
    """Spells a setting as on a command line."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    if isinstance(value, tuple):
        value = ",".join(value)
    return f"--{name}={value}"


def as_arguments(settings) -> tuple[str, ...]:
    """Returns the arguments of a command that give these settings."""
    arguments = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value != field.default:
            single = value if field.metadata["repeated"] else (value,)
            arguments += [as_option(field.name, each) for each in single]
    return tuple(arguments)


def table(kind: type) -> str:
    """Returns the settings as a Markdown table: name, default, meaning."""
    rows = ["| flag | default | meaning |", "|---|---|---|"]
    for field in dataclasses.fields(kind):
        default = field.default
        if isinstance(default, tuple):
            default = ",".join(default)
        if isinstance(default, bool):
            default = "on" if default else "off"
        shown = "" if default in ("", None) else f"`{default}`"
        help = field.metadata["help"].replace("|", "\\|")
        rows.append(f"| `--{field.name}` | {shown} | {help} |")
    return "\n".join(rows) + "\n"
