import errno
import os

import pytest
from refusals import refused

from ekd_tf.files import atomic
from ekd_tf.files.outputs import check_file
from ekd_tf.files.outputs import make_folder


# A crash in between: tests/run/test_logs.py.
def test_bytes_are_on_disk_before_the_rename(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda fd: (calls.append(("fsync", os.fstat(fd).st_size)), fsync(fd)),
    )
    monkeypatch.setattr(
        os, "replace", lambda *names: (calls.append(("replace", 0)), replace(*names))
    )
    atomic.write_aside(tmp_path / "file", lambda file: file.write(b"12345"))
    assert (tmp_path / "file").read_bytes() == b"12345"
    assert os.listdir(tmp_path) == ["file"]
    # The whole file, the rename, then the folder.
    assert calls[0] == ("fsync", 5)
    assert [name for name, _ in calls] == ["fsync", "replace", "fsync"]


def test_a_full_disk_is_an_error_with_the_path_and_the_old_bytes_stay(tmp_path):
    def write(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left on device") as error:
        atomic.write_aside(path, write)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
    # An error that names a file keeps its name.
    with pytest.raises(FileNotFoundError) as error, atomic.naming(tmp_path / "other"):
        open(tmp_path / "missing")
    assert error.value.filename == str(tmp_path / "missing")


def test_text_keeps_names_of_files_that_are_not_utf8(tmp_path):
    atomic.write_text(tmp_path / "report.md", "Zürich \udce9\n")
    assert (tmp_path / "report.md").read_bytes() == "Zürich ".encode() + b"\xe9\n"


WORDS = "`out` must be a {} that can be written to. Received: .*{}"


def test_makes_what_is_missing(tmp_path):
    assert make_folder("out", tmp_path / "a" / "b").is_dir()
    path = check_file("out", tmp_path / "c" / "d.keras")
    assert path.parent.is_dir() and not path.exists()
    path.write_text("old")
    assert check_file("out", path).read_text() == "old"


def test_refuses_what_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    for make, kind, long, (other, reason) in (
        (make_folder, "folder", 256, (file, "File exists")),
        (check_file, "file", 252, (tmp_path, "It is a folder")),
    ):
        for path in (file / "x", "/proc/x/y", tmp_path / ("n" * long)):
            refused(WORDS.format(kind, path), make, "out", path)
        refused(WORDS.format(kind, reason), make, "out", other)
