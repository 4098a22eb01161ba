import json

import numpy as np
import pytest
from refusals import refused
from toys import people

from ekd_tf.evaluation import IdentificationEvaluation
from ekd_tf.evaluation import Models
from ekd_tf.evaluation.identification import search_rates
from ekd_tf.evaluation.identification import split_searches
from ekd_tf.metrics import GallerySearch


class Labelled:
    """Stands for a source: its labels and the embeddings of its images."""

    name, left_out = "toy", ()

    def __init__(self, rng, identities=30, images=4):
        self.embeddings, self.labels = people(rng, identities, images, 8)

    def __len__(self):
        return len(self.labels)


def model(source):
    return source.embeddings


# What a report says of a `SourceEmbedder`.
model.view = "one image"


def test_divides_images_into_gallery_probes_and_unknown(rng):
    labels = np.append(np.repeat(np.arange(10), 4), [77, 78])
    gallery, probes, unknown = split_searches(labels, rng)
    together = np.concatenate([gallery, probes, unknown])
    np.testing.assert_array_equal(np.sort(together), np.arange(42))
    # A fifth of twelve identities is left out: the two with one image.
    assert gallery.size == np.unique(labels[gallery]).size == 10
    assert set(labels[probes]) == set(labels[gallery])
    assert set(labels[unknown]) == set(labels) - set(labels[gallery])
    assert {77, 78} == set(labels[unknown])
    # Of ten with two images two are.
    assert split_searches(labels[:40], rng)[0].size == 8


def test_rates_are_those_of_a_search_in_report_text_and_json(rng, tmp_path):
    source, distractors = Labelled(rng), Labelled(rng, identities=150, images=1)
    evaluation = IdentificationEvaluation("faces", source, distractors, seed=5)
    result = evaluation(Models(model, model))
    report = result.student
    rng = np.random.default_rng(5)
    gallery, probes, unknown = split_searches(source.labels, rng)
    order = rng.permutation(150)
    of_probes = source.embeddings[probes], source.labels[probes]
    of_gallery = source.embeddings[gallery], source.labels[gallery]
    for size in (0, 10, 100, 150):
        search = GallerySearch(*of_probes, *of_gallery)
        if size:
            search.add_distractors(distractors.embeddings[order[:size]])
        found = report.rank_1[size] if size else report.rank[1]
        assert found == pytest.approx(np.mean(search.rank == 1))
    assert report.rank_1.keys() == {10, 100, 150}
    assert (report.num_gallery, report.num_unknown) == (24, unknown.size)
    assert 0 < report.tpir[0.1] <= report.rank[1]
    result.write(tmp_path)
    written = json.loads((tmp_path / "faces.json").read_text())
    assert written["teacher"] == written["student"]
    assert written["student"]["tpir"].keys() == {"1e-2", "1e-1"}
    words = "| teacher ", "rank-1 of 150", "TPIR@1e-2", "gallery of 24", "of one image."
    assert all(each in result.text for each in words)
    assert result.scalars()["faces/rank_1_of_10_distractors"] == report.rank_1[10]


def test_rank_rates_by_hand():
    # A gallery at 0, 30 .. 330 degrees, and probes at its first four, moved a bit
    # towards 45: next to the one at 60 is that at 30, then that at 90, its mate.
    angles = np.radians(np.arange(0, 360, 30))
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    probes = gallery[[0, 1, 2, 3]] + 0.01
    search = GallerySearch(probes, np.array([0, 1, 3, 9]), gallery, np.arange(12))
    assert search.rank.tolist() == [1, 1, 3, 12]
    assert search_rates(search) == ({1: 0.5, 5: 0.75, 10: 0.75}, {})


def test_rejects_sets_without_a_second_image_and_probes_without_a_mate(rng):
    one = np.ones((1, 2)), np.array([0])
    search = GallerySearch(*one, one[0], np.array([1]))
    refused("needs probes with a mate", search_rates, search)
    words, singles = "identities with two images to enrol", Labelled(rng, images=1)
    refused(words, IdentificationEvaluation, "faces", singles)
