"""Tests for `ekd_tf.run.assembly`."""

import numpy as np
import pytest
import tensorflow as tf
from test_session import VALUES

from ekd_tf.models import build_backbone
from ekd_tf.run.assembly import assemble
from ekd_tf.run.assembly import plan
from ekd_tf.run.config import TrainConfig
from ekd_tf.training.classifier import FaceClassifier
from ekd_tf.training.distiller import Distiller


def build(strategy=None, **changes):
    return assemble(
        TrainConfig(**{**VALUES, **changes}),
        strategy or tf.distribute.get_strategy(),
        None,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": None}, "Give one of `--steps` and `--epochs`"),
        ({"epochs": 2.0}, "Give one of `--steps` and `--epochs`"),
        ({"distill": "ekd:1"}, "`--distill=ekd:1` needs a teacher"),
        ({"head": "none"}, "Without a teacher `--head` cannot be none"),
        ({"model": "mobilenet"}, "Did you mean 'mobilefacenet'"),
        ({"optimizer": "sgdd"}, "Did you mean 'sgd'"),
        (
            {"lr_milestones": ("soon",)},
            "`--lr_milestones` must be a number. Received: 'soon'",
        ),
        (
            {"lr_milestones": ("3", "4")},
            "`--lr_milestones` must .*end .* step 4. Received: 3,4",
        ),
        ({"lr_milestones": ("nan",)}, "`--lr_milestones` must be a finite number"),
        ({"steps": None, "epochs": -1.0}, r"`--epochs` must be in \(0, "),
        ({"lr_milestones": ("3", "2")}, "`--lr_milestones` must increase, in steps"),
        ({"lr_milestones": ("1",), "warmup_steps": 2}, "warm-up of 2 steps"),
        ({"lr_milestones": (), "schedule": "step"}, "needs --lr_milestones"),
        ({"lr_milestones": ("-3",)}, "`--lr_milestones` must increase"),
        (
            {"steps": None, "epochs": 2.0, "lr_milestones": ("3",)},
            "in epochs, .* at step 8. Received: 3, at steps 12",
        ),
        (
            {"warmup_steps": 4, "lr_milestones": ()},
            "`--warmup_steps` must be below the steps of the run, 4: .*Received: 4",
        ),
        ({"profile_steps": "5:6"}, "`--profile_steps` must begin within .* 4 steps"),
        ({"balanced_identities": 9}, "at most the number of identities"),
        ({"margin": "28.6"}, r"\[0, pi/2\) radians. Received: margin=28.6"),
        ({"input_size": 36}, "multiple of 8 pixels from 32 up"),
    ],
)
def test_says_what_is_wrong_with_the_flags(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.keras"
    build_backbone("iresnet18", width=0.125, input_size=32).save(path)
    return str(path)


def test_a_share_needs_a_margin_loss(teacher):
    for without, value in (
        ("head", "none"),
        ("margin_weight", 0),
        ("general_batch", 0),
    ):
        words = f"`--distill=ekd:30%` asks for a share.*--{without}={value}"
        with pytest.raises(ValueError, match=words):
            build(teacher=teacher, distill="ekd:30%", **{without: value})


def test_a_teacher_makes_the_difference_between_the_models(teacher):
    with pytest.raises(ValueError, match="nothing to learn from it"):
        build(teacher=teacher)
    alone = build()
    assert type(alone.model) is FaceClassifier and alone.teacher is None
    distilled = build(teacher=teacher, distill="ekd:3", head="none")
    assert isinstance(distilled.model, Distiller)
    assert distilled.model.loss_weights_by_name == {"ekd": 3.0}
    assert not distilled.teacher.in_step.model.trainable_weights
    shared = build(teacher=teacher, distill="cosine:30%,sp:2").model
    assert shared.loss_weights_by_name["cosine"].share == 0.3
    assert shared.loss_weights_by_name["sp"] == 2.0


def test_epochs_are_counted_in_general_images():
    # 8 identities x 4 images: 4 batches of 8 general rows see each once.
    assert build(steps=None, epochs=2.5, lr_milestones=()).steps == 10
    assert build(steps=None, epochs=0.01, lr_milestones=()).steps == 1
    assert build().steps == VALUES["steps"]


def test_the_plan_says_when_it_evaluates():
    for every, words in (
        (0, "heldout; at the end"),
        (3, "heldout; every 3 steps and at the end"),
        (5, "heldout; at the end alone: --evaluate_every=5 is more than all steps"),
    ):
        settings = TrainConfig(**{**VALUES, "evaluate_every": every})
        assert f"evaluate  {words}" in plan(settings, build(evaluate_every=every), 0, 1)


def test_what_is_not_given_follows_the_run(teacher):
    given = {"steps": 200, "lr_milestones": ()}
    parts = build(teacher=teacher, distill="cosine", **given)
    assert parts.model.loss_weights_by_name["cosine"].share == 1.0
    rate = parts.model._update.value.optimizer._learning_rate
    found = [float(rate(step)) for step in (4, 9, 105, 200)]
    peak = VALUES["learning_rate"]
    # A warm-up of 10 of 200 steps, then a cosine to 0.
    np.testing.assert_allclose(found, [peak / 2, peak, peak / 2, 0], atol=1e-6)
    alone = build(teacher=teacher, distill="cosine", head="none", **given)
    assert alone.model.loss_weights_by_name == {"cosine": 1.0}
