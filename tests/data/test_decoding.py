"""Bytes to pixels: formats, sizes, and files that do not decode."""

import numpy as np
import tensorflow as tf
from pictures import Files
from pictures import encode
from pictures import face
from refusals import refused

from ekd_tf.data.decoding import ImageReader
from ekd_tf.data.image_pixels import fit
from ekd_tf.data.unreadable import Unreadable


def decoded(reader, batches, batch_size=None):
    """Runs batches of indices through the reader; lists `(images, indices)`."""
    batches = np.asarray(batches, np.int64)
    dataset = tf.data.Dataset.from_tensor_slices({"image_id": batches})
    dataset = reader.decode_batches(dataset, batch_size)
    return [(b["image"], b["image_id"]) for b in dataset.as_numpy_iterator()]


def read(files, size=16, unreadable=None):
    source = files if isinstance(files, Files) else Files(files)
    return ImageReader(source, {"image": size}, unreadable)


def test_an_identity_without_an_image_to_replace_one_is_an_error(rng):
    # What replaces which is tested in test_pipeline.py.
    source = Files([b"bad", encode(face(rng)), b"bad"], [0, 1, 0])
    words = "nor any other image of its identity"
    reader, error = read(source, 16, Unreadable(9)), tf.errors.OpError
    refused(words, decoded, reader, [[1, 2]], error=error)


def test_other_sizes_are_resized_and_stretching_is_said_once(rng, warnings_logged):
    sizes = [(16, 16), (20, 20), (32, 32), (16, 20), (20, 16)]
    reader = read(Files([encode(face(rng, *size)) for size in sizes]), 16)
    batches = decoded(reader, [[0, 0], [0, 1], [2, 3], [4, 4], [1, 2]], batch_size=2)
    assert all(images.shape == (2, 16, 16, 3) for images, _ in batches)
    (of_aspect,) = warnings_logged
    assert "not square" in of_aspect
    assert "stretched to 16x16" in of_aspect


def test_pixels_are_not_decoded_but_fitted(rng, warnings_logged):
    stack = rng.integers(0, 256, (4, 12, 16, 3), dtype=np.uint8)
    batches = decoded(read(Files(list(stack)), 16), [[3, 1], [0, 2]], 2)
    np.testing.assert_array_equal(batches[0][0], fit(stack[[3, 1]], 16))
    np.testing.assert_array_equal(batches[1][1], [0, 2])
    assert len(warnings_logged) == 1
    torn = read(Files([None, *stack]), 12)
    refused(None, decoded, torn, [[0, 1]], error=tf.errors.OpError)
    failure = str(torn.failure([0, 1]))
    assert failure.startswith("cannot decode 0.jpg: No such file or directory")


def test_a_bad_image_stops_with_its_path_and_reason(rng):
    good = encode(face(rng, 64, 64), "JPEG")
    # Pillow has all pixels before it comes to a wrong checksum.
    spoilt = bytearray(encode(face(rng, 40, 40)))
    spoilt[spoilt.index(b"IEND") - 6] ^= 255
    for bad, reason in (
        (b"hello, no image", "not an image in a format that is read"),
        (good[:-40], "image file is truncated"),
        (encode(face(rng, 40, 40))[:-200], "image file is truncated"),
        (bytes(spoilt), "it is damaged"),
        (b"", "the file is empty"),
        (None, "No such file or directory"),
    ):
        reader = read(Files([good, bad, good]), 64)
        refused(None, decoded, reader, [[0, 2], [2, 1]], error=tf.errors.OpError)
        message = str(reader.failure(np.array([2, 1])))
        assert message.startswith(f"cannot decode 1.jpg: {reason}")


def test_one_more_than_allowed_lists_all_with_their_reasons(rng):
    class Records(Files):
        def read(self, indices):
            if 2 in indices:
                raise ValueError("2.jpg: wrong magic at offset 96")
            return super().read(indices)

    source = Records([b"bad", b"", b"", encode(face(rng))])
    words = "cannot decode 3 images, of which 2 may be unreadable:\n"
    words += "  0.jpg: not an image in a format that is read\n"
    words += "  1.jpg: the file is empty\n  2.jpg: wrong magic at offset 96"
    reader, error = read(source, 16, Unreadable(2)), tf.errors.OpError
    refused(words, decoded, reader, [[0, 1, 2]], error=error)
