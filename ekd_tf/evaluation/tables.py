"""Markdown tables.

By hand: with tabulate the columns' rules below would stay, and six lines go.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence


def format_table(rows: Iterable[Sequence], header: Sequence[str]) -> str:
    """Lays out a Markdown table, columns padded so that it reads as text too.

    Floats are written with four decimals, None as `n/a`, anything else as `str` has it;
    `|` is escaped. A column of numbers alone is right-aligned.
    """
    columns = []
    for title, *cells in zip(header, *rows):
        known = [cell for cell in cells if cell is not None]
        right = bool(known) and all(hasattr(cell, "__float__") for cell in known)
        texts = [_text(cell) for cell in (title, *cells)]
        # Three characters at least: the rule of a right-aligned column is `--:`.
        width = max(3, *map(len, texts))
        texts = [text.rjust(width) if right else text.ljust(width) for text in texts]
        texts.insert(1, "-" * (width - 1) + (":" if right else "-"))
        columns.append(texts)
    return "\n".join(f"| {' | '.join(line)} |" for line in zip(*columns))


def _text(cell):
    if cell is None:
        return "n/a"
    if hasattr(cell, "__float__") and not hasattr(cell, "__index__"):
        return f"{float(cell):.4f}"
    return str(cell).replace("|", "\\|").replace("\n", " ")
