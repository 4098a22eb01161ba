"""ekd_tf.export.parity: cosines with the model an artefact was made of."""

import numpy as np
import pytest

from ekd_tf.export.parity import ParityError
from ekd_tf.export.parity import check_parity

NO_IMAGES = np.zeros((0, 4, 4, 3), np.uint8)


def blank(n):
    return np.zeros((n, 4, 4, 3), np.uint8)


def returning(rows):
    """A stand-in for a model: these embeddings, whatever the images."""
    return lambda images: np.asarray(rows, np.float32)


def test_figures_computed_by_hand():
    # Cosines: [3, 4] with [0.6, 0.8] is 1; [0, 2] with [0.6, 0.8] is 0.8. The unit
    # reference [0, 1] differs from [0.6, 0.8] by 0.6 and 0.2.
    reference = returning([[3, 4], [0, 2]])
    artefact = returning([[0.6, 0.8], [0.6, 0.8]])
    report = check_parity(reference, artefact, blank(2), minimum_cosine=0.79)
    assert report.min_cosine == pytest.approx(0.8)
    assert report.mean_cosine == pytest.approx(0.9)
    assert report.max_abs_diff == pytest.approx(0.6)
    assert report.images == 2


def test_the_artefact_is_not_normalised_for_the_difference():
    # Twice the length: the cosine is 1, the largest entry off by 0.8.
    report = check_parity(returning([[3, 4]]), returning([[1.2, 1.6]]), blank(1))
    assert report.min_cosine == pytest.approx(1)
    assert report.max_abs_diff == pytest.approx(0.8)


def test_one_image_below_the_gate_fails_with_the_figures():
    reference = returning([[1, 0], [0, 2]])
    artefact = returning([[1, 0], [0.6, 0.8]])
    with pytest.raises(ParityError) as raised:
        check_parity(reference, artefact, blank(2), 0.85, name="The SavedModel")
    assert str(raised.value) == (
        "The SavedModel must reach a cosine of 0.85 with its reference on every image. "
        "Received: minimum 0.800000, mean 0.900000, largest difference 6.00e-01 over "
        "2 images"
    )
    assert raised.value.report.min_cosine == pytest.approx(0.8)
    assert isinstance(raised.value, ValueError)


def test_the_default_gate_is_four_nines():
    for cosine, passes in ((0.99992, True), (0.99988, False)):
        artefact = returning([[cosine, np.sqrt(1 - cosine**2)]])
        if passes:
            check_parity(returning([[1, 0]]), artefact, blank(1))
        else:
            with pytest.raises(ParityError):
                check_parity(returning([[1, 0]]), artefact, blank(1))


@pytest.mark.parametrize("entry", [np.nan, np.inf, 0.0])
def test_no_embedding_at_all_fails(entry):
    with np.errstate(invalid="ignore"), pytest.raises(ParityError):
        check_parity(returning([[1, 1]]), returning([[entry, entry]]), blank(1))


def test_every_image_is_compared_in_bounded_batches():
    sizes = []

    def reference(images):
        sizes.append(len(images))
        return np.ones((len(images), 2), np.float32)

    def artefact(images):
        return np.where(images[:, 0, 0, :1] == 1, [[1.0, -1.0]], [[1.0, 1.0]])

    images = blank(150)
    assert check_parity(reference, artefact, images).images == 150
    assert sum(sizes) == 150 and max(sizes) <= 64
    images[-1] = 1
    with pytest.raises(ParityError, match="minimum 0.000000, mean 0.993333"):
        check_parity(reference, artefact, images)


def test_keras_models_are_compared_in_inference_mode(student, images):
    # Dropout and BatchNorm's batch statistics would give another answer each time.
    report = check_parity(student, student, images)
    assert report.min_cosine == pytest.approx(1, abs=1e-9)


def test_wrong_arguments_are_refused():
    one = returning([[1, 0]])
    with pytest.raises(ValueError, match=r"shape \(1, 2\). Received: \(1, 3\)"):
        check_parity(one, returning([[1, 0, 0]]), blank(1))
    with pytest.raises(ValueError, match=r"`len\(images\)` must be in \[1, .*=0"):
        check_parity(one, one, NO_IMAGES)
    for gate in (1.5, float("nan")):
        with pytest.raises(ValueError, match=r"`minimum_cosine` must be in \[-1, 1\]"):
            check_parity(one, one, blank(1), minimum_cosine=gate)
