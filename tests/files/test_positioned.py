import os
import resource

from refusals import refused

from ekd_tf.files.positioned import PositionedFile
from ekd_tf.files.positioned import open_all
from ekd_tf.files.positioned import read_file


def test_what_cannot_be_opened_is_refused_and_leaves_no_descriptor_open(tmp_path):
    path = tmp_path / "numbers"
    path.write_bytes(bytes(range(200)))
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


def test_too_many_open_files_are_said_as_such(tmp_path, few_descriptors, monkeypatch):
    (tmp_path / "a").write_bytes(b"a")
    assert len(open_all([tmp_path / "a"] * 16)) == 16
    # As where the hard limit is reached, whatever numbers below it are free.
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    files = [tmp_path / "a"] * (few_descriptors + 20)
    refused("Too many open files.*ulimit", open_all, files)
