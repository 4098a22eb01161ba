import dataclasses

import numpy as np
import pytest

from ekd_tf.data import SyntheticFaces
from ekd_tf.evaluation.contact_sheet import contact_sheet
from ekd_tf.evaluation.gap import GapPoint

POINT = GapPoint(
    fpr=1e-2,
    teacher_threshold=0.3,
    student_threshold=0.4,
    critical_positive=2,
    critical_negative=1,
    worst_positive=((0, 1), (2, 3)),
    worst_negative=((0, 4),),
    worst_cosines=((0.5, 0.2), (0.1, 0.6), (0.35, 0.1)),
)


@pytest.fixture(scope="module")
def source():
    return SyntheticFaces(identities=3, images_per_identity=2, size=112)


def test_shows_the_faces_of_every_pair(source):
    sheet = contact_sheet(source, POINT)
    assert sheet.dtype == np.uint8 and sheet.ndim == 3
    faces = source.read(np.arange(6))
    # Image 0 stands in two pairs, image 5 in none.
    for face, places in zip(faces, (2, 1, 1, 1, 1, 0)):
        corners = np.argwhere((sheet[:-111, :-111] == face[0, 0]).all(axis=2))
        found = sum(
            np.array_equal(sheet[top : top + 112, left : left + 112], face)
            for top, left in corners
        )
        assert found == places


def test_pairs_of_one_kind_need_no_other(source):
    both = contact_sheet(source, POINT)
    none = dataclasses.replace(
        POINT, worst_negative=(), worst_cosines=POINT.worst_cosines[:2]
    )
    assert contact_sheet(source, none).shape[0] < both.shape[0]


def test_rejects_no_pairs(source):
    point = dataclasses.replace(
        POINT, worst_positive=(), worst_negative=(), worst_cosines=()
    )
    with pytest.raises(ValueError, match="needs critical pairs"):
        contact_sheet(source, point)
