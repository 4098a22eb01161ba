"""Which devices a run uses, and how a global batch is shared among them."""

import os

import tensorflow as tf

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_positive

STRATEGIES = ("none", "mirrored", "multi_worker")


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


def make_strategy(name):
    """Returns the distribution strategy of a run.

    Args:
        name: "none" for one device; "mirrored" for one replica per GPU (or per
            logical CPU on a machine without GPUs); "multi_worker" for the same on
            every process that TF_CONFIG lists. It must be the first thing a process
            asks of TensorFlow.
    """
    check_choice("strategy", name, STRATEGIES)
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "multi_worker":
        if not os.environ.get("TF_CONFIG"):
            raise ValueError(
                "`--strategy=multi_worker` needs TF_CONFIG with the addresses of all "
                "workers and this one's index. For one machine use mirrored"
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
