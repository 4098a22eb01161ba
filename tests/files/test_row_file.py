"""Tests for `ekd_tf.files.rows`; what both of its users see is in theirs."""

import numpy as np
from refusals import refused

from ekd_tf.files.rows import RowFile
from ekd_tf.files.rows import read_note

ROWS = np.arange(24).reshape(8, 3)


def make(folder, dtype=np.float16):
    return RowFile(folder / "rows", folder / "note.json", {"a": 1}, 8, dtype)


def from_row(first):
    for row in range(first, 8):
        yield ROWS[row : row + 1]


def test_counts_the_rows_that_are_whole(tmp_path):
    assert make(tmp_path).done == 0
    rows = make(tmp_path).fill(from_row)
    assert rows.dtype == np.float16
    np.testing.assert_array_equal(rows, ROWS)
    # Rows of 6 bytes: the third is cut.
    (tmp_path / "rows").write_bytes((tmp_path / "rows").read_bytes()[:17])
    assert make(tmp_path).done == 2
    np.testing.assert_array_equal(make(tmp_path).fill(from_row), ROWS)


def test_a_row_is_on_its_way_to_disk_before_the_next_is_computed(tmp_path):
    seen = []

    def compute(first):
        for rows in from_row(first):
            seen.append(make(tmp_path).done)
            yield rows

    make(tmp_path).fill(compute)
    assert seen == list(range(8))


def test_a_note_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "note.json"
    assert read_note(path) == {}
    for text in ("{", "[]"):
        path.write_text(text)
        refused("note.json cannot be read.*; remove it", read_note, path)
