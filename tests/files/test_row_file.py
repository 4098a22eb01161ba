"""Tests for `ekd_tf.files.rows`; what both of its users see is in theirs."""

import numpy as np
from refusals import refused

from ekd_tf.files.rows import RowFile
from ekd_tf.files.rows import read_note

ROWS = np.arange(24).reshape(8, 3)


def make(folder):
    return RowFile(folder / "rows", folder / "note.json", {"a": 1}, 8, np.float16)


def test_a_row_is_on_its_way_to_disk_before_the_next_is_computed(tmp_path):
    seen = []

    def compute(first):
        for row in range(first, 8):
            seen.append(make(tmp_path).done)
            yield ROWS[row : row + 1]

    np.testing.assert_array_equal(make(tmp_path).fill(compute), ROWS)
    assert seen == list(range(8))


def test_a_note_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "note.json"
    assert read_note(path) == {}
    for text in ("{", "[]"):
        path.write_text(text)
        refused("note.json cannot be read.*; remove it", read_note, path)


def test_one_process_writes_at_a_time(tmp_path):
    def compute(first):
        yield ROWS[:4]
        # A lock is of the open file: this is what another process meets.
        refused("rows is in use by another", make(tmp_path).fill, compute)
        yield ROWS[4:]

    np.testing.assert_array_equal(make(tmp_path).fill(compute), ROWS)
