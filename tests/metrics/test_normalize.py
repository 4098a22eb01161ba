import numpy as np
import pytest

from ekd_tf.metrics.normalize import normalize_rows


def test_value_computed_by_hand():
    rows = normalize_rows(np.array([[3.0, 4.0], [0.0, -2.0]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, -1.0]], rtol=1e-15)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_rows_of_any_size_get_unit_length(rng, scale):
    # In float32 the squares of 1e-30 underflow to 0 and those of 1e30 overflow.
    rows = (rng.normal(size=(5, 7)) * scale).astype(np.float32)
    normalized = normalize_rows(rows)
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(normalized, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "returned"),
    [("float16", "float32"), ("float32", "float32"), ("int64", "float64")],
)
def test_dtype(given, returned):
    rows = normalize_rows(np.array([[3, 4]], given))
    assert rows.dtype == returned
    np.testing.assert_allclose(rows, [[0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rejects_rows_that_are_not_finite_by_number(value):
    rows = np.ones((5, 3), np.float32)
    rows[1, 2] = rows[4, 0] = value
    with pytest.raises(ValueError, match="2 of 5 rows hold NaN.*rows 101, 104$"):
        normalize_rows(rows, first_row=100)


def test_rejects_zero_rows_by_number():
    rows = np.ones((4, 3))
    rows[2] = 0
    with pytest.raises(ValueError, match="1 of 4 rows have zero norm.*rows 2$"):
        normalize_rows(rows)


def test_names_only_the_first_few_of_many_bad_rows():
    with pytest.raises(ValueError, match="rows 0, 1, 2, 3, 4, 5, 6, 7 and 92 more$"):
        normalize_rows(np.zeros((100, 2)))
