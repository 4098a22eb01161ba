"""oneDNN's kernels are asked for, and refused if the environment says so."""

import os

import pytest

from ekd_tf.run.onednn import use_onednn

NAME = "TF_ENABLE_ONEDNN_OPTS"


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0"), ("1", "1")])
def test_the_environment_has_the_last_word(before, after, monkeypatch):
    # Set first, so that its state of before comes back whatever that was.
    monkeypatch.setenv(NAME, before or "")
    if before is None:
        monkeypatch.delenv(NAME)
    use_onednn()
    assert os.environ[NAME] == after
