"""Which devices a run uses, and how a global batch is shared among them."""

from __future__ import annotations

import json
import os
import re

import tensorflow as tf
from absl import logging
from tensorflow.core.protobuf import config_pb2
from tensorflow.core.protobuf import rewriter_config_pb2
from tensorflow.python.eager import context

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_positive
from ekd_tf.checks import check_range

# How TensorFlow reports that the other side of a connection is gone.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)
STRATEGIES = ("none", "mirrored", "multi_worker")


def grow_gpu_memory():
    """Lets TensorFlow take a GPU's memory as it needs it, not all of it at once.

    So that a teacher run by onnxruntime, or a second process, finds some too. Without
    a GPU nothing happens. `TF_FORCE_GPU_ALLOW_GROWTH=false` in the environment has
    TensorFlow take all of it in spite of this. GPUs it already uses stay as they are.
    """
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError as error:
            # Too late in a process that has already computed something: no reason to
            # end a run.
            logging.warning("The memory of %s will not grow: %s", gpu.name, error)


def keep_order_of_sums():
    """Has TensorFlow add three tensors and more in the order they are listed.

    Where a function's tensors are estimated above 205 MB on a CPU (80 % of a
    device's memory, and a CPU counts as one of 256 MB) its graph optimizer turns such
    a sum, most of all one of gradients, into additions to one buffer in the order the
    summands arrive, which is another each time. `enable_op_determinism` does not
    prevent it. Everything else the optimizer does stays.
    """
    config = config_pb2.ConfigProto()
    # The default, less the scheduling that reorders sums.
    config.graph_options.rewrite_options.memory_optimization = (
        rewriter_config_pb2.RewriterConfig.SWAPPING_HEURISTICS
    )
    # `tf.config.optimizer` offers all of the optimizer's choices but this one.
    running = context.context()
    running._config = config
    running.function_call_options = None


def set_virtual_devices(count):
    """Splits the CPU into `count` logical devices, to try replicas without GPUs.

    Args:
        count: Int >= 1. 1 leaves the CPU as it is.

    Raises:
        RuntimeError: If TensorFlow has already run something: the split can only be
            made before.
    """
    check_positive("num_virtual_devices", count)
    if count == 1:
        return
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * count
    )


def set_workers(hosts: list[str], index: int | None) -> None:
    """Sets TF_CONFIG, from which TensorFlow knows the processes of a run.

    Args:
        hosts: Addresses `host:port` of all workers, in the same order in each of
            them; the first one is the chief. Empty leaves TF_CONFIG as it is.
        index: Int >= 0: which of them this process is.

    Raises:
        ValueError: If one is given without the other, an address is malformed or
            repeated, `index` is none of them, or TF_CONFIG says something else.
    """
    if not hosts and index is None:
        return
    if not hosts or index is None:
        raise ValueError(
            "Give `worker_hosts` and `worker_index` together. Received: "
            f"worker_hosts={','.join(hosts)}, worker_index={index}"
        )
    for host in hosts:
        if not re.fullmatch(r"\S+:\d+", host):
            raise ValueError(
                f"`worker_hosts` must be host:port,host:port,... Received: {host!r}"
            )
    if len(set(hosts)) < len(hosts):
        raise ValueError(f"`worker_hosts` must all differ. Received: {','.join(hosts)}")
    check_range("worker_index", index, low=0, high=len(hosts), high_open=True)
    config = {
        "cluster": {"worker": list(hosts)},
        "task": {"type": "worker", "index": index},
    }
    known = _tf_config()
    if known and known != config:
        raise ValueError(
            "TF_CONFIG and `worker_hosts` say different things: unset one. "
            f"Received: TF_CONFIG={json.dumps(known)}, from the arguments "
            f"{json.dumps(config)}"
        )
    os.environ["TF_CONFIG"] = json.dumps(config)


def _tf_config():
    """Returns what TF_CONFIG says, {} where it is not set."""
    text = os.environ.get("TF_CONFIG", "").strip("\ufeff \n\r\t")
    if not text:
        return {}
    # TensorFlow reads the variable itself.
    os.environ["TF_CONFIG"] = text
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _wrong_tf_config(text, str(error)) from None
    cluster, task = (
        config.get(word) if isinstance(config, dict) else None
        for word in ("cluster", "task")
    )
    if not isinstance(cluster, dict) or not all(
        isinstance(hosts, list) and hosts for hosts in cluster.values()
    ):
        raise _wrong_tf_config(text, "it holds no cluster")
    if not isinstance(task, dict) or task.get("type") not in tuple(cluster):
        raise _wrong_tf_config(text, "its task has no type of the cluster")
    number = len(cluster[task["type"]])
    if task.get("index") not in range(number):
        raise _wrong_tf_config(
            text, f"its task needs an index from 0 to {number - 1}, a number"
        )
    return config


def _wrong_tf_config(text, reason):
    return ValueError(
        'TF_CONFIG must be JSON like {"cluster": {"worker": ["a:2222", "b:2222"]}, '
        f'"task": {{"type": "worker", "index": 0}}}}: {reason}. Received: '
        f"TF_CONFIG={text[:200]}"
    )


def make_strategy(name, worker_hosts=(), worker_index=None):
    """Returns the distribution strategy of a run.

    Args:
        name: "none" for one device; "mirrored" for one replica per GPU (or per
            logical CPU on a machine without GPUs); "multi_worker" for the same on
            every process that TF_CONFIG lists. It must be the first thing a process
            asks of TensorFlow.
        worker_hosts: Addresses of the workers, instead of TF_CONFIG: `set_workers`.
        worker_index: Which of them this process is.
    """
    check_choice("strategy", name, STRATEGIES)
    if name != "multi_worker" and (worker_hosts or worker_index is not None):
        raise ValueError(
            "`worker_hosts` and `worker_index` belong to `--strategy=multi_worker`."
            f" Received: strategy={name}"
        )
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "multi_worker":
        set_workers(list(worker_hosts), worker_index)
        if not _tf_config():
            raise ValueError(
                "`--strategy=multi_worker` needs the addresses of all workers and "
                "which one this is in the environment variable TF_CONFIG. For one "
                "machine use mirrored"
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    devices = [device.name for device in tf.config.list_logical_devices(kind)]
    return tf.distribute.MirroredStrategy(devices)


def check_divisible(general, balanced, replicas):
    """Raises `ValueError` unless each replica can have the same mix of rows.

    Args:
        general: Int: random rows of the global batch.
        balanced: Int: identity-balanced rows of the global batch.
        replicas: Int: number of replicas.
    """
    for name, rows in (("general", general), ("balanced", balanced)):
        if rows % replicas:
            raise ValueError(
                f"The {name} rows of a batch must be divisible by the number of "
                f"replicas, so that all replicas see the same mix. Received: "
                f"{rows} {name} rows for {replicas} replicas"
            )


def is_chief(strategy):
    """Returns whether this process writes what the run leaves behind."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    return resolver.task_type == "chief" or resolver.task_id == 0


def has_other_workers(strategy):
    """Returns whether other processes take part in the run."""
    resolver = strategy.cluster_resolver
    return resolver is not None and len(resolver.cluster_spec().as_dict()) > 0


def lost_worker(strategy, error):
    """Says which other worker an error is about, because its process has ended.

    Args:
        strategy: From `make_strategy`.
        error: `tf.errors.OpError` that a step raised.

    Returns:
        "worker 1 (host:port)", or None: the error is of another kind.
    """
    if not has_other_workers(strategy) or not isinstance(error, _LOST):
        return None
    resolver = strategy.cluster_resolver
    workers = resolver.cluster_spec()
    for job, task in re.findall(r"/job:(\w+)/replica:\d+/task:(\d+)", error.message):
        if (job, int(task)) != (resolver.task_type, resolver.task_id):
            return f"{job} {task} ({workers.task_address(job, int(task))})"
    return "another worker" if "Collective ops is aborted" in error.message else None


def distribute(strategy, dataset):
    """Shares global batches among the replicas: replica r has the r-th part of rows.

    Args:
        strategy: From `make_strategy`.
        dataset: `tf.data.Dataset` of dicts of tensors `(batch, ...)` of static batch
            size, the same in every process.

    Returns:
        The dataset, or the distributed one when there are several replicas.
    """
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return dataset

    def of_worker(context):
        local = replicas // context.num_input_pipelines
        first = context.input_pipeline_id * local

        def parts(batch):
            def split(rows):
                shares = tf.reshape(rows, [replicas, -1, *rows.shape[1:]])
                return shares[first : first + local]

            return tf.data.Dataset.from_tensor_slices(
                tf.nest.map_structure(split, batch)
            )

        # One element per local replica, in order, for each global batch.
        return dataset.flat_map(parts).prefetch(2 * local)

    return strategy.distribute_datasets_from_function(of_worker)
