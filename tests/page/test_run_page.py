"""The page of a run, from what the run left."""

import json

from commands import refuse
from commands import succeed
from pages import data_of

from ekd_tf.page import deployment


def test_the_command_writes_a_page_of_the_run(tmp_path):
    def write(name, content):
        (tmp_path / "reports").mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))

    start = {"command": ["train.py", "--steps=900"], "time": "today"}
    write("run.json", {"flags": {}, "seed": 0, "starts": [start]})
    threshold = "threshold/student/fpr_1e-2"
    lines = [{"step": k, "loss": 1 / k, threshold: 0.5} for k in range(1, 1001)]
    lines[1][threshold] = None
    lines.append({"step": 1000, "heldout/tpr_at_fpr_1e-3": 0.25})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    # The last line is cut where the run is still writing.
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 1001, "lo')
    figures = {"accuracy_mean": 0.75, "tpr": {"1e-3": 0.25}}
    pairs = {"student": {"flip": figures, "plain": {"accuracy_mean": 0.5}}}
    write("reports/lfw.json", pairs)
    artefact = {"kind": "onnx", "size_bytes": 5, "parity": {}, "median_ms": 1.5}
    write("reports/export.json", {"name": "s", "version": 2, "artefacts": [artefact]})
    done = succeed("report", tmp_path)
    assert done.stdout == f"Written to {tmp_path / 'report.html'}\n"
    found = data_of(tmp_path / "report.html")
    assert found["facts"]["Command"] == "python -m ekd_tf.train --steps=900"
    curves = {c["title"]: c for c in found["curves"]}
    (loss,) = curves["What is minimised"]["lines"]
    # Every third of a thousand, and the last.
    assert loss["every"] == 3 and loss["points"][1] == [4, 0.25]
    assert loss["points"][-1] == [1000, 0.001] and len(loss["points"]) == 334
    (line,) = curves["Thresholds of both models"]["lines"]
    assert line["name"] == "student/fpr_1e-2" and [2, None] not in line["points"]
    assert found["reports"]["lfw"]["student"]["figures"] == figures
    (exported,) = found["deployment"]["exports"]
    assert exported["name"] == "s, version 2"
    assert exported["artefacts"][0]["median_ms"] == 1.5


def test_what_is_no_run_is_refused_in_one_line(tmp_path):
    for arguments, words in (([tmp_path], "is not the workdir of a run"), ([], "one")):
        done = refuse("report", *arguments)
        assert words in done.stderr + done.stdout


def test_a_card_that_cannot_be_read_is_left_out(tmp_path, warnings_logged):
    (tmp_path / "card.json").write_text("{")
    shown = deployment(tmp_path / "model.keras")
    assert shown == {"calibrations": {}, "exports": []}
    assert "card.json" in warnings_logged[0]
