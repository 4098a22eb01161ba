import json
import re
import types
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from eager import op_by_op
from pictures import write_people
from refusals import refused
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata
from test_logs import lines
from traces import events_in

from ekd_tf import embedders
from ekd_tf.data.unreadable import UnreadableError
from ekd_tf.evaluate import EvaluateSettings
from ekd_tf.run import factory
from ekd_tf.run import session
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.data import open_run_data
from ekd_tf.run.data import sources_of_run
from ekd_tf.run.evaluating import evaluate_model
from ekd_tf.run.session import run_training
from ekd_tf.run.workdir import Workdir

pytestmark = pytest.mark.usefixtures("small_student", "module_no_pictures")
SOURCE = "synthetic:identities=8,images=4,size=32"
# What makes a run small.
VALUES = {
    "data": SOURCE,
    "heldout_data": SOURCE.replace("=8", "=6") + ",first=1000",
    "general_batch": 8,
    "balanced_identities": 2,
    "model": "iresnet18",
    "width": 0.125,
    "embedding_dim": 16,
    "input_size": 32,
    "margin": "0.2",
    "scale": 16.0,
    "steps": 4,
    "learning_rate": 0.02,
    "lr_milestones": ("3",),
    "log_every": 1,
    "checkpoint_every": 2,
}
SHORT = {"steps": 1, "lr_milestones": ()}


def train(workdir, traced=False, **changes):
    values = {**VALUES, "workdir": str(workdir), **changes}
    with op_by_op(not traced):
        run_training(TrainConfig(**values))
    return workdir


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return train(tmp_path_factory.mktemp("teacher") / "run", heldout_data=None)


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, teacher):
    return train(
        tmp_path_factory.mktemp("student") / "run",
        traced=True,
        teacher=str(teacher),
        distill="ekd:5",
        eval_sets=(f"other:{SOURCE},first=2000",),
        evaluate_every=2,
    )


def test_a_run_is_evaluated_on_what_it_held_out(teacher, tmp_path):
    for model, words in (
        (teacher, "held out no identities: give --eval_sets"),
        (tmp_path / "none.keras", "There is no run in .*/none.keras"),
    ):
        refused(words, evaluate_model, EvaluateSettings(model=str(model)))


def test_leaves_what_repeats_the_run(distilled):
    run = json.loads((distilled / "run.json").read_text())
    assert run["flags"]["distill"] == "ekd:5"
    assert set(run["starts"][0]) >= {"command", "versions", "commit", "time"}
    names = {path.name for path in distilled.iterdir()}
    (events,) = {name for name in names if name.startswith("events.out.tfevents.")}
    others = "run.json identities.json metrics.jsonl model.keras lock"
    assert names == {events, *others.split(), "checkpoints", "reports", "teacher"}
    names = sorted(path.name for path in (distilled / "checkpoints").iterdir())
    assert names == [f"checkpoint-{n}.npz" for n in ("000000002", "000000004")]
    train_source, heldout = sources_of_run(distilled)
    assert (train_source.num_identities, heldout.num_identities) == (8, 6)


def values_in(workdir):
    """Returns the last value of each tag that TensorBoard finds in a run."""
    events = events_in(next(workdir.glob("events.out.*")))
    return {v.tag: v for event in events for v in event.summary.value}


def test_tensorboard_has_what_its_charts_name_and_compares_runs(distilled, teacher):
    tags = values_in(distilled)
    assert {tag for tag in tags if "heldout/roc" in tag} == {"7 pictures/heldout/roc"}
    text = tf.make_ndarray(tags["custom_scalars__config__"].tensor).item()
    # As TensorBoard matches them.
    shown = {
        (category.title.partition(" of ")[0], chart.title): sorted(
            tag
            for tag in tags
            if any(re.match(pattern, tag) for pattern in chart.multiline.tag)
        )
        for category in layout_pb2.Layout.FromString(text).category
        for chart in category.chart
    }
    assert {kind for kind, _ in shown} == {"TPR", "Thresholds", "Critical pairs"}
    assert all(shown.values())
    # Curves of teacher and student share a chart.
    assert shown["Thresholds", "FPR 1e-1"] == [
        f"3 threshold/threshold/{model}/fpr_1e-1" for model in ("student", "teacher")
    ]
    assert shown["Critical pairs", "All"] == [
        f"5 distillation/critical/{kind}" for kind in ("negative", "positive")
    ]
    assert shown["TPR", "other, FPR 1e-1"] == ["2 TPR/other/tpr_at_fpr_1e-1"]
    # A run has charts of its own curves alone.
    assert "custom_scalars__config__" not in values_in(teacher)
    # It compares them by their settings.
    content = tags[metadata.SESSION_START_INFO_TAG].metadata.plugin_data.content
    start = metadata.parse_session_start_info_plugin_data(content)
    assert start.group_name == f"{distilled.name} in {distilled.parent}"
    assert start.hparams["distill"].string_value == "ekd:5"
    assert start.hparams["learning_rate"].number_value == 0.02
    assert start.hparams["flip"].bool_value is True
    # Not given, and of no effect on the arithmetic.
    assert not {"epochs", "workdir", "log_every", "eval_sets"} & {*start.hparams}


def test_logs_every_term_and_evaluates_on_every_set(distilled):
    logged = [line for line in lines(distilled) if "loss" in line]
    assert [line["step"] for line in logged] == [1, 2, 3, 4]
    terms = "loss/margin loss/ekd/positive loss/ekd/negative critical/positive"
    terms += " threshold/teacher/fpr_1e-1 batch_tpr/student/fpr_1e-2 gradient_norm"
    assert set(logged[0]) >= set(terms.split())
    rates = [line["learning_rate"] for line in logged]
    np.testing.assert_allclose(rates, [0.02, 0.02, 0.02, 0.002], rtol=1e-6)
    evaluated = [line for line in lines(distilled) if "loss" not in line]
    assert [line["step"] for line in evaluated] == [2, 4]
    figures = ("accuracy", "tpr_at_fpr_1e-1", "gap_at_fpr_1e-1")
    expected = {
        f"{name}/{figure}" for name in ("heldout", "other") for figure in figures
    }
    assert all(expected <= line.keys() for line in evaluated)
    (drawn,) = (distilled / "teacher").iterdir()
    assert b"other/auc" in drawn.read_bytes()
    report = json.loads((distilled / "reports" / "heldout.json").read_text())
    assert report["student"]["num_positive"] == 6 * 6
    assert report["gap"]["points"]["1e-1"]["gap"] == pytest.approx(
        report["teacher"]["tpr"]["1e-1"] - report["student"]["tpr"]["1e-1"]
    )
    for name in ("heldout_roc.png", "heldout_similarities.png", "other_roc.png"):
        assert (distilled / "reports" / name).is_file()


def test_two_runs_do_not_share_a_workdir(tmp_path):
    with Workdir(tmp_path).locked(), pytest.raises(ValueError, match="is in use by"):
        train(tmp_path)


def test_fewer_steps_than_were_made_are_refused_and_not_recorded(teacher):
    before = (teacher / "run.json").read_text()
    fewer = {**SHORT, "heldout_data": None, "force_flags": True}
    refused("has made 4 steps, more than --steps=1", train, teacher, **fewer)
    assert (teacher / "run.json").read_text() == before


def test_workers_that_would_go_on_from_different_steps_are_refused(
    teacher, monkeypatch
):
    monkeypatch.setattr(session, "has_other_workers", lambda strategy: True)
    # As if another one, too, took part, from step 2.
    monkeypatch.setattr(
        session, "sum_over_replicas_of", lambda strategy: lambda own: own + 2.0
    )
    words = "go on from step 4 and others from another.*read the same `--workdir`"
    refused(words, train, teacher, heldout_data=None)


def test_a_full_disk_ends_the_run_in_words(tmp_path, monkeypatch):
    path = tmp_path / "run" / "checkpoints" / "checkpoint-000000002.npz"
    full = mock.Mock(side_effect=OSError(28, "No space left on device", str(path)))
    monkeypatch.setattr("ekd_tf.run.checkpoints.write_aside", full)
    assert refused(None, train, tmp_path / "run", heldout_data=None) == (
        f"{path} cannot be written: No space left on device. The last checkpoint is "
        "that of step 0: mend the cause, and the same command goes on from there"
    )


def test_unreadable_images_are_allowed_for_every_reader(tmp_path, teacher):
    faces = write_people(tmp_path / "faces", people=8, each=3, side=32)
    data = {"data": f"folder:{faces}", "holdout_identities": 4}
    arguments = {**data, "teacher": str(teacher), "distill": "cosine", **SHORT}
    arguments["heldout_data"] = None
    held = open_run_data(TrainConfig(**data), None)[1].identity_names()
    trained = sorted({path.name for path in faces.iterdir()} - set(held))
    bad = [faces / held[0] / "1.png", faces / trained[0] / "1.png"]
    for path in bad:
        path.write_bytes(b"no image")
    # Found before the first step, and nothing recorded.
    words = f"cannot decode {bad[0]}: not an"
    refused(words, train, tmp_path / "run", error=UnreadableError, **arguments)
    assert not (tmp_path / "run" / "run.json").exists()
    run = train(tmp_path / "run", skip_corrupt=2, **arguments)
    report = json.loads((run / "reports" / "heldout.json").read_text())
    assert [line.split(": ")[0] for line in report["left_out"]] == [str(bad[0])]
    # 3 identities of 3 images and one of 2.
    assert report["student"]["num_positive"] == 3 * 3 + 1
    assert report["teacher"]["num_positive"] == 3 * 3 + 1


def test_an_evaluation_that_cannot_work_is_found_before_the_first_step(tmp_path):
    few = "synthetic:identities=4,images=2,size=32,first=99"
    words = (
        "`heldout` cannot be evaluated on.* 4 positive .*so that 8 can be drawn.*"
        "--holdout_identities"
    )
    refused(words, train, tmp_path / "run", heldout_data=few)
    # So that the mended command is taken.
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_last_evaluation_that_failed_is_made_by_the_same_command(
    tmp_path, monkeypatch
):
    full = mock.Mock(side_effect=OSError(28, "No space left on device"))
    with monkeypatch.context() as patch:
        patch.setattr("ekd_tf.evaluation.result.Result.write", full)
        words = "step 1 failed: No space left on device.*model.keras is saved"
        refused(words, train, tmp_path / "run", **SHORT)
    assert [line["step"] for line in lines(tmp_path / "run")] == [1]
    run = train(tmp_path / "run", **SHORT)
    assert [line["step"] for line in lines(run)] == [1, 1]
    assert "heldout/accuracy" in lines(run)[-1]
    assert (run / "reports" / "heldout.json").exists()
    before = (run / "model.keras").stat().st_mtime_ns
    train(run, **SHORT)
    assert (run / "model.keras").stat().st_mtime_ns == before


def test_a_cache_is_all_that_is_needed_of_a_teacher(tmp_path):
    source, cache = factory.make_source(SOURCE), tmp_path / "cache"
    rows = np.random.default_rng(0).normal(size=(len(source), 2, 24))
    gone = types.SimpleNamespace(fingerprint="a", input_size=112, embedding_dim=24)
    note = embedders.describe_cache(gone, source, "gone.onnx", SOURCE)
    embedders.CacheWriter(cache, note).write(lambda first: [rows.astype(np.float32)])
    arguments = {
        "teacher": f"cache:{cache}",
        "distill": "cosine,kd,proxyless_kd",
        "heldout_data": None,
        "holdout_identities": 3,
        "eval_sets": (f"other:{SOURCE},first=2000",),
        **SHORT,
    }
    run = train(tmp_path / "run", **arguments)
    logged = lines(run)
    for name in arguments["distill"].split(","):
        assert any(key.startswith(f"loss/{name}") for key in logged[0]), name
    # Held-out images are in the cache, those of another source are not.
    for name, has_teacher in (("heldout", True), ("other", False)):
        report = json.loads((run / "reports" / f"{name}.json").read_text())
        assert (report["teacher"] is not None) == has_teacher
        assert report["student"]["num_positive"] > 0
    (run / "model.keras").unlink()
    note = json.loads((cache / "cache.json").read_text())
    note["teacher_fingerprint"] = "of another"
    (cache / "cache.json").write_text(json.dumps(note))
    refused("The teacher is not the one the run in", train, run, **arguments)


def test_the_students_first_weights_depend_on_no_teacher(distilled, teacher):
    one, other = (
        np.load(path / "checkpoints" / "checkpoint-000000002.npz")
        for path in (distilled, teacher)
    )
    kernels = [name for name in one.files if re.fullmatch("student/.*kernel", name)]
    assert len(kernels) == 2
    for name in kernels:
        assert np.abs(one[name] - other[name]).max() < 0.1 * np.abs(one[name]).max()


@pytest.mark.keras2
def test_saves_the_averages_that_the_optimizer_keeps(tmp_path):
    average = {"optimizer": "addons/MovingAverage:SGD", "heldout_data": None}
    path = train(tmp_path / "run", **average, **SHORT)
    with np.load(path / "checkpoints" / "checkpoint-000000001.npz") as checkpoint:
        trained = checkpoint["student/0000/kernel"]
        # The optimizer's state begins with its step and the averages.
        average = checkpoint["optimizer/0001"]
    assert not np.array_equal(trained, average)
    found = embedders.load_embedder(path).get_weights()[0]
    np.testing.assert_array_equal(found, average)
