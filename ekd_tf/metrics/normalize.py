"""Unit-length rows, with the numbers of the rows that cannot be normalised."""

from __future__ import annotations

import numpy as np


def normalize_rows(rows: np.ndarray, first_row: int = 0) -> np.ndarray:
    """Divides rows `(n, dim)` by their L2 norms, which are taken in float64.

    The dtype stays, but half precision becomes float32. Raises `ValueError` with the
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
        bad_rows = np.flatnonzero(bad)
        if bad_rows.size:
            named = ", ".join(map(str, bad_rows[:8] + first_row))
            named += ", ..." * (bad_rows.size > 8)
            raise ValueError(
                f"Every embedding must be finite and non-zero, but {bad_rows.size} of "
                f"{bad.size} rows {complaint}. Received: rows {named}"
            )
    out = np.empty(rows.shape, np.result_type(rows.dtype, np.float32))
    # Computed in float64 a buffer at a time, never as a float64 array.
    return np.divide(
        rows, np.sqrt(squared)[:, None], out=out, dtype=np.float64, casting="unsafe"
    )
