"""Unit-length rows, with the numbers of the rows that cannot be normalised."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from collections.abc import Iterator

import numpy as np


class UnusableRows(ValueError):
    """Rows that are not finite or all zero: their numbers, and what they do."""

    def __init__(self, message: str, rows: np.ndarray, complaint: str):
        super().__init__(message)
        self.rows, self.complaint = rows, complaint


@contextlib.contextmanager
def naming_images(
    model: str, describe: Callable[[int], str], indices: np.ndarray | None = None
) -> Iterator[None]:
    """Has `UnusableRows` raised inside say which model gave them and of which image.

    Row i is of image i or `indices[i]`; `describe` says where an image is.
    """
    try:
        yield
    except UnusableRows as error:
        images = error.rows if indices is None else np.asarray(indices)[error.rows]
        raise ValueError(
            f"Embeddings by {model} {error.complaint}: {len(images):,} of them, the "
            f"first of image {images[0]}, {describe(int(images[0]))}"
        ) from error


def normalize_rows(rows: np.ndarray, first_row: int = 0) -> np.ndarray:
    """Divides rows `(n, dim)` by their L2 norms, which are taken in float64.

    The dtype stays, but half precision becomes float32. Raises `UnusableRows` with the
    numbers, counted from `first_row`, of rows that are not finite or all zero.
    """
    rows = np.asarray(rows)
    if rows.ndim != 2:
        raise ValueError(
            f"`rows` must have 2 dimensions. Received: rows.shape={rows.shape}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        squared = np.einsum("nd,nd->n", rows, rows, dtype=np.float64, casting="unsafe")
    for bad, complaint in (
        (~np.isfinite(squared), "hold NaN or infinity"),
        (squared == 0, "have zero norm"),
    ):
        bad_rows = np.flatnonzero(bad) + first_row
        if bad_rows.size:
            named = ", ".join(map(str, bad_rows[:8])) + ", ..." * (bad_rows.size > 8)
            raise UnusableRows(
                f"Every embedding must be finite and non-zero, but {bad_rows.size} of "
                f"{bad.size} rows {complaint}. Received: rows {named}",
                bad_rows,
                complaint,
            )
    out = np.empty(rows.shape, np.result_type(rows.dtype, np.float32))
    # Computed in float64 a buffer at a time, never as a float64 array.
    return np.divide(
        rows, np.sqrt(squared)[:, None], out=out, dtype=np.float64, casting="unsafe"
    )
