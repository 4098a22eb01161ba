import dataclasses
import json

import numpy as np
from PIL import Image

from ekd_tf.evaluation.result import Result
from ekd_tf.evaluation.result import figures_table
from ekd_tf.evaluation.verification import VerificationReport

REPORT = VerificationReport(
    accuracy_mean=0.99,
    accuracy_std=0.01,
    accuracy_best=0.995,
    threshold=0.3,
    tpr={1e-2: 0.9, 1e-4: None},
    thresholds={1e-2: 0.2, 1e-4: None},
    auc=0.9999995,
    eer=0.01,
    num_positive=10,
    num_negative=20,
    num_pairs=30,
)


@dataclasses.dataclass(frozen=True)
class Plain(Result):
    name: str
    images: dict

    def scalars(self, model="student"):
        return {}

    def to_dict(self):
        return {"figure": 1}

    def text(self):
        return ""


def test_writes_the_report_and_each_picture(rng, tmp_path):
    picture = rng.integers(0, 256, (4, 6, 3), np.uint8)
    Plain("faces", {"faces/roc": picture}).write(tmp_path / "reports")
    report = json.loads((tmp_path / "reports" / "faces.json").read_text())
    assert report == {"figure": 1}
    with Image.open(tmp_path / "reports" / "faces_roc.png") as image:
        np.testing.assert_array_equal(np.asarray(image), picture)


def test_a_section_shows_the_pictures_by_their_files():
    result = Plain("lfw (view 1)", {"lfw (view 1)/roc": None})
    # Brackets and spaces would end a Markdown link.
    assert result.section() == (
        "## lfw (view 1)\n\n\n\n![lfw (view 1)/roc](lfw%20%28view%201%29_roc.png)\n"
    )


def test_table_has_a_line_per_model_and_intervals_behind_figures():
    with_intervals = dataclasses.replace(
        REPORT, intervals={"accuracy": (0.98, 1.0), "tpr_at_fpr_1e-2": (0.85, 0.95)}
    )
    table = figures_table([("one", REPORT), ("two", with_intervals)]).split("\n")
    assert [c.strip() for c in table[0].split("|")[1:-1]] == [
        "model",
        "accuracy",
        "best",
        "AUC",
        "EER",
        "TPR@1e-2",
        "TPR@1e-4",
    ]
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in table[2:]]
    assert cells == [
        ["one", "0.9900 +- 0.0100", "0.9950", "1.000000", "0.0100", "0.9000", "n/a"],
        [
            "two",
            "0.9900 +- 0.0100 [0.9800, 1.0000]",
            "0.9950",
            "1.000000",
            "0.0100",
            "0.9000 [0.8500, 0.9500]",
            "n/a",
        ],
    ]
