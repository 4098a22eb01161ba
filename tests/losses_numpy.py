"""The distillation losses in NumPy and float64, written from the formulas.

Each takes student, teacher and labels, and what else the formula needs.
"""

import itertools

import numpy as np
import toys
from scipy.special import log_softmax


def unit(x):
    return toys.unit(np.float64(x))


def cosine(student, teacher, labels=None):
    return np.mean(1 - np.sum(unit(student) * unit(teacher), axis=1))


def kd(student, teacher, labels, centres, temperature=4.0, scale=64.0, own=None):
    """Divergence; `own` are the student's class centres, the teacher's if None."""
    own = centres if own is None else own
    of_t, of_s = (
        log_softmax(unit(rows) @ unit(classes).T * scale / temperature, axis=1)
        for rows, classes in ((teacher, centres), (student, own))
    )
    return temperature**2 * np.mean(np.sum(np.exp(of_t) * (of_t - of_s), axis=1))


def arcface(student, labels, centres, margins, scale=64.0):
    """Mean cross entropy with an angular margin, or one per row."""
    cosines, rows = unit(student) @ unit(centres).T, np.arange(len(labels))
    own = cosines[rows, labels]
    angles = np.arccos(own)
    # Past pi - m as the package has it: tests/heads/test_margins.py.
    guarded = own - margins * np.sin(margins)
    moved = np.where(angles < np.pi - margins, np.cos(angles + margins), guarded)
    cosines[rows, labels] = moved
    return -np.mean(log_softmax(scale * cosines, axis=1)[rows, labels])


def shrinkteanet(student, teacher, labels, centres):
    return cosine(student, teacher) + arcface(student, labels, centres, 0.0)


def margin_distillation(student, teacher, labels, centres):
    cosines = np.maximum(0, np.sum(unit(teacher) * unit(centres[labels]), axis=1))
    return arcface(student, labels, centres, 0.35 + 0.2 * cosines / cosines.max())


def proxyless_kd(student, teacher, labels, centres):
    return arcface(student, labels, centres, 0.5)


def mined_pairs(labels, image_ids=None, batch=None):
    """Returns the positive and the negative pairs `(i, j)`.

    Of the first `batch` rows, and of each of them with the rows behind.
    """
    images = range(len(labels)) if image_ids is None else image_ids
    positive, negative = [], []
    for i, j in itertools.combinations(range(len(labels)), 2):
        if i >= (batch or len(labels)):
            continue
        if labels[i] != labels[j]:
            negative.append((i, j))
        elif images[i] != images[j]:
            positive.append((i, j))
    return positive, negative


def ekd_cosines(student, teacher, labels, image_ids=None, batch=None):
    """Returns (student cosine, teacher cosine) of all positives and all negatives."""
    student, teacher = unit(student), unit(teacher)
    return tuple(
        [(student[i] @ student[j], teacher[i] @ teacher[j]) for i, j in pairs]
        for pairs in mined_pairs(labels, image_ids, batch)
    )


def ekd_thresholds(negative, fprs):
    """Returns the batch thresholds, student's and teacher's in rows."""
    if not negative:
        return np.zeros((2, len(fprs)))
    ranks = [int(len(negative) * fpr + 1e-9) for fpr in fprs]
    ordered = [sorted(column, reverse=True) for column in zip(*negative)]
    return np.array([[column[rank] for rank in ranks] for column in ordered])


def ekd(positive, negative, thresholds, temperature=0.01, num_negatives=2000):
    """Returns the positive and the negative term at the default weights."""

    def mean_square(pairs):
        cosines = np.reshape(pairs, (-1, 2, 1))
        passed = 0.5 + 0.5 * np.tanh((cosines - thresholds) / temperature / 2)
        of_student, of_teacher = passed.sum(axis=2).T
        return np.mean((of_student - of_teacher) ** 2) if pairs else 0.0

    hardest = sorted(negative, reverse=True)[:num_negatives]
    return 0.02 * mean_square(positive), 0.01 * mean_square(hardest)
