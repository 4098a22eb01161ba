"""Whether a teacher knows anything: its TPR beside chance and beside bare pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from absl import logging

from ekd_tf.data import BatchSampler
from ekd_tf.data import Source
from ekd_tf.data import evaluation_batches
from ekd_tf.data import readable_indices
from ekd_tf.evaluation.allpairs import all_pair_scores
from ekd_tf.metrics import tpr_at_fpr
from ekd_tf.unreadable import Unreadable

# Where a few hundred positive pairs give a steady figure.
FPR = 0.1
IDENTITIES = 32
IMAGES_PER_IDENTITY = 4


def warn_if_untrained(
    embed: Callable,
    source: Source,
    input_size: int,
    seed: int = 0,
    unreadable: Unreadable | None = None,
) -> float | None:
    """Warns where a teacher verifies no better than chance or than the pixels do.

    An untrained network is not at chance: it passes on some of the pixels. So the
    cosine of the bare images, each with its mirror image added as to the teacher's
    embeddings, is the second mark to beat, as they are or less their mean.

    Args:
        embed: Function of `(source, indices)` to the teacher's embeddings of these
            images, float32 `(n, dim)`: `SourceEmbedder.some`.
        source: The training images; some of up to 32 identities are used.
        input_size: Side in pixels of the bare images.
        seed: Int, chooses the images.
        unreadable: Counts the unreadable ones among them, which are left out.

    Returns:
        The teacher's TPR at FPR 0.1, or None where the images make no positive pair.

    Raises:
        ValueError: The teacher's embedding of an image is not finite or all zero.
    """
    identities = min(IDENTITIES, len(np.unique(source.labels)))
    sampler = BatchSampler(source.labels, 0, identities, IMAGES_PER_IDENTITY, seed)
    chosen = np.unique(sampler.batch(0)[0])
    indices, _ = readable_indices(source, chosen, unreadable)
    batches = list(evaluation_batches(source, indices, input_size, len(indices)))
    pixels = np.concatenate(batches).astype(np.float32)
    # A row of zeros has no direction: black images, or all alike, get one.
    pixels = (pixels + pixels[:, :, ::-1]).reshape(len(indices), -1) + 1.0
    labels = source.labels[indices]
    tprs = []
    for embeddings in (
        embed(source, indices),
        pixels,
        pixels - pixels.mean(axis=0) + 1e-3,
    ):
        positive, negative = all_pair_scores(embeddings, labels)
        if not positive.size or not negative.size:
            return None
        tprs.append(float(tpr_at_fpr(positive, negative, [FPR])[0][0]))
    tpr, of_pixels = tprs[0], max(tprs[1:])
    chance = FPR + 3 * math.sqrt(FPR * (1 - FPR) / positive.size)
    if tpr <= max(chance, of_pixels):
        logging.warning(
            "The teacher looks untrained: its TPR at FPR %g on %d training images is "
            "%.3f; chance is %g, and the bare pixels reach %.3f. Is --teacher the file "
            "you meant, and are the images cropped as its own were?",
            *(FPR, len(indices), tpr, FPR, of_pixels),
        )
    return tpr
