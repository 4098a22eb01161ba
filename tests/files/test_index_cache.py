import os
import shutil

import numpy as np
import pytest

from ekd_tf.files.index_cache import IndexCache
from ekd_tf.files.positioned import PositionedFile


@pytest.fixture
def files(tmp_path):
    for name in ("a.rec", "a.idx"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path / "a.rec", tmp_path / "a.idx"


def cache(files, folder=None):
    return IndexCache([PositionedFile(path) for path in files], folder)


def test_is_given_back_until_a_file_has_changed(files):
    assert cache(files).load(["x"]) is None
    for path in files:
        for content in (path.read_bytes(), b"longer than before"):
            cache(files).save(x=np.arange(5), y=np.ones(2, np.int32))
            y, x = cache(files).load(["y", "x"])
            np.testing.assert_array_equal(x, np.arange(5))
            assert (x.dtype, y.dtype) == (np.int64, np.int32)
            path.write_bytes(content)
            os.utime(path, ns=(5, 5))
            assert cache(files).load(["x"]) is None
    assert (files[0].parent / "a.rec.ekd_index.npz").is_file()


def test_a_read_only_folder_is_left_for_the_other(files, tmp_path_factory, notes):
    run, other = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("other")
    # Even root is not to write there.
    files[0].parent.chmod(0o555)
    cache(files, run).save(x=np.arange(5))
    assert sorted(os.listdir(files[0].parent)) == ["a.idx", "a.rec"]
    (kept,) = os.listdir(run)
    assert kept.startswith("a-") and kept.endswith(".ekd_index.npz")
    assert len(cache(files, run).load(["x"])[0]) == 5
    assert cache(files).load(["x"]) is None
    # Two sets whose files have the same name do not share it.
    moved = [shutil.copy2(path, other) for path in files]
    assert cache(moved, run).load(["x"]) is None
    # Nowhere to write is said.
    cache(files).save(x=np.arange(5))
    files[0].parent.chmod(0o755)
    assert "a.rec.ekd_index.npz: The folder is read-only" in notes()[-1]


def test_a_torn_file_is_made_again(files, tmp_path, caplog):
    cache(files).save(x=np.arange(1000))
    path = tmp_path / "a.rec.ekd_index.npz"
    whole = path.read_bytes()
    at = len(whole) // 2
    flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    contents = b"", b"PK\x03\x04", whole[:-30], flipped, b"\x80\x04N."
    for content in contents:
        path.write_bytes(content)
        assert cache(files).load(["x"]) is None
    assert caplog.text.count("is not used and made again") == len(contents)
    cache(files).save(y=np.arange(3))
    assert cache(files).load(["x"]) is None
