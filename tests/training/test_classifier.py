import keras
import numpy as np
import tensorflow as tf
from toys import backbone
from toys import batch

from ekd_tf.heads import ArcFace
from ekd_tf.heads import CurricularFace
from ekd_tf.heads import sample_classes
from ekd_tf.training.classifier import FaceClassifier
from ekd_tf.training.loop import compile_step
from ekd_tf.training.strategy import distribute


def make(weight_decay=5e-4, momentum=0.9, **kwargs):
    model = FaceClassifier(
        backbone(**kwargs), ArcFace(num_identities=3, scale=4.0, margin=0.2)
    )
    model.compile(
        keras.optimizers.SGD(learning_rate=0.1, momentum=momentum),
        weight_decay=weight_decay,
    )
    return model


def values(model):
    return {name: np.array(v.numpy()) for name, v in model.state().items()}


def step_once(model, data):
    return {
        name: float(value)
        for name, value in compile_step(model, tf.distribute.get_strategy())(
            data
        ).items()
    }


def test_loss_is_the_mean_over_general_rows(rng):
    model, data = make(batch_norm=False), batch(rng)
    logits = model.head(model.backbone(data["image"]), data["label"]).numpy()
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = -log_softmax[np.arange(8), data["label"].numpy()]
    expected = rows[data["in_margin"].numpy() == 1].mean()
    out = step_once(model, data)
    np.testing.assert_allclose(out["loss/margin"], expected, rtol=1e-5)
    np.testing.assert_allclose(out["loss"], expected, rtol=1e-5)


def test_balanced_rows_give_the_margin_loss_no_gradient(rng):
    data = batch(rng)
    first, second = make(batch_norm=False), make(batch_norm=False)
    second.backbone.set_weights(first.backbone.get_weights())
    second.head.set_weights(first.head.get_weights())
    step_once(first, data)
    changed = dict(data)
    balanced = data["in_margin"][:, None, None, None] == 0
    changed["image"] = tf.where(balanced, 255 - data["image"], data["image"])
    step_once(second, changed)
    for one, other in zip(values(first).values(), values(second).values()):
        np.testing.assert_array_equal(one, other)


def test_a_batch_without_general_rows_costs_nothing(rng):
    model, data = make(batch_norm=False, weight_decay=0.0), batch(rng)
    data["in_margin"] = tf.zeros(8)
    before = values(model)
    assert step_once(model, data)["loss"] == 0.0
    for name, value in values(model).items():
        if name.startswith(("student", "head")):
            np.testing.assert_array_equal(value, before[name])


def test_decay_reaches_kernels_and_centres_only(rng):
    # Without momentum and with in_margin = 0 the gradient is the decay alone.
    model, data = make(weight_decay=0.5, momentum=0.0), batch(rng)
    data["in_margin"] = tf.zeros(8)
    before = values(model)
    step_once(model, data)
    decayed = set()
    for name, value in values(model).items():
        if name.startswith(("student", "head")) and "moving" not in name:
            if not np.array_equal(value, before[name]):
                np.testing.assert_allclose(value, before[name] * 0.95, rtol=1e-5)
                decayed.add(name.split("/")[-1].split(":")[0])
    assert decayed == {"kernel", "centers"}


def test_batch_norm_moves_once_per_step(rng):
    model, data = make(), batch(rng)
    norm = model.backbone.layers[3]
    inputs = model.backbone.layers[2](model.backbone.layers[1](data["image"]))
    expected = 0.1 * inputs.numpy().astype(np.float64).mean(axis=(0, 1, 2))
    step_once(model, data)
    np.testing.assert_allclose(norm.moving_mean.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_reports_the_learning_rate_of_the_step(rng):
    model = FaceClassifier(backbone(), ArcFace(num_identities=3, scale=4.0, margin=0.2))
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 0.25])
    model.compile(keras.optimizers.SGD(learning_rate=schedule))
    step, data = compile_step(model, tf.distribute.get_strategy()), batch(rng)
    assert [float(step(data)["learning_rate"]) for _ in range(3)] == [0.5, 0.25, 0.25]


def test_mean_cosine_is_that_of_all_pairs_of_rows(rng):
    model, data = make(batch_norm=False), batch(rng)
    rows = model.backbone(data["image"]).numpy().astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = [rows[i] @ rows[j] for i in range(8) for j in range(i)]
    out = step_once(model, data)
    np.testing.assert_allclose(
        out["embedding/mean_cosine"], np.mean(cosines), rtol=1e-4, atol=1e-6
    )


def test_state_has_every_variable_once():
    model = make()
    state = model.state()
    kinds = [name.split("/")[0] for name in state]
    # 3 kernels and biases, gamma, beta and two moving statistics; the centres.
    assert kinds.count("student") == 7
    assert kinds.count("head") == 1
    assert kinds.count("update") == 3
    assert len({id(variable) for variable in state.values()}) == len(state)
    assert all(hasattr(variable, "assign") for variable in state.values())


def test_restored_state_continues_the_run(rng):
    data = batch(rng)
    first = make()
    step = compile_step(first, tf.distribute.get_strategy())
    step(data)
    saved = values(first)
    expected = float(step(data)["loss"])
    second = make(seed=5)
    for name, variable in second.state().items():
        variable.assign(saved[name])
    assert step_once(second, data)["loss"] == expected
    for name, value in values(second).items():
        np.testing.assert_array_equal(value, values(first)[name], err_msg=name)


def on_replicas(strategy, data):
    """Returns two replicas' step of a new model on `data`, and its state."""
    with strategy.scope():
        model = make(batch_norm=False)
    dataset = tf.data.Dataset.from_tensors(data)
    parts = next(iter(distribute(strategy, dataset)))
    out = compile_step(model, strategy)(parts)
    return {name: float(v) for name, v in out.items()}, values(model)


def test_two_replicas_take_the_step_of_one(rng, two_replicas):
    data = batch(rng)
    # Uneven shares of general rows: the mean is over the batch, not of the means.
    data["in_margin"] = tf.constant([1, 1, 1, 0, 0, 0, 0, 1], tf.float32)
    model = make(batch_norm=False)
    expected = step_once(model, data)
    received, state = on_replicas(two_replicas, data)
    for name, value in expected.items():
        np.testing.assert_allclose(received[name], value, rtol=2e-5, err_msg=name)
    for name, value in values(model).items():
        np.testing.assert_allclose(state[name], value, rtol=2e-5, atol=1e-6)


def test_unsampled_classes_do_not_move_and_the_draw_is_in_the_state(rng):
    head = CurricularFace(num_identities=40, scale=4.0, sample_rate=0.25, seed=2)
    model, data = FaceClassifier(backbone(), head), batch(rng)
    model.compile(keras.optimizers.SGD(0.1), weight_decay=0.0)
    before = np.array(head.centers)
    step_once(model, data)
    labels = tf.cast(data["label"], tf.int32)
    classes, _ = sample_classes(labels, 40, 10, tf.constant([2, 0]))
    moved = np.flatnonzero(np.any(np.array(head.centers) != before, axis=1))
    np.testing.assert_array_equal(moved, classes)
    names = {name.split("/")[-1] for name in model.state() if name.startswith("head")}
    assert {"centers", "num_draws", "stage"} <= names
    assert int(head.num_draws) == 1 and float(head.stage) != 0
