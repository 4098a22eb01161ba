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


def test_names_damage_and_whether_the_file_has_changed(path):
    file = PositionedFile(path)
    at = f"{path}: record at offset 7"
    assert str(file.damage(7, "bad")) == f"{at}: bad"
    os.utime(path, ns=(1, 1))
    changed = f"{at}: the file has changed since its index was read: bad. Let nothing"
    assert str(file.damage(7, "bad")).startswith(changed)


def test_what_cannot_be_opened_is_refused_and_leaves_no_descriptor_open(tmp_path, path):
    os.mkfifo(tmp_path / "pipe")
    assert read_file(str(path)) == bytes(range(200))
    before = os.listdir("/proc/self/fd")
    for name, words, error in (
        ("gone", "gone: No such file or directory. Check the", FileNotFoundError),
        ("", "It is a directory, not a file", IsADirectoryError),
        # It is not waited for.
        ("pipe", "cannot read .*pipe: It is no regular file", OSError),
    ):
        refused(words, PositionedFile, tmp_path / name)
        refused(None, read_file, str(tmp_path / name), error=error)
    refused("no regular file", read_file, str(tmp_path / "pipe"), error=OSError)
    read_file(str(path))
    assert os.listdir("/proc/self/fd") == before
