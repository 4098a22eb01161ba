import keras
import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from toys import backbone
from toys import batch
from toys import step_of
from toys import unit
from toys import values

from ekd_tf.heads import ArcFace
from ekd_tf.heads import CurricularFace
from ekd_tf.heads import sample_classes
from ekd_tf.training.classifier import FaceClassifier

# One step each.
pytestmark = pytest.mark.usefixtures("op_by_op")


def make(**kwargs):
    head = ArcFace(num_identities=3, scale=4.0, margin=0.2)
    model = FaceClassifier(backbone(**kwargs), head)
    model.compile(keras.optimizers.SGD(learning_rate=0.1, momentum=0.9))
    return model


def test_loss_is_the_mean_over_general_rows_and_mean_cosine_over_all_pairs(rng):
    model, data = make(batch_norm=False), batch(rng)
    embeddings = model.backbone(data["image"])
    logits = np.float64(model.head(embeddings, data["label"]))
    costs = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(8), data["label"]]
    expected = costs[data["in_margin"].numpy() == 1].mean()
    rows = unit(np.float64(embeddings))
    cosine = np.mean([rows[i] @ rows[j] for i in range(8) for j in range(i)])
    out = step_of(model)(data)
    for name in ("loss", "loss/margin"):
        np.testing.assert_allclose(out[name], expected, rtol=1e-5)
    found = out["embedding/mean_cosine"]
    np.testing.assert_allclose(found, cosine, rtol=1e-4, atol=1e-6)


def test_without_general_rows_only_kernels_and_centres_decay(rng):
    x = keras.Input((16, 16, 3), dtype="uint8")
    y = keras.layers.Conv2D(2, 3)(keras.layers.Rescaling(1 / 255.0)(x))
    # Slopes of their own for each place are of a kernel's shape.
    y = keras.layers.Flatten()(keras.layers.PReLU(alpha_initializer="ones")(y))
    slopes = keras.Model(x, keras.layers.Dense(8)(y))
    model, data = FaceClassifier(slopes, ArcFace(3)), batch(rng)
    # Without momentum and with in_margin = 0 the gradient is the decay alone.
    model.compile(keras.optimizers.SGD(0.1), weight_decay=0.5)
    data["in_margin"] = tf.zeros(8)
    before = values(model)
    assert step_of(model)(data)["loss"] == 0.0
    decayed = set()
    for name, value in values(model).items():
        if name.startswith(("student", "head")) and "moving" not in name:
            if not np.array_equal(value, before[name]):
                np.testing.assert_allclose(value, before[name] * 0.95, rtol=1e-5)
                decayed.add(name.split("/")[-1].split(":")[0])
    assert decayed == {"kernel", "centers"}


def test_losses_of_layers_are_refused():
    x = keras.Input((16, 16, 3))
    y = keras.layers.Dense(8, kernel_regularizer="l2")(keras.layers.Flatten()(x))
    model = FaceClassifier(keras.Model(x, y), ArcFace(3))
    refused("`kernel_regularizer`.*`weight_decay`", model.compile, "sgd")


def test_unsampled_classes_do_not_move_and_the_draw_is_in_the_state(rng):
    head = CurricularFace(num_identities=40, scale=4.0, sample_rate=0.25, seed=2)
    model, data = FaceClassifier(backbone(), head), batch(rng)
    model.compile(keras.optimizers.SGD(0.1), weight_decay=0.0)
    before = np.array(head.centers)
    step_of(model)(data)
    labels = tf.cast(data["label"], tf.int32)
    classes = sample_classes(labels, 40, 10, tf.constant([2, 0]))
    moved = np.flatnonzero(np.any(np.array(head.centers) != before, axis=1))
    np.testing.assert_array_equal(moved, classes)
    names = {name.split("/")[-1] for name in model.state() if name.startswith("head")}
    assert {"centers", "num_draws", "stage"} <= names
    assert int(head.num_draws) == 1 and float(head.stage) != 0
