import json

import numpy as np
from PIL import Image

from ekd_tf.evaluation import Result


def result(name, images, **arguments):
    return Result(name, {}, {}, {"figure": 1}, "", images, **arguments)


def test_writes_the_report_and_each_picture(rng, tmp_path):
    picture = rng.integers(0, 256, (4, 6, 3), np.uint8)
    found = result("faces", {"faces/roc": picture}, left_out=("a.png: damaged",))
    found.write(tmp_path / "reports")
    report = json.loads((tmp_path / "reports" / "faces.json").read_text())
    assert report == {"figure": 1, "left_out": ["a.png: damaged"]}
    with Image.open(tmp_path / "reports" / "faces_roc.png") as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
    assert found.report().endswith(
        "1 images cannot be read and are left out:\n\n- a.png: damaged"
    )


def test_a_section_shows_the_pictures_by_their_files():
    # Brackets and spaces would end a Markdown link.
    assert result("lfw (view 1)", {"lfw (view 1)/roc": None}).section() == (
        "## lfw (view 1)\n\n\n\n![lfw (view 1)/roc](lfw%20%28view%201%29_roc.png)\n"
    )
