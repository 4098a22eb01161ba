import eager
import keras
import losses_numpy as reference
import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from toys import CosineGap
from toys import backbone
from toys import batch
from toys import distiller
from toys import step_of
from toys import values

from ekd_tf.heads import ArcFace
from ekd_tf.keras_compat import tf_variable
from ekd_tf.losses import AdaDistillLoss
from ekd_tf.losses import CosineLoss
from ekd_tf.losses import EKDLoss
from ekd_tf.losses import SPLoss
from ekd_tf.training.classifier import FaceClassifier
from ekd_tf.training.distiller import Distiller
from ekd_tf.training.gradient_share import GradientShare
from ekd_tf.training.loop import compile_step

op_by_op = pytest.mark.usefixtures("op_by_op")


def test_weighted_terms_sum_to_the_loss_of_one_run_of_each_model(rng):
    def embed_teacher(images):
        rows = tf.reshape(images, [-1, 16 * 16 * 3])[:, :8]
        return tf.identity(tf.cast(rows, tf.float32), name="of_teacher")

    losses = {"gap": (CosineGap(), 3.0), "ekd": (EKDLoss(memory=0), 2.0)}
    losses["published"] = EKDLoss.reference()
    model, data = distiller(losses, embed_teacher), batch(rng)
    student = model.backbone(data["image"]).numpy()
    teacher = model.teacher_rows(data).numpy()
    plain = EKDLoss(memory=0)(student, teacher, data["label"], data["image_id"])
    step = compile_step(model, tf.distribute.get_strategy())
    out = {name: float(value) for name, value in step(data).items()}
    of_gap = 3 * reference.cosine(student, teacher)
    np.testing.assert_allclose(out["loss/cosine/gap"], of_gap, rtol=1e-4)
    for name in ("ekd/positive", "ekd/negative"):
        expected = 2 * float(plain[name])
        np.testing.assert_allclose(out[f"loss/{name}"], expected, rtol=1e-4)
    parts = [v for name, v in out.items() if name.startswith("loss/")]
    np.testing.assert_allclose(out["loss"], sum(parts), rtol=1e-5)
    assert out["pairs/rows"] == 8
    # Both watch their thresholds; those as published begin at 0.
    watched = [out[f"{n}/threshold/teacher/fpr_1e-1"] for n in ("ekd", "published")]
    np.testing.assert_allclose(watched[1], 0.01 * watched[0], atol=1e-3)
    operations = step.get_concrete_function(data).graph.get_operations()
    assert [op.type for op in operations].count("Conv2D") == 1
    assert sum("of_teacher" in op.name for op in operations) == 1


def test_a_skipped_step_leaves_every_state_but_its_count(rng, two_replicas):
    with two_replicas.scope():
        model = distiller({"ekd": (EKDLoss(memory=0), 50.0)}, batch_norm=True)
    data, step = batch(rng), step_of(model, two_replicas)

    def make_step(data):
        step(data)
        return values(model)

    before = make_step(data)
    # Pixels cannot be bad, so the row's weight is: loss and gradients are NaN while
    # BatchNorm and thresholds see other images.
    bad = {**data, "in_margin": data["in_margin"] * float("nan")}
    bad["image"] = 255 - data["image"]
    after = make_step(bad)
    moved = [n for n in before if not np.array_equal(before[n], after[n])]
    assert sorted(moved) == ["update/good_steps", "update/skipped_steps"]
    last = make_step({**bad, "in_margin": data["in_margin"]})
    moved = {n.split("/")[0] for n in last if not np.array_equal(last[n], after[n])}
    assert moved == {"student", "head", "loss", "optimizer", "update"}


def several_losses():
    """Of one that owns a projection, one with that and centres, and one with none."""
    keras.utils.set_random_seed(5)
    sizes = {"student_dim": 8, "teacher_dim": 12}
    return {
        "cosine": (CosineLoss(**sizes), 4.0),
        "ada_distill": (AdaDistillLoss(3, scale=4.0, **sizes), 0.5),
        "sp": (SPLoss(), 2.0),
    }


@op_by_op
def test_what_losses_own_is_trained_and_in_the_state_and_the_teacher_in_neither(rng):
    teacher = backbone(dim=12, seed=7)
    model, data = distiller(several_losses(), teacher, batch_norm=True), batch(rng)
    frozen = [np.array(weight) for weight in teacher.get_weights()]
    rows = teacher(data["image"], training=False).numpy()
    before = values(model)
    owned = [name for name in before if name.startswith("loss/")]
    kinds = sorted("/".join(name.split("/")[1::2]) for name in owned)
    assert kinds == ["ada_distill/centres", "ada_distill/kernel", "cosine/kernel"]
    out = step_of(model)(data)
    assert {"loss/cosine", "loss/ada_distill", "loss/sp"} <= set(out)
    for name, value in values(model).items():
        if name in owned:
            assert np.abs(value - before[name]).max() > 0, name
    for one, other in zip(frozen, teacher.get_weights()):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(model.teacher_rows(data), rows)
    of_teacher = {tf_variable(v).ref() for v in teacher.variables}
    for held in (model.state().values(), map(tf_variable, model.variables)):
        assert not {v.ref() for v in held} & of_teacher
    assert model.backbone.count_params() == backbone(dim=8).count_params()


def test_two_replicas_train_projections_and_centres_as_one(rng, two_replicas):
    single = distiller(several_losses())
    with two_replicas.scope():
        shared = distiller(several_losses())
    step, of_two = step_of(single), step_of(shared, two_replicas)
    # The second sets out from the centres that the first has moved.
    for _ in range(2):
        data = batch(rng)
        with eager.op_by_op():
            step(data)
        of_two(data)
    for name, one in values(single).items():
        two = values(shared)[name]
        np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-5, err_msg=name)


@op_by_op
def test_losses_and_thresholds_are_float32_and_near_those_of_float32(rng, mixed_policy):
    data, seen = batch(rng), {}
    for policy in ("float32", "mixed_float16", "mixed_bfloat16"):
        mixed_policy(policy)
        losses = {"gap": (CosineGap(), 3.0), "ekd": (EKDLoss(memory=0), 50.0)}
        model = distiller(losses, backbone(seed=7))
        seen[policy] = compile_step(model, tf.distribute.get_strategy())(data)
        assert all(value.dtype == tf.float32 for value in seen[policy].values())
        for name, variable in model.state().items():
            assert variable.dtype in (tf.float32, tf.int64), name
        for name, value in seen["float32"].items():
            if name.startswith(("loss", "threshold/")) and name != "loss_scale":
                found = seen[policy][name]
                np.testing.assert_allclose(found, value, rtol=0.05, atol=0.01)


def test_a_network_within_a_network_computes_in_float16(mixed_policy):
    for policy, scale in (("mixed_float16", 2.0**15), ("mixed_bfloat16", 1.0)):
        mixed_policy(policy)
        inner = backbone()
        mixed_policy("float32")
        outer = keras.Sequential([keras.Input((16, 16, 3), dtype="uint8"), inner])
        model = Distiller(outer, None, {"sp": SPLoss()})
        model.compile("sgd")
        assert float(model.state()["update/loss_scale"]) == scale


def test_takes_an_optimizer_by_name_and_a_loss_of_weight_one_but_not_none(rng):
    model = Distiller(backbone(), backbone(dim=8, seed=7), {"sp": SPLoss()})
    assert model.loss_weights_by_name == {"sp": 1.0}
    model.compile("sgd")
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    two = {"a": SPLoss(), "b": (SPLoss(), 2.0)}
    refused("name of their own.*sp, sp", Distiller, backbone(), backbone(), two)
    share = GradientShare(0.3)
    losses = {"a": (SPLoss(), share), "b": (CosineGap(), share)}
    head = ArcFace(num_identities=3)
    refused("of their own, which", Distiller, backbone(), backbone(), losses, head)
    alone = FaceClassifier(backbone())
    alone.compile("sgd")
    refused("Without a `head`", alone.train_step, batch(rng))
    sp = {"sp": SPLoss()}
    for words, teacher, losses in (
        ("at least one distillation loss", backbone(), {}),
        ("must be a dict", backbone(), [SPLoss()]),
        (
            "DistillationLoss objects",
            backbone(),
            {"mse": keras.losses.MeanAbsoluteError()},
        ),
        ("`teacher` must be callable.* 'teacher.onnx'", "teacher.onnx", sp),
    ):
        refused(words, Distiller, backbone(), teacher, losses)
    data = batch(rng)
    del data["image_id"]
    words = "with image, image_id, label. Received: "
    refused(f"{words}.*'in_margin', 'label'", model.train_step, data)
    refused(f"{words}tuple", model.train_step, (data["image"], data["label"]))
