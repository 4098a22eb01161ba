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


def check_reading(
    embed: Callable,
    others: Iterable[tuple[str, Callable]],
    source: Source,
    input_size: int,
    seed: int = 0,
    unreadable: Unreadable | None = None,
    role: str = "teacher",
) -> tuple[float | None, tuple[str, float] | None]:
    """Warns where a model verifies no better than chance or than the pixels do.

    An untrained network is not at chance: it passes on some of the pixels. So the
    cosine of the bare images, each with its mirror image added as to the model's
    embeddings, is the second mark to beat, as they are or less their mean.

    Args:
        embed: As `SourceEmbedder.some`.
        others: Names of other ways of reading the model's input and their `embed`,
            tried where its AUC is below `LOW_AUC`.
        source: Labelled images; four of up to 32 identities, chosen by `seed`, are
            used, and unreadable ones among them left out.
        input_size: Side in pixels of the bare images.
        role: Name of the flag that named it, for the message.

    Returns the model's AUC, None where the images make no positive pair, and name and
    AUC of the best other way, None where no one reaches `GOOD_AUC`.
    """
    identities = min(IDENTITIES, len(np.unique(source.labels)))
    sampler = BatchSampler(source.labels, 0, identities, IMAGES_PER_IDENTITY, seed)
    chosen = np.unique(sampler.batch(0)[0])
    indices, _ = readable_indices(source, chosen, unreadable)
    labels = source.labels[indices]
    batches = list(evaluation_batches(source, indices, input_size, len(indices)))
    pixels = np.concatenate(batches).astype(np.float32)
    # A row of zeros has no direction: black images, or all alike, get one.
    pixels = (pixels + pixels[:, :, ::-1]).reshape(len(indices), -1) + 1.0
    centred = pixels - pixels.mean(axis=0) + 1e-3
    rocs = []
    for embeddings in (embed(source, indices), pixels, centred):
        scores = all_pair_scores(embeddings, labels)
        if not all(kind.size for kind in scores):
            return None, None
        rocs.append(ROC.of(*scores))
    tpr, *pixel_tprs = (roc.points([FPR])[0].tpr for roc in rocs)
    chance = FPR + 3 * math.sqrt(FPR * (1 - FPR) / rocs[0].num_positive)
    if tpr <= max(chance, *pixel_tprs):
        logging.warning(
            "The %s looks untrained: its TPR at FPR %g on %d images is "
            "%.3f; chance is %g, and the bare pixels reach %.3f. Is --%s the file "
            "you meant, is its range of pixels right (FILE@-1..1), and are the images "
            "cropped as its own were?",
            *(role, FPR, len(indices), tpr, FPR, max(pixel_tprs), role),
        )
    auc, best, reading = rocs[0].auc(), GOOD_AUC, None
    for name, embed_so in others if auc < LOW_AUC else ():
        try:
            scores = all_pair_scores(embed_so(source, indices), labels)
        # A range far from its own may give it zeros or infinity.
        except ValueError:
            continue
        other_auc = ROC.of(*scores).auc()
        if other_auc >= best:
            best, reading = other_auc, (name, other_auc)
    return auc, reading
