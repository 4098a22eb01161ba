import contextlib
import types

import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from test_logs import lines
from test_session import VALUES
from toys import backbone

from ekd_tf.data import SyntheticFaces
from ekd_tf.run.checkpoints import CheckpointStore
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.interruption import Interrupted
from ekd_tf.run.interruption import Termination
from ekd_tf.run.progress import ProgressLine
from ekd_tf.run.record import Record
from ekd_tf.run.workdir import Workdir
from ekd_tf.training.loop import run_steps


def run(folder, steps, accuracies=(), scalars=None, start=0, done=None, **flags):
    """Makes the record of a run without training; returns its checkpoints, too."""
    results = iter(accuracies)

    def evaluate(models):
        accuracy = next(results)
        if isinstance(accuracy, BaseException):
            raise accuracy
        return types.SimpleNamespace(
            name="heldout",
            images={},
            write=lambda folder: None,
            scalars=lambda model="student": {"heldout/accuracy": accuracy},
            report=lambda: "",
        )

    source = SyntheticFaces(identities=3, images_per_identity=2)
    evaluate.source, evaluate.name = source, "heldout"
    # A model as hooks see it: one number that counts the steps.
    made = tf.Variable(start)
    model = types.SimpleNamespace(
        backbone=backbone(),
        averaged_weights=contextlib.nullcontext,
        state=lambda: {"steps": made},
    )
    parts = types.SimpleNamespace(
        train=source,
        evaluations=[evaluate] if accuracies else [],
        sampler=types.SimpleNamespace(batch_size=2),
        steps=steps,
        model=model,
        teacher=None,
    )
    config, workdir = TrainConfig(**{**VALUES, **flags}), Workdir(folder)
    store = CheckpointStore(workdir.checkpoints, keep=config.max_checkpoints)

    def make_step(batch):
        made.assign_add(1)
        good = {"loss": 1.0, "gradient_norm": 1.0, "embedding/mean_cosine": 0.5}
        return {**good, "loss_scale": 1.0, **(scalars or {})}

    batches = [{"image_id": np.array([1, 2]), "image": np.zeros((2, 16, 16, 3))}]
    record = Record(config, parts, workdir, store, start, done)
    with contextlib.closing(record.open_log()):
        strategy = tf.distribute.get_strategy()
        hooks = record.hooks(ProgressLine(steps), strategy, Termination())
        run_steps(make_step, batches * steps, start, steps, hooks)
    return store, record


def test_an_evaluation_stands_in_a_checkpoint(tmp_path):
    every = {"evaluate_every": 2, "checkpoint_every": 3, "log_every": 4}
    store, _ = run(tmp_path, 9, [0.5, 0.7, 0.6, 0.7, 0.1], max_checkpoints=2, **every)
    assert store.steps() == [8, 9]
    steps = [line["step"] for line in lines(tmp_path) if "loss" in line]
    assert steps == [1, 4, 8, 9]
    assert store.restore({"steps": tf.Variable(0)}) == {"step": 9, "evaluated": 9}


def test_an_evaluation_that_fails_costs_no_step(tmp_path, caplog):
    for error in (ValueError, OSError, ZeroDivisionError):
        flags = {"evaluate_every": 2, "checkpoint_every": 0}
        store, record = run(tmp_path, 6, [0.5, error("no picture"), 0.4], **flags)
        assert caplog.messages[-1] == "The evaluation at step 4 failed: no picture"
        assert store.steps() == [2, 4, 6]
        assert record.failure is None
        # What a restart finds: the step is there, its evaluation is not.
        steps = {"steps": tf.Variable(0)}
        assert store.restore(steps) == {"step": 6, "evaluated": 6}
        store.path(6).unlink()
        assert store.restore(steps) == {"step": 4, "evaluated": 2}
    store, record = run(tmp_path, 2, [ValueError("no picture")])
    assert record.failure == "The evaluation at step 2 failed: no picture"
    assert store.steps() == [2]
    # Ctrl-C within one.
    with pytest.raises(Interrupted):
        run(tmp_path, 3, [Interrupted()], checkpoint_every=0)
    assert store.latest() == 3


def test_a_missing_evaluation_is_made_when_the_run_goes_on(tmp_path):
    for start, done, steps, missing in (
        (4, 2, 4, 1),
        (4, 4, 4, 0),
        (2, None, 3, 2),
        (1, None, 3, 2),
    ):
        made = iter([0.5] * missing)
        _, record = run(tmp_path, steps, made, start=start, done=done, evaluate_every=2)
        assert next(made, None) is None and record.failure is None


def test_guards_watch_and_the_last_good_checkpoint_stays(tmp_path):
    bad = {"scalars": {"gradient_norm": np.nan}, "max_bad_steps": 3}
    words = "of the last 3 steps, up to step 3"
    refused(words, run, tmp_path, 9, **bad, checkpoint_every=1)
    assert (tmp_path / "reports" / "bad_steps.txt").exists()
    # Step 3 was already saved, unchanged, when the guard looked at it.
    assert CheckpointStore(tmp_path / "checkpoints").steps() == [1, 2, 3]
    # Collapse is watched where asked.
    cosine = {"embedding/mean_cosine": 0.999}
    run(tmp_path, 4, scalars=cosine, collapse_steps=0)
    words = "for 2 steps, up to step 2"
    refused(words, run, tmp_path, 4, scalars=cosine, collapse_steps=2)
