"""Settings written behind a name, as `ekd:100%:temperature=0.05`.

A word is an argument of the class the name stands for, read from its signature: what a
class takes needs no entry anywhere else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from collections.abc import Iterable

from ekd_tf import checks

_BOOLS = {"true": True, "false": False, "1": True, "0": False}


def settings_of(make: Callable, without: Iterable[str] = ()) -> dict[str, object]:
    """Returns the arguments of a class or function that have a default, by name.

    Args:
        make: Class or function.
        without: Arguments that are not for a user to set.
    """
    parameters = inspect.signature(make).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is not parameter.empty and parameter.name not in without
    }


def read_words(place: str, words: Iterable[str], settings: dict) -> dict[str, object]:
    """Reads `word=value` items as arguments of the types of their defaults.

    Args:
        place: The flag and the name, for messages: `--distill=ekd`.
        words: The items. A value of several numbers is written `0.1/0.01`.
        settings: From `settings_of`.

    Raises:
        ValueError: A word is none of `settings`, or its value is of another type.
    """
    arguments = {}
    for word in words:
        name, equals, text = word.partition("=")
        checks.check_choice(f"{place}:", name, tuple(settings))
        if not equals or not text:
            raise ValueError(f"`{place}:{name}` needs a value: {name}=VALUE")
        arguments[name] = _read(f"{place}:{name}", text, settings[name])
    return arguments


def _read(name, text, default):
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        checks.check_choice(name, text, tuple(_BOOLS))
        return _BOOLS[text]
    if isinstance(default, (tuple, list)):
        return tuple(_read(name, part, 0.0) for part in text.split("/"))
    kind = int if isinstance(default, int) else float
    try:
        return kind(text)
    except ValueError:
        wanted = "an integer" if kind is int else "a number"
        raise ValueError(f"`{name}` must be {wanted}. Received: {text!r}") from None
