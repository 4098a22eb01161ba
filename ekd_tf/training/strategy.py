"""Which devices a run uses, and how a global batch is divided among them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import logging
from tensorflow.core.protobuf import config_pb2
from tensorflow.core.protobuf import rewriter_config_pb2
from tensorflow.python.eager import context

from ekd_tf.checks import check_choice
from ekd_tf.ops.collective import sum_over_replicas

# How TensorFlow reports that the other side of a connection is gone.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)
_EXAMPLE = (
    '{"cluster": {"worker": ["a:2222", "b:2222"]}, "task": '
    '{"type": "worker", "index": 0}}'
)


def grow_gpu_memory() -> None:
    """Lets TensorFlow take a GPU's memory as it needs it, not all of it at once.

    So that a teacher run by onnxruntime, or a second process, finds some too.
    `TF_FORCE_GPU_ALLOW_GROWTH=false` in the environment undoes this.
    """
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError as error:
            # Too late in a process that has already computed something.
            logging.warning("The memory of %s will not grow: %s", gpu.name, error)


def keep_order_of_sums() -> None:
    """Has TensorFlow add three tensors and more in the order they are listed.

    Where a function's tensors are estimated above 205 MB on a CPU its graph optimizer
    turns such a sum, most of all one of gradients, into additions to one buffer in the
    order the summands arrive, which is another each time. `enable_op_determinism` does
    not prevent it. Everything else the optimizer does stays.
    """
    # `tf.config.optimizer` offers all of the optimizer's choices but this one. It acts
    # on what is traced from now on, in the whole process.
    running = context.context()
    config = config_pb2.ConfigProto()
    if running._config is not None:
        config.CopyFrom(running._config)
    # The default, less the scheduling that reorders sums.
    config.graph_options.rewrite_options.memory_optimization = (
        rewriter_config_pb2.RewriterConfig.SWAPPING_HEURISTICS
    )
    running._config = config
    running.function_call_options = None


def set_virtual_devices(count: int) -> None:
    """Splits the CPU into `count` logical devices, to try replicas without GPUs."""
    if count > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )


def _check_tf_config():
    """Raises `ValueError` unless TF_CONFIG says all that TensorFlow reads of it."""
    text = os.environ.get("TF_CONFIG", "").strip("\ufeff \n\r\t")
    if not text:
        raise ValueError(
            "`--strategy=multi_worker` needs the addresses of all workers, and which "
            f"one this is, in TF_CONFIG={_EXAMPLE}. For one machine use mirrored"
        )
    os.environ["TF_CONFIG"] = text
    try:
        config = json.loads(text)
        task = config["task"]
        hosts = config["cluster"][task["type"]]
        if not isinstance(hosts, list) or task["index"] not in range(len(hosts)):
            raise ValueError("its task needs an index, a number, into a list of hosts")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"TF_CONFIG must be JSON like {_EXAMPLE}: {error!r}. "
            f"Received: TF_CONFIG={text[:200]}"
        ) from None


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Returns the distribution strategy of a run.

    "none" is one device; "mirrored" one replica per GPU (or per logical CPU on a
    machine without GPUs); "multi_worker" the same on every process that TF_CONFIG
    lists, and the first thing a process asks of TensorFlow.
    """
    check_choice("strategy", name, ("none", "mirrored", "multi_worker"))
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "multi_worker":
        _check_tf_config()
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except tf.errors.InvalidArgumentError as error:
            reason = " ".join(error.message.split())
            raise ValueError(
                f"TF_CONFIG must name workers as HOST:PORT, like {_EXAMPLE}: {reason}"
            ) from error
    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    devices = [device.name for device in tf.config.list_logical_devices(kind)]
    return tf.distribute.MirroredStrategy(devices)


def check_divisible(general: int, balanced: int, replicas: int) -> None:
    """Raises `ValueError` unless each replica can have the same mix of rows."""
    for name, rows in (("general", general), ("balanced", balanced)):
        if rows % replicas:
            raise ValueError(
                f"The {name} rows of a batch must be divisible by the number of "
                f"replicas, so that all replicas see the same mix. Received: "
                f"{rows} {name} rows for {replicas} replicas"
            )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process writes what the run leaves behind."""
    return strategy.extended.should_checkpoint


def has_other_workers(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether other processes take part in the run."""
    resolver = strategy.cluster_resolver
    return resolver is not None and len(resolver.cluster_spec().as_dict()) > 0


def sum_over_replicas_of(
    strategy: tf.distribute.Strategy,
) -> Callable[[float], tf.Tensor]:
    """Returns a function that all processes call, each with a number of its own.

    It gives all of them the sum over replicas, float32.
    """

    @tf.function(autograph=False)
    def total(number):
        def sum_of_all():
            # An argument has no device, and workers refuse to reduce what has none.
            return sum_over_replicas(tf.identity(number))

        return strategy.experimental_local_results(strategy.run(sum_of_all))[0]

    return lambda number: total(tf.constant(number, tf.float32))


def lost_worker(
    strategy: tf.distribute.Strategy, error: tf.errors.OpError
) -> str | None:
    """Returns "worker 1 (host:port)" where a step's error is of its end, or None."""
    if not has_other_workers(strategy) or not isinstance(error, _LOST):
        return None
    resolver = strategy.cluster_resolver
    workers = resolver.cluster_spec()
    for job, task in re.findall(r"/job:(\w+)/replica:\d+/task:(\d+)", error.message):
        if (job, int(task)) != (resolver.task_type, resolver.task_id):
            return f"{job} {task} ({workers.task_address(job, int(task))})"
    return "another worker" if "Collective ops is aborted" in error.message else None


def distribute(
    strategy: tf.distribute.Strategy,
    dataset: tf.data.Dataset,
    prepare: Callable[[tf.data.Dataset], tf.data.Dataset] | None = None,
) -> Any:
    """Divides global batches among replicas: replica r has the r-th part of rows.

    The dataset is of dicts of tensors `(batch, ...)` of static batch size, the same in
    every process. `prepare` is what is still done to it: each process does it to the
    rows of its own replicas alone. Returns what the strategy iterates over; for one
    replica the dataset.
    """
    prepare = prepare or (lambda rows: rows)
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return prepare(dataset)

    def local_dataset(context):
        local = replicas // context.num_input_pipelines

        def own(rows):
            size = rows.shape[0] // context.num_input_pipelines
            return rows[size * context.input_pipeline_id :][:size]

        def parts(batch):
            cut = tf.nest.map_structure(
                lambda rows: tf.reshape(rows, [local, -1, *rows.shape[1:]]), batch
            )
            return tf.data.Dataset.from_tensor_slices(cut)

        mine = dataset.map(lambda batch: tf.nest.map_structure(own, batch))
        # One element per local replica, in order, for each global batch.
        return prepare(mine).flat_map(parts).prefetch(2 * local)

    return strategy.distribute_datasets_from_function(local_dataset)
