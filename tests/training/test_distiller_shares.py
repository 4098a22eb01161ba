"""Gradients of a distiller's losses on the embeddings, and weights that follow them."""

import keras
import losses_numpy as reference
import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from scipy.optimize import approx_fprime
from toys import CosineGap
from toys import backbone
from toys import batch
from toys import distiller
from toys import step_of
from toys import values

from ekd_tf.heads import ArcFace
from ekd_tf.keras_compat import tf_variable
from ekd_tf.losses import CosineLoss
from ekd_tf.losses import DistillationLoss
from ekd_tf.run.checkpoints import CheckpointStore
from ekd_tf.training.distiller import Distiller
from ekd_tf.training.gradient_share import GradientShare

# A trace is of what `tests/training/test_replicas.py` and whole runs show too.
pytestmark = pytest.mark.usefixtures("module_op_by_op")


class Gate(DistillationLoss):
    """Has a gradient only where the first image's label is not 0."""

    def compute(self, student, teacher, labels, image_ids, training):
        is_open = tf.cast(labels[0] > 0, tf.float32)
        return {"gate": is_open * tf.reduce_mean(student**2)}, {}


def make(losses, teacher_dim=8, **arguments):
    teacher = backbone(dim=teacher_dim, seed=7)
    return distiller(losses, teacher, weight_decay=0.0, **arguments)


def numerical_norm(loss, embeddings):
    """Norm of a NumPy function's gradient."""
    shape = embeddings.shape
    slopes = approx_fprime(embeddings.ravel(), lambda x: loss(x.reshape(shape)))
    return np.linalg.norm(slopes)


def test_ratios_and_shares_are_of_the_gradients_on_the_embeddings(rng):
    data = batch(rng)
    data["label"] = tf.constant([1, 2, 0, 1, 2, 0, 1, 1])
    weights = {"gap": (CosineGap(), 3.0), "gate": (Gate(), 0.1)}
    model = make(weights, margin_weight=2.0)
    embeddings = np.float64(model.backbone(data["image"]))
    teacher, centres = model.teacher_rows(data), np.array(model.head.centers)
    general = np.flatnonzero(data["in_margin"])
    of_margin = data["label"].numpy()[general], centres, 0.2, 4.0
    losses = {
        "margin": lambda x: 2 * reference.arcface(x[general], *of_margin),
        "gap": lambda x: reference.cosine(x, teacher),
        "gate": lambda x: np.mean(x**2),
    }
    norms = {name: numerical_norm(f, embeddings) for name, f in losses.items()}
    of_gap, of_gate = (norms[name] / norms["margin"] for name in ("gap", "gate"))
    out = step_of(model)(data)
    ratios = [out["gradient_ratio/gap"], out["gradient_ratio/gate"]]
    np.testing.assert_allclose(ratios, [3 * of_gap, 0.1 * of_gate], rtol=2e-4)
    np.testing.assert_allclose([out["weight/gap"], out["weight/gate"]], [3.0, 0.1])
    # A share is met in the first step, and a number beside it stays.
    shared = {"gap": (CosineGap(), GradientShare(0.3)), "gate": (Gate(), 0.1)}
    out = step_of(make(shared, margin_weight=2.0))(data)
    np.testing.assert_allclose(out["weight/gap"], 0.3 / of_gap, rtol=2e-4)
    np.testing.assert_allclose(out["gradient_ratio/gap"], 0.3, rtol=1e-5)
    np.testing.assert_allclose(out["weight/gate"], 0.1)


def test_a_share_makes_the_step_of_the_weight_it_reports(rng):
    data = batch(rng)
    keras.utils.set_random_seed(5)
    # It owns a projection, which is trained with the same weight.
    loss = CosineLoss(student_dim=8, teacher_dim=12)
    losses = {"cosine": (loss, GradientShare(0.4))}
    model = make(losses, margin_weight=2.0, teacher_dim=12)
    variables = [tf_variable(v) for v in model.trained_variables]
    # The whole loss on one tape, per unit of either weight.
    in_margin = data["in_margin"]
    with tf.GradientTape(persistent=True) as tape:
        embeddings = model.backbone(data["image"], training=True)
        rows = model.head.row_losses(embeddings, data["label"], in_margin)
        margin = tf.reduce_sum(rows * in_margin) / tf.reduce_sum(in_margin)
        cosine = loss(embeddings, model.teacher_rows(data))["cosine"]
    slopes = [
        tape.gradient(x, variables, unconnected_gradients="zero")
        for x in (margin, cosine)
    ]
    before = [v.numpy() for v in variables]
    weight = step_of(model)(data)["weight/cosine"]
    assert not 0.9 < weight < 1.1
    for variable, old, of_margin, of_cosine in zip(variables, before, *slopes):
        expected = -0.05 * (2.0 * of_margin + weight * of_cosine)
        moved, name = variable.numpy() - old, variable.name
        np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=2e-7, err_msg=name)


def test_resumes_to_the_bit(rng, tmp_path):
    batches = [batch(rng) for _ in range(4)]

    def fresh():
        return make({"gap": (CosineGap(), GradientShare(0.3))})

    whole, resumed = fresh(), fresh()
    step, store = step_of(whole), CheckpointStore(tmp_path)
    outs = [step(data) for data in batches[:2]]
    store.save(2, whole.state(), {})
    outs += [step(data) for data in batches[2:]]
    store.restore(resumed.state())
    step = step_of(resumed)
    assert [step(data) for data in batches[2:]] == outs[2:]
    state = values(resumed)
    for name, value in values(whole).items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)
    kept = {name.removeprefix("share/gap/") for name in state if "share/gap/" in name}
    assert kept == {"0000/margin_norm", "0001/norm", "0002/weight", "0003/num_steps"}


def test_loss_scale_and_precision_do_not_enter(rng, mixed_policy):
    data = batch(rng)

    def fresh(scaling="none"):
        losses = {"gap": (CosineGap(), GradientShare(0.3)), "gate": (Gate(), 0.1)}
        return make(losses, loss_scaling=scaling)

    def figures(out):
        assert np.isfinite(out["gradient_norm"])
        return [out["weight/gap"], out["gradient_ratio/gate"]]

    exact = figures(step_of(fresh())(data))
    mixed_policy("mixed_bfloat16")
    np.testing.assert_allclose(figures(step_of(fresh())(data)), exact, rtol=0.05)
    mixed_policy("mixed_float16")
    model = fresh("dynamic")
    step, state = step_of(model), values(model)
    scaled = []
    for scale in (1.0, 256.0):
        for name, variable in model.state().items():
            variable.assign(state[name])
        model.state()["update/loss_scale"].assign(scale)
        scaled.append(figures(step(data)))
    np.testing.assert_array_equal(*scaled)
    np.testing.assert_allclose(scaled[0], exact, rtol=0.01)


def test_refuses_a_share_of_no_margin_loss_and_a_second_loss_called_margin():
    losses = {"gap": (CosineGap(), GradientShare(0.3)), "gate": (Gate(), 1.0)}
    for head, weight in ((None, 1.0), (ArcFace(num_identities=3), 0.0)):
        words = "`margin_weight` above 0.*Share for gap$"
        refused(words, Distiller, backbone(), backbone(), losses, head, weight)
    for losses, weight, words in (
        ({"gap": (CosineGap(), -5.0)}, 1.0, r"`weight of gap` must be in \[0, inf"),
        ({"gap": CosineGap()}, -1.0, r"`margin_weight` must be in \[0, inf"),
    ):
        refused(words, Distiller, backbone(), backbone(), losses, None, weight)
    losses = {"margin": (CosineGap(), 1.0)}
    refused("'margin': that is the head's", Distiller, backbone(), backbone(), losses)


@pytest.mark.parametrize("head", [None, ArcFace(num_identities=3)])
def test_without_a_margin_loss_there_is_no_ratio_to_report(rng, head):
    losses = {"gap": (CosineGap(), 2.0)}
    model = Distiller(backbone(), backbone(seed=7), losses, head, margin_weight=0.0)
    model.compile(keras.optimizers.SGD(learning_rate=0.05))
    out = step_of(model)(batch(rng))
    assert out["weight/gap"] == 2.0
    assert not [name for name in out if name.startswith("gradient_ratio/")]
