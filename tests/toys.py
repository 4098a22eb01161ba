"""A backbone, a loss and batches small enough to trace in a second, and their steps."""

import keras
import numpy as np
import tensorflow as tf

from ekd_tf.heads import ArcFace
from ekd_tf.losses import DistillationLoss
from ekd_tf.models import PReLU
from ekd_tf.models.layers import BatchNormalization
from ekd_tf.training.distiller import Distiller
from ekd_tf.training.loop import compile_step
from ekd_tf.training.strategy import distribute

SIZE = 16


class CosineGap(DistillationLoss):
    """Pulls each embedding to the teacher's direction; of the same size."""

    def compute(self, student, teacher, labels, image_ids, training):
        cosines = tf.reduce_sum(
            tf.math.l2_normalize(student, axis=1)
            * tf.math.l2_normalize(teacher, axis=1),
            axis=1,
        )
        rows = tf.cast(tf.shape(student)[0], tf.float32)
        return {"cosine/gap": tf.reduce_mean(1.0 - cosines)}, {"pairs/rows": rows}


def backbone(dim=8, seed=0, batch_norm=True, size=None):
    """Returns a small convolutional embedder of 16x16 images.

    Its weights are drawn from `seed`; None: from the global seed as it stands.
    """
    if seed is not None:
        keras.utils.set_random_seed(seed)
    size = size or SIZE
    images = keras.Input((size, size, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0)(images)
    x = keras.layers.Conv2D(6, 3, strides=2, use_bias=not batch_norm)(x)
    if batch_norm:
        x = BatchNormalization(momentum=0.9)(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(dim, dtype="float32")(x)
    return keras.Model(images, x)


def student(embedding_dim, input_size):
    """The backbone as `--model=toys:student`."""
    return backbone(dim=embedding_dim, size=input_size, seed=None)


def distiller(losses, teacher=None, margin_weight=1.0, batch_norm=False, **arguments):
    """Returns a distiller into `backbone()`, compiled with what else is given."""
    student = backbone(batch_norm=batch_norm)
    teacher = teacher or backbone(dim=12, seed=7)
    keras.utils.set_random_seed(3)
    head = ArcFace(num_identities=3, scale=4.0, margin=0.2)
    model = Distiller(student, teacher, losses, head, margin_weight)
    model.compile(keras.optimizers.SGD(learning_rate=0.05, momentum=0.9), **arguments)
    return model


def batch(rng, rows=8, identities=3):
    """Returns a batch of general and balanced rows, one image repeated.

    Its halves hold different numbers of general rows.
    """
    image_ids = np.arange(rows, dtype=np.int32)
    image_ids[-1] = image_ids[0]
    labels = rng.integers(0, identities, rows).astype(np.int32)
    labels[-1] = labels[0]
    return {
        "image": tf.constant(rng.integers(0, 256, (rows, SIZE, SIZE, 3)), tf.uint8),
        "label": tf.constant(labels),
        "in_margin": tf.constant(np.arange(rows) % 3 == 0, tf.float32),
        "image_id": tf.constant(image_ids),
    }


def value_and_gradient(function):
    """Returns `(x, *others) -> (function(x, *others), gradient of its sum by x)`.

    `x` may be a tuple.
    """

    def step(x, *others):
        x = tf.nest.map_structure(tf.convert_to_tensor, x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x, *others)
        return value, tape.gradient(value, x)

    return step


def with_gradient(loss, **kwargs):
    """Returns `(student, ...) -> (sum of the terms, gradient of the student)`."""
    return value_and_gradient(lambda *batch: sum(loss(*batch, **kwargs).values()))


def with_centres(head, centres):
    """Builds a head of those class centres."""
    head.build((None, centres.shape[1]))
    head.centers.assign(centres)
    return head


def values(model):
    """Returns the numbers of a model's state by name."""
    return {name: np.array(v.numpy()) for name, v in model.state().items()}


def step_of(model, strategy=None):
    """Returns `batch -> floats`, the model's step on the devices of a strategy."""
    strategy = strategy or tf.distribute.get_strategy()
    step = compile_step(model, strategy)

    def run(data):
        parts = distribute(strategy, tf.data.Dataset.from_tensors(data))
        return {name: float(v) for name, v in step(next(iter(parts))).items()}

    return run


def scatter(strategy, rows):
    """Gives each replica its share of the rows, in order."""
    shares = np.split(rows, strategy.num_replicas_in_sync)
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(shares[context.replica_id_in_sync_group])
    )


def unit(rows):
    """Returns rows of length 1."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def two_models(rng, rows, identities=4, student_dim=5, teacher_dim=5):
    """Returns rows of two models that agree to some extent, and labels."""
    labels = rng.integers(0, identities, rows).astype(np.int32)
    shared = rng.normal(size=(identities, 4))[labels] + rng.normal(size=(rows, 4)) / 2

    def embed(dim):
        rows_of = shared @ rng.normal(size=(4, dim)) + rng.normal(size=(rows, dim)) / 4
        return np.float32(rows_of)

    return embed(student_dim), embed(teacher_dim), labels


def people(rng, identities, images, dim, noise=1.0):
    """Returns embeddings around a centre per identity, in random order, and labels."""
    labels = rng.permutation(np.repeat(np.arange(identities) * 3 + 5, images))
    centres = rng.normal(size=(labels.max() + 1, dim))
    return centres[labels] + noise * rng.normal(size=(labels.size, dim)), labels


def make_student(size=SIZE, dim=24, width=8, seed=0):
    """Builds a network of random weights with one of each op the backbones have.

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


def unit_embeddings(model, images):
    """Returns the model's embeddings at length 1, computed by NumPy in float64."""
    return unit(np.float64(model(images, training=False)))
