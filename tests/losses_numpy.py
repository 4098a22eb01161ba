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


def pairs_of(rows):
    return itertools.product(range(len(rows)), repeat=2)


def sp(student, teacher, labels=None, gram="cosine"):
    def entry(x, i, j):
        x = np.float64(x)
        if gram == "cosine":
            return cosine_of(x[i], x[j])
        return x[i] @ x[j] / math.sqrt(sum((x[i] @ row) ** 2 for row in x))

    return mean(
        (entry(student, i, j) - entry(teacher, i, j)) ** 2 for i, j in pairs_of(student)
    )


def distance(x, y):
    return float(np.linalg.norm(np.float64(x) - np.float64(y)))


def darkrank(student, teacher, labels=None, alpha=3.0, beta=3.0, length=3):
    def score(x, i, j):
        return -alpha * distance(unit(x[i]), unit(x[j])) ** beta

    total = 0.0
    for i in range(len(student)):
        others = [j for j in range(len(student)) if j != i]
        order = sorted(others, key=lambda j: -score(teacher, i, j))[:length]
        scores = [score(student, i, j) for j in order]
        for k in range(len(scores)):
            total -= log_softmax(scores[k:])[0]
    return total / len(student)


def triplets(labels, image_ids=None):
    rows = range(len(labels))
    images = rows if image_ids is None else image_ids
    for a, p, n in itertools.product(rows, repeat=3):
        if labels[a] == labels[p] != labels[n] and images[a] != images[p]:
            yield a, p, n


def triplet_distillation(
    student, teacher, labels, image_ids=None, min_margin=0.2, max_margin=0.5
):
    def square(x, i, j):
        return distance(unit(x[i]), unit(x[j])) ** 2

    found = list(triplets(labels, image_ids))
    gaps = [
        max(0.0, square(teacher, a, n) - square(teacher, a, p)) for a, p, n in found
    ]
    largest = max(gaps)
    return mean(
        max(
            0.0,
            square(student, a, p)
            - square(student, a, n)
            + min_margin
            + (max_margin - min_margin) * gap / largest,
        )
        for (a, p, n), gap in zip(found, gaps)
    )


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


def gkd(student, teacher, labels, centres, temperature=4.0, mass=0.9, scale=64.0):
    total = 0.0
    of_s, of_t = (_tempered(x, centres, temperature, scale) for x in (student, teacher))
    for log_q, log_p in zip(of_s, of_t):
        p, q = np.exp(log_p), np.exp(log_q)
        primary, held = [], 0.0
        for j in sorted(range(len(p)), key=lambda j: -p[j]):
            if held < mass:
                primary.append(j)
                held += p[j]
        of_p, of_q = p[primary].sum(), q[primary].sum()
        total += sum(p[j] / of_p * math.log(p[j] / of_p * of_q / q[j]) for j in primary)
        total += of_p * math.log(of_p / of_q)
        if len(primary) < len(p):
            total += (1 - of_p) * math.log((1 - of_p) / (1 - of_q))
    return temperature**2 * total / len(student)


def pkt(student, teacher, labels=None):
    def probabilities(x, i):
        kernel = np.array([(cosine_of(x[i], y) + 1) / 2 + 1e-6 for y in x])
        return kernel / kernel.sum()

    total = 0.0
    for i in range(len(student)):
        p, q = probabilities(teacher, i), probabilities(student, i)
        total += sum(a * math.log(a / b) for a, b in zip(p, q))
    return total / len(student)


def icd_face(student, teacher, labels, bins=41):
    def histogram(x):
        counts = np.zeros(bins)
        for i, j in pairs_of(x):
            if i != j and labels[i] == labels[j]:
                place = (cosine_of(x[i], x[j]) + 1) / 2 * (bins - 1)
                for r in range(bins):
                    counts[r] += max(0.0, 1 - abs(place - r))
        return counts / counts.sum()

    p, q = histogram(teacher), histogram(student)
    return sum(a * math.log((a + 1e-6) / (b + 1e-6)) for a, b in zip(p, q))


def arcface_target(cosine, margin):
    """An angular margin, guarded past pi - m."""
    angle = math.acos(min(max(cosine, -1.0), 1.0))
    if angle < math.pi - margin:
        return math.cos(angle + margin)
    return cosine - margin * math.sin(margin)


def margin_logits(rows, centres, labels, scale, target, negative=lambda c, t: c):
    """Logits of `target(cosine, row)` at the label, `negative(cosine, target)` else."""
    logits = np.zeros((len(rows), len(centres)))
    for i, (row, label) in enumerate(zip(rows, labels)):
        cosines = [cosine_of(row, c) for c in centres]
        at_label = target(cosines[label], row)
        logits[i] = [negative(cosine, at_label) for cosine in cosines]
        logits[i, label] = at_label
    return scale * logits


def arcface(student, labels, centres, margins, scale=64.0):
    """Mean cross entropy with an angular margin per row."""
    total = 0.0
    for s, label, m in zip(student, labels, margins):
        cosines = [cosine_of(s, c) if np.any(c) else 0.0 for c in centres]
        cosines[label] = arcface_target(cosines[label], m)
        total -= log_softmax(scale * np.array(cosines))[label]
    return total / len(student)


def shrinkteanet(student, teacher, labels, centres):
    zeros = [0.0] * len(student)
    return cosine(student, teacher) + arcface(student, labels, centres, zeros)


def margins_of_teacher(teacher, labels, centres, low=0.35, high=0.55):
    cosines = [
        max(0.0, cosine_of(t, centres[label])) for t, label in zip(teacher, labels)
    ]
    return [low + (high - low) * c / max(cosines) for c in cosines]


def margin_distillation(student, teacher, labels, centres):
    margins = margins_of_teacher(teacher, labels, centres)
    return arcface(student, labels, centres, margins)


def proxyless_kd(student, teacher, labels, centres):
    return arcface(student, labels, centres, [0.5] * len(student))


def ada_distill_centres(student, teacher, labels, centres):
    """Returns the class centres after a batch."""
    moved = np.float64(centres).copy()
    for identity in set(labels):
        asked = []
        for s, t, label in zip(student, teacher, labels):
            if label != identity:
                continue
            old = np.float64(centres[identity])
            closeness = cosine_of(old, t) if np.any(old) else 0.0
            keep = cosine_of(s, t) * min(max(closeness, 1e-6), 1.0)
            keep = min(max(keep, 1e-6), 1.0)
            asked.append(keep * old + (1 - keep) * unit(t))
        moved[identity] = sum(asked) / len(asked)
    return moved


def ada_distill(student, teacher, labels, centres):
    moved = ada_distill_centres(student, teacher, labels, centres)
    return arcface(student, labels, moved, [0.45] * len(student))


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
