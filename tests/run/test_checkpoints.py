"""Tests for `ekd_tf.run.checkpoints`."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.run.checkpoints import CheckpointStore


def numbers(value):
    return {"a/kernel": tf.Variable([[value, 2.0]]), "count": tf.Variable(int(value))}


def zeros():
    return {"a/kernel": tf.Variable([[0.0, 0.0]]), "count": tf.Variable(0)}


def saved(directory, *steps, **arguments):
    """A store with a checkpoint per step, whose kernel starts with the step."""
    store = CheckpointStore(directory, **arguments)
    for step in steps:
        store.save(step, numbers(float(step)), {"best": step / 100})
    return store


def test_restores_values_and_metadata(tmp_path):
    saved(tmp_path / "new" / "folder", 7)
    variables = zeros()
    metadata = CheckpointStore(tmp_path / "new" / "folder").restore(variables)
    assert metadata == {"step": 7, "best": 0.07}
    np.testing.assert_array_equal(variables["a/kernel"].numpy(), [[7.0, 2.0]])
    assert variables["count"].numpy() == 7


@pytest.mark.parametrize(
    "dtype",
    ["float16", "bfloat16", "float32", "float64", "int32", "int64", "bool", "uint8"],
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 1, 3)])
def test_every_dtype_round_trips_bit_for_bit(tmp_path, rng, dtype, shape):
    dtype = tf.as_dtype(dtype)
    value = tf.cast(rng.normal(scale=3.0, size=shape) ** 2, dtype)
    store = CheckpointStore(tmp_path)
    store.save(1, {"v": tf.Variable(value)})
    restored = tf.Variable(tf.zeros_like(value))
    store.restore({"v": restored})
    assert restored.dtype == dtype
    assert restored.numpy().tobytes() == value.numpy().tobytes()


def test_file_is_an_archive_numpy_opens(tmp_path):
    half = tf.Variable([1.0, -2.0], dtype=tf.bfloat16)
    store = CheckpointStore(tmp_path)
    path = store.save(1, {"a/kernel": tf.Variable([3.0]), "half": half})
    with np.load(path, allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["a/kernel"], [3.0])
        # The upper halves of float32 1.0 and -2.0.
        np.testing.assert_array_equal(archive["half"], [0x3F80, 0xC000])


def test_not_finite_values_round_trip(tmp_path):
    store = CheckpointStore(tmp_path)
    values = [float("nan"), float("inf"), -0.0]
    store.save(1, {"v": tf.Variable(values)})
    restored = tf.Variable([1.0, 1.0, 1.0])
    store.restore({"v": restored})
    assert restored.numpy().tobytes() == np.float32(values).tobytes()


def test_keras_variables_and_arrays(tmp_path):
    layer = keras.layers.Dense(units=2)
    layer.build((None, 1))
    layer.kernel.assign([[1.0, 2.0]])
    store = CheckpointStore(tmp_path)
    store.save(1, {"kernel": layer.kernel, "position": np.array([3, 4])})
    layer.kernel.assign([[0.0, 0.0]])
    position = np.array([0, 0])
    store.restore({"kernel": layer.kernel, "position": position})
    np.testing.assert_array_equal(layer.kernel.numpy(), [[1.0, 2.0]])
    np.testing.assert_array_equal(position, [3, 4])


@pytest.mark.parametrize("name", ["file", "a b/ü:0", "../up", "x.npy"])
def test_any_name_is_kept(tmp_path, name):
    store = CheckpointStore(tmp_path / "in")
    store.save(1, {name: tf.Variable(5.0), "other": tf.Variable(6.0)})
    variables = {name: tf.Variable(0.0), "other": tf.Variable(0.0)}
    store.restore(variables)
    assert [float(v.numpy()) for v in variables.values()] == [5.0, 6.0]
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("replicas", [(2, 2), (1, 2), (2, 1), (2, 4)])
def test_replicated_variables_restore_on_any_number_of_replicas(tmp_path, replicas):
    def make(count, value):
        strategy = tf.distribute.MirroredStrategy(
            [f"CPU:{i}" for i in range(count)],
            cross_device_ops=tf.distribute.ReductionToOneDevice(),
        )
        with strategy.scope():
            mirrored = tf.Variable([value, 2 * value])
            # As BatchNorm's averages and as counters are made.
            mean = tf.Variable(
                value,
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.MEAN,
            )
            count = tf.Variable(
                value, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA
            )
        return strategy, {"mirrored": mirrored, "mean": mean, "count": count}

    before, after = replicas
    _, variables = make(before, 3.0)
    store = CheckpointStore(tmp_path)
    store.save(1, variables)
    strategy, variables = make(after, 0.0)
    store.restore(variables)
    for name, value in {"mirrored": [3.0, 6.0], "mean": 3.0, "count": 3.0}.items():
        for copy in strategy.experimental_local_results(variables[name]):
            np.testing.assert_array_equal(copy.numpy(), value)


def test_keeps_the_newest_and_the_best(tmp_path):
    store = saved(tmp_path, 10, keep=2)
    store.save_best(10)
    for step in (20, 30, 40):
        store.save(step, numbers(float(step)))
    assert store.steps() == [30, 40]
    assert store.latest() == 40
    variables = zeros()
    assert store.restore(variables, step="best") == {"step": 10, "best": 0.1}
    assert variables["count"].numpy() == 10
    assert len(os.listdir(tmp_path)) == 3


def test_a_better_one_replaces_the_best(tmp_path):
    store = saved(tmp_path, 10, 20)
    store.save_best(10)
    store.save_best(20)
    assert store.restore(zeros(), step="best")["step"] == 20


def test_saving_a_step_again_leaves_the_best_copy_alone(tmp_path):
    store = saved(tmp_path, 10)
    store.save_best(10)
    store.save(10, numbers(99.0))
    variables = zeros()
    store.restore(variables, step="best")
    assert variables["count"].numpy() == 10


def test_best_is_copied_where_links_are_not_possible(tmp_path, monkeypatch):
    def no_links(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    store = saved(tmp_path, 10, keep=1)
    store.save_best(10)
    store.save(20, numbers(20.0))
    assert store.restore(zeros(), step="best")["step"] == 10


def test_best_of_a_step_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="checkpoint-000000005.npz"):
        saved(tmp_path, 10).save_best(5)


def test_restores_a_given_step(tmp_path):
    variables = zeros()
    assert saved(tmp_path, 10, 20).restore(variables, step=10)["step"] == 10
    assert variables["count"].numpy() == 10


def test_later_steps_of_a_run_given_up_are_removed(tmp_path):
    store = saved(tmp_path, 10, 20, 30)
    store.restore(zeros(), step=10)
    store.save(15, numbers(15.0))
    assert store.steps() == [10, 15]


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    for store in (CheckpointStore(tmp_path), CheckpointStore(tmp_path / "missing")):
        assert store.steps() == []
        assert store.latest() is None
        with pytest.raises(FileNotFoundError, match="no checkpoint in"):
            store.restore(zeros())
    with pytest.raises(FileNotFoundError, match="no checkpoint checkpoint-best.npz"):
        CheckpointStore(tmp_path).restore(zeros(), step="best")


def test_other_files_are_not_taken_for_checkpoints(tmp_path):
    store = saved(tmp_path, 10)
    for name in ("checkpoint-1.npz", "checkpoint-000000099.npz.tmp", "notes.npz"):
        (tmp_path / name).write_bytes(b"")
    assert store.steps() == [10]


def test_steps_beyond_nine_digits(tmp_path):
    assert saved(tmp_path, 999_999_999, 10**9).steps() == [999_999_999, 10**9]


def test_lists_every_difference_and_assigns_nothing(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(
        1,
        {
            "same": tf.Variable(5.0),
            "shape": tf.Variable([1.0, 2.0]),
            "dtype": tf.Variable(1),
            "gone": tf.Variable(1.0),
        },
    )
    variables = {
        "same": tf.Variable(0.0),
        "shape": tf.Variable([0.0]),
        "dtype": tf.Variable(0.0),
        "added": tf.Variable(0.0),
    }
    with pytest.raises(ValueError, match="was written by another model") as error:
        store.restore(variables)
    for words in (
        "checkpoint-000000001.npz",
        "missing added",
        "unexpected gone",
        "shape is float32 (2,), expected float32 (1,)",
        "dtype is int32 (), expected float32 ()",
    ):
        assert words in str(error.value)
    assert "same" not in str(error.value)
    assert variables["same"].numpy() == 0.0


def test_rejects_metadata_json_cannot_hold(tmp_path):
    store = CheckpointStore(tmp_path)
    with pytest.raises(TypeError, match="not JSON serializable"):
        store.save(1, numbers(1.0), {"path": tmp_path})
    assert store.steps() == []


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda store: CheckpointStore("x", keep=0), "`keep` must be in"),
        (lambda store: store.save(-1, {}), "`step` must be in"),
        (lambda store: store.save(1, {"__checkpoint__": np.zeros(1)}), "is not free"),
    ],
)
def test_rejects_wrong_arguments(tmp_path, call, words):
    with pytest.raises(ValueError, match=words):
        call(CheckpointStore(tmp_path))
