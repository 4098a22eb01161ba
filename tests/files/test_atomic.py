"""Tests for `ekd_tf.files.atomic`."""

import errno
import os

import pytest

from ekd_tf.files.atomic import naming
from ekd_tf.files.atomic import write_aside
from ekd_tf.files.atomic import write_text


class Killed(BaseException):
    """Stands for a process that ends: no handler of `Exception` sees it."""


def raiser(*args, **kwargs):
    raise Killed


def test_crash_between_write_and_rename_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", raiser)
    with pytest.raises(Killed):
        write_aside(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"old"


def test_bytes_are_on_disk_before_the_rename(tmp_path, monkeypatch):
    path = tmp_path / "file"
    calls = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor):
        calls.append(("fsync", os.fstat(descriptor).st_size))
        real_fsync(descriptor)

    def replace(source, target):
        calls.append(("replace", None))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_aside(path, lambda file: file.write(b"12345"))
    assert path.read_bytes() == b"12345"
    assert os.listdir(tmp_path) == ["file"]
    # The whole file, the rename, then the folder.
    assert [name for name, _ in calls] == ["fsync", "replace", "fsync"]
    assert calls[0] == ("fsync", 5)


def test_a_full_disk_is_an_error_with_the_path_and_the_old_bytes_stay(tmp_path):
    def write(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left on device") as error:
        write_aside(path, write)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_error_that_names_a_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as error, naming(tmp_path / "other"):
        open(tmp_path / "missing")
    assert error.value.filename == str(tmp_path / "missing")


def test_text_keeps_names_of_files_that_are_not_utf8(tmp_path):
    write_text(tmp_path / "report.md", "Zürich \udce9\n")
    assert (tmp_path / "report.md").read_bytes() == "Zürich ".encode() + b"\xe9\n"
