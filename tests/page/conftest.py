"""A set with hostile names, its page, and all its pairs."""

import types

import numpy as np
import pytest
from pages import HOSTILE
from pages import Fixed
from pages import HostileFaces
from pairwise import all_pairs
from pictures import encode
from pictures import face

from ekd_tf.evaluation import LabelledEvaluation
from ekd_tf.evaluation import Models
from ekd_tf.page import image_bytes
from ekd_tf.page import set_section
from ekd_tf.page import write_page


@pytest.fixture(scope="module")
def case(module_no_pictures):
    """Source, models and result of a teacher better than its student."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 5)
    centres = rng.normal(size=(40, 16))[labels]
    source = HostileFaces([encode(face(rng, 24, 24)) for _ in labels], labels)

    def model(noise):
        rows = centres + noise * rng.normal(size=centres.shape)
        return Fixed(rows.astype(np.float32))

    models = Models(student=model(1.1), teacher=model(0.4))
    evaluate = LabelledEvaluation("faces", source, (1e-1, 1e-2, 1e-4), replicates=20)
    case = types.SimpleNamespace(source=source, models=models, labels=labels)
    case.evaluation, case.result = evaluate, evaluate(models)
    return case


@pytest.fixture(scope="module")
def section(case):
    measured = case.evaluation, case.models, case.result
    return set_section(*measured, image_bytes=image_bytes(1))


@pytest.fixture(scope="module")
def page(section, tmp_path_factory):
    """The path of a page of the section."""
    folder = tmp_path_factory.mktemp("page")
    return write_page(folder, HOSTILE, {"Data": HOSTILE}, {"sets": [section]})


@pytest.fixture(scope="module")
def pairs(case):
    return all_pairs(case.models.student.rows, case.labels)
