"""One HTML file that holds its data, its style and the library of its charts."""

from __future__ import annotations

import functools
import html
import json
import os
import pathlib
from importlib import resources
from typing import Any

from absl import logging

from ekd_tf.files.atomic import write_text
from ekd_tf.files.user_text import printable

PAGE_FILE = "report.html"
_MOST_BYTES = 3_000_000
# Of these the library takes 0.9 million and the figures of a set 0.17 at most.
_FOR_SETS, _FIGURES = 2_000_000, 170_000


def write_page(
    folder: str | os.PathLike, title: str, facts: dict[str, Any], content: dict
) -> pathlib.Path:
    """Writes `report.html` and returns its path.

    `facts`, name -> text, stand below the heading. `content` has any of "sets" (see
    `set_section`), "curves" and "reports" (see `run_content`), "comparison"
    (`report.json`) and "deployment".
    """
    data = json.dumps({"title": title, "facts": facts, **content}, allow_nan=False)
    parts = {
        "TITLE": html.escape(printable(title)),
        "STYLE": _part("page.css"),
        "LIBRARY": _library(),
        # No text of a user ends the element, or opens a comment in it.
        "DATA": data.replace("<", "\\u003c"),
        "SCRIPT": _part("page.js"),
    }
    text = "".join(parts.get(piece, piece) for piece in _part("page.html").split("%%"))
    path = pathlib.Path(folder) / PAGE_FILE
    write_text(path, text)
    if path.stat().st_size > _MOST_BYTES:
        logging.warning(
            "%s has %.1f MB, which phones may be slow to open: give fewer sets, or "
            "--noreport_images",
            *(path, path.stat().st_size / 1e6),
        )
    return path


def image_bytes(sets: int) -> int:
    """Returns what pictures of each of so many sets may take of a page."""
    return max(_FOR_SETS // max(sets, 1) - _FIGURES, 0)


def _part(name):
    return resources.files("ekd_tf.page").joinpath(name).read_text(encoding="utf-8")


@functools.lru_cache(maxsize=None)
def _library():
    """Returns Vega, Vega-Lite and Vega-Embed as one script."""
    # It takes seconds and memory, which no other use of this package should.
    import vl_convert

    return vl_convert.javascript_bundle().replace("</script", "<\\/script")
