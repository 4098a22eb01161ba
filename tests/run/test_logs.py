import json
import os
import re
from unittest import mock

import numpy as np
import tensorflow as tf
from refusals import refused
from traces import events_in

from ekd_tf.run import logs


def lines(folder):
    content = (folder / "metrics.jsonl").read_text()
    assert content == "" or content.endswith("\n")
    return [json.loads(line) for line in content.splitlines()]


def events(folder):
    """Yields `(step, value)` of all TensorBoard files, in the order they are read."""
    for path in sorted(folder.glob("*tfevents*")):
        for event in events_in(path):
            for value in event.summary.value:
                yield event.step, value


def points(folder):
    """Returns metric -> list of (step, value), in the order they are read."""
    found = {}
    for step, value in events(folder):
        name = re.sub(r"^\d [^/]+/", "", value.tag)
        found.setdefault(name, []).append((step, tf.make_ndarray(value.tensor)))
    return found


def logged(folder, steps, after=0, **arguments):
    log = logs.MetricsLog(folder, after, **arguments)
    for step in steps:
        log.write(step, {"loss": step / 10, "lr": 0.5})
    log.close()


def test_writes_one_line_and_one_point_per_scalar(tmp_path):
    log = logs.MetricsLog(tmp_path)
    log.write(20, {"loss/ekd/positive": 0.25, "lr": np.float32(0.5)})
    log.write(40, {"loss/ekd/positive": tf.constant(2.0)})
    # JSON has no word for what is not finite.
    log.write(60, {"lr": float("inf")})
    log.close()
    assert lines(tmp_path) == [
        {"step": 20, "loss/ekd/positive": 0.25, "lr": 0.5},
        {"step": 40, "loss/ekd/positive": 2.0},
        {"step": 60, "lr": None},
    ]
    assert points(tmp_path) == {
        "loss/ekd/positive": [(20, 0.25), (40, 2.0)],
        "lr": [(20, 0.5), (60, np.inf)],
    }


def test_truncation_drops_what_is_later_and_what_is_logged_again(tmp_path):
    image = np.zeros((4, 6, 3), np.uint8)
    image[1, 2] = [255, 0, 7]
    log = logs.MetricsLog(tmp_path)
    for step in (10, 20, 30):
        log.write(step, {"loss": step / 10})
        log.write(step, {"heldout/auc": 0.5})
    log.images(30, {"roc": image})
    log.images(20, {"kept": image, "histogram": image})
    log.close()
    log = logs.MetricsLog(tmp_path, 20, ("heldout/",))
    log.write(20, {"heldout/auc": 0.75})
    log.close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 10, 20, 20]
    *_, loss, auc = lines(tmp_path)
    assert loss == {"step": 20, "loss": 2.0}
    assert auc == {"step": 20, "heldout/auc": 0.75}
    found = points(tmp_path)
    assert found.keys() == {"loss", "heldout/auc", "kept", "histogram"}
    assert found["loss"] == [(10, 1.0), (20, 2.0)]
    assert found["heldout/auc"] == [(10, 0.5), (20, 0.75)]
    ((step, (width, height, png)),) = found["kept"]
    assert (step, width, height) == (20, b"6", b"4")
    np.testing.assert_array_equal(tf.io.decode_png(png), image)


def test_a_line_cut_by_a_kill_is_dropped(tmp_path):
    for number, tail in enumerate((b'{"step": 3', b'{"step": 3, "loss": 1.0}', b"{")):
        folder = tmp_path / str(number)
        folder.mkdir()
        logged(folder, [1, 2])
        with open(folder / "metrics.jsonl", "ab") as file:
            file.write(tail)
        logged(folder, [3], after=3)
        assert [line["step"] for line in lines(folder)] == [1, 2, 3]


def test_a_damaged_whole_line_is_an_error_that_changes_nothing(tmp_path):
    logged(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    for line in ("garbage", "[1]", '{"loss": 1.0}', ""):
        path.write_text(f"{whole}{line}\n")
        before = path.read_bytes()
        refused("Line 3 of .*metrics.jsonl is not a JSON", logs.MetricsLog, tmp_path, 2)
        assert path.read_bytes() == before


def test_crash_while_truncating_keeps_the_lines(tmp_path, monkeypatch):
    logged(tmp_path, [1, 2, 3])
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", mock.Mock(side_effect=KeyboardInterrupt))
        refused(None, logs.MetricsLog, tmp_path, 1, error=KeyboardInterrupt)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    logged(tmp_path, [], after=1)
    assert [line["step"] for line in lines(tmp_path)] == [1]


def test_files_are_read_in_the_order_of_the_run_whatever_the_clock_says(tmp_path):
    # Each resumed on a host whose clock is earlier than the last one's.
    for seconds, step in ((1700000300, 1), (1700000200, 2), (1700000100, 3)):
        logged(tmp_path, [step], after=step - 1)
        (new,) = tmp_path.glob("*.v2")
        new.rename(tmp_path / f"events.out.tfevents.{seconds}.host{step}.1.0.v2")
    logged(tmp_path, [], after=3)
    assert [step for step, _ in points(tmp_path)["loss"]] == [1, 2, 3]


def test_the_first_point_of_a_metric_describes_it_also_when_resumed(tmp_path):
    def descriptions():
        of_loss = [v.metadata for _, v in events(tmp_path) if v.tag == "1 loss/loss"]
        return [metadata.summary_description[:17] for metadata in of_loss]

    logged(tmp_path, [1, 2])
    assert descriptions() == ["What is minimised", ""]
    logged(tmp_path, [1])
    assert descriptions() == ["What is minimised"]


def test_a_full_disk_is_an_error_with_the_path(tmp_path, monkeypatch):
    full = "No space left on device"
    error = tf.errors.ResourceExhaustedError(None, None, f"x; {full}")
    log, write = logs.MetricsLog(tmp_path), mock.Mock(side_effect=error)
    with monkeypatch.context() as patch:
        patch.setattr(tf.summary.experimental, "write_raw_pb", write)
        refused(f"{full}.*{tmp_path.name}", log.write, 1, {"loss": 1.0}, error=OSError)
    log.close()
    # A device that is always full.
    with open("/dev/full", "ab", buffering=0) as log._file:
        refused(f"{full}.*metrics.jsonl", log.write, 1, {"loss": 1.0}, error=OSError)


def test_the_teacher_is_drawn_once(tmp_path):
    logs.draw_teacher(tmp_path, 90, {})
    assert not (tmp_path / "teacher").exists()
    logs.draw_teacher(tmp_path, 90, {"lfw/auc": 0.75, "lfw/eer": 0.25})
    logs.draw_teacher(tmp_path, 90, {"lfw/auc": 0.1})
    assert points(tmp_path / "teacher") == {
        "lfw/auc": [(0, 0.75), (90, 0.75)],
        "lfw/eer": [(0, 0.25), (90, 0.25)],
    }


def test_losses_tpr_and_thresholds_come_first():
    tags = [
        "1 loss/loss",
        "1 loss/loss/ekd/positive",
        "2 TPR/heldout/tpr_at_fpr_1e-3",
        "3 threshold/threshold/student/fpr_1e-1",
        "3 threshold/ekd_centres/threshold/student/fpr_1e-1",
        "4 evaluation/heldout/accuracy",
        "5 distillation/critical/positive",
        "6 training/loss_scale",
        "6 training/something/new",
    ]
    for tag in tags:
        assert logs.tensorboard_tag(tag.partition("/")[2])[0] == tag
    assert "cross entropy" in logs.tensorboard_tag("loss/margin")[1]
    assert logs.tensorboard_tag("something/new")[1] is None
