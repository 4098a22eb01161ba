"""Whether a teacher knows anything: beside chance, bare pixels and other ranges."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Iterable

import numpy as np
from absl import logging

from ekd_tf.data import BatchSampler
from ekd_tf.data import Source
from ekd_tf.data import evaluation_batches
from ekd_tf.data import readable_indices
from ekd_tf.data.unreadable import Unreadable
from ekd_tf.evaluation.allpairs import all_pair_scores
from ekd_tf.metrics import ROC

# Where a few hundred positive pairs give a steady figure.
FPR = 0.1
IDENTITIES = 32
IMAGES_PER_IDENTITY = 4
# A model given pixels of another range than its own stays at 0.58 to 0.64 where it
# reaches 0.96 and more with its own (MobileFaceNet, 40 identities of CelebA).
LOW_AUC, GOOD_AUC = 0.8, 0.9


def better_reading(
    value: float | None,
    others: Iterable[tuple[str, Callable]],
    source: Source,
    seed: int = 0,
    unreadable: Unreadable | None = None,
) -> tuple[str, float] | None:
    """Returns the name and AUC of the best other way of reading a model's input.

    None where `value`, from `warn_if_untrained`, is at least `LOW_AUC`, or where none
    of `others`, names and functions `embed`, reaches `GOOD_AUC`.
    """
    if value is None or value >= LOW_AUC:
        return None
    indices, labels = _sample(source, seed, unreadable)
    best, reading = GOOD_AUC, None
    for name, embed in others:
        try:
            scores = all_pair_scores(embed(source, indices), labels)
        # A range far from its own may give it zeros or infinity.
        except ValueError:
            continue
        auc = ROC.of(*scores).auc()
        if auc >= best:
            best, reading = auc, name
    return None if reading is None else (reading, best)


def _sample(source, seed, unreadable):
    """Returns indices and labels of up to 32 identities' images, up to 4 of each."""
    identities = min(IDENTITIES, len(np.unique(source.labels)))
    sampler = BatchSampler(source.labels, 0, identities, IMAGES_PER_IDENTITY, seed)
    chosen = np.unique(sampler.batch(0)[0])
    indices, _ = readable_indices(source, chosen, unreadable)
    return indices, source.labels[indices]


def warn_if_untrained(
    embed: Callable,
    source: Source,
    input_size: int,
    seed: int = 0,
    unreadable: Unreadable | None = None,
    role: str = "teacher",
) -> float | None:
    """Warns where a teacher verifies no better than chance or than the pixels do.

    An untrained network is not at chance: it passes on some of the pixels. So the
    cosine of the bare images, each with its mirror image added as to the teacher's
    embeddings, is the second mark to beat, as they are or less their mean.

    Args:
        embed: As `SourceEmbedder.some`.
        source: Labelled images; four of up to 32 identities are used.
        input_size: Side in pixels of the bare images.
        seed: Chooses the images.
        unreadable: Counts the unreadable ones among them, which are left out.
        role: Name of the flag that named it, for the message.

    Returns:
        The teacher's AUC, or None where the images make no positive pair.
    """
    indices, labels = _sample(source, seed, unreadable)
    batches = list(evaluation_batches(source, indices, input_size, len(indices)))
    pixels = np.concatenate(batches).astype(np.float32)
    # A row of zeros has no direction: black images, or all alike, get one.
    pixels = (pixels + pixels[:, :, ::-1]).reshape(len(indices), -1) + 1.0
    centred = pixels - pixels.mean(axis=0) + 1e-3
    rocs = []
    for embeddings in (embed(source, indices), pixels, centred):
        scores = all_pair_scores(embeddings, labels)
        if not all(kind.size for kind in scores):
            return None
        rocs.append(ROC.of(*scores))
    tpr, *of_pixels = (roc.points([FPR])[0].tpr for roc in rocs)
    chance = FPR + 3 * math.sqrt(FPR * (1 - FPR) / rocs[0].num_positive)
    if tpr <= max(chance, *of_pixels):
        logging.warning(
            "The %s looks untrained: its TPR at FPR %g on %d images is "
            "%.3f; chance is %g, and the bare pixels reach %.3f. Is --%s the file "
            "you meant, is its range of pixels right (FILE@-1..1), and are the images "
            "cropped as its own were?",
            *(role, FPR, len(indices), tpr, FPR, max(of_pixels), role),
        )
    return rocs[0].auc()
