"""Which devices a run uses, and how a global batch is shared among them."""

import tensorflow as tf

from ekd_tf.checks import check_choice
from ekd_tf.checks import check_positive

STRATEGIES = ("none", "mirrored")


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
        name: "none" for one device, or "mirrored" for one replica per GPU (or per
            logical CPU on a machine without GPUs).
    """
    check_choice("strategy", name, STRATEGIES)
    if name == "none":
        return tf.distribute.get_strategy()
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


def distribute(strategy, dataset):
    """Returns the dataset of global batches, shared among the strategy's replicas."""
    if strategy.num_replicas_in_sync == 1:
        return dataset
    return strategy.experimental_distribute_dataset(dataset)
