"""A set with hostile names, its page, and all its pairs."""

import pytest
from pages import HOSTILE
from pages import make_case
from pairwise import all_pairs

from ekd_tf.page import image_bytes
from ekd_tf.page import set_section
from ekd_tf.page import write_page


@pytest.fixture(scope="module")
def case(module_no_pictures):
    return make_case()


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
