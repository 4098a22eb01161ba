"""A student small enough to convert in a fraction of a second."""

import keras
import numpy as np
import pytest
from toys import unit

from ekd_tf.export.convert import PRECISIONS
from ekd_tf.export.convert import convert_tflite
from ekd_tf.export.saved_model import write_saved_model
from ekd_tf.models import PReLU

SIZE = 16
DIM = 24


def make_student(size=SIZE, dim=DIM, width=8, seed=0):
    """Builds a student of random weights with one of each op the backbones have.

    The moving statistics are random too: with those of a new BatchNorm, 0 and 1,
    training mode and inference, folded and forgotten look alike.
    """
    layers = keras.layers
    pixels = layers.Input((size, size, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="pixels")(pixels)
    x = layers.ZeroPadding2D(1)(x)
    x = layers.Conv2D(width, 3, strides=2, use_bias=False, name="conv")(x)
    x = layers.BatchNormalization(name="conv_bn")(x)
    x = PReLU(name="prelu")(x)
    x = layers.DepthwiseConv2D(size // 2, use_bias=False, name="depthwise")(x)
    x = layers.BatchNormalization(name="depthwise_bn")(x)
    x = layers.Flatten()(x)
    x = layers.Dropout(0.5)(x)
    x = layers.Dense(dim, use_bias=False, name="dense")(x)
    x = layers.BatchNormalization(scale=False, dtype="float32", name="embedding")(x)
    model = keras.Model(pixels, x, name="student")
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        # Variances are positive, and so are slopes; all else has both signs.
        low = 0.2 if any(n in weight.name for n in ("variance", "alpha")) else -0.5
        if "seed" not in weight.name:
            weight.assign(rng.uniform(low, 0.9, weight.shape))
    return model


@pytest.fixture(scope="session")
def build_student():
    """Returns the function that builds a student from sizes and a seed."""
    return make_student


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


@pytest.fixture
def unit_embeddings():
    """Returns the model's embeddings at length 1, computed by NumPy in float64."""

    return lambda model, images: unit(np.float64(model(images, training=False)))
