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


def test_rejects_too_few_or_too_many_rows(tmp_path):
    for count, word in ((9, "10"), (11, "10")):
        with pytest.raises(ValueError, match=f"must be {count}.*{word}; remove"):
            EmbeddingCache(tmp_path / word / str(count)).rows({}, count, Model())
