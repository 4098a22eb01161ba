"""Our losses in Keras' Distiller, and what that class does not do."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.losses import AdaDistillLoss
from ekd_tf.losses import CosineLoss
from ekd_tf.losses import EKDLoss
from ekd_tf.losses import KerasDistillation
from ekd_tf.losses import RKDLoss
from ekd_tf.losses import SPLoss
from ekd_tf.losses import TripletDistillationLoss
from ekd_tf.stack import IS_KERAS_3

keras_3 = pytest.mark.skipif(not IS_KERAS_3, reason="keras.distillation is Keras 3's")
ROWS = 8


def linear(dim=4, dtype="float32", seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6,), dtype=dtype)
    x = keras.layers.Rescaling(1.0)(inputs)
    return keras.Model(inputs, keras.layers.Dense(dim)(x))


def distiller(losses, **arguments):
    model = keras.distillation.Distiller(
        linear(seed=1), linear(seed=2), losses, **arguments
    )
    model.compile(keras.optimizers.SGD(0.5), loss="mse", jit_compile=False)
    return model


@pytest.fixture
def batch(rng):
    x = np.float32(rng.normal(size=(ROWS, 6)))
    return x, np.float32(rng.normal(size=(ROWS, 4)))


@keras_3
def test_loss_is_that_of_our_layer(batch):
    x, y = batch
    model = distiller(KerasDistillation(RKDLoss()), student_loss_weight=0.25)
    student, teacher = model.student(x), model.teacher(x)
    terms = RKDLoss()(student, teacher)
    assert len(terms) == 2
    ours = float(sum(terms.values()))
    loss = model.compute_loss(x, tf.constant(y), student)
    # Its weights sum to one: whatever the student's loss gets, ours loses.
    expected = 0.25 * np.mean((student - y) ** 2) + 0.75 * ours
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@keras_3
def test_student_learns_the_teachers_directions(batch):
    model = distiller(KerasDistillation(CosineLoss()), student_loss_weight=0.0)
    before = [np.array(weight) for weight in model.teacher.get_weights()]
    history = model.fit(*batch, epochs=15, batch_size=ROWS, verbose=0).history
    # One number for all distillation losses together.
    assert set(history) == {"loss", "student_loss", "distillation_loss", "total_loss"}
    losses = history["distillation_loss"]
    assert losses[-1] < 0.5 * losses[0]
    for one, other in zip(before, model.teacher.get_weights()):
        np.testing.assert_array_equal(one, other)


@keras_3
def test_refuses_different_sizes_and_inputs():
    adapter = KerasDistillation(SPLoss())
    with pytest.raises(ValueError, match="output shapes are incompatible"):
        keras.distillation.Distiller(linear(5), linear(4), adapter)
    with pytest.raises(ValueError, match="input dtypes must match"):
        keras.distillation.Distiller(linear(dtype="uint8"), linear(), adapter)


@keras_3
def test_leaves_out_what_a_loss_owns():
    # Put in after the check that refuses it.
    adapter = KerasDistillation(CosineLoss())
    adapter.loss = CosineLoss(student_dim=4, teacher_dim=5)
    model = distiller(adapter)
    kernel = adapter.loss.trainable_variables[0]
    assert all(variable is not kernel for variable in model.variables)


@keras_3
def test_ignores_sample_weight(batch):
    model = distiller(KerasDistillation(SPLoss()), student_loss_weight=1.0)
    x, y = batch
    plain = model.evaluate(x, y, verbose=0, return_dict=True)
    none_counts = model.evaluate(
        x, y, sample_weight=np.zeros(ROWS), verbose=0, return_dict=True
    )
    assert plain["student_loss"] == none_counts["student_loss"] > 0


class Watching(CosineLoss):
    """Notes how many rows it is given."""

    def compute(self, student, *rest):
        self.seen = student.shape[0]
        return super().compute(student, *rest)


@keras_3
def test_two_replicas_compare_their_own_rows_and_step_twice_as_far(batch, two_replicas):
    def moved(strategy):
        with strategy.scope():
            loss = Watching()
            model = distiller(KerasDistillation(loss), student_loss_weight=0.0)
        before = model.student.get_weights()
        data = tf.data.Dataset.from_tensor_slices(batch)
        data = data.batch(ROWS, drop_remainder=True)
        model.fit(data, shuffle=False, verbose=0)
        after = model.student.get_weights()
        return loss.seen, [one - other for one, other in zip(after, before)]

    rows, expected = moved(tf.distribute.get_strategy())
    rows_of_replica, received = moved(two_replicas)
    assert (rows, rows_of_replica) == (ROWS, ROWS // 2)
    for one, two in zip(expected, received):
        np.testing.assert_allclose(two, 2 * one, rtol=1e-3, atol=1e-6)


@keras_3
@pytest.mark.parametrize(
    "loss", [EKDLoss(memory=0), AdaDistillLoss(4, 4), CosineLoss(3, 4)]
)
def test_refuses_losses_that_own_variables(loss):
    with pytest.raises(ValueError, match="neither train nor save what .*Loss owns: "):
        KerasDistillation(loss)


@keras_3
def test_refuses_losses_that_need_labels():
    with pytest.raises(ValueError, match="no labels, which TripletDistillationLoss n"):
        KerasDistillation(TripletDistillationLoss())


@keras_3
def test_refuses_what_is_no_loss_of_ours():
    with pytest.raises(ValueError, match="must be a DistillationLoss. Received: 'mse'"):
        KerasDistillation("mse")


@keras_3
def test_saved_with_the_distillers_config():
    model = distiller(KerasDistillation(RKDLoss(angle_weight=3.0)))
    restored = keras.distillation.Distiller.from_config(model.get_config())
    (adapter,) = restored.distillation_losses
    assert isinstance(adapter.loss, RKDLoss) and adapter.loss.angle_weight == 3.0


@pytest.mark.skipif(IS_KERAS_3, reason="Keras 3 has keras.distillation")
def test_says_that_keras_2_has_no_distiller():
    with pytest.raises(RuntimeError, match="part of Keras 3. Received: Keras 2"):
        KerasDistillation(SPLoss())
