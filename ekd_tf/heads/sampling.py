"""Sampled classes: a softmax over the batch's identities and some of the others."""

import math

import tensorflow as tf


def num_sampled(num_identities, sample_rate, batch_size):
    """Returns how many classes a step's softmax has, a Python int.

    Args:
        num_identities: Int, classes there are.
        sample_rate: Float in (0, 1], the share of them wanted.
        batch_size: Int: there must be room for as many identities.
    """
    wanted = math.ceil(num_identities * sample_rate)
    return min(num_identities, max(wanted, batch_size))


def sample_classes(labels, num_identities, count, seed):
    """Draws classes without repetition, those of the batch always among them.

    Makes one random number per class and no tensor of batch x classes.

    Args:
        labels: Int32 tensor `(batch,)` in [0, num_identities).
        num_identities: Int.
        count: Int in [number of different labels, num_identities].
        seed: Int tensor `(2,)`; the same seed and labels give the same classes on
            every device. Under XLA a seed gives other numbers than without.

    Returns:
        `(classes, positions)`: int32 `(count,)`, rising, and int32 `(batch,)`, where
        in them each label stands.

    Reference:
        An et al., 2022, arXiv:2203.15565, Partial FC; insightface `arcface_torch`.
    """
    # Named, because the default depends on the device.
    draws = tf.random.stateless_uniform([num_identities], seed, alg="philox")
    # Above any draw, so that positives come first.
    draws = tf.tensor_scatter_nd_update(
        draws, labels[:, None], tf.fill(tf.shape(labels), 2.0)
    )
    _, classes = tf.math.top_k(draws, count, sorted=False)
    classes = tf.sort(classes)
    return classes, tf.searchsorted(classes, labels)
