"""Argument checks: the one place that words shape, range and choice errors."""

from __future__ import annotations

import contextlib
import difflib
import math
import re
from collections.abc import Collection
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def flag_words(**flags: str) -> Iterator[None]:
    """Has errors call arguments by the flags that set them.

    Args:
        **flags: Name of an argument -> the flag, without dashes.
    """
    try:
        yield
    except ValueError as error:

        def flag(match):
            return f"{match[1]}--{flags[match[2]]}"

        words = "|".join(flags) or "(?!)"
        # As `argument`, or as in "Received: argument=3".
        text = re.sub(rf"(`)({words})(?=`)", flag, str(error))
        text = re.sub(rf"((?:: |, ))({words})(?==)", flag, text)
        raise ValueError(text) from error


def check_choice(name: str, value: Any, choices: Collection) -> Any:
    """Returns `value`, or raises `ValueError` naming the choices if it is none."""
    if value in choices:
        return value
    close = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    listed = ", ".join(repr(c) for c in choices)
    raise ValueError(f"`{name}` must be one of {listed}. Received: {value!r}.{hint}")


def check_range(
    name: str,
    value: float,
    low: float | None = None,
    high: float | None = None,
    low_open: bool = False,
    high_open: bool = False,
) -> float:
    """Returns `value`, or raises `ValueError` with the interval if it lies outside.

    Ends of None bound nothing but infinity; an open end is itself excluded.
    """
    if isinstance(value, str):
        raise ValueError(f"`{name}` must be a number. Received: {name}={value!r}")
    low, low_open = (-math.inf, True) if low is None else (low, low_open)
    high, high_open = (math.inf, True) if high is None else (high, high_open)
    # Written so that NaN, for which every comparison is false, is refused.
    above = value > low if low_open else value >= low
    below = value < high if high_open else value <= high
    if above and below:
        return value
    interval = f"{'(' if low_open else '['}{low}, {high}{')' if high_open else ']'}"
    raise ValueError(f"`{name}` must be in {interval}. Received: {name}={value}")


def check_positive(name: str, value: float) -> float:
    """Returns `value`, or raises `ValueError` unless it is above 0 and finite."""
    return check_range(name, value, 0, low_open=True)


def check_weights(**weights: float) -> list[float]:
    """Returns weights, or raises `ValueError` unless all are >= 0 and one is above."""
    for name, weight in weights.items():
        check_range(name, weight, 0)
    if not any(weights.values()):
        names = " and ".join(f"`{name}`" for name in weights)
        raise ValueError(f"{names} must not both be 0.")
    return [float(weight) for weight in weights.values()]


def check_whole(name: str, value: float, low: int) -> int:
    """Returns `value` as an int, or raises `ValueError` unless whole and >= low."""
    if check_range(name, value, low) == int(value):
        return int(value)
    raise ValueError(f"`{name}` must be a whole number. Received: {name}={value}")


def check_angle(name: str, value: float) -> float:
    """Returns a margin in radians, or raises `ValueError` if it is no acute angle."""
    if 0 <= check_range(name, value) < math.pi / 2:
        return value
    raise ValueError(f"`{name}` must be in [0, pi/2) radians. Received: {name}={value}")


def check_rank(name: str, tensor: Any, rank: int) -> None:
    """Raises `ValueError` unless `tensor` has `rank` dimensions."""
    if tensor.shape.rank != rank:
        raise ValueError(
            f"`{name}` must have {rank} dimensions. "
            f"Received: {name}.shape={tuple(tensor.shape)}"
        )


def check_same_batch(**tensors: Any) -> None:
    """Raises `ValueError` unless all tensors agree in their first dimension.

    Dimensions unknown at trace time agree with any other.
    """
    sizes = {name: tensor.shape[0] for name, tensor in tensors.items()}
    if len({size for size in sizes.values() if size is not None}) > 1:
        listed = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise ValueError(
            f"All inputs must come from the same batch. Received batch sizes: {listed}"
        )
