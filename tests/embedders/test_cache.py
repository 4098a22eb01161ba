import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ekd_tf.data import JoinedSources
from ekd_tf.data import SyntheticFaces
from ekd_tf.data.source import Source
from ekd_tf.data.source import Subset
from ekd_tf.embedders import CacheWriter
from ekd_tf.embedders import TeacherCache
from ekd_tf.embedders.cache import class_centres

ROWS = np.random.default_rng(0).normal(size=(10, 2, 3)).astype(np.float32)


class Labels(Source):
    """A source of nothing but labels."""

    name, fingerprint = "labels", "of the labels"

    def __init__(self, labels=(1, 0, 2, 1, 1, 0, 0, 2, 1, 2)):
        self.labels = np.array(labels, np.int32)
        self.num_identities = int(self.labels.max()) + 1

    def read(self, indices):
        raise OSError("no images")

    def describe(self, index):
        return str(index)


def compute(first, until=10, rows=ROWS):
    for start in range(first, until, 4):
        yield rows[start : min(start + 4, until)]


def describe(**changes):
    return {
        "model": "of the teacher",
        "source": "of the labels",
        "name": "labels",
        "images": 10,
        "input_size": 16,
        "flip": True,
        **changes,
    }


def write(folder, dtype="float32", rows=ROWS, finish=True, **changes):
    writer = CacheWriter(folder, dtype, "t.keras", "folder:my faces")
    writer.rows(describe(**changes), 10, lambda first: compute(first, rows=rows))
    if finish:
        writer.finish(Labels())
    return folder


def interrupt(folder, rows=6):
    writer = CacheWriter(folder, "float32", "t.keras", "folder:my faces")
    with pytest.raises(ValueError, match="must be 10 embeddings"):
        writer.rows(describe(), 10, lambda first: compute(first, until=rows))
    return folder


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_written_is_read(tmp_path, dtype):
    cache = TeacherCache(write(tmp_path / "new" / "cache", dtype))
    np.testing.assert_array_equal(cache.rows, ROWS.astype(dtype))
    assert cache.rows.dtype == dtype
    assert (cache.fingerprint, cache.input_size) == ("of the teacher", 16)
    assert cache.embedding_dim == 3
    names = {path.name for path in cache.folder.iterdir()}
    assert names == {"cache.json", "embeddings.bin", "centres.npy"}


def test_centres_are_means_of_unit_rows_of_both_views(tmp_path, monkeypatch):
    labels = Labels().labels
    expected = np.zeros((4, 3))
    for label in range(3):
        units = [
            ROWS[i, view].astype(np.float64) / np.linalg.norm(ROWS[i, view])
            for i in np.flatnonzero(labels == label)
            for view in range(2)
        ]
        expected[label] = sum(units) / len(units)
    found = class_centres(ROWS, labels, 4)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # Three rows at a time.
    monkeypatch.setattr("ekd_tf.embedders.cache._CHUNK", 3 * 2 * 3 * 8)
    np.testing.assert_allclose(class_centres(ROWS, labels, 4), expected, atol=1e-6)
    cache = TeacherCache(write(tmp_path, "float16"))
    np.testing.assert_allclose(cache.centres, expected[:3], atol=1e-3)


@pytest.mark.parametrize("kept", [23, 24])
def test_goes_on_behind_the_last_whole_row(tmp_path, kept):
    interrupt(tmp_path)
    path = tmp_path / "embeddings.bin"
    path.write_bytes(path.read_bytes()[:kept])
    firsts = []

    def counted(first):
        firsts.append(first)
        return compute(first)

    writer = CacheWriter(tmp_path, "float32", "t.keras", "folder:my faces")
    writer.rows(describe(), 10, counted)
    writer.finish(Labels())
    # 24 bytes are a row.
    assert firsts == [kept // 24]
    np.testing.assert_array_equal(TeacherCache(tmp_path).rows, ROWS)


def test_a_whole_cache_is_left_as_it_is(tmp_path):
    write(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    writer = CacheWriter(tmp_path, "float32", "t.keras", "folder:my faces")
    writer.rows(describe(), 10, lambda first: pytest.fail("computed again"))
    centres = writer.finish(Labels())
    np.testing.assert_array_equal(centres, TeacherCache(tmp_path).centres)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_a_folder_of_another_cache_is_not_touched(tmp_path):
    for changes, words in (
        (
            {"model": "x"},
            r"another teacher \(t.keras, whose files have changed since\)",
        ),
        ({"source": "x", "name": "faces"}, r"another data \(labels, now faces\)"),
        ({"dtype": "float16"}, r"another dtype \(float32, now float16\)"),
        ({"flip": False}, "another number of views"),
        ({"input_size": 24}, "another input size of the teacher"),
    ):
        for finish in (False, True):
            folder = write(tmp_path / str(finish), finish=finish)
            before = (folder / "embeddings.bin").read_bytes()
            message = f"holds the cache of {words}.*another --output"
            with pytest.raises(ValueError, match=message):
                write(folder, **changes)
            assert (folder / "embeddings.bin").read_bytes() == before


@pytest.mark.parametrize(
    ("value", "dtype", "words"),
    [
        (np.nan, "float32", "image 5 is not finite"),
        (1e5, "float16", r"image 5 does not fit float16 \(largest entry 100000\)"),
    ],
)
def test_a_row_that_cannot_be_stored_ends_it(tmp_path, value, dtype, words):
    rows = ROWS.copy()
    rows[5, 1, 2] = value
    with pytest.raises(ValueError, match=words):
        write(tmp_path, dtype, rows)
    write(tmp_path / "other", "float32", np.nan_to_num(rows))


def test_says_how_to_write_or_finish_a_cache(tmp_path):
    with pytest.raises(
        ValueError, match=r"holds no cache.json. Write one: python -m ekd_tf.embed_t"
    ):
        TeacherCache(tmp_path / "nowhere")
    command = (
        "is unfinished, 6 of 10 images are done. Finish it: python -m "
        "ekd_tf.embed_teacher --teacher=t.keras '--data=folder:my faces' "
        f"--output={tmp_path} --dtype=float32"
    )
    with pytest.raises(ValueError) as error:
        TeacherCache(interrupt(tmp_path))
    assert str(error.value).endswith(command)


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def test_refuses_what_is_damaged(tmp_path):
    for name in ("embeddings.bin", "centres.npy"):
        for harm in (
            pathlib.Path.unlink,
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            flip_a_bit,
        ):
            folder = tmp_path / f"{name} {harm.__name__}"
            harm(write(folder) / name)
            message = f"is damaged: .*{name} is missing or.*again"
            with pytest.raises(ValueError, match=message):
                TeacherCache(folder)


def test_refuses_other_images_by_both_names(tmp_path):
    cache = TeacherCache(write(tmp_path))
    same = Labels()
    cache.check_source(same)
    cache.check_source(Subset(same, [2, 0]))
    others = Labels()
    others.fingerprint, others.name = "other", "my faces"
    with pytest.raises(
        ValueError, match=r"It is of 10 images of labels, and --data has 10 of my faces"
    ):
        cache.check_source(others)
    others.name = "labels"
    with pytest.raises(ValueError, match="these have changed since: .*rsync -a"):
        cache.check_source(others)
    with pytest.raises(ValueError, match="--data has 9 of labels"):
        cache.check_source(Labels(same.labels[:9]))
    faces = SyntheticFaces(identities=2, images_per_identity=2, size=32)
    assert not cache.has(JoinedSources([faces, faces]))


def test_rejects_an_unknown_dtype_and_a_folder_that_cannot_be_made(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'float16'"):
        CacheWriter(tmp_path, "float61", "", "")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="`output` must be a folder"):
        CacheWriter(tmp_path / "file", "float16", "", "")


WRITER = """
import sys, time
sys.path.insert(0, {tests!r})
import test_cache

def slow(first):
    for row in test_cache.compute(first):
        yield row
        # Until it is killed; the rows of the first batch are in the file by then.
        time.sleep(600 * (first == 0))

writer = test_cache.CacheWriter({folder!r}, "float32", "t.keras", "folder:my faces")
writer.rows(test_cache.describe(), 10, slow)
writer.finish(test_cache.Labels())
"""


# Fast sibling: test_goes_on_behind_the_last_whole_row.
@pytest.mark.slow
def test_goes_on_after_a_kill(tmp_path):
    here = pathlib.Path(__file__).parent
    code = WRITER.format(tests=str(here), folder=str(tmp_path))
    path = os.pathsep.join([str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
    command = {
        "args": [sys.executable, "-c", code],
        "env": {**os.environ, "PYTHONPATH": path},
    }
    process = subprocess.Popen(**command)
    rows = tmp_path / "embeddings.bin"
    deadline = time.monotonic() + 300
    while not (rows.is_file() and rows.stat().st_size == 4 * 24):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = rows.stat().st_size // 24
    assert done == 4
    assert json.loads((tmp_path / "writing.json").read_text())["images"] == 10
    with pytest.raises(ValueError, match=f"unfinished, {done} of 10"):
        TeacherCache(tmp_path)
    assert subprocess.run(**command, timeout=300).returncode == 0
    np.testing.assert_array_equal(TeacherCache(tmp_path).rows, ROWS)
