"""Whether a `.keras` file holds weights that its model did not take."""

from __future__ import annotations

import collections
import hashlib
import io
import zipfile

import h5py
import numpy as np

from ekd_tf.keras_compat import tf_variable

_WEIGHTS = "model.weights.h5"

# What a model saved with its training has besides: no part of it as an embedder.
_OF_TRAINING = ("optimizer", "metrics")


def check_no_unused_weights(file, model) -> None:
    """Raises `ValueError` listing the weights of a file that went nowhere.

    Keras refuses a file in which a layer lacks a weight or has one too many, and
    passes over whole layers the model does not have: those are looked for here. A
    weight is known by its content, because each Keras has its own names.

    Args:
        file: The path of a `.keras` file.
        model: The `keras.Model` that was loaded from it.
    """
    taken = collections.Counter(
        _digest(tf_variable(variable).numpy()) for variable in model.variables
    )
    unused = []
    with zipfile.ZipFile(file) as archive:
        content = io.BytesIO(archive.read(_WEIGHTS))

    def visit(name, item):
        if not isinstance(item, h5py.Dataset) or name.startswith(_OF_TRAINING):
            return
        digest = _digest(item[()])
        if taken[digest]:
            taken[digest] -= 1
        else:
            unused.append(f"{name} {item.shape}")

    with h5py.File(content, "r") as weights:
        weights.visititems(visit)
    if unused:
        raise ValueError(
            f"{file} holds weights that its model does not use: "
            f"{', '.join(unused)}. The file is not what its maker saved: take it from "
            "its source again"
        )


def _digest(array):
    array = np.ascontiguousarray(array)
    head = f"{array.shape} {array.dtype}".encode()
    return hashlib.blake2b(head + array.tobytes()).digest()
