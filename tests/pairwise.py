"""All pairs of some embeddings by a plain product."""

import types

import numpy as np


def all_pairs(rows, labels):
    """Returns `left`, `right`, `same` and `cosine` of all pairs of unit rows."""
    left, right = np.triu_indices(len(rows), k=1)
    same, cosine = labels[left] == labels[right], (rows @ rows.T)[left, right]
    return types.SimpleNamespace(left=left, right=right, same=same, cosine=cosine)


def with_identities(rows, labels):
    """Images per identity and scored pairs, as `identity_intervals` takes them."""
    _, number = np.unique(labels, return_inverse=True)
    pairs = all_pairs(rows, number)
    scored = pairs.cosine, number[pairs.left], number[pairs.right]
    cosine, first, second = (column[~pairs.same] for column in scored)
    positive = pairs.cosine[pairs.same], number[pairs.left[pairs.same]]
    return np.bincount(number), positive, (cosine, first, second)
