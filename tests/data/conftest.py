"""What several tests of readers share."""

import pytest
from absl import logging


@pytest.fixture
def warnings_logged(monkeypatch):
    """The messages absl logs as warnings while the test runs."""
    messages = []
    monkeypatch.setattr(
        logging, "warning", lambda text, *args: messages.append(text % args)
    )
    return messages
