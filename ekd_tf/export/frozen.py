"""What a student computes for one image, its weights as constants: for TFLite."""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from ekd_tf.export.saved_model import FLOAT_SIGNATURE
from ekd_tf.export.saved_model import SIGNATURE
from ekd_tf.export.saved_model import SavedModelEmbedder
from ekd_tf.export.saved_model import endpoints

RAW = "raw_embedding"
EMBEDDING = "embedding"


@dataclasses.dataclass(frozen=True)
class FrozenEndpoint:
    """An endpoint for one image as a graph without variables.

    Attributes:
        graph: `tf.compat.v1.GraphDef`.
        image: Name of the tensor that takes the image.
        result: Name of the tensor to return.
        spec: `tf.TensorSpec` of the image: `(1, height, width, 3)`, uint8, or float32
            with pixels of 0 to 255; its name is "images".
        name: What the result is: EMBEDDING, of length 1, or RAW, of any.
    """

    graph: tf.compat.v1.GraphDef
    image: str
    result: str
    spec: tf.TensorSpec
    name: str

    def save(self, path):
        """Writes it as a SavedModel, whose one endpoint is `serving_default`.

        Args:
            path: The directory; made if missing.

        Raises:
            tf.errors.OpError: It cannot be written, as on a full disk.
        """

        def embed(images):
            (embedding,) = tf.graph_util.import_graph_def(
                self.graph,
                input_map={self.image: images},
                return_elements=[self.result],
            )
            return {self.name: embedding}

        module = tf.Module()
        module.embed = tf.function(embed, autograph=False, input_signature=[self.spec])
        tf.saved_model.save(module, path, signatures={SIGNATURE: module.embed})


def freeze(source, name: str = EMBEDDING) -> FrozenEndpoint:
    """Freezes an endpoint of a student.

    With the batch fixed, no op computes shapes. With constants, a converter need not
    save and load the variables several times, which takes most of its time.

    Args:
        source: A float32 Keras model as returned by `as_float32`, or the directory of
            a SavedModel written by `export_saved_model`.
        name: EMBEDDING, from uint8 pixels, or RAW, from float ones: quantisation puts
            its own uint8 input before them.

    Returns:
        The endpoint, for `convert_tflite` and for as many precisions as wanted.

    Raises:
        ValueError: The source is no SavedModel, or has no such endpoint.
    """
    # Not public, but the one thing that freezes a function on both stacks.
    from tensorflow.python.framework import convert_to_constants

    signature = SIGNATURE if name == EMBEDDING else FLOAT_SIGNATURE
    if isinstance(source, keras.Model):
        function, spec = endpoints(source)[signature]
    else:
        function, spec = _endpoint_of_saved_model(source, name)
    spec = tf.TensorSpec((1, *spec.shape[1:]), spec.dtype, name="images")
    embed_one = tf.function(
        lambda images: function(images)[name], autograph=False, input_signature=[spec]
    ).get_concrete_function()
    frozen = convert_to_constants.convert_variables_to_constants_v2(embed_one)
    graph = frozen.graph.as_graph_def()
    for node in graph.node:
        # Points to the Python gradient of a custom gradient, which saving would
        # look for and loading would miss with a warning.
        node.attr.pop("_gradient_op_type", None)
    (image,), (result,) = frozen.inputs, frozen.outputs
    return FrozenEndpoint(graph, image.name, result.name, spec, name)


def _endpoint_of_saved_model(path, name):
    """Returns the same as `endpoints` of the student in a SavedModel."""
    embedder = SavedModelEmbedder(path)
    image = embedder.image_shape
    # Through the object, which keeps the variables alive.
    if name == EMBEDDING:
        spec = tf.TensorSpec((None, *image), tf.uint8, "images")
        return lambda images: embedder.signature(images=images), spec
    signature = embedder.float_signature
    if signature is None or RAW not in signature.structured_outputs:
        raise ValueError(
            f"{path} must have an endpoint {FLOAT_SIGNATURE!r} that returns `{RAW}` "
            "to be quantised. Export it anew"
        )
    spec = tf.TensorSpec((None, *image), tf.float32, "images")
    return lambda images: embedder.float_signature(images=images), spec
