"""What is refused, and in which words."""

import pytest


def refused(words, call, *arguments, error=ValueError, **named):
    """Checks that a call ends in an error of these words, a regex; returns its text."""
    with pytest.raises(error, match=words) as caught:
        call(*arguments, **named)
    return str(caught.value)
