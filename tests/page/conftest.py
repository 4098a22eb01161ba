"""A set with hostile names, its page, and all its pairs."""

import types

import numpy as np
import pytest
from pages import HOSTILE
from pages import make_case

from ekd_tf.page import image_bytes
from ekd_tf.page import set_section
from ekd_tf.page import write_page


@pytest.fixture(scope="session")
def case():
    return make_case()


@pytest.fixture(scope="session")
def section(case):
    return set_section(
        case.evaluation, case.models, case.result, image_bytes=image_bytes(1)
    )


@pytest.fixture(scope="session")
def page(section, tmp_path_factory):
    """The path of a page of the section."""
    folder = tmp_path_factory.mktemp("page")
    return write_page(folder, HOSTILE, {"Data": HOSTILE}, {"sets": [section]})


@pytest.fixture(scope="session")
def pairs(case):
    """All pairs, `left`, `right`, `same` and `cosine`, by a plain product."""
    rows = case.models.student.rows
    left, right = np.triu_indices(len(rows), k=1)
    same = case.labels[left] == case.labels[right]
    cosine = (rows @ rows.T)[left, right]
    return types.SimpleNamespace(left=left, right=right, same=same, cosine=cosine)
