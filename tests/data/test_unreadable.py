"""Tests for `ekd_tf.data.unreadable`."""

import pytest

from ekd_tf.data.unreadable import Unreadable
from ekd_tf.data.unreadable import UnreadableError
from ekd_tf.data.unreadable import explain


def test_an_image_counts_once_whoever_reads_it():
    unreadable = Unreadable(2)
    assert unreadable.count("a.jpg", "is empty") == "a.jpg: is empty"
    assert unreadable.count("a.jpg", "cannot be read") == "a.jpg: is empty"
    unreadable.count("b.jpg", "is text")
    assert unreadable.lines == ["a.jpg: is empty", "b.jpg: is text"]


def test_the_program_that_prints_it_words_the_way_out():
    with pytest.raises(UnreadableError) as error:
        Unreadable().count("a.jpg", "is empty")
    assert str(error.value) == "cannot decode a.jpg: is empty"
    assert explain(error.value, "mend it") == "cannot decode a.jpg: is empty; mend it"
    assert explain(ValueError("x"), "mend it") == "x"


def test_one_more_than_allowed_lists_all():
    unreadable = Unreadable(1)
    unreadable.count("a.jpg", "is empty")
    with pytest.raises(UnreadableError) as error:
        unreadable.count("b.jpg", "is text")
    assert explain(error.value, "mend them") == (
        "cannot decode 2 images, of which 1 may be unreadable; mend them:\n"
        "  a.jpg: is empty\n  b.jpg: is text"
    )


def test_a_long_list_is_cut():
    error = UnreadableError([f"{k}.jpg: is empty" for k in range(50)], 49)
    assert str(error).endswith("  19.jpg: is empty\n  and 30 more")
