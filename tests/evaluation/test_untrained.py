import numpy as np
import tensorflow as tf

from ekd_tf.data import SyntheticFaces
from ekd_tf.evaluation import SourceEmbedder
from ekd_tf.evaluation.untrained import check_reading

FACES = SyntheticFaces(identities=12, images_per_identity=4, size=32)


def knows_who(images):
    """Recognises every training image by its pixels; mirror images alike."""
    known = FACES.read(np.arange(len(FACES)))
    both = zip([*known, *known[:, :, ::-1]], np.tile(FACES.labels, 2))
    who = {image.tobytes(): np.eye(12)[label] for image, label in both}
    return np.array([who[image.tobytes()] for image in np.asarray(images)])


def of(model, traceable=True):
    return SourceEmbedder(model, 32, traceable=traceable).some


def test_a_teacher_that_knows_is_not_warned_of(warnings_logged):
    # A trace would hide the pixels from it.
    knowing = of(knows_who, traceable=False)
    opened = []
    others = (opened.append(name) for name in ("never",))
    assert check_reading(knowing, others, FACES, 32) == (1.0, None)
    assert not opened
    # Images without a positive pair say nothing.
    singles = SyntheticFaces(identities=5, images_per_identity=1, size=32)
    ones = of(lambda images: tf.ones([tf.shape(images)[0], 2]))
    assert check_reading(ones, (), singles, 32) == (None, None)
    assert not warnings_logged


def pixels(images):
    return tf.reshape(tf.cast(images, tf.float32), [tf.shape(images)[0], -1]) + 1.0


def test_bare_pixels_are_no_teacher(warnings_logged):
    value, better = check_reading(of(pixels), (), FACES, 32, role="baseline")
    (text,) = warnings_logged
    assert 0.5 < value < 0.8 and better is None
    assert text.startswith("The baseline looks untrained: its TPR at FPR 0.1 on 48 im")
    assert "chance is 0.1, and the bare pixels reach 0." in text


def test_a_better_way_to_read_is_looked_for_where_the_auc_is_low(warnings_logged):
    zeros = of(lambda images: np.zeros((len(images), 2), np.float32), traceable=False)
    others = [("zero", zeros)]
    assert check_reading(of(pixels), others, FACES, 32)[1] is None
    others.append(("right", of(knows_who, traceable=False)))
    assert check_reading(of(pixels), others, FACES, 32)[1] == ("right", 1.0)
    assert warnings_logged
