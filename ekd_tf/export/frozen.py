"""What a student computes for one image, its weights as constants: for TFLite."""

from __future__ import annotations

import dataclasses
import os

import keras
import tensorflow as tf

from ekd_tf.export.saved_model import FLOAT_SIGNATURE
from ekd_tf.export.saved_model import SIGNATURE
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
        spec: Of `images`: `(1, height, width, 3)`, uint8, or float32 in 0 .. 255.
        name: EMBEDDING, of length 1, or RAW, of any.
    """

    graph: tf.compat.v1.GraphDef
    image: str
    result: str
    spec: tf.TensorSpec
    name: str

    def save(self, path: str | os.PathLike) -> None:
        """Writes a SavedModel whose one endpoint is `serving_default`."""

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


def freeze(student: keras.Model, name: str = EMBEDDING) -> FrozenEndpoint:
    """Freezes an endpoint of a student, for as many conversions as wanted.

    With the batch fixed, no op computes shapes. With constants, the converter need not
    save and load the variables several times, which takes most of its time.

    Args:
        student: As `as_float32` returns it.
        name: EMBEDDING, from uint8 pixels, or RAW, from float ones: quantisation puts
            its own uint8 input before them.
    """
    # Not public, but the one function that freezes on both stacks.
    from tensorflow.python.framework import convert_to_constants

    signature = SIGNATURE if name == EMBEDDING else FLOAT_SIGNATURE
    function, spec = endpoints(student)[signature]
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
