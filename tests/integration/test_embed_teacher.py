import numpy as np
import pytest
import tensorflow as tf
from commands import TINY
from commands import refuse
from commands import succeed
from pictures import write_people
from PIL import Image

from ekd_tf.embedders import TeacherCache

SIZE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that embeds by the mean of each row, and three identities."""
    root = tmp_path_factory.mktemp("embed_teacher")
    module = tf.Module()
    module.call = tf.function(
        lambda x: {"embedding": tf.reduce_mean(tf.cast(x, tf.float32), [1, 3])},
        [tf.TensorSpec((None, SIZE, SIZE, 3), tf.uint8)],
    )
    tf.saved_model.save(module, str(root / "model"), signatures=module.call)
    write_people(root / "faces", people=3, each=3, side=SIZE)
    return root


def flags(folder, output, *arguments, data="faces"):
    return [
        "embed_teacher",
        f"--teacher={folder / 'model'}",
        f"--data=folder:{folder / data}",
        f"--output={output}",
        *arguments,
    ]


def test_writes_both_views_and_says_how_to_train(folder, tmp_path):
    said = succeed(*flags(folder, tmp_path, "--dtype=float32", "--batch_size=4")).stdout
    # It tells the people from each other, whose images are alike.
    assert f"AUC of the teacher on a sample of {folder / 'faces'}: 1.000" in said
    assert "9 images x 2 views x 8 dimensions, float32" in said
    assert f"--teacher=cache:{tmp_path}" in said
    cache = TeacherCache(tmp_path)
    image = np.asarray(Image.open(folder / "faces" / "p1" / "2.png"))
    expected = image.astype(np.float64).mean(axis=(0, 2))
    np.testing.assert_allclose(cache.rows[5], [expected, expected[::-1]], rtol=1e-5)
    # Another command meets a finished cache of another kind.
    last = refuse(*flags(folder, tmp_path)).stderr.strip().splitlines()[-1]
    words = f"ekd_tf.embed_teacher: {tmp_path} holds the cache of another dtype"
    assert last.startswith(words)


def test_rows_do_not_go_where_images_are(folder):
    faces = folder / "faces"
    for output in (faces, faces / "cache"):
        said = refuse(*flags(folder, output, data=f"no+folder:{faces}")).stderr
        assert "`--output` must lie outside of --data" in said
    assert len(list(faces.iterdir())) == 3


def test_shards_of_drawn_views_are_written_apart_and_trained_from(folder, tmp_path):
    views = ["--views=2", "--augment=brightness:0.2", "--batch_size=4"]
    for shard in ("2/2", "1/2"):
        done = succeed(*flags(folder, tmp_path / "c", f"--shard={shard}", *views))
    assert "4 images x 4 views x 8 dimensions, float16" in done.stdout
    assert "once all 2 shards are there" in done.stdout
    succeed(*flags(folder, tmp_path / "whole", *views))
    rows = TeacherCache(tmp_path / "c").rows[:]
    np.testing.assert_array_equal(rows, TeacherCache(tmp_path / "whole").rows)
    train = ["train", f"--workdir={tmp_path / 'run'}", f"--teacher={tmp_path / 'c'}"]
    train += [f"--data=folder:{folder / 'faces'}", *TINY]
    train += "--distill=cosine --images_per_identity=2 --steps=2".split()
    assert "give --augment=brightness:0.2 and --flip" in refuse(*train).stderr
    succeed(*train, "--augment=brightness:0.2")
    for wrong in ("3/2", "a/b"):
        said = refuse(*flags(folder, tmp_path, f"--shard={wrong}")).stderr
        assert "`--shard` must be I/N" in said


def test_an_unreadable_image_ends_in_one_line_with_its_path(folder, tmp_path):
    faces = write_people(tmp_path / "faces", people=2, each=2, side=SIZE)
    bad = faces / "p0" / "1.png"
    bad.write_bytes(b"no image")
    said = refuse(*flags(folder, tmp_path / "c", data=faces)).stderr
    assert f"ekd_tf.embed_teacher: cannot decode {bad}" in said
    assert "--skip_corrupt" in said
