"""ekd_tf.export.staging: all of an export or nothing."""

import os

import pytest

from ekd_tf.export.staging import free_version
from ekd_tf.export.staging import staged


def test_a_directory_has_its_name_only_when_complete(tmp_path, tree):
    final = tmp_path / "name" / "3"
    os.umask(umask := os.umask(0))
    with staged(final) as target:
        (target / "variables").mkdir(parents=True)
        (target / "saved_model.pb").touch()
        assert not final.exists()
        # A server that watches the parent must see no integer.
        (aside,) = os.listdir(final.parent)
        assert aside.startswith(".")
    assert tree(final) == ["saved_model.pb", "variables"]
    # By others than who made it.
    assert final.stat().st_mode & 0o777 == 0o777 & ~umask


def test_a_failure_leaves_no_file_and_no_new_directory(tmp_path):
    with pytest.raises(SystemExit):
        with staged(tmp_path / "export" / "name" / "1") as target:
            target.mkdir()
            (target / "half").touch()
            raise SystemExit()
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("a file")
    final = tmp_path / "file" / "1"
    reason = rf"{final}: (File exists|Not a directory): {tmp_path / 'file'}"
    with pytest.raises(OSError, match=f"Cannot write {reason}.*Choose a directory"):
        with staged(final):
            pytest.fail("must not get this far")

    # By way of the call, since nothing is denied to root.
    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", denied)
    with pytest.raises(PermissionError, match="Cannot write .*Permission denied.*Choo"):
        with staged(tmp_path / "new" / "1"):
            pytest.fail("must not get this far")
    assert os.listdir(tmp_path) == ["file"]


def test_a_version_that_appears_meanwhile_is_not_overwritten(tmp_path):
    final = tmp_path / "1"
    with pytest.raises(OSError, match=rf"Cannot write .*not empty: {final}\."):
        with staged(final) as target:
            target.mkdir()
            (target / "ours").touch()
            final.mkdir()
            (final / "theirs").touch()
    assert os.listdir(tmp_path) == ["1"]
    assert os.listdir(final) == ["theirs"]


def test_the_next_version_is_one_above_the_highest(tmp_path):
    assert free_version(tmp_path) == 1
    # "²" is a digit to str.isdigit and no integer to int().
    for child in ("2", "10", "9", ".13-x.partial", "v14", "15.tflite", "-16", "²"):
        (tmp_path / child).mkdir()
    assert free_version(tmp_path) == 11


def test_a_given_version_must_be_a_new_positive_integer(tmp_path):
    for child in ("3", "1"):
        (tmp_path / child).mkdir()
    assert free_version(tmp_path, version=2) == 2
    assert free_version(tmp_path / "missing") == 1
    with pytest.raises(FileExistsError, match="`version` must not exist.*=3; .* 1, 3"):
        free_version(tmp_path, version=3)
    with pytest.raises(ValueError, match=r"`version` must be in \[1, .*version=0"):
        free_version(tmp_path, version=0)
