"""Tests for `ekd_tf.files.rows`; what both of its users see is in theirs."""

import numpy as np
from refusals import refused

from ekd_tf.files.rows import RowFile
from ekd_tf.files.rows import read_note

ROWS = np.arange(24).reshape(8, 3)


def make(folder):
    return RowFile(folder / "rows", folder / "note.json", {"a": 1}, 8, np.float16)


def test_one_process_at_a_time_writes_each_row_before_it_computes_the_next(tmp_path):
    seen = []

    def compute(first):
        for row in range(first, 8):
            seen.append(make(tmp_path).done)
            # A lock is of the open file: this is what another process meets.
            refused("rows is in use by another", make(tmp_path).fill, compute)
            yield ROWS[row : row + 1]

    np.testing.assert_array_equal(make(tmp_path).fill(compute), ROWS)
    assert seen == list(range(8))


def test_a_note_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "note.json"
    assert read_note(path) == {}
    for text in ("{", "[]"):
        path.write_text(text)
        refused("note.json cannot be read.*; remove it", read_note, path)
