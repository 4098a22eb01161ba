import shutil

import numpy as np
import pytest
import tensorflow as tf
from pictures import write_people
from refusals import refused
from test_session import SOURCE
from test_session import VALUES
from toys import backbone

from ekd_tf.evaluation.calibration import least_fpr
from ekd_tf.run.assembly import assemble
from ekd_tf.run.assembly import plan
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.workdir import Workdir
from ekd_tf.training.classifier import FaceClassifier
from ekd_tf.training.distiller import Distiller

pytestmark = pytest.mark.usefixtures("small_student")
LENGTH = {"steps": None, "lr_milestones": ()}


def build(workdir=None, **changes):
    config = TrainConfig(**{**VALUES, **changes})
    return assemble(config, tf.distribute.get_strategy(), workdir)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.keras"
    backbone(size=32).save(path)
    return str(path)


def test_says_what_is_wrong_with_the_flags(teacher):
    share = {"teacher": teacher, "distill": "ekd:30%"}
    of_share = "`--distill=ekd:30%` asks for a share.*--"
    milestones = "`--lr_milestones` must "
    warmup = "`--warmup_steps` must be below the steps of the run, 4: .*Received: 4"
    for changes, message in (
        (LENGTH, "Give one of `--steps` and `--epochs`"),
        ({"epochs": 2.0}, "Give one of `--steps` and `--epochs`"),
        ({**LENGTH, "epochs": -1.0}, r"`--epochs` must be in \(0, "),
        ({"distill": "ekd:1"}, "`--distill=ekd:1` needs a teacher"),
        ({"teacher": teacher}, "nothing to learn from it"),
        (
            {"distill": "best"},
            "=best` needs .* centres.*ekd_tf.embed_teacher",
        ),
        ({"teacher": teacher, "distill": "kd"}, "`--distill=kd` needs .* centres"),
        ({"head": "none"}, "Without a teacher there must be .*--head=none"),
        ({**share, "head": "none"}, f"{of_share}head=none"),
        ({**share, "margin_weight": 0}, f"{of_share}margin_weight=0"),
        ({**share, "general_batch": 0}, f"{of_share}general_batch=0"),
        ({"lr_milestones": ("soon",)}, f"{milestones}be a number. Received: 'soon'"),
        ({"lr_milestones": ("3", "4")}, f"{milestones}.*end .* step 4. Received: 3,4"),
        ({"lr_milestones": ("3", "2")}, f"{milestones}increase, in steps"),
        ({"lr_milestones": ("1",), "warmup_steps": 2}, "warm-up of 2 steps"),
        ({"steps": None, "epochs": 2.0}, "epochs, .* step 8. .*: 3, at steps 12"),
        ({"lr_milestones": (), "schedule": "step"}, "needs --lr_milestones"),
        ({"lr_milestones": (), "warmup_steps": 4}, warmup),
        ({"profile_steps": "5:6"}, "`--profile_steps` must begin within .* 4 steps"),
    ):
        refused(message, build, **changes)


def test_a_teacher_makes_the_difference_between_the_models(teacher):
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
    assert build(**LENGTH, epochs=2.5).steps == 10
    assert build(**LENGTH, epochs=0.01).steps == 1


def test_the_plan_says_when_it_evaluates_and_what_that_measures():
    parts = build()
    for every, words in (
        (0, "heldout; at the end"),
        (3, "heldout; every 3 steps and at the end"),
        (5, "heldout; at the end alone: --evaluate_every=5 is more than all steps"),
    ):
        settings = TrainConfig(**{**VALUES, "evaluate_every": every})
        assert f"evaluate  {words}" in plan(settings, parts, 0, 1)

    def planned(**changes):
        return plan(TrainConfig(**VALUES), build(**changes), 0, 1)

    # And which FPRs the images held out allow. 24 make 276 pairs, 6 x 6 of them of one
    # identity; ten of the others lie above the threshold.
    assert planned()[2] == (
        "measures  FPR 4.2e-2 and above: those held out make 240 pairs of different "
        "people; more people allow lower ones"
    )
    few = SOURCE.replace("=8", "=2") + ",first=1000"
    assert planned(heldout_data=few)[2].startswith("measures  FPR 6.3e-1 and above: ")
    assert not any("measures" in line for line in planned(heldout_data=None))
    # Sources other than folders may be of one person.
    assert least_fpr(0) > 1


def test_what_is_not_given_follows_the_run(teacher):
    parts = build(teacher=teacher, distill="cosine", steps=200, lr_milestones=())
    rate = parts.model._update.value.optimizer._learning_rate
    found = [float(rate(step)) for step in (4, 9, 105, 200)]
    peak = VALUES["learning_rate"]
    # A warm-up of 10 of 200 steps, then a cosine to 0.
    np.testing.assert_allclose(found, [peak / 2, peak, peak / 2, 0], atol=1e-6)


def test_data_that_has_changed_is_refused_unless_forced(tmp_path):
    faces = write_people(tmp_path / "faces", people=8, each=3, side=32)
    given = {"data": f"folder:{faces}", "heldout_data": None, "holdout_identities": 4}
    workdir = Workdir(tmp_path / "run")
    parts = build(workdir, **given)
    flags = TrainConfig(**{**VALUES, **given}).to_record()
    workdir.record_run(flags, data=parts.note)
    shutil.copytree(faces / "p0", faces / "a")
    words = "the data has changed: 1 identities added, 0 gone; 3 images added, 0 gone"
    refused(words, build, workdir, **given)
    forced = build(workdir, force_data=True, **given).heldout
    assert forced.identity_names() == parts.heldout.identity_names()
