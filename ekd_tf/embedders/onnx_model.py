"""Trained models from `.onnx` files, by onnxruntime or as TensorFlow operations."""

from __future__ import annotations

import os

import numpy as np
import tensorflow as tf
from absl import logging

from ekd_tf.checks import check_choice
from ekd_tf.embedders.frozen import FrozenEmbedder
from ekd_tf.embedders.frozen import PixelEmbedder
from ekd_tf.embedders.frozen import check_utf8
from ekd_tf.embedders.frozen import content_hash
from ekd_tf.embedders.frozen import loading_error
from ekd_tf.embedders.onnx_graph import UnknownGraph
from ekd_tf.embedders.onnx_graph import graph_function
from ekd_tf.files.model_parts import external_files

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}
# What runs a model, the fastest first: our word -> onnxruntime's. TensorRT builds its
# engine for minutes.
PROVIDERS = {
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
# Of the largest number: two runtimes add in another order.
TOLERANCE = 1e-4


class OnnxEmbedder(PixelEmbedder):
    """Embeds by an ONNX model of images, channels first or last.

    Weights in files of their own must lie where the model says, in its folder or below;
    they count for the fingerprint. Arguments as `PixelEmbedder`, and `provider`, one of
    `PROVIDERS`; default: the first that onnxruntime offers here.
    """

    def _open(self, path, num_threads=None, provider=None):
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise ValueError(
                f"{path} needs onnx and onnxruntime: pip install '.[onnx]'"
            ) from error
        check_utf8(path)
        offered = onnxruntime.get_available_providers()
        words = tuple(word for word, name in PROVIDERS.items() if name in offered)
        self._is_chosen = provider is not None
        word = provider or words[0]
        check_choice("provider", word, PROVIDERS)
        if word not in words:
            raise ValueError(
                f"{path}@{word}: onnxruntime does not offer {PROVIDERS[word]} here, it "
                f"has {', '.join(words)}. CUDA and TensorRT come with pip install "
                "'.[onnx-gpu]'"
            )
        provider = PROVIDERS[word]
        options = onnxruntime.SessionOptions()
        # By default as many threads as the machine has cores: where a process may use
        # fewer, they wait for one another.
        allowed = getattr(os, "sched_getaffinity", lambda _: ())(0)
        options.intra_op_num_threads = num_threads or len(allowed)
        try:
            # By its path: from bytes, weights beside it would not be found.
            self._session = onnxruntime.InferenceSession(
                os.fspath(path),
                options,
                providers=list(dict.fromkeys([provider, "CPUExecutionProvider"])),
            )
            model = onnx.load(os.fspath(path), load_external_data=False)
        # Both raise a dozen kinds for one thing: the file is no good.
        except Exception as error:
            raise loading_error(path, error) from error
        # onnxruntime does without a provider whose libraries it does not find.
        runs = self._session.get_providers()[0]
        if runs != provider:
            logging.warning("%s: %s did not start, %s runs it.", path, provider, runs)
        self.runtime = f"onnxruntime ({runs})"
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._take_shapes(
            {tensor.name: tuple(tensor.shape) for tensor in inputs},
            {tensor.name: tuple(tensor.shape) for tensor in outputs},
        )
        if inputs[0].type not in _DTYPES:
            raise ValueError(
                f"{path} must take float, float16 or uint8. Received: {inputs[0].type}"
            )
        self._dtype = _DTYPES[inputs[0].type]
        beside = (self._path.parent / n for n in sorted(external_files(model)))
        self.fingerprint = self._hash(path, *map(content_hash, beside))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        rows = self._in_batches(self._pixels(images, self._dtype))
        return rows.astype(np.float32, copy=False)

    def _run(self, pixels):
        return self._session.run([self._output], {self._input: pixels})[0]

    def traced(self) -> FrozenEmbedder | None:
        """Returns the model as TensorFlow operations, so that a step can hold it.

        None where a provider was chosen, where it has operations that `graph_function`
        does not know or TensorFlow does not take, or where both runtimes differ by more
        than `TOLERANCE` on two images of noise. Logs which.
        """
        if self._is_chosen:
            logging.info("%s: by %s, outside the step.", self.name, self.runtime)
            return None
        size = self.input_size
        images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
        expected = self(images)
        try:
            graph = _GraphEmbedder(self)
            difference = np.abs(graph(images) - expected).max() / np.abs(expected).max()
        # Of a graph that is known by halves TensorFlow raises several kinds.
        except Exception as error:
            reason = " ".join(str(error).split())
            has = "it has " if isinstance(error, UnknownGraph) else ""
            text = "%s: by %s, outside the step: %s%.200s."
            logging.info(text, self.name, self.runtime, has, reason)
            return None
        if not difference <= TOLERANCE:
            text = "%s: by %s, outside the step: TensorFlow's operations differ from "
            text += "it by %.1g of the largest number."
            logging.warning(text, self.name, self.runtime, difference)
            return None
        logging.info("%s: as TensorFlow operations, within the step.", self.name)
        return graph


class _GraphEmbedder(FrozenEmbedder):
    """An `OnnxEmbedder` of float input, channels first, in TensorFlow."""

    traceable = True

    def __init__(self, model):
        import onnx

        if model._dtype != np.float32 or not model._channels_first:
            raise UnknownGraph("an input that is not float32 with channels first")
        for name in ("name", "input_size", "embedding_dim", "fingerprint"):
            setattr(self, name, getattr(model, name))
        self._low, high = model._range
        self._step = (high - self._low) / 255
        self._order = -1 if model._color == "bgr" else 1
        self._function, self.weights = graph_function(onnx.load(model.name))

    def __call__(self, images: np.ndarray | tf.Tensor) -> tf.Tensor:
        pixels = tf.cast(tf.convert_to_tensor(images), tf.float32)
        return self._function(pixels[..., :: self._order] * self._step + self._low)
