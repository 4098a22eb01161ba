import hashlib

import numpy as np
from refusals import refused

from ekd_tf.data.synthetic import faces as synthetic
from ekd_tf.data.synthetic.faces import SyntheticFaces
from ekd_tf.data.synthetic.faces import render
from ekd_tf.data.synthetic.parameters import splitmix64


def people(identities, images):
    """Identity and sample number of each image, people one after the other."""
    numbers = np.tile(np.arange(images), identities)
    return np.repeat(np.arange(identities), images), numbers


def shrunk(images, size):
    """Averages square blocks of pixels."""
    n, side = len(images), images.shape[1] // size
    blocks = images.reshape(n, size, side, size, side, 3).astype(np.float64)
    return blocks.mean((2, 4))


def test_order_and_company_do_not_change_a_bit(rng, monkeypatch):
    ids, ks = people(12, 3)
    together = render(2, ids, ks, 32)
    order = rng.permutation(len(ids))
    np.testing.assert_array_equal(render(2, ids[order], ks[order], 32), together[order])
    for i in order[:3]:
        alone = render(2, ids[i : i + 1], ks[i : i + 1], 32)
        np.testing.assert_array_equal(alone[0], together[i])
    monkeypatch.setattr(synthetic, "_CHUNK_PIXELS", 5 * 32 * 32)
    np.testing.assert_array_equal(render(2, ids, ks, 32), together)


def test_pictures_are_those_figures_rest_on():
    # GENERATOR_VERSION rises with any change of a pixel.
    pictures = render(3, *people(4, 6), 48)
    assert pictures.shape == (24, 48, 48, 3) and pictures.dtype == np.uint8
    digest = hashlib.sha256(pictures.tobytes()).hexdigest()
    assert (synthetic.GENERATOR_VERSION, digest[:16]) == (1, "84250cbd67331a39")


def test_the_same_face_at_every_size():
    ids, ks = people(20, 2)
    big = shrunk(render(0, ids, ks, 128), 32)
    little = render(0, ids, ks, 32).astype(np.float64)
    # Grain belongs to pixels; averaging removes it, so compare half as finely.
    errors = np.abs(shrunk(big, 16) - shrunk(little, 16)).mean((1, 2, 3))
    assert errors.mean() < 4 and errors.max() < 9
    others = np.abs(big - np.roll(little, 2, axis=0)).mean((1, 2, 3))
    assert others.min() > 2 * errors.mean()


def test_hash_gives_the_published_sequence():
    # First outputs of SplitMix64 started at 1234567, as published with Vigna's
    # splitmix64.c (rosettacode.org, "Pseudo-random numbers/Splitmix64").
    golden = np.uint64(0x9E3779B97F4A7C15)
    states = np.uint64(1234567) + np.arange(3, dtype=np.uint64) * golden
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert splitmix64(states).tolist() == published


def test_rejects_impossible_arguments():
    size = r"`size` must be a multiple of 16 in \[32, 256\].*size="
    for arguments, words in (
        ({"size": 40}, size),
        ({"size": 272}, size),
        ({"seed": -1}, r"`seed` must be in \[0.*seed=-1"),
        ({"identities": 0}, "`identities` must be in.*identities=0"),
        ({"first_identity": -1}, "`first_identity` must be in"),
    ):
        refused(words, SyntheticFaces, **arguments)


def test_a_source_draws_a_picture_once(monkeypatch):
    source, drawn = SyntheticFaces(3, 4, size=32), []

    def counted(seed, identities, samples, size):
        drawn.extend(zip(identities.tolist(), samples.tolist()))
        return render(seed, identities, samples, size)

    monkeypatch.setattr(synthetic, "render", counted)
    first = source.read([5, 0])
    again = source.read([0, 6, 5])
    np.testing.assert_array_equal(again[[2, 0]], first)
    assert drawn == [(1, 1), (0, 0), (1, 2)]
    assert source.read([]).shape == (0, 32, 32, 3)


def test_source_gives_the_pictures_of_its_indices():
    source = SyntheticFaces(3, 4, size=32, seed=6, first_identity=100)
    assert (len(source), source.num_identities, source.encoded) == (12, 3, False)
    assert source.labels.dtype == np.int32
    assert source.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert source.identity_names() == ["100", "101", "102"]
    # 11 = 2 * 4 + 3 and 5 = 1 * 4 + 1.
    people, photographs = np.array([102, 100, 101, 101]), np.array([3, 0, 1, 1])
    expected = render(6, people, photographs, size=32)
    np.testing.assert_array_equal(source.read(np.array([11, 0, 5, 5])), expected)
    assert source.describe(5) == "synthetic identity 101, image 1 (seed 6)"
    for index in (-1, 12):
        for call in (lambda i: source.read([0, i]), source.describe):
            refused("`indices` must be in.*indices=", call, index)


def test_fingerprint_depends_on_every_argument(monkeypatch):
    usual = {"identities": 10, "images_per_identity": 4, "size": 32, "seed": 0}
    usual["first_identity"] = 0
    prints = {SyntheticFaces(**usual).fingerprint}
    for name, value in usual.items():
        prints.add(SyntheticFaces(**{**usual, name: value + 16}).fingerprint)
    monkeypatch.setattr(synthetic, "GENERATOR_VERSION", -1)
    assert len({*prints, SyntheticFaces(**usual).fingerprint}) == 7
