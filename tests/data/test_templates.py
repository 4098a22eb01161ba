import numpy as np
import pytest
from pictures import face
from PIL import Image
from refusals import refused

from ekd_tf.data.alignment import align
from ekd_tf.data.pipeline import evaluation_batches
from ekd_tf.data.templates import AlignedImages
from ekd_tf.data.templates import read_template_set

POINTS = np.array([[30, 40], [70, 41], [50, 62], [35, 80], [66, 81]], np.float32)


@pytest.fixture
def root(rng, tmp_path):
    """A set of three templates of two images each."""
    (tmp_path / "meta").mkdir()
    (tmp_path / "loose_crop").mkdir()
    names = [f"{k + 1}.png" for k in range(6)]
    for file in names:
        face(rng, 100, 110).save(tmp_path / "loose_crop" / file)
    points = [" ".join(f"{v:.2f}" for v in (POINTS + k).ravel()) for k in range(6)]
    head = "TEMPLATE_ID,SUBJECT_ID,FILE"
    for what, lines in {
        "face_tid_mid.txt": [
            f"{f} {10 * (k // 2) + 10} {k // 3 + 7}" for k, f in enumerate(names)
        ],
        "name_5pts_score.txt": [
            f"{f} {points[k]} 0.{k + 1}" for k, f in enumerate(names)
        ],
        "template_pair_label.txt": ["10 20 0", "10 30 1", "20 30 0"],
        "1N_gallery_G1.csv": [head, "10,5,a", "10,5,b"],
        "1N_gallery_G2.csv": [head, "20,6,c"],
        "1N_probe_mixed.csv": [head, "30,5,d", "20,6,e"],
    }.items():
        # Behind a byte-order mark, as some editors write it.
        path = tmp_path / "meta" / f"toy_{what}"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return tmp_path


def test_reads_the_lists_of_which_searches_and_pairs_may_be_missing(root):
    found = read_template_set(root)
    assert found.name == "toy"
    np.testing.assert_array_equal(found.template, [10, 10, 20, 20, 30, 30])
    np.testing.assert_array_equal(found.media, [7, 7, 7, 8, 8, 8])
    np.testing.assert_allclose(found.score, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    np.testing.assert_array_equal(found.pairs.first, [10, 10, 20])
    np.testing.assert_array_equal(found.pairs.second, [20, 30, 30])
    np.testing.assert_array_equal(found.pairs.same, [False, True, False])
    assert found.galleries.keys() == {"G1", "G2"}
    np.testing.assert_array_equal(found.galleries["G1"].template, [10])
    np.testing.assert_array_equal(found.probes.subject, [5, 6])
    for path in (*root.glob("meta/*1N*"), *root.glob("meta/*pair_label.txt")):
        path.unlink()
    found = read_template_set(root)
    assert (found.pairs, found.galleries, found.probes) == (None, {}, None)


def test_aligns_each_image_by_its_points(root):
    images = read_template_set(root).images
    found = images.read(np.array([3, 0]))
    for row, k in enumerate((3, 0)):
        with Image.open(root / "loose_crop" / f"{k + 1}.png") as image:
            expected = align(np.asarray(image), POINTS + k)
        np.testing.assert_array_equal(found[row], expected)
    assert images.describe(3).endswith("4.png")
    assert not images.encoded


def test_fingerprint_follows_points_and_images_and_not_the_place(root):
    crops = root / "loose_crop"
    points = np.stack([POINTS, POINTS])

    def fingerprint(points=points):
        return AlignedImages(crops, ["1.png", "2.png"], points).fingerprint

    first = fingerprint()
    crops = crops.rename(root / "moved")
    assert fingerprint() == first
    prints = {first, fingerprint(points + 1)}
    (crops / "2.png").write_bytes((crops / "2.png").read_bytes())
    assert len({*prints, fingerprint()}) == 3


def test_names_missing_and_damaged_images(root):
    path = root / "loose_crop" / "2.png"
    path.write_text("no image")
    images = read_template_set(root).images
    reason = "2.png: not an image in a format that"
    refused(reason, images.read, np.array([1]))
    # In an evaluation too, whatever else is in the batch.
    batches = evaluation_batches(images, np.arange(6), 112, 6)
    refused(f"cannot decode .*{reason}", list, batches)
    path.unlink()
    batches = evaluation_batches(images, np.arange(6), 112, 6)
    refused("cannot decode .*2.png: No such file", list, batches)
    refused("1 of 6 images are missing.*2.png", read_template_set, root)


def test_says_what_is_wrong_with_a_list(root, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(r"must hold one \*_face_tid_mid.txt", read_template_set, tmp_path / "empty")
    for what, text, message in (
        ("face_tid_mid.txt", "1.jpg 1 x\n", "cannot be read"),
        ("face_tid_mid.txt", "1.jpg 1 2 3\n", "line 1 must have a name and 2 numb"),
        ("face_tid_mid.txt", "1.png 1 2\n", "same images in the same order"),
        ("name_5pts_score.txt", "1.jpg" + " nan" * 11 + "\n", "not finite"),
        ("name_5pts_score.txt", None, "toy_name_5pts_score.txt cannot be read"),
        ("template_pair_label.txt", "\n", "toy_template_pair_label.txt is empty"),
        ("1N_gallery_G2.csv", "A,B\n", "toy_1N_gallery_G2.csv names no template"),
        ("template_pair_label.txt", "1 2 2\n", "lines of two templates and 0 or 1"),
        ("template_pair_label.txt", "1 2\n", "2 columns"),
        ("1N_probe_mixed.csv", "A,B\nx,2\n", "line 2 must begin with"),
        ("1N_probe_mixed.csv", "A,B\n1,2\n1,3\n", "subject 3 and of 2"),
    ):
        path = root / "meta" / f"toy_{what}"
        whole = path.read_text()
        path.unlink() if text is None else path.write_text(text)
        refused(message, read_template_set, root)
        path.write_text(whole)
