"""Reading by position."""

import os

import pytest
from refusals import refused

from ekd_tf.files.positioned import PositionedFile
from ekd_tf.files.positioned import read_file


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "numbers"
    path.write_bytes(bytes(range(200)))
    return path


def test_reads_ranges_and_what_is_left_at_the_end(path):
    file = PositionedFile(path)
    assert (file.path, file.size) == (str(path), 200)
    assert file.read(10, 3) == b"\x0a\x0b\x0c"
    assert file.read(198, 10) == b"\xc6\xc7"
    assert file.read(500, 10) == b""


def test_names_damage_and_whether_the_file_has_changed(path):
    file = PositionedFile(path)
    at = f"{path}: record at offset 7"
    assert str(file.damage(7, "bad")) == f"{at}: bad"
    changed = f"{at}: the file has changed since its index was read: bad. Let nothing"
    os.utime(path, ns=(1, 1))
    assert str(file.damage(7, "bad")).startswith(changed)
    path.write_bytes(b"abc")
    assert str(file.damage(7, "bad")).startswith(changed)


def test_what_cannot_be_opened_is_refused_with_a_way_out(tmp_path):
    with pytest.raises(ValueError, match="gone: No such file or directory. Check the"):
        PositionedFile(tmp_path / "gone")
    refused("It is a directory, not a file", PositionedFile, tmp_path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ValueError, match="cannot read .*pipe: It is no regular file"):
        PositionedFile(tmp_path / "pipe")
    refused("no regular file", read_file, str(tmp_path / "pipe"), error=OSError)
    assert os.listdir("/proc/self/fd") == before


def test_whole_files_leave_no_descriptor_open(tmp_path, path):
    assert read_file(str(path)) == bytes(range(200))
    before = os.listdir("/proc/self/fd")
    read_file(str(path))
    refused("gone", read_file, str(tmp_path / "gone"), error=FileNotFoundError)
    refused(None, read_file, str(tmp_path), error=IsADirectoryError)
    assert os.listdir("/proc/self/fd") == before
