import os
import subprocess
import sys

import pytest

from ekd_tf.run import quiet


def make_device(root, vendor, kind):
    device = root / "sys/bus/pci/devices" / vendor
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")


def test_a_gpu_counts_with_and_without_its_driver(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert not quiet.has_gpu(tmp_path)
    # Another maker's, and a sound device of the right one.
    make_device(tmp_path, "0x8086", "0x030000")
    (tmp_path / "sys/bus/pci/devices/broken").mkdir()
    assert not quiet.has_gpu(tmp_path)
    make_device(tmp_path, "0x10de", "0x040300")
    assert not quiet.has_gpu(tmp_path)
    (tmp_path / "sys/bus/pci/devices/0x10de/class").write_text("0x030200\n")
    assert quiet.has_gpu(tmp_path)
    # Of the driver, or of Windows where it lends its GPU to Linux.
    for name in ("nvidia0", "dxg"):
        (tmp_path / name / "dev").mkdir(parents=True)
        (tmp_path / name / "dev" / name).touch()
        assert quiet.has_gpu(tmp_path / name)
    # Hidden from CUDA it does not count.
    for value in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert not quiet.has_gpu(tmp_path)


def test_warnings_and_errors_of_the_import_are_said(capfd):
    with quiet.without_information():
        for line in (
            "I0000 00:00:1.2 port.cc] oneDNN custom operations are on",
            "WARNING: All log messages before absl::InitializeLog() is called",
            "E0000 00:00:1.2 cuda_platform.cc] failed call to cuInit",
            "W0000 00:00:1.2 gpu_device.cc] Cannot dlopen some GPU libraries",
        ):
            os.write(2, f"{line}\n".encode())
    said = capfd.readouterr().err.splitlines()
    assert [line[:5] for line in said] == ["E0000", "W0000"]


# Fast sibling: test_warnings_and_errors_of_the_import_are_said.
@pytest.mark.slow
def test_tensorflow_starts_without_a_line():
    code = (
        "from ekd_tf.run.quiet import quiet_tensorflow\n"
        "quiet_tensorflow()\n"
        "import tensorflow as tf\n"
        "tf.constant(1)\n"
    )
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES="-1")
    # Commands that ran in this process before have left both.
    for name in ("TF_CPP_MIN_LOG_LEVEL", "EKD_TF_QUIET"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_environment_has_the_last_word(monkeypatch):
    # Where it says nothing: test_command.py.
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    quiet.use_onednn()
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "0"
