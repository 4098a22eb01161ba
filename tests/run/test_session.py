import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
import toys
from pictures import write_people
from test_board import experiment
from test_board import layout
from test_board import session
from test_board import written

from ekd_tf.data.unreadable import UnreadableError
from ekd_tf.embedders import CacheWriter
from ekd_tf.embedders import load_embedder
from ekd_tf.run import assembly
from ekd_tf.run import factory
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.data import open_run_data
from ekd_tf.run.data import sources_of_run
from ekd_tf.run.logs import MetricsLog
from ekd_tf.run.session import run_training
from ekd_tf.run.workdir import Workdir

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


@pytest.fixture(scope="module", autouse=True)
def small_student():
    """A student that traces in a fraction of the time; real ones: tests/integration."""

    def make(name, embedding_dim, input_size, **arguments):
        return toys.backbone(dim=embedding_dim, size=input_size, seed=None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "make_student", make)
        yield


def train(workdir, **changes):
    values = {**VALUES, "workdir": str(workdir), **changes}
    run_training(TrainConfig(**values), ["train"])
    return workdir


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return train(tmp_path_factory.mktemp("teacher") / "run")


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, teacher):
    path = tmp_path_factory.mktemp("student") / "run"
    return train(path, teacher=str(teacher), distill="ekd:5")


def lines(workdir):
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def weights(workdir):
    return load_embedder(workdir).get_weights()


def test_leaves_what_repeats_the_run(distilled):
    run = json.loads((distilled / "run.json").read_text())
    assert run["flags"]["distill"] == "ekd:5"
    assert set(run["starts"][0]) >= {"command", "versions", "commit", "time"}
    names = {path.name for path in distilled.iterdir()}
    (events,) = {name for name in names if name.startswith("events.out.tfevents.")}
    others = "run.json identities.json metrics.jsonl model.keras lock about.tfevents"
    assert names == {events, *others.split(), "checkpoints", "reports", "teacher"}
    names = sorted(path.name for path in (distilled / "checkpoints").iterdir())
    assert names == [f"checkpoint-{n}.npz" for n in ("000000002", "000000004", "best")]


def test_tensorboard_has_what_its_charts_and_columns_name(distilled):
    tags = {
        value.tag
        for path in distilled.glob("events.out.tfevents.*")
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
        for value in tf.compat.v1.Event.FromString(record).summary.value
    }
    values = written(distilled)
    charts = layout(values["custom_scalars__config__"])
    assert {kind for kind, _ in charts} == {"TPR", "Thresholds", "Critical pairs"}
    for patterns in charts.values():
        assert all(any(re.match(p, tag) for tag in tags) for p in patterns)
    assert {info.name.tag for info in experiment(values).metric_infos} <= tags
    assert session(values).hparams["distill"].string_value == "ekd:5"
    assert {tag for tag in tags if "heldout/roc" in tag} == {"7 pictures/heldout/roc"}


def test_logs_every_term_the_thresholds_and_the_evaluation(distilled):
    *logged, last = lines(distilled)
    assert [line["step"] for line in logged] == [1, 2, 3, 4]
    assert set(logged[0]) >= {
        "loss/margin",
        "loss/ekd/positive",
        "loss/ekd/negative",
        "threshold/teacher/fpr_1e-1",
        "batch_tpr/student/fpr_1e-2",
        "critical/positive",
        "gradient_norm",
    }
    of_heldout = {"accuracy", "tpr_at_fpr_1e-1", "gap_at_fpr_1e-1"}
    assert set(last) >= {f"heldout/{name}" for name in of_heldout}
    rates = [line["learning_rate"] for line in logged]
    np.testing.assert_allclose(rates, [0.02, 0.02, 0.02, 0.002], rtol=1e-6)
    report = json.loads((distilled / "reports" / "heldout.json").read_text())
    assert report["student"]["num_positive"] == 6 * 6
    assert report["gap"]["points"]["1e-1"]["gap"] == pytest.approx(
        report["teacher"]["tpr"]["1e-1"] - report["student"]["tpr"]["1e-1"]
    )
    for picture in ("heldout_roc.png", "heldout_similarities.png"):
        assert (distilled / "reports" / picture).stat().st_size > 5000


def test_evaluates_on_more_sets_and_draws_the_teacher_once(tmp_path, teacher):
    path = train(
        tmp_path / "run",
        teacher=str(teacher),
        distill="cosine",
        steps=2,
        lr_milestones=("1",),
        eval_sets=(f"other:{SOURCE},first=2000",),
        evaluate_every=1,
        best_metric="other/auc",
    )
    evaluated = [line for line in lines(path) if "heldout/auc" in line]
    assert [line["step"] for line in evaluated] == [1, 2]
    assert all("other/gap_at_fpr_1e-1" in line for line in evaluated)
    for name in ("other.json", "other_roc.png"):
        assert (path / "reports" / name).exists()
    (drawn,) = (path / "teacher").iterdir()
    assert b"other/auc" in drawn.read_bytes()


def test_interrupted_run_ends_like_the_uninterrupted_one(
    tmp_path, teacher, distilled, monkeypatch
):
    workdir = tmp_path / "run"
    changes = {"teacher": str(teacher), "distill": "ekd:5"}
    write = MetricsLog.write

    def write_and_die(self, step, scalars):
        write(self, step, scalars)
        if step == 3:
            raise KeyboardInterrupt

    # Behind the log line of step 3, with a checkpoint at 2.
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MetricsLog, "write", write_and_die)
        train(workdir, **changes)
    assert [line["step"] for line in lines(workdir)] == [1, 2, 3]
    train(workdir, **changes)
    steps = [line["step"] for line in lines(workdir) if "loss" in line]
    assert steps == [1, 2, 3, 4]
    for one, other in zip(weights(distilled), weights(workdir)):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    starts = json.loads((workdir / "run.json").read_text())["starts"]
    assert len(starts) == 2


def test_finished_run_is_left_alone(teacher):
    train_source, heldout = sources_of_run(teacher)
    assert (train_source.num_identities, heldout.num_identities) == (8, 6)
    before = (teacher / "model.keras").stat().st_mtime_ns
    train(teacher)
    assert (teacher / "model.keras").stat().st_mtime_ns == before


def test_two_runs_do_not_share_a_workdir(tmp_path):
    with Workdir(tmp_path).locked(), pytest.raises(ValueError, match="is in use by"):
        train(tmp_path)


def test_a_full_disk_ends_the_run_in_words(tmp_path, monkeypatch):
    def full(path, write):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("ekd_tf.run.checkpoints.write_aside", full)
    with pytest.raises(ValueError) as error:
        train(tmp_path / "run", heldout_data=None)
    path = tmp_path / "run" / "checkpoints" / "checkpoint-000000002.npz"
    assert str(error.value) == (
        f"{path} cannot be written: No space left on device. The last checkpoint is "
        "that of step 0: mend the cause, and the same command goes on from there"
    )


def test_a_run_and_its_commands_refuse_data_that_has_changed(tmp_path, faces):
    arguments = {"data": f"folder:{faces}", "heldout_data": None, "steps": 2}
    arguments["lr_milestones"] = ()
    run = train(tmp_path / "run", holdout_identities=4, **arguments)
    before = sources_of_run(run)[1].identity_names()
    shutil.copytree(faces / "p0", faces / "a")
    words = "the data has changed: 1 identities added, 0 gone; 3 images added, 0 gone"
    for again in (
        lambda: train(run, holdout_identities=4, **arguments),
        lambda: sources_of_run(run),
    ):
        with pytest.raises(ValueError, match=words):
            again()
    assert sources_of_run(run, force=True)[1].identity_names() == before
    train(run, holdout_identities=4, force_data=True, **arguments)


@pytest.fixture
def faces(tmp_path):
    return write_people(tmp_path / "faces", people=8, each=3, side=32)


def test_unreadable_images_are_allowed_for_every_reader(tmp_path, faces, teacher):
    arguments = {
        "data": f"folder:{faces}",
        "heldout_data": None,
        "holdout_identities": 4,
        "teacher": str(teacher),
        "distill": "cosine",
        "steps": 2,
        "lr_milestones": (),
    }
    config = TrainConfig(data=f"folder:{faces}", holdout_identities=4)
    held = open_run_data(config, None)[1].identity_names()
    trained = sorted({path.name for path in faces.iterdir()} - set(held))
    bad = [faces / held[0] / "1.png", faces / trained[0] / "1.png"]
    for path in bad:
        path.write_bytes(b"no image")
    # Found before the first step, and nothing recorded.
    with pytest.raises(UnreadableError, match=f"cannot decode {bad[0]}: not an"):
        train(tmp_path / "run", **arguments)
    assert not (tmp_path / "run" / "run.json").exists()
    run = train(tmp_path / "run", skip_corrupt=2, **arguments)
    report = json.loads((run / "reports" / "heldout.json").read_text())
    assert [line.split(": ")[0] for line in report["left_out"]] == [str(bad[0])]
    # 3 identities of 3 images and one of 2.
    assert report["student"]["num_positive"] == 3 * 3 + 1
    assert report["teacher"]["num_positive"] == 3 * 3 + 1


def test_an_evaluation_that_cannot_work_is_found_before_the_first_step(tmp_path):
    few = "synthetic:identities=4,images=2,size=32,first=99"
    gap = "`--best_metric` must be one .*heldout/tpr_at_fpr_1e-1.*Received"
    for changes, words in (
        (
            {"heldout_data": few},
            "`heldout` cannot be evaluated on.* 4 positive .*so that 8 can be drawn.*"
            "--holdout_identities",
        ),
        ({"best_metric": "heldout/gap_at_fpr_1e-1"}, gap),
        ({"best_metric": "lfw/accuracy"}, "`--best_metric` must be one"),
    ):
        with pytest.raises(ValueError, match=words):
            train(tmp_path / "run", **changes)
        # So that the mended command is taken.
        assert not (tmp_path / "run" / "run.json").exists()


def test_a_last_evaluation_that_failed_is_made_by_the_same_command(
    tmp_path, monkeypatch
):
    def full(self, folder):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ekd_tf.evaluation.result.Result.write", full)
        with pytest.raises(ValueError, match="step 4 failed.*model.keras is saved"):
            train(tmp_path / "run")
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4]
    run = train(tmp_path / "run")
    assert [line["step"] for line in lines(run)] == [1, 2, 3, 4, 4]
    assert "heldout/accuracy" in lines(run)[-1]
    assert (run / "reports" / "heldout.json").exists()
    before = (run / "model.keras").stat().st_mtime_ns
    train(run)
    assert (run / "model.keras").stat().st_mtime_ns == before


@pytest.fixture
def cache(tmp_path):
    """Rows of no teacher at all for `SOURCE`."""
    source = factory.make_source(SOURCE)
    rows = np.random.default_rng(0).normal(size=(len(source), 2, 24))
    note = {
        "teacher": "gone.onnx",
        "data": SOURCE,
        "teacher_fingerprint": "of the teacher",
        "input_size": 112,
        "source": source.name,
        "source_fingerprint": source.fingerprint,
        "images": len(source),
        "views": 2,
        "dtype": "float16",
    }
    writer = CacheWriter(tmp_path / "cache", note)
    writer.write(lambda first: [rows.astype(np.float32)])
    return tmp_path / "cache"


def test_a_cache_is_all_that_is_needed_of_a_teacher(cache, tmp_path):
    arguments = {
        "teacher": f"cache:{cache}",
        "distill": "cosine,kd,shrinkteanet,margin_distillation,proxyless_kd",
        "heldout_data": None,
        "holdout_identities": 3,
        "eval_sets": (f"other:{SOURCE},first=2000",),
    }
    run = train(tmp_path / "run", steps=2, lr_milestones=("1",), **arguments)
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
    with pytest.raises(ValueError, match="The teacher is not the one the run in"):
        train(run, steps=2, lr_milestones=("1",), **arguments)


def test_the_students_first_weights_depend_on_no_teacher(distilled, teacher):
    first = [
        np.load(path / "checkpoints" / "checkpoint-000000002.npz")
        for path in (distilled, teacher)
    ]
    kernels = [n for n in first[0].files if re.fullmatch("student/.*kernel", n)]
    assert len(kernels) == 2
    for name in kernels:
        one, other = (weights[name] for weights in first)
        assert np.abs(one - other).max() < 0.1 * np.abs(one).max()


@pytest.mark.keras2
def test_saves_the_averages_that_the_optimizer_keeps(tmp_path):
    path = train(
        tmp_path / "run",
        optimizer="addons/MovingAverage:SGD",
        heldout_data=None,
        steps=2,
        lr_milestones=("1",),
        checkpoint_every=0,
    )
    with np.load(path / "checkpoints" / "checkpoint-000000002.npz") as checkpoint:
        trained = checkpoint["student/0000/kernel"]
        # The optimizer's state begins with its step and the averages.
        average = checkpoint["optimizer/0001"]
    assert not np.array_equal(trained, average)
    np.testing.assert_array_equal(weights(path)[0], average)
