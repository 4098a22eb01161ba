"""Tests for `ekd_tf.run.logs`."""

import json
import os
import re

import numpy as np
import pytest
import tensorflow as tf

from ekd_tf.run.logs import MetricsLog
from ekd_tf.run.logs import TeacherLine
from ekd_tf.run.logs import tensorboard_tag


def lines(folder):
    content = (folder / "metrics.jsonl").read_text()
    assert content == "" or content.endswith("\n")
    return [json.loads(line) for line in content.splitlines()]


def points(folder):
    """Returns metric -> list of (step, value) over all TensorBoard files, sorted."""
    found = {}
    for path in folder.glob("*tfevents*"):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            for value in event.summary.value:
                array = tf.make_ndarray(value.tensor)
                name = re.sub(r"^\d [^/]+/", "", value.tag)
                found.setdefault(name, []).append((event.step, array))
    return {
        tag: sorted(items, key=lambda item: item[0]) for tag, items in found.items()
    }


def logged(folder, steps):
    log = MetricsLog(folder)
    for step in steps:
        log.write(step, {"loss": step / 10, "lr": 0.5})
    log.close()
    return log


def test_writes_one_line_and_one_point_per_scalar(tmp_path):
    log = MetricsLog(tmp_path)
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


def test_images_reach_tensorboard(tmp_path):
    image = np.zeros((4, 6, 3), np.uint8)
    image[1, 2] = [255, 0, 7]
    log = MetricsLog(tmp_path)
    log.images(5, {"roc": image, "histogram": image})
    log.close()
    found = points(tmp_path)
    assert found.keys() == {"roc", "histogram"}
    ((step, (width, height, png)),) = found["roc"]
    assert (step, width, height) == (5, b"6", b"4")
    np.testing.assert_array_equal(tf.io.decode_png(png), image)


def test_truncation_drops_later_lines_and_points(tmp_path):
    log = logged(tmp_path, [10, 20, 30, 40])
    log.images(30, {"roc": np.zeros((2, 2, 3), np.uint8)})
    log.images(20, {"kept": np.zeros((2, 2, 3), np.uint8)})
    log.truncate_after(20)
    log.write(30, {"loss": 9.0})
    log.close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]
    assert lines(tmp_path)[-1] == {"step": 30, "loss": 9.0}
    found = points(tmp_path)
    assert found["loss"] == [(10, 1.0), (20, 2.0), (30, 9.0)]
    assert "roc" not in found
    assert len(found["kept"]) == 1


@pytest.mark.parametrize("tail", [b'{"step": 3', b'{"step": 3, "loss": 1.0}', b"{"])
def test_a_line_cut_by_a_kill_is_dropped(tmp_path, tail):
    logged(tmp_path, [1, 2])
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(tail)
    logged(tmp_path, [3])
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("line", ["garbage", "[1]", '{"loss": 1.0}', ""])
def test_a_damaged_whole_line_is_an_error_that_changes_nothing(tmp_path, line):
    log = logged(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{path.read_text()}{line}\n")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="Line 3 of .*metrics.jsonl is not a JSON"):
        log.truncate_after(2)
    assert path.read_bytes() == before


def test_crash_while_truncating_keeps_the_lines(tmp_path, monkeypatch):
    def die(source, target):
        raise KeyboardInterrupt

    log = logged(tmp_path, [1, 2, 3])
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            log.truncate_after(1)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    log.truncate_after(1)
    log.close()
    assert [line["step"] for line in lines(tmp_path)] == [1]


def test_files_are_read_in_the_order_of_the_run_whatever_the_clock_says(tmp_path):
    folder = tmp_path
    # Each resumed on a host whose clock is earlier than the last one's.
    for seconds, step in ((1700000300, 1), (1700000200, 2), (1700000100, 3)):
        log = logged(tmp_path, [step])
        (new,) = folder.glob("*.v2")
        new.rename(folder / f"events.out.tfevents.{seconds}.host{step}.1.0.v2")
        log.truncate_after(step)
        log.close()
    steps = []
    for path in sorted(folder.glob("*tfevents*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            steps += [event.step for value in event.summary.value if "/lr" in value.tag]
    assert steps == [1, 2, 3]


def test_the_first_point_of_a_metric_describes_it_also_when_resumed(tmp_path):
    def descriptions():
        return [
            value.metadata.summary_description[:17]
            for path in sorted(tmp_path.glob("*tfevents*"))
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
            for value in tf.compat.v1.Event.FromString(record).summary.value
            if value.tag == "1 loss/loss"
        ]

    log = logged(tmp_path, [1, 2])
    assert descriptions() == ["What is minimised", ""]
    log.truncate_after(0)
    log.write(1, {"loss": 1.0})
    log.close()
    assert descriptions() == ["What is minimised"]


def test_a_full_disk_is_an_error_with_the_path(tmp_path):
    # A device that is always full.
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    log = MetricsLog.__new__(MetricsLog)
    log.path, log._writer = tmp_path / "metrics.jsonl", None
    log._described = set()
    log._file = log._open()
    with pytest.raises(OSError, match="No space left on device.*metrics.jsonl"):
        log.write(1, {"loss": 1.0})
    log._file.close()


def test_tensorboard_failing_to_write_is_an_error_with_the_folder(
    tmp_path, monkeypatch
):
    def write(points):
        raise tf.errors.ResourceExhaustedError(None, None, "x; No space left on device")

    log = MetricsLog(tmp_path)
    monkeypatch.setattr(tf.summary.experimental, "write_raw_pb", write)
    with pytest.raises(OSError, match=f"No space left on device.*{tmp_path.name}"):
        log.write(1, {"loss": 1.0})
    log.close()


def test_resuming_drops_what_is_logged_again_at_the_same_step(tmp_path):
    log = MetricsLog(tmp_path)
    for step in (1, 2):
        log.write(step, {"loss": 1.0})
        log.write(step, {"heldout/auc": 0.5})
    log.truncate_after(2, ["heldout/"])
    log.write(2, {"heldout/auc": 0.7})
    log.close()
    aucs = [line["heldout/auc"] for line in lines(tmp_path) if "heldout/auc" in line]
    assert aucs == [0.5, 0.7] and len(lines(tmp_path)) == 4
    found = points(tmp_path)
    assert [step for step, _ in found["loss"]] == [1, 2]
    assert [step for step, _ in found["heldout/auc"]] == [1, 2]


def test_the_teacher_is_drawn_once_even_when_resumed(tmp_path):
    line = TeacherLine(tmp_path, 90)
    line.draw({})
    assert not (tmp_path / "teacher").exists()
    line.draw({"lfw/auc": 0.75, "lfw/eer": 0.25})
    line.draw({"lfw/auc": 0.1})
    TeacherLine(tmp_path, 90).draw({"lfw/auc": 0.1})
    found = points(tmp_path / "teacher")
    assert found == {
        "lfw/auc": [(0, 0.75), (90, 0.75)],
        "lfw/eer": [(0, 0.25), (90, 0.25)],
    }


def test_losses_tpr_and_thresholds_come_first():
    names = [
        "critical/positive",
        "gradient_norm",
        "heldout/accuracy",
        "heldout/tpr_at_fpr_1e-3",
        "loss",
        "loss/ekd/positive",
        "loss/margin",
        "loss_scale",
        "threshold/student/fpr_1e-1",
        "something/new",
    ]
    tags = sorted(tensorboard_tag(name)[0] for name in names)
    assert tags == [
        "1 loss/loss",
        "1 loss/loss/ekd/positive",
        "1 loss/loss/margin",
        "2 TPR/heldout/tpr_at_fpr_1e-3",
        "3 threshold/threshold/student/fpr_1e-1",
        "4 evaluation/heldout/accuracy",
        "5 distillation/critical/positive",
        "6 training/gradient_norm",
        "6 training/loss_scale",
        "6 training/something/new",
    ]
    assert "cross entropy" in tensorboard_tag("loss/margin")[1]
    assert tensorboard_tag("something/new")[1] is None
