import errno
import io
import json
import os
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from updates import strategy_of

from ekd_tf.run import checkpoints
from ekd_tf.run.checkpoints import CheckpointStore


def numbers(value):
    kernel = tf.Variable([[value, 2 * value]])
    return {"a/kernel": kernel, "count": tf.Variable(int(value))}


def saved(directory, *steps, **arguments):
    """A store with a checkpoint per step, whose kernel starts with the step."""
    store = CheckpointStore(directory, **arguments)
    for step in steps:
        store.save(step, numbers(float(step)), {"evaluated": step / 100})
    return store


def test_every_dtype_and_shape_round_trips_bit_for_bit(tmp_path, rng):
    values = {
        f"{dtype} {shape}": tf.cast(rng.normal(scale=3.0, size=shape) ** 2, dtype)
        for dtype in ("float16", "bfloat16", "float32", "float64", "int64", "bool")
        for shape in ((), (0,), (2, 1, 3))
    }
    values["not finite"] = tf.constant([float("nan"), float("inf"), -0.0])
    store = CheckpointStore(tmp_path)
    store.save(1, {name: tf.Variable(value) for name, value in values.items()})
    restored = {name: tf.Variable(tf.zeros_like(v)) for name, v in values.items()}
    store.restore(restored)
    for name, value in values.items():
        assert restored[name].dtype == value.dtype
        assert restored[name].numpy().tobytes() == value.numpy().tobytes(), name
    with np.load(store.path(1), allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["float64 ()"], values["float64 ()"])


@pytest.mark.parametrize("replicas", [(1, 2), (2, 1)])
def test_replicated_variables_restore_on_any_number_of_replicas(tmp_path, replicas):
    def make(count, value):
        strategy = strategy_of(count)
        on_read = {
            "synchronization": tf.VariableSynchronization.ON_READ,
            "aggregation": tf.VariableAggregation.MEAN,
        }
        once = tf.VariableAggregation.ONLY_FIRST_REPLICA
        with strategy.scope():
            # As weights, BatchNorm's averages and counters are made.
            return strategy, {
                "mirrored": tf.Variable([value, 2 * value]),
                "mean": tf.Variable(value, trainable=False, **on_read),
                "count": tf.Variable(value, aggregation=once),
            }

    store = CheckpointStore(tmp_path)
    store.save(1, make(replicas[0], 3.0)[1])
    strategy, variables = make(replicas[1], 0.0)
    store.restore(variables)
    for name, value in {"mirrored": [3.0, 6.0], "mean": 3.0, "count": 3.0}.items():
        for copy in strategy.experimental_local_results(variables[name]):
            np.testing.assert_array_equal(copy.numpy(), value)


def test_lists_five_differences_and_assigns_nothing(tmp_path):
    def variables(**values):
        return {name: tf.Variable(value) for name, value in values.items()}

    store = CheckpointStore(tmp_path)
    store.save(1, variables(same=5.0, shape=[1.0, 2.0], dtype=1, gone=1.0))
    others = variables(same=0.0, shape=[0.0], dtype=0.0, added=0.0)
    text = refused("was written by another model", store.restore, others)
    for words in (
        "checkpoint-000000001.npz",
        "missing added",
        "unexpected gone",
        "shape is float32 (2,), expected float32 (1,)",
        "dtype is int32 (), expected float32 ()",
        "cannot change within a run: give another --workdir",
    ):
        assert words in text
    assert "more" not in text
    others |= variables(**{f"z{k}": 0.0 for k in range(20)})
    refused("; missing z1; missing z10; 19 more. Flags", store.restore, others)
    assert "same" not in text and others["same"].numpy() == 0.0


def archive(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_a_damaged_newest_file_falls_back_to_the_one_before(tmp_path, caplog):
    whole = saved(tmp_path / "whole", 20).path(20).read_bytes()
    # In the middle of the kernel's numbers, where only the checksum notices.
    at = whole.index(np.float32([20.0, 40.0]).tobytes())
    header = json.dumps({"format": 2, "step": 20, "dtypes": {}, "metadata": {}})
    for number, content in enumerate(
        (
            archive(a=np.zeros(3)),
            archive(__checkpoint__=np.frombuffer(header.encode(), np.uint8)),
            # Never loaded.
            archive(__checkpoint__=np.array([{}], dtype=object)),
            whole[:at] + b"\xff" + whole[at + 1 :],
            *(b"", whole[:-1], bytes(len(whole))),
        )
    ):
        caplog.clear()
        store = saved(tmp_path / str(number), 10, 20)
        store.path(20).write_bytes(content)
        variables = numbers(0.0)
        assert store.restore(variables)["step"] == 10, number
        np.testing.assert_array_equal(variables["a/kernel"].numpy(), [[10.0, 20.0]])
        (record,) = caplog.records
        assert "checkpoint-000000020.npz is damaged" in record.getMessage()
        assert "Trying the checkpoint before it" in record.getMessage()
        store.path(10).write_bytes(b"")
        refused("000000010.npz is damaged.*no other", store.restore, variables)
        assert variables["count"].numpy() == 10


def test_a_newest_file_that_cannot_be_read_ends_the_run(tmp_path, monkeypatch):
    store = saved(tmp_path, 10, 20)

    failing = mock.Mock(side_effect=OSError(errno.EIO, "Input/output error"))
    monkeypatch.setattr(checkpoints, "open", failing, raising=False)
    words = "000000020.npz cannot be read: Input/output error"
    refused(words, store.restore, numbers(0.0))
    assert store.steps() == [10, 20]


def test_a_damaged_newest_file_does_not_push_out_good_ones(tmp_path):
    store = saved(tmp_path, 10, 20, 30, keep=3)
    store = CheckpointStore(tmp_path, keep=1)
    store.path(30).write_bytes(b"")
    store.restore(numbers(0.0))
    store.save(25, numbers(25.0))
    assert store.steps() == [25]
    assert store.restore(numbers(0.0))["step"] == 25


def test_crash_before_pruning_loses_nothing(tmp_path, monkeypatch):
    store = saved(tmp_path, 10, keep=1)
    monkeypatch.setattr(store, "prune", mock.Mock(side_effect=KeyboardInterrupt))
    refused(None, store.save, 20, numbers(20.0), error=KeyboardInterrupt)
    store = CheckpointStore(tmp_path, keep=1)
    (tmp_path / "checkpoint-000000030.npz.tmp").write_bytes(b"")
    assert store.steps() == [10, 20]
    assert store.restore(numbers(0.0))["step"] == 20
    store.prune(20)
    assert os.listdir(tmp_path) == ["checkpoint-000000020.npz"]


def test_says_which_checkpoint_is_missing(tmp_path):
    for store in (CheckpointStore(tmp_path), CheckpointStore(tmp_path / "missing")):
        assert store.latest() is None
        refused("no checkpoint in", store.restore, {}, error=FileNotFoundError)
