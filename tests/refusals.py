"""What is refused, and in which words."""

import pytest


def refused(words, call, *arguments, error=ValueError, **named):
    """Checks that a call stops with an error of these words; returns its text.

    Args:
        words: A regular expression to be found in the text.
        call: What to call with the arguments that follow.
        error: The kind of error.
    """
    with pytest.raises(error, match=words) as caught:
        call(*arguments, **named)
    return str(caught.value)
