"""Markdown tables and the spelling of FPRs in reports and metric names."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence


def format_fpr(fpr: float) -> str:
    """Spells an FPR as metric names do: `1e-3`, `2.5e-4`, `1` for all.

    Args:
        fpr: Float in [0, 1].

    Returns:
        Mantissa of at most seven digits without trailing zeros, and exponent.
    """
    if fpr in (0, 1):
        return str(int(fpr))
    mantissa, exponent = f"{fpr:.6e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def format_table(rows: Iterable[Sequence], header: Sequence[str]) -> str:
    """Lays out a Markdown table, columns padded so that it reads as text too.

    Args:
        rows: Rows of cells. Floats are written with four decimals, None as `n/a`,
            anything else as `str` has it; `|` is escaped.
        header: Column titles. A column of numbers alone is right-aligned.

    Returns:
        The table's lines, joined, without a newline at the end.

    Raises:
        ValueError: A row has another number of cells than the header.
    """
    rows = [list(row) for row in rows]
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(
                f"Every row must have {len(header)} cells like `header`. "
                f"Received: row {number} with {len(row)}: {row}"
            )
    numeric = [
        any(row[column] is not None for row in rows)
        and all(row[column] is None or _is_number(row[column]) for row in rows)
        for column in range(len(header))
    ]
    lines = [[_cell(cell) for cell in row] for row in [header, *rows]]
    # Three characters at least: the rule of a right-aligned column is `--:`.
    widths = [max(3, *(len(line[c]) for line in lines)) for c in range(len(header))]
    rule = [
        "-" * (width - 1) + ":" if right else "-" * width
        for width, right in zip(widths, numeric)
    ]
    padded = [
        [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric)
        ]
        for line in lines
    ]
    padded.insert(1, rule)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _is_number(cell) -> bool:
    return hasattr(cell, "__float__") and not isinstance(cell, bool)


def _cell(cell) -> str:
    if cell is None:
        return "n/a"
    if hasattr(cell, "__float__") and not hasattr(cell, "__index__"):
        return f"{float(cell):.4f}"
    return str(cell).replace("|", "\\|").replace("\n", " ")
