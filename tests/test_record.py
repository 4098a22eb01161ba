"""Tests for `ekd_tf.record`."""

import contextlib
import types

import numpy as np
import pytest
import tensorflow as tf
from test_session import VALUES
from toys import backbone

from ekd_tf import record as record_module
from ekd_tf.assembly import Values
from ekd_tf.data import InMemoryFaces
from ekd_tf.data import SyntheticFaces
from ekd_tf.record import Record
from ekd_tf.training import faint_losses
from ekd_tf.training.best import BestMetric
from ekd_tf.training.checkpoints import CheckpointStore
from ekd_tf.training.guards import RunStopped
from ekd_tf.training.interruption import Interrupted
from ekd_tf.training.interruption import Termination
from ekd_tf.training.logs import MetricsLog
from ekd_tf.training.loop import run_steps
from ekd_tf.training.progress import ProgressLine
from ekd_tf.training.workdir import Workdir


class Model:
    """A run's model as its hooks see it: one number that counts the steps."""

    def __init__(self):
        self.student = backbone()
        self.steps = np.zeros(1)

    def averaged_weights(self):
        return contextlib.nullcontext()

    def state(self):
        return {"steps": self.steps}


class Result:
    name = "heldout"

    def __init__(self, accuracy):
        self.accuracy = accuracy
        self.images = {}

    def write(self, folder):
        pass

    def scalars(self, model="student"):
        return {"heldout/accuracy": self.accuracy}

    def text(self):
        return ""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Returns `run(steps, accuracies, **flags)`: a run without training."""

    def run(steps, accuracies=(), scalars=None, signal_at=None, **flags):
        results = iter(accuracies)

        def evaluate(models):
            return Result(next(results))

        evaluate.name = "heldout"
        monkeypatch.setattr(
            record_module,
            "make_evaluations",
            lambda *a: [evaluate] if accuracies else [],
        )
        source = InMemoryFaces(SyntheticFaces(identities=3, images_per_identity=2))
        model = Model()
        parts = types.SimpleNamespace(
            train=source,
            heldout=source if accuracies else None,
            sampler=types.SimpleNamespace(batch_size=2),
            steps=steps,
            model=model,
            teacher=None,
        )
        v, workdir = Values({**VALUES, **flags}), Workdir(tmp_path)
        store = CheckpointStore(workdir.checkpoints, keep=v.keep)
        termination = Termination()

        def make_step(batch):
            model.steps += 1
            termination.asked = model.steps[0] == signal_at
            good = {"loss": 1.0, "gradient_norm": 1.0, "embedding/mean_cosine": 0.5}
            return {**good, "loss_scale": 1.0, **(scalars or {})}

        batches = [{"image_id": np.array([1, 2]), "image": np.zeros((2, 16, 16, 3))}]
        with contextlib.closing(MetricsLog(tmp_path)) as log:
            record = Record(v, workdir, store, log, BestMetric(v.best_metric))
            hooks = record.hooks(
                parts, ProgressLine(steps), tf.distribute.get_strategy(), termination
            )
            run_steps(make_step, batches * steps, 0, steps, hooks)
        return store

    return run


def restored(store, step):
    steps = np.zeros(1)
    metadata = store.restore({"steps": steps}, step)
    assert steps[0] == metadata["step"]
    return metadata


def test_the_best_evaluation_has_a_checkpoint_of_its_own(run):
    store = run(
        9,
        [0.5, 0.7, 0.6, 0.7, 0.1],
        evaluate_every=2,
        checkpoint_every=3,
        keep=2,
        log_every=4,
    )
    # 4 was the best and is kept by name; evaluations at 2 and 4 made checkpoints.
    assert store.steps() == [6, 9]
    best = {"name": "heldout/accuracy", "value": 0.7, "step": 4}
    assert restored(store, "best") == {"step": 4, "best": best}
    assert restored(store, 9)["best"] == best


def test_an_unknown_metric_ends_the_run_with_the_list(run):
    with pytest.raises(
        ValueError, match="reports: heldout/accuracy. Received: 'heldout/auc'"
    ):
        run(2, [0.5], best_metric="heldout/auc")


def test_a_signal_ends_the_run_with_a_checkpoint(run, tmp_path):
    with pytest.raises(Interrupted, match="saved at step 5"):
        run(9, signal_at=5, checkpoint_every=4)
    assert CheckpointStore(tmp_path / "checkpoints").steps() == [4, 5]


def test_guards_watch_and_the_last_good_checkpoint_stays(run, tmp_path):
    with pytest.raises(RunStopped, match="of the last 3 steps, up to step 3"):
        run(9, scalars={"gradient_norm": np.nan}, max_bad_steps=3, checkpoint_every=1)
    assert (tmp_path / "reports" / "bad_steps.txt").exists()
    # Step 3 was already saved, unchanged, when the guard looked at it.
    assert CheckpointStore(tmp_path / "checkpoints").steps() == [1, 2, 3]


def test_collapse_is_watched_where_asked(run):
    cosine = {"embedding/mean_cosine": 0.999}
    run(4, scalars=cosine, collapse_steps=0)
    with pytest.raises(RunStopped, match="for 2 steps, up to step 2"):
        run(4, scalars=cosine, collapse_steps=2)


def test_a_loss_without_weight_is_named_once(run, monkeypatch):
    texts = []
    monkeypatch.setattr(
        faint_losses.logging, "warning", lambda text, *args: texts.append(text % args)
    )
    ratio = {"gradient_ratio/ekd": 0.001, "weight/ekd": 1.0}
    run(502, scalars=ratio, log_every=502, checkpoint_every=0)
    (text,) = texts
    assert "up to step 500" in text and "--distill=ekd:300 would" in text
