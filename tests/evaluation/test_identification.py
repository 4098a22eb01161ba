import json

import numpy as np
import pytest
from refusals import refused
from toys import people
from toys import unit

from ekd_tf.evaluation import IdentificationEvaluation
from ekd_tf.evaluation import Models
from ekd_tf.evaluation.identification import split_searches


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
    gallery, probes, unknown = split_searches(labels, 0.25, rng)
    together = np.concatenate([gallery, probes, unknown])
    np.testing.assert_array_equal(np.sort(together), np.arange(42))
    # A quarter of twelve identities is left out, and those with one image.
    assert gallery.size == np.unique(labels[gallery]).size == 7
    assert set(labels[probes]) == set(labels[gallery])
    assert set(labels[unknown]) == set(labels) - set(labels[gallery])
    assert {77, 78} <= set(labels[unknown])


def test_rates_match_loops_in_report_text_and_json(rng, tmp_path):
    source, distractors = Labelled(rng), Labelled(rng, identities=150, images=1)
    evaluation = IdentificationEvaluation("faces", source, distractors, seed=5)
    result = evaluation(Models(model, model))
    report = result.student
    rng = np.random.default_rng(5)
    gallery, probes, unknown = split_searches(source.labels, 0.2, rng)
    order = rng.permutation(150)
    rows, others = unit(source.embeddings), unit(distractors.embeddings)
    for size in (0, 10, 100, 150):
        first = 0
        for p in probes:
            scores = rows[gallery] @ rows[p]
            mate = source.labels[gallery] == source.labels[p]
            rival = max(scores[~mate].max(), *(others[order[:size]] @ rows[p]), -2, -2)
            first += scores[mate][0] > rival
        found = report.rank_1[size] if size else report.rank[1]
        assert found == pytest.approx(first / probes.size)
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


def test_rejects_sets_without_a_second_image(rng):
    words, singles = "identities with two images to enrol", Labelled(rng, images=1)
    refused(words, IdentificationEvaluation, "faces", singles)
