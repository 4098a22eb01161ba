import numpy as np
from refusals import refused

from ekd_tf.metrics.normalize import naming_images
from ekd_tf.metrics.normalize import normalize_rows


def test_rows_of_any_size_get_unit_length(rng):
    # In float32 the squares of 1e-30 underflow to 0 and those of 1e30 overflow.
    for scale in (1e-30, 1e30):
        rows = (rng.normal(size=(5, 7)) * scale).astype(np.float32)
        lengths = np.linalg.norm(normalize_rows(rows), axis=1)
        np.testing.assert_allclose(lengths, 1, rtol=1e-6)


def test_values_by_hand_and_their_dtypes():
    for given, returned in (
        *(("float16", "float32"), ("float32", "float32")),
        *(("int64", "float64"), ("float64", "float64")),
    ):
        rows = normalize_rows(np.array([[3, 4], [0, -2]], given))
        assert rows.dtype == returned
        np.testing.assert_allclose(rows, [[0.6, 0.8], [0, -1]], rtol=1e-6)


def test_rejects_rows_without_direction_by_number():
    for value, words in ((np.nan, "hold NaN"), (np.inf, "hold NaN"), (0, "have ze")):
        rows = np.ones((5, 3), np.float32)
        rows[[1, 4]] = value
        refused(f"2 of 5 .*{words}.*101, 104$", normalize_rows, rows, first_row=100)
    refused(r"100 of 100 rows .* 6, 7, \.\.\.$", normalize_rows, np.zeros((100, 2)))


def test_names_the_images_and_the_model_instead():
    def normalize(indices):
        with naming_images("m.onnx", "{}.jpg".format, indices):
            normalize_rows(np.array([[1.0], [0.0], [0.0]]))

    words = "^Embeddings by m.onnx have zero norm: 2 of them, the first of image "
    refused(f"{words}1, 1.jpg$", normalize, None)
    refused(f"{words}9, 9.jpg$", normalize, np.array([7, 9, 8]))
