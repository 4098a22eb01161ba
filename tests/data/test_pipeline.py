import time

import numpy as np
import pytest
import tensorflow as tf
from pictures import Files
from pictures import encode
from pictures import face
from PIL import Image
from records import put
from refusals import refused

from ekd_tf.data import FolderFaces
from ekd_tf.data.augment import NUM_DRAWS
from ekd_tf.data.augment import Augmentation
from ekd_tf.data.image_pixels import fit
from ekd_tf.data.pipeline import evaluation_batches
from ekd_tf.data.pipeline import make_pipeline
from ekd_tf.data.sampling import BatchSampler
from ekd_tf.data.sampling import augment_draws
from ekd_tf.data.sampling import flip_mask
from ekd_tf.data.unreadable import Unreadable

SIZE = 16


@pytest.fixture
def drawn():
    """Pixels, no two images equal, of six identities."""
    labels = np.repeat(np.arange(6), [4, 5, 6, 3, 4, 7])
    shape = labels.size, SIZE, SIZE, 3
    images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    return Files(list(images), labels)


@pytest.fixture
def folder(tmp_path):
    """5 identities of 4 PNG images; image k of identity i has its own pixels."""
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (20, SIZE, SIZE, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        path = tmp_path / f"id{number // 4}" / f"{number % 4}.png"
        # NumPy would strip trailing zeros.
        put(path, encode(Image.fromarray(image)) + b"\0")
    return tmp_path, pixels


def sampler_of(source, seed=0):
    return BatchSampler(source.labels, 6, 2, 2, seed)


def take(pipeline, steps):
    return list(pipeline.dataset.take(steps).as_numpy_iterator())


def assert_equal(batch, expected):
    assert batch.keys() == expected.keys()
    for key in batch:
        np.testing.assert_array_equal(batch[key], expected[key], err_msg=key)


def mirrored(images, flips):
    return np.where(flips[:, None, None, None], images[:, :, ::-1], images)


def spoil(path):
    """Damages a PNG where decoding alone, and its checksum, tell: between its ends."""
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 1
    path.write_bytes(data)


def test_unreadable_files_are_replaced_when_allowed(folder):
    root, pixels = folder
    source = FolderFaces(root)
    (root / "id0" / "1.png").write_bytes(b"a note, no image")
    path = root / "id2" / "3.png"
    path.write_bytes(path.read_bytes()[:-40])
    spoil(root / "id3" / "2.png")
    (root / "id4" / "0.png").unlink()
    sampler = sampler_of(source)
    # They are replaced by the next, or the first, of their identity, by a run that
    # goes on at a step as by the continuous one.
    replaced = {1: 2, 11: 8, 14: 15, 16: 17}
    for start in (0, 4):
        unreadable, seen = Unreadable(4), set()
        arguments = {"start_step": start, "unreadable": unreadable}
        pipeline = make_pipeline(source, sampler, SIZE, **arguments)
        for step, batch in enumerate(take(pipeline, 6 - start), start):
            asked, in_margin = sampler.batch(step)
            expected = [replaced.get(i, i) for i in asked.tolist()]
            seen |= replaced.keys() & set(asked.tolist())
            np.testing.assert_array_equal(batch["image_id"], expected)
            np.testing.assert_array_equal(batch["label"], source.labels[asked])
            np.testing.assert_array_equal(batch["in_margin"], in_margin)
            upright = mirrored(batch["image"], batch["flipped"])
            np.testing.assert_array_equal(upright, pixels[expected])
        assert seen == replaced.keys()
        names = sorted(line.split(": ")[0] for line in unreadable.lines)
        assert names == [f"{root}/id{k}.png" for k in ("0/1", "2/3", "3/2", "4/0")]
        pipeline.check_images(start)


@pytest.mark.parametrize("allowed", [0, 2])
def test_the_teacher_sees_the_same_images_and_augmentation_at_its_size(folder, allowed):
    root, pixels = folder
    if allowed:
        (root / "id3" / "2.png").write_bytes(b"no image")
    source, unreadable = FolderFaces(root), Unreadable(allowed)
    arguments = {"teacher_size": SIZE, "unreadable": unreadable}
    arguments["augmentation"] = Augmentation(crop=2, brightness=0.5)
    pipeline = make_pipeline(source, sampler_of(source), 8, seed=3, **arguments)
    for step, batch in enumerate(take(pipeline, 2)):
        draws = augment_draws(3, step, 10, NUM_DRAWS)
        # Twice the side: twice the pixels are cut.
        for name, size, crop in (("image", 8, 2), ("teacher_image", SIZE, 4)):
            images = fit(pixels[batch["image_id"]], size)
            images = mirrored(images, batch["flipped"])
            augment = Augmentation(crop=crop, brightness=0.5)
            np.testing.assert_array_equal(batch[name], augment(images, draws))
    assert len(unreadable.lines) == (allowed > 0)


@pytest.mark.parametrize("kind", ["pixels", "files"])
def test_batches_are_what_sampler_and_draws_of_their_step_say(drawn, folder, kind):
    source = drawn if kind == "pixels" else FolderFaces(folder[0])
    pixels = np.stack(drawn.files) if kind == "pixels" else folder[1]
    augmentation = None
    if kind == "files":
        augmentation = Augmentation(2, 0.2, 0.2, 0.2, 0.5, 0.5, 0.5)
    sampler = sampler_of(source, seed=4)
    arguments = source, sampler, SIZE, 9
    # 20 images, 6 general rows: the epoch border lies inside batch 3.
    pipeline = make_pipeline(*arguments, steps=5, augmentation=augmentation)
    batches = take(pipeline, 9)
    assert len(batches) == 5
    assert_equal(take(pipeline, 1)[0], batches[0])
    for step, batch in enumerate(batches):
        indices, in_margin = sampler.batch(step)
        flips = flip_mask(9, step, len(indices))
        images = mirrored(pixels[indices], flips)
        if augmentation:
            images = augmentation(images, augment_draws(9, step, 10, NUM_DRAWS))
            assert (images != pixels[indices]).numpy().any()
        expected = {"image": images, "image_id": indices, "flipped": flips}
        expected |= {"label": source.labels[indices], "in_margin": in_margin}
        assert_equal(batch, expected)
    resumed = make_pipeline(*arguments, start_step=3, augmentation=augmentation)
    for batch, expected in zip(take(resumed, 2), batches[3:]):
        assert_equal(batch, expected)
    assert pipeline.dataset.element_spec == {
        "image": tf.TensorSpec([10, SIZE, SIZE, 3], tf.uint8),
        "label": tf.TensorSpec([10], tf.int32),
        "in_margin": tf.TensorSpec([10], tf.float32),
        "image_id": tf.TensorSpec([10], tf.int32),
        "flipped": tf.TensorSpec([10], tf.bool),
    }
    # A strategy cuts batches, it does not deal out files.
    options = pipeline.dataset.options()
    policy = options.experimental_distribute.auto_shard_policy
    assert policy == tf.data.experimental.AutoShardPolicy.OFF
    assert options.deterministic is True
    (upright,) = take(make_pipeline(drawn, sampler_of(drawn), SIZE, flip=False), 1)
    assert not upright["flipped"].any()
    np.testing.assert_array_equal(upright["image"], drawn.read(upright["image_id"]))


def test_reads_ahead_a_bounded_number_of_batches(folder):
    source = FolderFaces(folder[0])
    reads = []
    read = source.read
    source.read = lambda indices: reads.append(1) or read(indices)
    iterator = iter(make_pipeline(source, sampler_of(source), SIZE).dataset)
    next(iterator)
    time.sleep(0.5)
    # Ahead of the batch in use: the prefetched ones and a few in each stage.
    assert 1 <= len(reads) <= 1 + 2 + 10


def test_damage_that_no_header_shows_is_named(folder):
    root, _ = folder
    source, path = FolderFaces(root), root / "id3" / "2.png"
    spoil(path)
    sampler = sampler_of(source)
    pipeline = make_pipeline(source, sampler, SIZE, steps=3)
    step = 0
    with pytest.raises(tf.errors.OpError):
        for _ in pipeline.dataset:
            step += 1
    assert 14 in sampler.batch(step)[0]
    words = f"cannot decode {path}: "
    refused(words, pipeline.check_images, step)
    refused(words, list, evaluation_batches(source, np.arange(20), SIZE, 5))


def test_evaluation_batches_are_in_order_and_complete(folder, drawn):
    root, pixels = folder
    order = np.array([3, 19, 0, 7, 7, 12, 1, 2])
    for source, expected in (
        (FolderFaces(root), pixels),
        (drawn, np.stack(drawn.files)),
    ):
        for batch_size, sizes in ((3, [3, 3, 2]), (8, [8])):
            batches = list(evaluation_batches(source, order, SIZE, batch_size))
            assert [len(batch) for batch in batches] == sizes
            assert batches[0].dtype == np.uint8
            np.testing.assert_array_equal(np.concatenate(batches), expected[order])
    assert list(evaluation_batches(drawn, [], SIZE, 4)) == []


def test_rejects_impossible_arguments(drawn):
    valid = {"source": drawn, "sampler": sampler_of(drawn), "input_size": SIZE}
    other = BatchSampler(drawn.labels[:-1], 4, 2)
    for arguments, words in (
        ({"input_size": 0}, r"`input_size` must be in \(0, inf\)"),
        ({"teacher_size": 0}, "`teacher_size` must be"),
        ({"seed": -1}, r"`seed` must be in \[0, inf\)"),
        ({"start_step": -1}, r"`start_step` must be in \[0, inf\)"),
        ({"steps": -1}, r"`steps` must be in \[0, inf\)"),
        ({"sampler": other}, "sampler of 28 images for files with 29"),
    ):
        refused(words, make_pipeline, **{**valid, **arguments})


def evaluated(files, order, labels=None, allowed=0):
    """Lists batches of two of images in memory."""
    source, unreadable = Files(files, labels), Unreadable(allowed)
    return list(evaluation_batches(source, order, 16, 2, unreadable))


def test_an_identity_without_an_image_to_replace_one_is_an_error(rng):
    files, labels = [b"bad", encode(face(rng)), b"bad"], [0, 1, 0]
    refused("nor any other image", evaluated, files, [1, 2], labels=labels, allowed=9)


def test_other_sizes_are_resized_and_stretching_is_said_once(rng, warnings_logged):
    sizes = [(16, 16), (20, 20), (32, 32), (16, 20), (20, 16)]
    files = [encode(face(rng, *size)) for size in sizes]
    batches = evaluated(files, [0, 0, 0, 1, 2, 3, 4, 4, 1, 2])
    assert all(images.shape == (2, 16, 16, 3) for images in batches)
    (of_aspect,) = warnings_logged
    assert "not square" in of_aspect
    assert "stretched to 16x16" in of_aspect


def test_pixels_are_not_decoded_but_fitted(rng, warnings_logged):
    stack = rng.integers(0, 256, (4, 12, 16, 3), dtype=np.uint8)
    batches = evaluated(list(stack), [3, 1, 0, 2])
    np.testing.assert_array_equal(batches[0], fit(stack[[3, 1]], 16))
    assert len(warnings_logged) == 1
    refused("decode 0.jpg: No such file", evaluated, [None, *stack], [0, 1])


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
        words = f"^cannot decode 1.jpg: {reason}"
        refused(words, evaluated, [good, bad, good], [0, 2, 2, 1])


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
    # Of several batches any may be first.
    refused(words, list, evaluation_batches(source, [0, 1, 2], 16, 3, Unreadable(2)))
