"""File names in one block of bytes."""

import sys

import pytest

from ekd_tf.data.names import PackedNames


def test_gives_back_names_of_any_alphabet_and_length():
    names = ["a.jpg", "", "é" * 300, "顔.png", "b c", "\udcff.jpg"]
    packed = PackedNames()
    for name in names:
        packed.append(name)
    assert [packed[k] for k in range(6)] == list(packed) == names
    assert len(packed) == 6
    with pytest.raises(IndexError):
        packed[6]


def test_takes_bytes_as_the_file_system_gives_them():
    packed = PackedNames()
    packed.append(b"\xff.jpg")
    assert packed[0] == "\udcff.jpg"


def test_takes_little_memory():
    packed = PackedNames()
    for k in range(1000):
        packed.append(f"{k:010d}.jpg")
    block, ends = sys.getsizeof(packed._block), sys.getsizeof(packed._ends)
    # 14 bytes and a position of 8 each, and the room to grow.
    assert block + ends < 1000 * (14 + 8) * 1.3
