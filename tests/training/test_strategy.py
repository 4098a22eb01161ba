import json
import os

import pytest
import tensorflow as tf

from ekd_tf.training.strategy import check_divisible
from ekd_tf.training.strategy import distribute
from ekd_tf.training.strategy import grow_gpu_memory
from ekd_tf.training.strategy import has_other_workers
from ekd_tf.training.strategy import is_chief
from ekd_tf.training.strategy import keep_order_of_sums
from ekd_tf.training.strategy import lost_worker
from ekd_tf.training.strategy import make_strategy
from ekd_tf.training.strategy import set_virtual_devices
from ekd_tf.training.strategy import set_workers


def test_none_is_one_replica():
    assert make_strategy("none").num_replicas_in_sync == 1


def test_mirrored_takes_every_logical_device():
    devices = tf.config.list_logical_devices("CPU")
    assert make_strategy("mirrored").num_replicas_in_sync == len(devices) == 4


def test_sums_of_a_large_graph_keep_their_order():
    keep_order_of_sums()

    @tf.function(autograph=False)
    def total(ones, square):
        late = tf.while_loop(
            lambda i, _: i < 40, lambda i, x: (i + 1, x @ square), (0, square)
        )[1]
        # (1e8 - 1e8) + 1 as listed; 1 is lost where the first comes last.
        summands = [ones * (1e8 + 0 * late[0, 0]), ones * -1e8, ones]
        return tf.reduce_max(tf.add_n(summands))

    # Three of 80 MB: above the 205 MB from which TensorFlow would reorder.
    assert total(tf.ones([20_000_000]), tf.zeros([300, 300])).numpy() == 1


def test_rejects_an_unknown_strategy_with_the_choices():
    with pytest.raises(
        ValueError, match="must be one of 'none', 'mirrored', 'multi_worker'"
    ):
        make_strategy("miror")


def test_each_replica_gets_its_contiguous_rows():
    strategy = make_strategy("mirrored")
    dataset = tf.data.Dataset.from_tensor_slices(
        {"row": tf.reshape(tf.range(16), [2, 8])}
    )
    batches = iter(distribute(strategy, dataset))
    for first in (0, 8):
        parts = strategy.experimental_local_results(next(batches)["row"])
        rows = [part.numpy().tolist() for part in parts]
        assert rows == [[first + r, first + r + 1] for r in (0, 2, 4, 6)]


def test_one_replica_gets_the_dataset_itself():
    dataset = tf.data.Dataset.range(3)
    assert distribute(make_strategy("none"), dataset) is dataset


@pytest.mark.parametrize(
    ("general", "balanced", "message"),
    [(9, 8, "general rows.*9 general rows for 4"), (8, 6, "balanced rows.*6 balanced")],
)
def test_rejects_a_batch_that_replicas_cannot_share(general, balanced, message):
    with pytest.raises(ValueError, match=message):
        check_divisible(general, balanced, 4)


def test_accepts_a_batch_that_replicas_share():
    check_divisible(8, 0, 4)
    check_divisible(0, 8, 4)


def test_virtual_devices_cannot_be_made_after_tensorflow_started():
    tf.constant(1.0)
    with pytest.raises((RuntimeError, ValueError)):
        set_virtual_devices(3)


def test_one_virtual_device_changes_nothing():
    set_virtual_devices(1)
    assert len(tf.config.list_logical_devices("CPU")) == 4


def test_rejects_no_devices():
    with pytest.raises(ValueError, match="num_virtual_devices"):
        set_virtual_devices(0)


def test_multi_worker_says_what_it_needs(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match="the environment variable TF_CONFIG"):
        make_strategy("multi_worker")


def test_flags_set_tf_config(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "")
    set_workers(["a:2222", "b:2223"], 1)
    assert json.loads(os.environ["TF_CONFIG"]) == {
        "cluster": {"worker": ["a:2222", "b:2223"]},
        "task": {"type": "worker", "index": 1},
    }
    # A process that is started again in the same environment agrees with itself.
    set_workers(["a:2222", "b:2223"], 1)
    with pytest.raises(ValueError, match='say different.*"index": 1.*"index": 0'):
        set_workers(["a:2222", "b:2223"], 0)


CLUSTER = '"cluster": {"worker": ["a:1", "b:1"]}'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not json", "Expecting value"),
        ("[1]", "it holds no cluster"),
        ("{}", "it holds no cluster"),
        ('{"cluster": {"worker": "a:1"}}', "it holds no cluster"),
        ("{%s}" % CLUSTER, "its task has no type of the cluster"),
        ('{%s, "task": 0}' % CLUSTER, "its task has no type"),
        ('{%s, "task": {"type": "chief", "index": 0}}' % CLUSTER, "has no type"),
        ('{%s, "task": {"type": "worker"}}' % CLUSTER, "needs an index from 0 to 1"),
        ('{%s, "task": {"type": "worker", "index": 2}}' % CLUSTER, "an index from 0"),
        ('{%s, "task": {"type": "worker", "index": "0"}}' % CLUSTER, "a number"),
    ],
)
def test_a_wrong_tf_config_is_named_with_its_reason(monkeypatch, text, reason):
    monkeypatch.setenv("TF_CONFIG", "\ufeff" + text)
    for make in (
        lambda: make_strategy("multi_worker"),
        lambda: set_workers(["a:1"], 0),
    ):
        with pytest.raises(ValueError, match="TF_CONFIG must be JSON like") as error:
            make()
        assert reason in str(error.value) and text in str(error.value)


def test_without_hosts_tf_config_stays(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    set_workers([], None)
    assert os.environ["TF_CONFIG"] == "{}"


@pytest.mark.parametrize(
    ("hosts", "index", "words"),
    [
        (["a:1", "b:1"], None, "together. Received: worker_hosts=a:1,b:1, worker_in"),
        ([], 0, "together. Received: worker_hosts=, worker_index=0"),
        (["a", "b:1"], 0, "must be host:port,.*Received: 'a'"),
        (["a:1", "a:1"], 0, "must all differ. Received: a:1,a:1"),
        (["a:1", "b:1"], 2, r"`worker_index` must be in \[0, 2\). .*worker_index=2"),
    ],
)
def test_rejects_workers_that_make_no_cluster(monkeypatch, hosts, index, words):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match=words):
        set_workers(hosts, index)
    assert "TF_CONFIG" not in os.environ


def test_rejects_workers_of_another_strategy():
    with pytest.raises(ValueError, match="belong to `--strategy=multi_worker`.*mirr"):
        make_strategy("mirrored", ["a:1", "b:1"], 0)


def test_a_single_process_is_the_chief():
    assert is_chief(make_strategy("none"))
    assert is_chief(make_strategy("mirrored"))


def test_one_process_has_no_other_workers(two_replicas):
    assert not has_other_workers(tf.distribute.get_strategy())
    assert not has_other_workers(two_replicas)


class TwoWorkers:
    """Stands for the strategy of worker 0 of two."""

    class cluster_resolver:
        task_type, task_id = "worker", 0

        @staticmethod
        def cluster_spec():
            return tf.train.ClusterSpec({"worker": ["a:1", "b:2"]})


@pytest.mark.parametrize(
    ("kind", "message", "name"),
    [
        (
            tf.errors.UnavailableError,
            "Collective ops is aborted by: recvmsg:Connection reset by peer\n"
            "Additional GRPC error information from remote target "
            "/job:worker/replica:0/task:1 while calling /tensorflow.WorkerService",
            "worker 1 (b:2)",
        ),
        (
            tf.errors.InternalError,
            "on /job:worker/replica:0/task:0: from /job:worker/replica:0/task:1",
            "worker 1 (b:2)",
        ),
        (tf.errors.AbortedError, "Collective ops is aborted by: x", "another worker"),
        (tf.errors.InternalError, "of no worker", None),
        (
            tf.errors.InvalidArgumentError,
            "on /job:worker/replica:0/task:1: wrong shape",
            None,
        ),
    ],
)
def test_names_the_worker_that_is_gone(kind, message, name):
    error = kind(None, None, message)
    assert lost_worker(TwoWorkers(), error) == name
    assert lost_worker(tf.distribute.get_strategy(), error) is None


@pytest.fixture
def gpus(monkeypatch):
    """Returns `gpus(*devices) -> list`: a machine with these, and what is set."""

    def put_in(*devices, error=None):
        grown = []

        def set_memory_growth(device, enable):
            grown.append((device, enable))
            if error is not None:
                raise error

        def list_physical_devices(kind):
            return list(devices) if kind == "GPU" else []

        monkeypatch.setattr(tf.config, "list_physical_devices", list_physical_devices)
        monkeypatch.setattr(
            tf.config.experimental, "set_memory_growth", set_memory_growth
        )
        return grown

    return put_in


def gpu(number):
    return tf.config.PhysicalDevice(f"/physical_device:GPU:{number}", "GPU")


def test_memory_grows_on_every_gpu(gpus):
    grown = gpus(gpu(0), gpu(1))
    grow_gpu_memory()
    assert grown == [(gpu(0), True), (gpu(1), True)]


def test_without_a_gpu_no_memory_is_touched(gpus):
    grown = gpus()
    grow_gpu_memory()
    assert grown == []


def test_a_gpu_in_use_is_left_with_a_warning(gpus, caplog):
    grown = gpus(gpu(0), gpu(1), error=RuntimeError("initialized"))
    with caplog.at_level("WARNING"):
        grow_gpu_memory()
    assert len(grown) == 2
    assert "/physical_device:GPU:1 will not grow: initialized" in caplog.text
