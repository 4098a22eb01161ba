"""A student small enough to convert in a fraction of a second."""

import keras
import numpy as np
import pytest

SIZE = 16
DIM = 24


@pytest.fixture
def build_student(rng):
    """Returns a function that builds the student, by default with random weights.

    It has one of each op the backbones are made of. The moving statistics are random
    too: with those of a new BatchNorm, 0 and 1, training mode and inference, folded
    and forgotten look alike.
    """

    def build(size=SIZE, dim=DIM, width=8, seed=None):
        layers = keras.layers
        pixels = layers.Input((size, size, 3), dtype="uint8", name="image")
        x = layers.Rescaling(1 / 127.5, offset=-1.0, name="pixels")(pixels)
        x = layers.ZeroPadding2D(1)(x)
        x = layers.Conv2D(width, 3, strides=2, use_bias=False, name="conv")(x)
        x = layers.BatchNormalization(name="conv_bn")(x)
        x = layers.PReLU(shared_axes=[1, 2], name="prelu")(x)
        x = layers.DepthwiseConv2D(size // 2, use_bias=False, name="depthwise")(x)
        x = layers.BatchNormalization(name="depthwise_bn")(x)
        x = layers.Flatten()(x)
        x = layers.Dropout(0.5)(x)
        x = layers.Dense(dim, use_bias=False, name="dense")(x)
        x = layers.BatchNormalization(scale=False, dtype="float32", name="embedding")(x)
        model = keras.Model(pixels, x, name="student")
        values = np.random.default_rng(seed) if seed is not None else rng
        for weight in model.weights:
            # Variances, and slopes that differ from 1, are positive; all else has
            # both signs.
            low = 0.2 if any(n in weight.name for n in ("variance", "alpha")) else -0.5
            if "seed" not in weight.name:
                weight.assign(values.uniform(low, 0.9, weight.shape))
        return model

    return build


@pytest.fixture
def student(build_student):
    return build_student()


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (9, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture
def unit_embeddings():
    """Returns the model's embeddings at length 1, computed by NumPy in float64."""

    def embed(model, images):
        raw = np.asarray(model(images, training=False), np.float64)
        return raw / np.sqrt(np.sum(raw**2, axis=1, keepdims=True))

    return embed


@pytest.fixture
def tree():
    """Returns the sorted relative paths of everything below a directory."""
    return lambda root: sorted(str(p.relative_to(root)) for p in root.rglob("*"))
