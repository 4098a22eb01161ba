"""Drawn faces: pure functions of integers, faces at every size, a data source."""

import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from ekd_tf.data.synthetic.faces import SyntheticFaces
from ekd_tf.data.synthetic.faces import faces as synthetic
from ekd_tf.data.synthetic.faces import render


def people(identities, images):
    """Identity and sample number of each image, people one after the other."""
    return np.repeat(np.arange(identities), images), np.tile(
        np.arange(images), identities
    )


def shrunk(images, size):
    """Averages square blocks of pixels."""
    n, side = len(images), images.shape[1] // size
    blocks = images.reshape(n, size, side, size, side, 3).astype(np.float64)
    return blocks.mean((2, 4))


def unlike(first, second):
    """Mean absolute difference after each image's brightness and contrast are out."""

    def normal(images):
        images = images - images.mean((1, 2), keepdims=True)
        return images / images.std((1, 2, 3), keepdims=True)

    return np.abs(normal(first) - normal(second)).mean((1, 2, 3))


@pytest.mark.parametrize("size", [32, 48, 112])
def test_shape_and_type(size):
    images = render(0, [0, 1, 2], [0, 0, 5], size=size)
    assert images.shape == (3, size, size, 3)
    assert images.dtype == np.uint8


def test_default_size_is_112():
    assert render(0, [0], [0]).shape == (1, 112, 112, 3)


def test_no_images_give_an_empty_array():
    assert render(0, [], [], size=32).shape == (0, 32, 32, 3)


def test_the_same_call_gives_the_same_pixels():
    ids, ks = people(5, 3)
    np.testing.assert_array_equal(render(1, ids, ks, 32), render(1, ids, ks, 32))


@pytest.mark.parametrize("size", [32, 64])
def test_order_and_company_do_not_change_a_bit(rng, size):
    ids, ks = people(23, 3)
    together = render(2, ids, ks, size)
    order = rng.permutation(len(ids))
    np.testing.assert_array_equal(
        render(2, ids[order], ks[order], size), together[order]
    )
    few = order[:7]
    np.testing.assert_array_equal(render(2, ids[few], ks[few], size), together[few])
    for i in order[:12]:
        alone = render(2, ids[i : i + 1], ks[i : i + 1], size)
        np.testing.assert_array_equal(alone[0], together[i])


@pytest.mark.parametrize("pixels", [1, 5 * 32 * 32, 1 << 20])
def test_chunks_do_not_show(monkeypatch, pixels):
    ids, ks = people(12, 2)
    usual = render(0, ids, ks, 32)
    monkeypatch.setattr(synthetic, "_CHUNK_PIXELS", pixels)
    np.testing.assert_array_equal(render(0, ids, ks, 32), usual)


def test_another_process_without_tensorflow_draws_the_same_pixels():
    # Neither the hash seed of a process nor NumPy's global state may come in. Packages
    # are stood in for by bare ones, because `ekd_tf.data` itself imports TensorFlow.
    folder = pathlib.Path(synthetic.__file__).parent
    code = f"""
import sys, types
for name, path in {[("ekd_tf", str(folder.parent)), ("ekd_tf.data", str(folder))]!r}:
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
from ekd_tf.data.synthetic.faces import render
sys.stdout.buffer.write(render(4, [7, 8], [1, 2], 32).tobytes())
sys.exit(any(m in sys.modules for m in ("tensorflow", "keras")))
"""
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert run.returncode == 0
    assert run.stdout == render(4, [7, 8], [1, 2], 32).tobytes()


def test_seed_identity_and_sample_each_change_the_picture():
    base = render(0, [3], [4], 32).astype(int)
    for seed, identity, sample in ((1, 3, 4), (0, 4, 4), (0, 3, 5)):
        other = render(seed, [identity], [sample], 32).astype(int)
        assert np.abs(base - other).mean() > 5


def test_seeds_are_other_worlds():
    # Identity 0 of seed 1 is nobody of seed 0, not merely renumbered.
    ids = np.arange(40)
    first, second = (render(seed, ids, ids * 0, 32).astype(int) for seed in (0, 1))
    distances = np.abs(first[:, None] - second[None]).mean((2, 3, 4))
    assert distances.min() > 5


def test_people_differ_more_than_their_photographs():
    ids, ks = people(60, 8)
    images = shrunk(render(0, ids, ks, 64), 16)
    # The middle of the picture, so that walls do not count.
    images = images[:, 3:14, 3:13].reshape(60, 8, 11, 10, 3)
    same = unlike(images[:, 0], images[:, 1])
    other = unlike(images[:, 0], np.roll(images[:, 1], 1, axis=0))
    assert same.mean() < 0.93 * other.mean()
    # And yet pixels do not give a person away: many strangers look closer.
    assert np.mean(same > np.median(other)) > 0.05


def test_no_single_colour_tells_people_apart():
    # Most of the variation of mean colour comes from the photograph.
    ids, ks = people(60, 10)
    colours = render(0, ids, ks, 32)[:, 8:26, 9:23].mean((1, 2)).reshape(60, 10, 3)
    within = colours.var(axis=1).mean(axis=0)
    between = colours.mean(axis=1).var(axis=0)
    assert np.all(within > 0.5 * between)
    assert np.all(between > 0.05 * within)


@pytest.mark.parametrize("large, small", [(64, 32), (96, 48), (128, 32)])
def test_the_same_face_at_every_size(large, small):
    ids, ks = people(20, 2)
    big = shrunk(render(0, ids, ks, large), small)
    little = render(0, ids, ks, small).astype(np.float64)
    # Grain belongs to pixels; averaging removes it, so compare half as finely.
    errors = np.abs(shrunk(big, small // 2) - shrunk(little, small // 2)).mean(
        (1, 2, 3)
    )
    assert errors.mean() < 4
    assert errors.max() < 9
    others = np.abs(big - np.roll(little, 2, axis=0)).mean((1, 2, 3))
    assert others.min() > 2 * errors.mean()


def test_pictures_are_neither_dark_nor_blown_out():
    ids, ks = people(50, 4)
    images = render(0, ids, ks, 48)
    assert 70 < images.mean() < 150
    assert images.std(axis=(1, 2, 3)).mean() > 25
    assert np.mean(images == 255) < 0.05
    assert np.mean(images == 0) < 0.08
    means = images.mean((1, 2, 3))
    assert means.min() > 15 and means.max() < 235
    assert means.std() > 10


def test_large_numbers_are_distinct_people():
    far = 2**62
    ids = [0, 1, far, far + 1]
    images = render(2**63 - 1, ids, [0, 0, 0, 0], 32).reshape(4, -1)
    assert len(np.unique(images, axis=0)) == 4


@pytest.mark.parametrize("size", [0, -32, 16, 31, 40, 100, 272])
def test_rejects_sizes_that_are_not_multiples_of_16_in_range(size):
    message = rf"`size` must be a multiple of 16 in \[32, 256\].*size={size}$"
    with pytest.raises(ValueError, match=message):
        render(0, [0], [0], size=size)
    with pytest.raises(ValueError, match=message):
        SyntheticFaces(size=size)


def test_largest_size_is_drawn():
    assert render(0, [0], [0], size=256).std() > 10


@pytest.mark.parametrize("name", ["identities", "samples"])
def test_rejects_negative_identities_and_samples(name):
    arguments = {"identities": [0, 1], "samples": [0, 1], name: [0, -3]}
    with pytest.raises(ValueError, match=rf"`{name}` must be in \[0.*{name}=-3"):
        render(0, size=32, **arguments)


@pytest.mark.parametrize("name", ["identities", "samples"])
@pytest.mark.parametrize("bad", [[0.5, 1.0], [[0, 1]], [True, False], 3])
def test_rejects_what_is_not_a_row_of_integers(name, bad):
    arguments = {"identities": [0, 1], "samples": [0, 1], name: bad}
    with pytest.raises(ValueError, match=f"`{name}` must be a one-dimensional array"):
        render(0, size=32, **arguments)


def test_rejects_arrays_of_different_length():
    with pytest.raises(ValueError, match="same length. Received: 3 and 2"):
        render(0, [0, 1, 2], [0, 1], size=32)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_rejects_seeds_out_of_range(seed):
    with pytest.raises(ValueError, match=rf"`seed` must be in \[0.*seed={seed}"):
        render(seed, [0], [0], size=32)
    with pytest.raises(ValueError, match=rf"`seed` must be in \[0.*seed={seed}"):
        SyntheticFaces(seed=seed)


def test_source_has_the_interface_of_a_source():
    source = SyntheticFaces(identities=3, images_per_identity=4, size=32)
    assert len(source) == 12
    assert source.num_identities == 3
    assert source.encoded is False
    assert source.name == "synthetic"
    assert source.labels.dtype == np.int32
    assert source.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert isinstance(source.fingerprint, str)


def test_source_defaults():
    source = SyntheticFaces()
    assert len(source) == 4000 and source.num_identities == 200
    assert source.read([0]).shape == (1, 64, 64, 3)


def test_read_returns_the_pictures_of_its_indices():
    source = SyntheticFaces(3, 4, size=32, seed=6, first_identity=100)
    images = source.read(np.array([11, 0, 5, 5]))
    # 11 = 2 * 4 + 3 and 5 = 1 * 4 + 1.
    expected = render(6, [102, 100, 101, 101], [3, 0, 1, 1], size=32)
    np.testing.assert_array_equal(images, expected)
    assert source.read([]).shape == (0, 32, 32, 3)


def test_ranges_of_identities_continue_each_other():
    whole = SyntheticFaces(4, 2, size=32)
    tail = SyntheticFaces(2, 2, size=32, first_identity=2)
    np.testing.assert_array_equal(whole.read([4, 7]), tail.read([0, 3]))
    np.testing.assert_array_equal(tail.labels, [0, 0, 1, 1])


def test_describe_names_identity_image_and_seed():
    source = SyntheticFaces(20, 20, size=32)
    assert source.describe(243) == "synthetic identity 12, image 3 (seed 0)"
    later = SyntheticFaces(2, 5, size=32, seed=9, first_identity=1000)
    assert later.describe(6) == "synthetic identity 1001, image 1 (seed 9)"


@pytest.mark.parametrize("index", [-1, 12])
def test_rejects_indices_out_of_range(index):
    source = SyntheticFaces(3, 4, size=32)
    for call in (lambda: source.read([0, index]), lambda: source.describe(index)):
        with pytest.raises(ValueError, match=f"`indices` must be in.*indices={index}"):
            call()


def test_fingerprint_depends_on_every_argument_and_on_the_version(monkeypatch):
    usual = {
        "identities": 10,
        "images_per_identity": 4,
        "size": 32,
        "seed": 0,
        "first_identity": 0,
    }
    told = [SyntheticFaces(**usual).fingerprint]
    for name, value in usual.items():
        told.append(SyntheticFaces(**{**usual, name: value + 16}).fingerprint)
    # Equal digits with other ends are other sources too.
    for people, images in ((1, 14), (11, 4)):
        counts = {"identities": people, "images_per_identity": images}
        told.append(SyntheticFaces(**{**usual, **counts}).fingerprint)
    told.append(
        SyntheticFaces(**{**usual, "seed": 4, "first_identity": 10}).fingerprint
    )
    told.append(
        SyntheticFaces(**{**usual, "seed": 10, "first_identity": 4}).fingerprint
    )
    assert SyntheticFaces(**usual).fingerprint == told[0]
    monkeypatch.setattr(synthetic, "GENERATOR_VERSION", -1)
    told.append(SyntheticFaces(**usual).fingerprint)
    assert len(set(told)) == len(told) == 11


def test_fingerprint_does_not_depend_on_the_type_of_an_integer():
    plain = SyntheticFaces(10, 4, size=32)
    numpy = SyntheticFaces(np.int64(10), np.int32(4), size=np.int64(32))
    assert plain.fingerprint == numpy.fingerprint


@pytest.mark.parametrize(
    "name, value",
    [("identities", 0), ("identities", -2), ("images_per_identity", 0)]
    + [("first_identity", -1)],
)
def test_rejects_counts_that_make_no_data_set(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be in.*{name}={value}"):
        SyntheticFaces(**{name: value})


def seconds(n, size):
    """Processor time of the best of three calls."""
    ids, ks = np.arange(n) % 50, np.arange(n)
    times = []
    for _ in range(3):
        start = time.process_time()
        render(0, ids, ks, size)
        times.append(time.process_time() - start)
    return min(times)


def test_drawing_in_batches_beats_drawing_one_by_one():
    start = time.process_time()
    for i in range(16):
        render(0, [i], [i], 32)
    single = (time.process_time() - start) / 16
    assert seconds(128, 32) / 128 < 0.5 * single


@pytest.mark.slow
@pytest.mark.parametrize("size, rate", [(32, 4500), (48, 2400), (64, 1500)])
def test_throughput_on_one_core(size, rate):
    assert 1024 / seconds(1024, size) > rate
