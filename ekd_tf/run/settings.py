"""The settings of a command: a frozen dataclass, one field for each flag.

`setting` makes a field; flags, the check for settings without effect, the arguments
that repeat a command and the table of the documentation are made from the fields.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

from ekd_tf import checks

_BOOLS = {"true": True, "false": False, "1": True, "0": False}


@dataclasses.dataclass(frozen=True)
class Needs:
    """What gives a setting its effect, as an option, and whether it is there."""

    text: str
    holds: Callable[[Any], Any]


def setting(
    default: Any,
    help: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    needs: Needs | None = None,
    free: bool = False,
    common: bool | None = None,
    repeated: bool = False,
) -> Any:
    """Returns a field of settings: `str`, `int`, `float`, `bool` or `tuple`.

    Args:
        default: Its value where the flag is not given.
        help: Meaning and unit, for `--help` and the documentation.
        low: Least number that is taken, or None.
        high: Largest number that is taken, or None.
        choices: Strings that are taken; empty for any.
        needs: What gives it its effect; None: it always has one.
        free: Whether it may differ when a run is resumed.
        common: Whether runs that are compared have it in common. Default: unless free.
        repeated: Of a tuple: one flag for each item, instead of commas.
    """
    about = {
        "help": help,
        "low": low,
        "high": high,
        "choices": choices,
        "needs": needs,
        "free": free,
        "common": not free if common is None else common,
        "repeated": repeated,
    }
    return dataclasses.field(default=default, metadata=about)


def marked(kind: type, mark: str) -> frozenset[str]:
    """Returns the names of the settings that are `free` or `common`."""
    fields = dataclasses.fields(kind)
    return frozenset(field.name for field in fields if field.metadata[mark])


def idle_settings(settings: Any) -> dict[str, str]:
    """Returns the settings that were changed and have no effect -> what they need."""
    return {
        field.name: field.metadata["needs"].text
        for field in dataclasses.fields(settings)
        if field.metadata["needs"]
        and getattr(settings, field.name) != field.default
        and not field.metadata["needs"].holds(settings)
    }


def check_effects(settings: Any) -> None:
    """Raises `ValueError` for the settings that `idle_settings` returns."""
    idle = [
        f"`{as_option(name, getattr(settings, name))}` has no effect without {needs}"
        for name, needs in idle_settings(settings).items()
    ]
    if idle:
        raise ValueError("; ".join(idle) + ". Leave it out")


def as_option(name: str, value: Any) -> str:
    """Spells a setting as on a command line."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    return f"--{name}={','.join(value) if isinstance(value, tuple) else value}"


def as_arguments(settings: Any) -> tuple[str, ...]:
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


def has_argument(make: Callable, argument: str) -> bool:
    """Returns whether a class or a function has an argument of that name."""
    return argument in inspect.signature(make).parameters


def settings_of(make: Callable, without: Iterable[str] = ()) -> dict[str, object]:
    """Returns the arguments of a class that have a default, but for some, by name."""
    parameters = inspect.signature(make).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is not parameter.empty and parameter.name not in without
    }


def read_words(place: str, words: Iterable[str], settings: dict) -> dict[str, object]:
    """Reads the `word=value` of `ekd:100%:temperature=0.05` as arguments of a class.

    `place` is the flag and the name, for messages: `--distill=ekd`; `settings` are from
    `settings_of`, and each value is of the type of the default. A value of several
    numbers is written `0.1/0.01`.
    """
    arguments = {}
    for word in words:
        name, _, text = word.partition("=")
        if not settings:
            raise ValueError(f"`{place}` has no settings: leave out :{word}")
        checks.check_choice(f"{place}:WORD", name, tuple(settings))
        if not text:
            raise ValueError(f"`{place}:{name}` needs a value: {name}=VALUE")
        if name in arguments:
            raise ValueError(f"`{place}:{name}` must be given once. Received: {word}")
        arguments[name] = _read(f"{place}:{name}", text, settings[name])
    return arguments


def _read(name, text, default):
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        checks.check_choice(name, text, tuple(_BOOLS))
        return _BOOLS[text]
    if isinstance(default, (tuple, list)):
        return tuple(number(name, part) for part in text.split("/"))
    return integer(name, text) if isinstance(default, int) else number(name, text)


def integer(name: str, text: str) -> int:
    """Reads an integer, or raises a `ValueError` that names it."""
    return _number(int, "an integer", name, text)


def number(name: str, text: str) -> float:
    """Reads a finite number, or raises a `ValueError` that names it."""
    return check_finite(name, _number(float, "a number", name, text))


def check_finite(name: str, value: Any) -> Any:
    """Returns `value`, or raises `ValueError` if it is a float of no size."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"`{name}` must be a finite number. Received: {value}")
    return value


def _number(kind, wanted, name, text):
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"`{name}` must be {wanted}. Received: {text!r}") from None
