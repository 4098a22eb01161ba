"""ekd_tf.export.report: the table and the JSON of an export."""

import json

from ekd_tf.export.gates import Verification
from ekd_tf.export.parity import ParityReport
from ekd_tf.export.report import ArtefactReport
from ekd_tf.export.report import ExportReport

FIGURES = ParityReport(0.99, 0.995, 1e-6, 4)


def cells(line):
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_the_table_has_the_keras_model_first():
    verified = Verification(0.98, 0.75, 0.31, 5000)
    artefacts = (
        ArtefactReport("saved_model", "a/s/1", 2_500_000, FIGURES),
        ArtefactReport(
            "tflite_int8",
            "a/x.tflite",
            40_000,
            FIGURES,
            Verification(0.97, None, None, 50),
            median_ms=1.25,
            p95_ms=2,
            median_ms_2=1.5,
            peak_bytes=3_210_000,
            partitions=34,
        ),
    )
    report = ExportReport("s", 1, "a/s/1", FIGURES, verified, artefacts)
    header, _, keras, saved, int8 = report.to_table().splitlines()
    assert len(cells(header)) == 11
    assert cells(keras) == ["Keras", *["n/a"] * 3, "0.9800", "0.7500", *["n/a"] * 5]
    assert cells(saved) == ["saved_model", "2.50", "0.990000", "0.995000", *["n/a"] * 7]
    assert cells(int8)[1:6] == ["0.04", "0.990000", "0.995000", "0.9700", "n/a"]
    assert cells(int8)[6:] == ["1.2500", "2", "1.5000", "3.2", "34"]
    # As the card holds it.
    assert ExportReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
