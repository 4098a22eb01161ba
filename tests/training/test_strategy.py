import types

import numpy as np
import tensorflow as tf
from refusals import refused

from ekd_tf.training.strategy import check_divisible
from ekd_tf.training.strategy import distribute
from ekd_tf.training.strategy import grow_gpu_memory
from ekd_tf.training.strategy import has_other_workers
from ekd_tf.training.strategy import is_chief
from ekd_tf.training.strategy import keep_order_of_sums
from ekd_tf.training.strategy import lost_worker
from ekd_tf.training.strategy import make_strategy


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


def test_each_logical_device_is_a_replica_and_gets_its_contiguous_rows():
    strategy = make_strategy("mirrored")
    devices = tf.config.list_logical_devices("CPU")
    assert strategy.num_replicas_in_sync == len(devices) == 4
    rows = tf.reshape(tf.range(16), [2, 8])
    dataset = tf.data.Dataset.from_tensor_slices({"row": rows})
    batches = iter(distribute(strategy, dataset))
    for first in (0, 8):
        parts = strategy.experimental_local_results(next(batches)["row"])
        rows = [part.numpy().tolist() for part in parts]
        assert rows == [[first + r, first + r + 1] for r in (0, 2, 4, 6)]


def test_each_process_prepares_the_rows_of_its_own_replicas():
    class TwoWorkersOfTwo:
        num_replicas_in_sync = 4

        def distribute_datasets_from_function(self, function):
            return [function(tf.distribute.InputContext(2, k, 4)) for k in range(2)]

    seen = []

    def embedded(rows):
        seen.append(rows.tolist())
        return rows + 100

    def embed(dataset):
        def one(batch):
            row = tf.numpy_function(embedded, [batch["row"]], tf.int64)
            return {"row": tf.ensure_shape(row, batch["row"].shape)}

        return dataset.map(one)

    dataset = tf.data.Dataset.from_tensors({"row": np.arange(8)})
    workers = distribute(TwoWorkersOfTwo(), dataset, embed)
    parts = [[part["row"].tolist() for part in w.as_numpy_iterator()] for w in workers]
    assert parts == [[[100, 101], [102, 103]], [[104, 105], [106, 107]]]
    # An embedder outside of the step would compute no other worker's rows.
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_names_the_worker_that_is_gone():
    # Seen by worker 0 of two.
    cluster = tf.train.ClusterSpec({"worker": ["a:1", "b:2"]})
    resolver = types.SimpleNamespace(task_type="worker", task_id=0)
    resolver.cluster_spec = lambda: cluster
    strategy = types.SimpleNamespace(cluster_resolver=resolver)
    own, other = (f"/job:worker/replica:0/task:{number}" for number in (0, 1))
    aborted, errors = "Collective ops is aborted by: ", tf.errors
    for kind, message, name in (
        (errors.UnavailableError, f"{aborted}reset\nfrom {other} w", "worker 1 (b:2)"),
        (errors.InternalError, f"on {own}: from {other}", "worker 1 (b:2)"),
        (errors.AbortedError, aborted, "another worker"),
        (errors.InternalError, "of no worker", None),
        (errors.InvalidArgumentError, f"on {other}: wrong shape", None),
    ):
        error = kind(None, None, message)
        assert lost_worker(strategy, error) == name
        assert lost_worker(tf.distribute.get_strategy(), error) is None


def test_rejects_a_batch_that_replicas_cannot_share():
    check_divisible(8, 0, 4)
    refused("general rows.*9 general rows for 4", check_divisible, 9, 8, 4)
    refused("balanced rows.*6 balanced", check_divisible, 8, 6, 4)


def test_a_single_process_is_the_chief_of_nobody(two_replicas):
    for strategy in (make_strategy("none"), two_replicas):
        assert is_chief(strategy) and not has_other_workers(strategy)


CLUSTER = '"cluster": {"worker": ["a:1", "b:1"]}'


def test_a_wrong_tf_config_is_named_with_its_reason(monkeypatch):
    for text, reason in (
        ("not json", "Expecting value"),
        ('{"task": {"type": "worker", "index": 0}}', "'cluster'"),
        ('{%s, "task": {"type": "chief", "index": 0}}' % CLUSTER, "'chief'"),
        ('{%s, "task": {"type": "worker"}}' % CLUSTER, "'index'"),
        ('{%s, "task": {"type": "worker", "index": 2}}' % CLUSTER, "needs an index"),
        ('{%s, "task": {"type": "worker", "index": "0"}}' % CLUSTER, "a number"),
    ):
        monkeypatch.setenv("TF_CONFIG", "\ufeff" + text)
        said = refused("TF_CONFIG must be JSON like", make_strategy, "multi_worker")
        assert reason in said and text in said


def test_says_what_a_strategy_needs(monkeypatch):
    refused("one of 'none', 'mirrored', 'multi_worker'", make_strategy, "miror")
    monkeypatch.delenv("TF_CONFIG", raising=False)
    refused("which one this is, in TF_CONFIG=", make_strategy, "multi_worker")

    def refuse():
        raise tf.errors.InvalidArgumentError(None, None, "Could not parse port")

    task = '"task": {"type": "worker", "index": 0}'
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["here"]}, %s}' % task)
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", refuse)
    refused("HOST:PORT.*Could not parse port", make_strategy, "multi_worker")


def test_memory_grows_on_every_gpu_that_is_not_in_use(monkeypatch, caplog):
    gpus = [tf.config.PhysicalDevice(f"/device:GPU:{k}", "GPU") for k in (0, 1)]
    grown = []

    def grow(device, enable):
        grown.append((device, enable))
        if device is gpus[0]:
            raise RuntimeError("initialized")

    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", grow)
    with caplog.at_level("WARNING"):
        grow_gpu_memory()
    assert grown == [(gpu, True) for gpu in gpus]
    assert "GPU:0 will not grow: initialized" in caplog.text
