"""The distillation losses as NumPy loops in float64, written from the formulas.

Each takes student, teacher and labels, and what else the formula needs.
"""

import itertools
import math

import numpy as np
import toys


def unit(x):
    return toys.unit(np.float64(x))


def cosine_of(x, y):
    return float(unit(x) @ unit(y))


def log_softmax(logits):
    logits = np.float64(logits)
    peak = logits.max()
    return logits - peak - math.log(sum(math.exp(z - peak) for z in logits))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def cosine(student, teacher, labels=None):
    return mean(1 - cosine_of(s, t) for s, t in zip(student, teacher))


def _tempered(rows, centres, temperature, scale):
    """Log probabilities of each row over the classes."""
    for x in rows:
        yield log_softmax([scale * cosine_of(x, c) / temperature for c in centres])


def kd(student, teacher, labels, centres, temperature=4.0, scale=64.0, own=None):
    """Divergence; `own` are the student's class centres, the teacher's if None."""
    of_s = _tempered(student, centres if own is None else own, temperature, scale)
    of_t = _tempered(teacher, centres, temperature, scale)
    total = sum(
        math.exp(p) * (p - q)
        for log_p, log_q in zip(of_t, of_s)
        for p, q in zip(log_p, log_q)
    )
    return temperature**2 * total / len(student)


def arcface(student, labels, centres, margins, scale=64.0):
    """Mean cross entropy with an angular margin per row."""
    total = 0.0
    for s, label, m in zip(student, labels, margins):
        cosines = [cosine_of(s, c) for c in centres]
        angle = math.acos(cosines[label])
        # Past pi - m as the package has it: tests/heads/test_margins.py.
        guarded = cosines[label] - m * math.sin(m)
        cosines[label] = math.cos(angle + m) if angle < math.pi - m else guarded
        total -= log_softmax(scale * np.array(cosines))[label]
    return total / len(student)


def shrinkteanet(student, teacher, labels, centres):
    zeros = [0.0] * len(student)
    return cosine(student, teacher) + arcface(student, labels, centres, zeros)


def margin_distillation(student, teacher, labels, centres):
    cosines = [
        max(0.0, cosine_of(t, centres[label])) for t, label in zip(teacher, labels)
    ]
    margins = [0.35 + 0.2 * c / max(cosines) for c in cosines]
    return arcface(student, labels, centres, margins)


def proxyless_kd(student, teacher, labels, centres):
    return arcface(student, labels, centres, [0.5] * len(student))


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

    def rank(cosine, of_model):
        return sum(0.5 + 0.5 * np.tanh((cosine - of_model) / temperature / 2))

    def mean_square(pairs):
        squares = [
            (rank(student, thresholds[0]) - rank(teacher, thresholds[1])) ** 2
            for student, teacher in pairs
        ]
        return mean(squares) if squares else 0.0

    hardest = sorted(negative, reverse=True)[:num_negatives]
    return 0.02 * mean_square(positive), 0.01 * mean_square(hardest)
