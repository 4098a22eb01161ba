"""ekd_tf.export.staging: all of an export or nothing."""

import os

import pytest

from ekd_tf.export.staging import free_version
from ekd_tf.export.staging import staged


def test_a_directory_has_its_name_only_when_complete(tmp_path, tree):
    final = tmp_path / "name" / "3"
    with staged(final) as target:
        (target / "variables").mkdir(parents=True)
        (target / "saved_model.pb").touch()
        assert not final.exists()
        # A server that watches the parent must see no integer.
        (aside,) = os.listdir(final.parent)
        assert aside.startswith(".")
    assert tree(tmp_path) == [
        "name",
        "name/3",
        "name/3/saved_model.pb",
        "name/3/variables",
    ]


def test_what_is_staged_is_readable_by_others(tmp_path):
    before = os.umask(0o022)
    try:
        with staged(tmp_path / "3") as target:
            target.mkdir()
    finally:
        os.umask(before)
    assert (tmp_path / "3").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_no_file_and_no_new_directory(tmp_path, error):
    with pytest.raises(error):
        with staged(tmp_path / "export" / "name" / "1") as target:
            target.mkdir()
            (target / "half").touch()
            raise error()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("below", ["1", "name/1"])
def test_a_file_in_place_of_the_directory_is_named(tmp_path, below):
    (tmp_path / "export").write_text("a file")
    final = tmp_path / "export" / below
    reason = rf"{final}: (File exists|Not a directory): {tmp_path / 'export'}"
    with pytest.raises(OSError, match=f"Cannot write {reason}.*Choose a directory"):
        with staged(final):
            pytest.fail("must not get this far")
    assert (tmp_path / "export").read_text() == "a file"


def test_a_directory_without_permission_is_named(tmp_path, monkeypatch):
    # By way of the call, since nothing is denied to root.
    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", denied)
    with pytest.raises(PermissionError, match="Cannot write .*Permission denied.*Choo"):
        with staged(tmp_path / "new" / "1"):
            pytest.fail("must not get this far")
    assert os.listdir(tmp_path) == []


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


@pytest.mark.parametrize(
    "children, expected",
    [
        ([], 1),
        (["1"], 2),
        (["2", "10", "9"], 11),
        ([".3-x.partial", "v4", "5.tflite", "-6"], 1),
        # A digit to str.isdigit, no integer to int().
        (["²", "3"], 4),
    ],
)
def test_the_next_version_is_one_above_the_highest(tmp_path, children, expected):
    for child in children:
        (tmp_path / child).mkdir()
    assert free_version(tmp_path) == expected


def test_a_given_version_must_be_a_new_positive_integer(tmp_path):
    for child in ("3", "1"):
        (tmp_path / child).mkdir()
    assert free_version(tmp_path, version=2) == 2
    assert free_version(tmp_path / "missing") == 1
    with pytest.raises(FileExistsError, match="`version` must not exist.*=3; .* 1, 3"):
        free_version(tmp_path, version=3)
    for version in ("1", 1.0, True):
        with pytest.raises(ValueError, match="`version` must be an integer. Received"):
            free_version(tmp_path, version=version)
    with pytest.raises(ValueError, match=r"`version` must be in \[1, .*version=0"):
        free_version(tmp_path, version=0)
