import functools
import pathlib
import re
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from pictures import Files
from refusals import refused

from ekd_tf.data import JoinedSources
from ekd_tf.data import SyntheticFaces
from ekd_tf.data.source import Subset
from ekd_tf.embedders import CacheWriter
from ekd_tf.embedders import TeacherCache
from ekd_tf.embedders import cache as cache_module
from ekd_tf.embedders import describe_cache

ROWS = np.random.default_rng(0).normal(size=(10, 2, 3)).astype(np.float32)


class Labels(Files):
    """A source of nothing but labels."""

    def __init__(self, labels=(1, 0, 2, 1, 1, 0, 0, 2, 1, 2)):
        super().__init__([None] * len(labels), labels)
        self.name, self.fingerprint = "labels", "of the labels"


# What of a teacher goes into the description of a cache.
TEACHER = types.SimpleNamespace(fingerprint="of the teacher", input_size=16)


def note(**changes):
    arguments = TEACHER, Labels(), "t.keras", "folder:my faces", "float32"
    return {**describe_cache(*arguments), **changes}


def compute(first, until=10, rows=ROWS):
    for start in range(first, until, 4):
        yield rows[start : min(start + 4, until)]


def write(folder, rows=ROWS, shard=(1, 1), **changes):
    writer = CacheWriter(folder, note(**changes), shard)
    writer.write(lambda first: compute(first, writer.images.stop, rows))
    return folder


def interrupt(folder, rows=6, shard=(1, 1)):
    writer = CacheWriter(folder, note(), shard)
    some = functools.partial(compute, until=rows)
    refused(r"must be \d+ embeddings", writer.write, some)
    return folder


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_written_is_read(tmp_path, dtype):
    cache = TeacherCache(write(tmp_path / "new" / "cache", dtype=dtype))
    np.testing.assert_array_equal(cache.rows, ROWS.astype(dtype))
    assert cache.rows.dtype == dtype
    assert (cache.fingerprint, cache.input_size) == ("of the teacher", 16)
    assert (cache.embedding_dim, cache.plain, cache.drawn) == (3, 2, None)
    times = {path: path.stat().st_mtime_ns for path in cache.folder.iterdir()}
    assert {path.name for path in times} == {"cache.json", "embeddings.bin"}
    # A whole cache is left as it is.
    rows = CacheWriter(cache.folder, note(dtype=dtype)).write(pytest.fail)
    np.testing.assert_array_equal(rows, cache.rows)
    assert times == {path: path.stat().st_mtime_ns for path in cache.folder.iterdir()}


def test_centres_are_means_of_unit_rows_of_both_views(tmp_path, monkeypatch):
    labels, expected = Labels().labels, np.zeros((4, 3))
    for label in range(3):
        rows = np.float64(ROWS[labels == label]).reshape(-1, 3)
        expected[label] = np.mean([row / np.linalg.norm(row) for row in rows], axis=0)
    source = Labels()
    source.num_identities = 4
    # Drawn views count for nothing.
    more = np.concatenate([ROWS, 7 + ROWS[:, :1]], axis=1)
    for name, rows in (("plain", ROWS), ("drawn", more)):
        cache = TeacherCache(write(tmp_path / name, rows))
        # All at once and three rows at a time.
        for chunk in (1 << 20, 3 * rows[0].size * 8):
            monkeypatch.setattr("ekd_tf.embedders.cache._CHUNK", chunk)
            found = cache.class_centres(source)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, atol=1e-6)
    of_two = Subset(Labels(), [2, 0])
    np.testing.assert_allclose(cache.class_centres(of_two), expected[[2, 0]], atol=1e-6)


def go_on(folder, until=10, shard=(1, 1)):
    """Writes what is missing; returns the images at which the teacher was asked."""
    firsts = []

    def counted(first):
        firsts.append(first)
        return compute(first, until)

    CacheWriter(folder, note(), shard).write(counted)
    return firsts


@pytest.mark.parametrize("kept", [23, 24])
def test_goes_on_behind_the_last_whole_row(tmp_path, kept):
    path = interrupt(tmp_path) / "embeddings.bin"
    path.write_bytes(path.read_bytes()[:kept])
    # 24 bytes are a row.
    assert go_on(tmp_path) == [kept // 24]
    np.testing.assert_array_equal(TeacherCache(tmp_path).rows, ROWS)


def test_a_folder_of_another_cache_is_not_touched(tmp_path):
    drawn = {"count": 2, "seed": 3, "augment": "crop:4"}
    for changes, words in (
        ({"teacher_fingerprint": "x"}, r"teacher \(t.keras, now one whose files have"),
        ({"source_fingerprint": "x", "source": "y"}, r"data \(labels, now y\)"),
        ({"dtype": "float16"}, r"dtype \(float32, now float16\)"),
        ({"views": 1}, "number of views"),
        ({"drawn": drawn}, r"drawn views \(none, now 2 of --augment=crop:4 by --s"),
        ({"input_size": 24}, "input size of the teacher"),
    ):
        for make in (write, interrupt):
            folder = make(tmp_path / make.__name__)
            before = (folder / "embeddings.bin").read_bytes()
            message = f"holds the cache of another {words}.*another --output"
            refused(message, write, folder, **changes)
            assert (folder / "embeddings.bin").read_bytes() == before


def test_a_row_that_cannot_be_stored_ends_it(tmp_path):
    for value, dtype, words in (
        (np.nan, "float32", "are not finite, the first of image 5"),
        (1e5, "float16", r"do not fit float16 \(largest entry 100000; use .*image 5"),
    ):
        rows = ROWS.copy()
        rows[5, 1, 2] = value
        refused(words, write, tmp_path / dtype, rows, dtype=dtype)
        write(tmp_path / f"other {dtype}", np.nan_to_num(rows))
    # So small a row would be zero.
    rows = ROWS.copy()
    rows[5, 1] = 1e-9
    words = r"do not fit float16 \(largest entry .*image 5"
    refused(words, write, tmp_path / "small", rows, dtype="float16")


def test_says_how_to_write_or_finish_a_cache(tmp_path):
    refused("no nowhere/cache.json. Write one: ", TeacherCache, tmp_path / "nowhere")
    command = (
        "is unfinished, 6 of 10 images are done. Finish it: python -m "
        "ekd_tf.embed_teacher --teacher=t.keras '--data=folder:my faces' "
        f"--output={tmp_path} --dtype=float32"
    )
    refused(re.escape(command) + "$", TeacherCache, interrupt(tmp_path))
    about = describe_cache(TEACHER, Labels(), "t", "d", skip_corrupt=3)
    few = functools.partial(compute, until=4)
    refused("must be 10", CacheWriter(tmp_path / "skips", about).write, few)
    refused("--dtype=float16 --skip_corrupt=3$", TeacherCache, tmp_path / "skips")
    # Another number is no other cache.
    CacheWriter(tmp_path / "skips", {**about, "skip_corrupt": 4}).write(compute)
    assert len(TeacherCache(tmp_path / "skips").rows) == 10


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def test_refuses_what_is_damaged(tmp_path):
    for name, harm in (
        ("gone", pathlib.Path.unlink),
        ("cut", lambda path: path.write_bytes(path.read_bytes()[:-1])),
        ("flipped", flip_a_bit),
    ):
        folder = write(tmp_path / name, shard=(1, 2)) / "shard-1-of-2"
        write(folder.parent, shard=(2, 2))
        harm(folder / "embeddings.bin")
        held = {path: path.read_bytes() for path in folder.iterdir()}
        words = (
            f"is damaged: .*embeddings.bin is missing or.* Remove {folder} and write "
            f"it again: .*--output={folder.parent} --dtype=float32 --shard=1/2$"
        )
        refused(words, TeacherCache, folder.parent)
        # The command that wrote it says the same, and makes it no worse.
        refused(words, write, folder.parent, shard=(1, 2))
        assert held == {path: path.read_bytes() for path in folder.iterdir()}


def test_a_cache_that_another_process_ended_meanwhile_is_taken(tmp_path, monkeypatch):
    late = CacheWriter(tmp_path, note())
    lock = cache_module.locked

    def ended_first(*arguments):
        monkeypatch.setattr(cache_module, "locked", lock)
        write(tmp_path)
        return lock(*arguments)

    monkeypatch.setattr(cache_module, "locked", ended_first)
    np.testing.assert_array_equal(late.write(pytest.fail), ROWS)
    assert not (tmp_path / "writing.json").exists()


def test_refuses_other_images_by_both_names(tmp_path):
    cache = TeacherCache(write(tmp_path))
    same, others = Labels(), Labels()
    cache.check_source(same)
    cache.check_source(Subset(same, [2, 0]))
    others.fingerprint, others.name = "other", "my faces"
    refused("of 10 images of labels, .* 10 of my faces", cache.check_source, others)
    others.name = "labels"
    refused("these have changed since: .*rsync -a", cache.check_source, others)
    people = [SyntheticFaces(5, 2, 32, seed=seed) for seed in (1, 2)]
    one = describe_cache(TEACHER, people[0], "t", "d", "float32")
    CacheWriter(tmp_path / "drawn", one).write(compute)
    words = r"of synthetic:\S+,seed=1, and --data has 10 of syn\S+,seed=2\. A copy"
    refused(words, TeacherCache(tmp_path / "drawn").check_source, people[1])
    fewer = Labels(same.labels[:9])
    refused("--data has 9 of labels", cache.check_source, fewer)
    faces = SyntheticFaces(identities=2, images_per_identity=2, size=32)
    assert not cache.has(JoinedSources([faces, faces]))


def test_rejects_an_unknown_dtype_and_a_folder_that_cannot_be_made(tmp_path):
    arguments = TEACHER, Labels(), "", "", "float61"
    refused("Did you mean 'float16'", describe_cache, *arguments)
    (tmp_path / "file").write_text("")
    refused("`output` must be a folder", CacheWriter, tmp_path / "file", note())


def test_shards_are_read_as_one(tmp_path):
    for index in (3, 1, 2):
        write(tmp_path, shard=(index, 3))
    cache, whole = TeacherCache(tmp_path), TeacherCache(write(tmp_path / "whole"))
    assert cache.rows.shape == (10, 2, 3) and len(cache.rows) == 10
    np.testing.assert_array_equal(cache.rows[:], ROWS)
    positions, views = np.array([9, 0, 4, 4, 3]), np.array([1, 0, 1, 0, 1])
    np.testing.assert_array_equal(cache.rows[positions], ROWS[positions])
    np.testing.assert_array_equal(cache.rows[positions, views], ROWS[positions, views])
    assert cache.rows[np.array([], int)].shape == (0, 2, 3)
    assert cache.has(Labels())
    centres = [each.class_centres(Labels()) for each in (cache, whole)]
    np.testing.assert_array_equal(*centres)


def test_each_shard_goes_on_by_itself(tmp_path):
    write(tmp_path, shard=(1, 3))
    # Images 3, 4 and 5.
    path = tmp_path / "shard-2-of-3" / "embeddings.bin"
    interrupt(tmp_path, rows=5, shard=(2, 3))
    path.write_bytes(path.read_bytes()[:30])
    refused("lacks 1 of 3 shards.*--shard=3/3. Write it", TeacherCache, tmp_path)
    write(tmp_path, shard=(3, 3))
    refused(r"1 of 3 images.*--dtype=float32 --shard=2/3$", TeacherCache, tmp_path)
    assert go_on(tmp_path, until=6, shard=(2, 3)) == [4]
    np.testing.assert_array_equal(TeacherCache(tmp_path).rows[:], ROWS)


def test_refuses_shards_in_the_place_of_others(tmp_path):
    for index in (1, 2):
        write(tmp_path, shard=(index, 2))
    one, two = tmp_path / "shard-1-of-2", tmp_path / "shard-2-of-2"
    refused("holds shard 2 of 2. Name it shard-2-of-2", TeacherCache, two)
    (tmp_path / "shard-0-of-2").mkdir()
    assert len(TeacherCache(tmp_path).rows) == 10
    one.rename(tmp_path / "aside")
    two.rename(one)
    (tmp_path / "aside").rename(two)
    refused("shard-1-of-2 holds shard 2 of 2", TeacherCache, tmp_path)


def test_refuses_shards_that_do_not_belong_together(tmp_path):
    write(tmp_path, shard=(1, 2))
    write(tmp_path, shard=(2, 2), teacher_fingerprint="x", teacher="other.onnx")
    refused("teacher: t.keras in .*1-of-2, other.onnx in .*2", TeacherCache, tmp_path)
    write(tmp_path, shard=(1, 3))
    refused("several divisions, such as of 2 and of 3", TeacherCache, tmp_path)
    refused("`--shard=1/11` must have an image", CacheWriter, tmp_path, note(), (1, 11))


WRITER = """
import sys, time
sys.path[:0] = {paths!r}
import test_cache

def slow(first):
    for row in test_cache.compute(first):
        yield row
        # Until it is killed; the rows of the first batch are in the file by then.
        time.sleep(600)

test_cache.CacheWriter({folder!r}, test_cache.note()).write(slow)
"""


# Fast sibling: test_goes_on_behind_the_last_whole_row.
@pytest.mark.slow
def test_goes_on_after_a_kill(tmp_path):
    paths = [str(folder) for folder in pathlib.Path(__file__).parents[:3]]
    code = WRITER.format(paths=paths, folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code])
    rows = tmp_path / "embeddings.bin"
    deadline = time.monotonic() + 300
    while not (rows.is_file() and rows.stat().st_size == 4 * 24):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() < 0
    refused("unfinished, 4 of 10", TeacherCache, tmp_path)
    assert go_on(tmp_path) == [4]
    np.testing.assert_array_equal(TeacherCache(tmp_path).rows, ROWS)
