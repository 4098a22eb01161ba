import json

import numpy as np
import pytest

from ekd_tf.evaluation.embed import EmbeddingCache

ROWS = np.arange(60, dtype=np.float32).reshape(10, 2, 3)


class Model:
    """Gives rows in batches of four and counts them; fails after some."""

    def __init__(self, fail_at=None):
        self.computed = 0
        self.fail_at = fail_at

    def __call__(self, first):
        for start in range(first, 10, 4):
            if start == self.fail_at:
                raise KeyboardInterrupt
            batch = ROWS[start : start + 4]
            self.computed += len(batch)
            yield batch


def test_second_time_costs_no_forward_pass(tmp_path):
    cache, model = EmbeddingCache(tmp_path / "new" / "folder"), Model()
    first = cache.rows({"model": "a"}, 10, model)
    np.testing.assert_array_equal(first, ROWS)
    again = EmbeddingCache(tmp_path / "new" / "folder").rows({"model": "a"}, 10, model)
    np.testing.assert_array_equal(again, ROWS)
    assert model.computed == 10


def test_another_description_is_computed_anew(tmp_path):
    cache, model = EmbeddingCache(tmp_path), Model()
    for description in ({"model": "a"}, {"model": "b"}, {"model": "a", "flip": True}):
        cache.rows(description, 10, model)
    assert model.computed == 30


def test_goes_on_where_an_interrupted_run_ended(tmp_path):
    cache = EmbeddingCache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.rows({"model": "a"}, 10, Model(fail_at=8))
    model = Model()
    np.testing.assert_array_equal(cache.rows({"model": "a"}, 10, model), ROWS)
    assert model.computed == 2


@pytest.mark.parametrize("kept", [0, 1, 23, 24, 25, 100, 239])
def test_drops_a_row_that_was_half_written(tmp_path, kept):
    cache = EmbeddingCache(tmp_path)
    cache.rows({"model": "a"}, 10, Model())
    (path,) = tmp_path.glob("*.f32")
    path.write_bytes(path.read_bytes()[:kept])
    model = Model()
    np.testing.assert_array_equal(cache.rows({"model": "a"}, 10, model), ROWS)
    # 24 bytes are a row.
    assert model.computed == 10 - kept // 24


def test_says_beside_the_rows_what_they_are(tmp_path):
    EmbeddingCache(tmp_path).rows({"model": "a", "flip": True}, 10, Model())
    (note,) = tmp_path.glob("*.json")
    expected = {"model": "a", "flip": True, "shape": [2, 3]}
    assert json.loads(note.read_text()) == expected


def test_rows_are_read_only(tmp_path):
    rows = EmbeddingCache(tmp_path).rows({"model": "a"}, 10, Model())
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 0


def test_rejects_too_few_or_too_many_rows(tmp_path):
    for count, word in ((9, "10"), (11, "10")):
        with pytest.raises(ValueError, match=f"must be {count}.*{word}; remove"):
            EmbeddingCache(tmp_path / word / str(count)).rows({}, count, Model())


def test_rejects_rows_of_another_shape(tmp_path):
    batches = [ROWS[:4], ROWS[4:, :, :2]]
    with pytest.raises(ValueError, match=r"\(2, 3\) like the first.*at row 4"):
        EmbeddingCache(tmp_path).rows({}, 10, lambda first: batches)


def test_rejects_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="must be a folder.*file"):
        EmbeddingCache(tmp_path / "file")
