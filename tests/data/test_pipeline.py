"""Source and sampler to batches: contents, resuming, bad files, strategies."""

import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from ekd_tf.data.augment import NUM_DRAWS
from ekd_tf.data.augment import Augmentation
from ekd_tf.data.pipeline import evaluation_batches
from ekd_tf.data.pipeline import make_pipeline
from ekd_tf.data.sampling import BatchSampler
from ekd_tf.data.sampling import augment_draws
from ekd_tf.data.sampling import flip_mask
from ekd_tf.data.source import Source
from ekd_tf.data.sources.folder import FolderFaces
from ekd_tf.data.unreadable import Unreadable

SIZE = 16


class Drawn(Source):
    """Pixels of image i are f(i); no two images are equal."""

    name = "drawn"
    encoded = False
    fingerprint = "drawn"

    def __init__(self, counts, size=SIZE):
        self.labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self.num_identities = len(counts)
        n = len(self.labels)
        self.pixels = np.random.default_rng(1).integers(
            0, 256, (n, size, size, 3), dtype=np.uint8
        )

    def read(self, indices):
        return self.pixels[indices]

    def describe(self, index):
        return f"drawn image {index}"


@pytest.fixture
def drawn():
    return Drawn([4, 5, 6, 3, 4, 7])


@pytest.fixture
def folder(tmp_path):
    """5 identities of 4 PNG images; image k of identity i has its own pixels."""
    pixels = np.random.default_rng(2).integers(
        0, 256, (5, 4, SIZE, SIZE, 3), dtype=np.uint8
    )
    for i in range(5):
        (tmp_path / f"id{i}").mkdir()
        for k in range(4):
            Image.fromarray(pixels[i, k]).save(tmp_path / f"id{i}" / f"{k}.png")
    return tmp_path, pixels.reshape(20, SIZE, SIZE, 3)


def sampler_of(source, general=6, identities=2, images_per_identity=2, seed=0):
    return BatchSampler(source.labels, general, identities, images_per_identity, seed)


def take(pipeline, steps):
    return list(pipeline.dataset.take(steps).as_numpy_iterator())


def assert_equal_batches(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_two_runs_are_equal_and_seeds_differ(folder):
    source = FolderFaces(folder[0])
    sampler = sampler_of(source)
    first = take(make_pipeline(source, sampler, SIZE), 5)
    assert_equal_batches(first, take(make_pipeline(source, sampler, SIZE), 5))
    pipeline = make_pipeline(source, sampler, SIZE)
    assert_equal_batches(take(pipeline, 5), take(pipeline, 5))
    other = take(make_pipeline(source, sampler, SIZE, seed=1), 1)[0]
    np.testing.assert_array_equal(other["image_id"], first[0]["image_id"])
    assert not np.array_equal(other["flipped"], first[0]["flipped"])


AUGMENTATION = Augmentation(2, 0.2, 0.2, 0.2, 0.5, 0.5, 0.5)


@pytest.mark.parametrize("kind", ["pixels", "files"])
def test_augmentation_is_a_function_of_seed_and_step(drawn, folder, kind):
    source = drawn if kind == "pixels" else FolderFaces(folder[0])
    sampler = sampler_of(source)

    def run(start=0, **changes):
        arguments = {"augmentation": AUGMENTATION, **changes}
        return make_pipeline(source, sampler, SIZE, start_step=start, **arguments)

    plain = take(run(augmentation=None), 3)
    augmented = take(run(), 3)
    for step, (before, after) in enumerate(zip(plain, augmented)):
        draws = augment_draws(0, step, 10, NUM_DRAWS)
        np.testing.assert_array_equal(
            after["image"], AUGMENTATION(before["image"], draws)
        )
        assert (after["image"] != before["image"]).any()
        for key in before.keys() - {"image"}:
            np.testing.assert_array_equal(after[key], before[key])
    assert_equal_batches(take(run(start=1), 2), augmented[1:])
    other = take(run(seed=1, flip=False), 1)[0]["image"]
    assert not np.array_equal(other, take(run(flip=False), 1)[0]["image"])


def test_batches_do_not_depend_on_the_number_of_threads(folder):
    source = FolderFaces(folder[0])
    sampler = sampler_of(source)
    pipeline = make_pipeline(source, sampler, SIZE, augmentation=AUGMENTATION)

    def run(threads):
        options = tf.data.Options()
        options.threading.private_threadpool_size = threads
        dataset = pipeline.dataset.with_options(options)
        return list(dataset.take(6).as_numpy_iterator())

    assert_equal_batches(run(8), run(1))


def spoil(path):
    path.write_bytes(path.read_bytes()[:-40])


def test_text_truncated_and_missing_files_are_replaced_when_allowed(folder):
    root, pixels = folder
    source = FolderFaces(root)
    (root / "id0" / "1.png").write_bytes(b"a note, no image")
    spoil(root / "id2" / "3.png")
    (root / "id4" / "0.png").unlink()
    sampler = sampler_of(source)
    unreadable = Unreadable(3)
    pipeline = make_pipeline(source, sampler, SIZE, steps=10, unreadable=unreadable)
    # Images 1, 11 and 16 are replaced by 2, 8 (first of its identity) and 17.
    replaced = {1: 2, 11: 8, 16: 17}
    seen = set()
    for step, batch in enumerate(pipeline.dataset.as_numpy_iterator()):
        asked, in_margin = sampler.batch(step)
        expected = [replaced.get(i, i) for i in asked.tolist()]
        seen |= replaced.keys() & set(asked.tolist())
        np.testing.assert_array_equal(batch["image_id"], expected)
        np.testing.assert_array_equal(batch["label"], source.labels[asked])
        np.testing.assert_array_equal(batch["in_margin"], in_margin)
        upright = batch["image"].copy()
        upright[batch["flipped"]] = upright[batch["flipped"]][:, :, ::-1]
        np.testing.assert_array_equal(upright, pixels[expected])
    assert seen == replaced.keys()
    assert len(unreadable.lines) == 3
    names = sorted(line.split(": ")[0] for line in unreadable.lines)
    assert names == [f"{root}/id0/1.png", f"{root}/id2/3.png", f"{root}/id4/0.png"]


def test_resuming_among_bad_files_equals_the_continuous_run(folder):
    root, _ = folder
    source = FolderFaces(root)
    spoil(root / "id0" / "0.png")
    spoil(root / "id3" / "3.png")

    def run(start):
        return make_pipeline(
            source, sampler_of(source), SIZE, start_step=start, unreadable=Unreadable(2)
        )

    assert_equal_batches(take(run(4), 6), take(run(0), 10)[4:])


def test_replicas_get_equal_contiguous_shards(folder):
    source = FolderFaces(folder[0])
    sampler = sampler_of(source, general=4, identities=2, images_per_identity=2)
    pipeline = make_pipeline(source, sampler, SIZE, steps=3)
    batches = list(pipeline.dataset.as_numpy_iterator())
    devices = [device.name for device in tf.config.list_logical_devices("CPU")[:2]]
    strategy = tf.distribute.MirroredStrategy(devices)
    distributed = strategy.experimental_distribute_dataset(pipeline.dataset)
    for whole, parts in zip(batches, distributed):
        shards = strategy.experimental_local_results(parts["in_margin"])
        assert [float(tf.reduce_sum(shard)) for shard in shards] == [2, 2]
        for key in whole:
            shards = strategy.experimental_local_results(parts[key])
            np.testing.assert_array_equal(np.concatenate(shards), whole[key])


def test_the_teacher_sees_the_same_augmentation(drawn):
    augmentation = Augmentation(crop=2, brightness=0.5)
    arguments = {"augmentation": augmentation, "seed": 3}
    sampler = sampler_of(drawn)
    (found,) = take(make_pipeline(drawn, sampler, 8, teacher_size=SIZE, **arguments), 1)
    (student,) = take(make_pipeline(drawn, sampler, 8, **arguments), 1)
    np.testing.assert_array_equal(found["image"], student["image"])
    # Twice the side: twice the pixels are cut.
    arguments["augmentation"] = Augmentation(crop=4, brightness=0.5)
    (teacher,) = take(make_pipeline(drawn, sampler, SIZE, **arguments), 1)
    np.testing.assert_array_equal(found["teacher_image"], teacher["image"])


@pytest.mark.parametrize("kind", ["pixels", "files"])
def test_batches_hold_what_sampler_labels_and_flips_say(drawn, folder, kind):
    source = drawn if kind == "pixels" else FolderFaces(folder[0])
    pixels = drawn.pixels if kind == "pixels" else folder[1]
    sampler = sampler_of(source, seed=4)
    pipeline = make_pipeline(source, sampler, SIZE, seed=9)
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
    for step, batch in enumerate(take(pipeline, 6)):
        indices, in_margin = sampler.batch(step)
        flips = flip_mask(9, step, len(indices))
        expected = pixels[indices]
        expected[flips] = expected[flips][:, :, ::-1]
        np.testing.assert_array_equal(batch["image_id"], indices)
        np.testing.assert_array_equal(batch["label"], source.labels[indices])
        np.testing.assert_array_equal(batch["in_margin"], in_margin)
        np.testing.assert_array_equal(batch["flipped"], flips)
        np.testing.assert_array_equal(batch["image"], expected)
    (upright,) = take(make_pipeline(source, sampler, SIZE, flip=False), 1)
    assert not upright["flipped"].any()
    np.testing.assert_array_equal(upright["image"], pixels[upright["image_id"]])


def test_resuming_equals_the_continuous_run(folder):
    # 20 images, 6 general rows: the epoch border lies inside batch 3.
    source = FolderFaces(folder[0])
    continuous = take(make_pipeline(source, sampler_of(source), SIZE), 10)
    for start in (1, 3, 7):
        resumed = make_pipeline(
            source, sampler_of(source), SIZE, start_step=start, steps=10 - start
        )
        batches = list(resumed.dataset.as_numpy_iterator())
        assert_equal_batches(batches, continuous[start:])


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


def test_damage_that_no_header_shows_is_named_or_replaced(folder):
    root, _ = folder
    source = FolderFaces(root)
    # Header and end stay whole, so only decoding, and the checksum of PNG, tell.
    path = root / "id3" / "2.png"
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 1
    path.write_bytes(data)
    sampler = sampler_of(source)
    pipeline = make_pipeline(source, sampler, SIZE, steps=10)
    step = 0
    with pytest.raises(tf.errors.OpError):
        for _ in pipeline.dataset:
            step += 1
    assert 14 in sampler.batch(step)[0]
    assert str(pipeline.failure(step)).startswith(f"cannot decode {path}: ")
    with pytest.raises(ValueError, match=f"cannot decode {path}: "):
        list(evaluation_batches(source, np.arange(20), SIZE, 5))
    unreadable = Unreadable(1)
    pipeline = make_pipeline(source, sampler, SIZE, steps=10, unreadable=unreadable)
    assert len(list(pipeline.dataset)) == 10
    assert pipeline.failure(0) is None
    assert [line.split(": ")[0] for line in unreadable.lines] == [str(path)]


def test_evaluation_batches_are_in_order_and_complete(folder, drawn):
    root, pixels = folder
    order = np.array([3, 19, 0, 7, 7, 12, 1, 2])
    for source, expected in ((FolderFaces(root), pixels), (drawn, drawn.pixels)):
        for batch_size, sizes in ((3, [3, 3, 2]), (8, [8]), (50, [8])):
            batches = list(evaluation_batches(source, order, SIZE, batch_size))
            assert [len(batch) for batch in batches] == sizes
            assert batches[0].dtype == np.uint8
            np.testing.assert_array_equal(np.concatenate(batches), expected[order])
    assert list(evaluation_batches(drawn, [], SIZE, 4)) == []


@pytest.mark.parametrize("allowed", [0, 2])
def test_the_teacher_sees_the_same_images_at_its_size(folder, allowed):
    # Files are read once, though one of them may be replaced.
    if allowed:
        (folder[0] / "id3" / "2.png").write_bytes(b"no image")
    source, unreadable = FolderFaces(folder[0]), Unreadable(allowed)
    sampler, arguments = sampler_of(source), {"seed": 3, "unreadable": unreadable}
    both = make_pipeline(source, sampler, 8, teacher_size=SIZE, **arguments)
    small = take(make_pipeline(source, sampler, 8, **arguments), 4)
    large = take(make_pipeline(source, sampler, SIZE, **arguments), 4)
    for one, student, teacher in zip(take(both, 4), small, large):
        np.testing.assert_array_equal(one.pop("teacher_image"), teacher["image"])
        assert_equal_batches([one], [student])
    assert len(unreadable.lines) == (allowed > 0)


def test_rejects_impossible_arguments(drawn):
    valid = {"source": drawn, "sampler": sampler_of(drawn), "input_size": SIZE}
    for arguments, words in (
        ({"input_size": 0}, r"`input_size` must be in \(0, inf\)"),
        ({"teacher_size": 0}, "`teacher_size` must be"),
        ({"seed": -1}, r"`seed` must be in \[0, inf\)"),
        ({"start_step": -1}, r"`start_step` must be in \[0, inf\)"),
        ({"steps": -1}, r"`steps` must be in \[0, inf\)"),
        (
            {"sampler": BatchSampler(drawn.labels[:-1], 4, 2)},
            "sampler of 28 images for drawn with 29",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            make_pipeline(**{**valid, **arguments})
    for size, rows, words in ((0, 4, "`input_size` must"), (8, 0, "`batch_size` must")):
        with pytest.raises(ValueError, match=words):
            evaluation_batches(drawn, [0], size, rows)
