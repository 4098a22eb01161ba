"""Attributes of a user's file reach the images they name."""

import numpy as np
from pictures import Files
from pictures import encode
from pictures import face
from PIL import Image
from refusals import refused

from ekd_tf.page import Attributes
from ekd_tf.page.columns import Column
from ekd_tf.page.columns import quality_columns


class Folder(Files):
    """Images called `/data/pK/N.png`, identities pK."""

    def describe(self, index):
        return f"/data/p{self.labels[index]}/{index}.png"

    def identity_names(self):
        return [f"p{label}" for label in range(self.num_identities)]


SOURCE = Folder([b""] * 6, [0, 0, 1, 1, 2, 2])


def write(tmp_path, text):
    path = tmp_path / "attributes.csv"
    path.write_text(text)
    return path


def test_attributes_of_identities_and_of_images(tmp_path):
    path = write(tmp_path, "identity,sex, same\np0 ,f,x\n p1, m,x\np9,m,x\n")
    (sex,) = Attributes(path).columns(SOURCE)
    assert (sex.name, sex.names) == ("sex", ("f", "m"))
    assert sex.values.tolist() == [0, 0, 1, 1, -1, -1]
    path = write(tmp_path, "image,glasses\np0/1.png,yes\n3.png,no\n/data/p2/4.png,no\n")
    (glasses,) = Attributes(path).columns(SOURCE)
    assert glasses.names == ("no", "yes")
    assert glasses.values.tolist() == [-1, 1, -1, 0, 0, -1]


def test_files_that_name_nothing_are_refused(tmp_path):
    for text, message in (
        ("name,sex\np0,f\n", "must begin with a line `identity,NAME"),
        ("", "must begin with a line"),
        ("identity,sex\np0,f,g\n", "a line must have 2 values. Received: p0,f,g"),
        ("identity,sex\np0,f\np0 , m\n", "for each identity. Received a second: p0,m"),
    ):
        refused(message, Attributes, write(tmp_path, text))
    unknown = Attributes(write(tmp_path, "identity,sex\nann,f\nbob,m\n"))
    assert unknown.columns(SOURCE) == []
    refused(r"names no identity of the sets.*\['p0'\]", unknown.check, [SOURCE])


def test_numbers_are_cut_into_thirds_and_words_into_the_common():
    column = Column.from_numbers("age", np.array([*range(9), np.nan]))
    assert column.values.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, -1]
    assert len(column.names) == 3
    assert Column.from_numbers("n", np.array([5, 7, 5])).names == ("5", "7")
    assert Column.from_numbers("n", np.ones(4)) is None
    # Where two thirds are alike and least, and where edges are close or large.
    column = Column.from_numbers("n", np.array([3] * 90 + [4, 5, 6]))
    assert column.names == ("below 4", "4 and above")
    assert np.bincount(column.values).tolist() == [90, 3]
    # Between the thirds, 2.33 and 5, is no number.
    column = Column.from_numbers("n", np.array([0, 1, 5, 5, 9]))
    assert np.bincount(column.values).tolist() == [2, 3]
    column = Column.from_numbers("side", np.array([100, 300, 500, 700] + [2048] * 20))
    assert column.names == ("below 2048", "2048 and above")
    years = Column.from_numbers("year", np.arange(1950, 1980))
    assert years.names == ("below 1960", "1960 to 1969", "1969 and above")
    many = Column.from_words("age", [str(n) for n in range(30)])
    assert len(many.names) == 3 and many.values[[0, 29]].tolist() == [0, 2]
    words = [f"w{n}" for n in range(25)] + ["w0", None]
    column = Column.from_words("word", words)
    assert len(column.names) == 21 and column.names[-1] == "all other values"
    assert column.values[-1] == -1 and column.values[0] == column.values[-2]


def test_quality_is_sharpness_brightness_and_size(rng):
    flat = [face(rng, 112, 112) for _ in range(2)]
    sharp = np.asarray(flat[1]).copy()
    sharp[::2] //= 2
    files = [encode(flat[0]), encode(Image.fromarray(sharp))]
    files += [encode(flat[0].point(lambda v: v // 4)), encode(flat[0].resize((56, 70)))]
    columns = {c.name: c for c in quality_columns(Files(files))}
    assert columns["sharpness"].values[1] == max(columns["sharpness"].values)
    assert columns["brightness"].values[2] == 0
    assert columns["size of the stored image, pixels"].names == ("56", "112")
