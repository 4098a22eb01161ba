"""A student small enough to convert in a fraction of a second."""

import numpy as np
import pytest
from toys import SIZE
from toys import make_student

from ekd_tf.export.convert import PRECISIONS
from ekd_tf.export.convert import convert_tflite
from ekd_tf.export.saved_model import write_saved_model


@pytest.fixture(scope="session")
def student():
    """A student that all tests share; none may change it."""
    return make_student()


@pytest.fixture(scope="session")
def saved(student, tmp_path_factory):
    """The path of the shared student's SavedModel."""
    path = tmp_path_factory.mktemp("saved") / "1"
    write_saved_model(student, path)
    return path


@pytest.fixture(scope="session")
def tflite(student, tmp_path_factory):
    """The shared student's TFLite files by precision."""
    noise = np.random.default_rng(3).integers(0, 256, (32, SIZE, SIZE, 3), np.uint8)
    folder = tmp_path_factory.mktemp("tflite")
    files = {precision: folder / f"{precision}.tflite" for precision in PRECISIONS}
    for precision, file in files.items():
        file.write_bytes(convert_tflite(student, precision, noise))
    return files


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (9, SIZE, SIZE, 3), dtype=np.uint8)
