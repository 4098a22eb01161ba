import numpy as np
import pytest
from refusals import refused
from toys import unit

from ekd_tf.metrics import GallerySearch
from ekd_tf.metrics import identification
from ekd_tf.metrics import tpir_at_fpir


def search_np(probes, probe_identity, gallery, gallery_identity):
    """Rank, mate's score and best other of each probe."""
    scores = unit(probes) @ unit(gallery).T
    mated = probe_identity[:, None] == gallery_identity
    mate = np.where(mated, scores, -np.inf).max(axis=1)
    others = np.where(mated, -np.inf, scores)
    rank = 1 + np.sum(others >= mate[:, None], axis=1)
    return np.where(mated.any(axis=1), rank, 0), mate, others.max(axis=1)


@pytest.mark.parametrize("scores_at_once", [1, 100])
def test_matches_all_scores_at_once(rng, monkeypatch, scores_at_once):
    monkeypatch.setattr(identification, "_SCORES", scores_at_once)
    probes, gallery, distractors = (rng.normal(size=(n, 4)) for n in (40, 30, 50))
    # Some identities of either side are missing on the other.
    who, gallery_who = rng.integers(0, 15, 40), rng.integers(5, 20, 30)
    search = GallerySearch(probes, who, gallery, gallery_who)
    for first, last in ((0, 0), (0, 20), (20, 50)):
        if last:
            search.add_distractors(distractors[first:last])
        everyone = np.concatenate([gallery, distractors[:last]])
        everyone_is = np.append(gallery_who, np.full(last, 99))
        rank, mate, other = search_np(probes, who, everyone, everyone_is)
        np.testing.assert_array_equal(search.rank, rank)
        np.testing.assert_array_equal(search.mated, rank > 0)
        np.testing.assert_allclose(search.mate_score, mate, atol=1e-6)
        np.testing.assert_allclose(search.best_other, other, atol=1e-6)


def test_ties_count_against_the_mate():
    same = np.ones((4, 2))
    search = GallerySearch(same[:1], np.array([0]), same, np.arange(4))
    np.testing.assert_array_equal(search.rank, [4])
    search.add_distractors(same)
    np.testing.assert_array_equal(search.rank, [8])


def test_tpir_by_hand():
    # Ten unknown searches 0.0 .. 0.9: FPIR 0.2 lets through two, so 0.7 is the
    # threshold. Of the mates above it one is not first.
    mates, ranks = np.array([0.95, 0.75, 0.75, 0.7, 0.1]), np.array([1, 2, 1, 1, 1])
    tpir = tpir_at_fpir(mates, ranks, np.arange(10) / 10, [0.2])
    np.testing.assert_allclose(tpir, [2 / 5])


def test_identities_of_another_length_than_the_rows_are_refused():
    rows, words = np.eye(3), "must come from the same batch"
    refused(words, GallerySearch, rows, np.arange(3), rows, np.arange(1))
    refused(words, GallerySearch, rows, np.arange(2), rows, np.arange(3))
