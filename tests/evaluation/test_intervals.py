import numpy as np
import pytest

from ekd_tf.evaluation.allpairs import PairBlocks
from ekd_tf.evaluation.allpairs import all_pairs_roc
from ekd_tf.evaluation.intervals import labelled_intervals
from ekd_tf.metrics import IdentityScores
from ekd_tf.metrics import identity_intervals


@pytest.fixture
def labelled(rng):
    labels = rng.permutation(np.repeat(np.arange(40) * 7 + 2, 5))
    centres = rng.normal(size=(300, 8))
    return centres[labels] + rng.normal(size=(200, 8)), labels


def all_scores_np(embeddings, labels):
    """Every pair with its identities, as `IdentityScores` in no order."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    _, number = np.unique(labels, return_inverse=True)
    i, j = np.triu_indices(labels.size, 1)
    scores = np.sum(unit[i] * unit[j], axis=1)
    same = labels[i] == labels[j]
    return IdentityScores(
        np.bincount(number),
        scores[same],
        number[i][same],
        scores[~same],
        np.stack([number[i][~same], number[j][~same]]),
    )


@pytest.mark.parametrize("block_size", [16, 1024])
def test_intervals_are_those_of_all_pairs(labelled, block_size):
    fprs = (0.05, 0.01)
    roc = all_pairs_roc(*labelled, fprs)
    blocks = PairBlocks(*labelled, block_size)
    found = labelled_intervals(blocks, labelled[1], roc.points, replicates=50, seed=3)
    tpr, threshold = identity_intervals(all_scores_np(*labelled), fprs, 50, seed=3)
    for k, fpr in enumerate(fprs):
        np.testing.assert_allclose(found[fpr][0], tpr[k], atol=1e-6)
        np.testing.assert_allclose(found[fpr][1], threshold[k], atol=1e-6)


def test_fprs_that_let_through_too_many_are_left_out(labelled):
    roc = all_pairs_roc(*labelled, (0.1, 0.01))
    blocks = PairBlocks(*labelled)
    # 19,500 negatives: FPR 0.01 takes 3 * 195 of them, FPR 0.1 ten times as many.
    few = labelled_intervals(blocks, labelled[1], roc.points, max_pairs=600)
    assert few.keys() == {0.01}
    # There are 400 positives.
    assert labelled_intervals(blocks, labelled[1], roc.points, max_pairs=399) == {}
