"""What TensorFlow reads when it is imported: how much it says, and Intel's kernels."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_OURS = "EKD_TF_QUIET"
_ALL_BUT_INFO, _FATAL_ALONE = "1", "3"
_NVIDIA = "0x10de"
_DISPLAY = "0x03"
# Information, and what is said of it, which no level silences while TensorFlow loads.
_INFORMATION = re.compile(
    rb"I\d{4} |WARNING: All log messages before absl|To enable the following instr"
)


def use_onednn() -> None:
    """Asks TensorFlow, before its import, for oneDNN's kernels on a CPU.

    By itself it takes them only with AVX-512 VNNI and later, yet with AVX2 alone they
    train a MobileFaceNet in two thirds of the time (tools/benchmarks/README.md). The
    environment decides otherwise.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def quiet_tensorflow() -> None:
    """Silences what TensorFlow says when it will be imported.

    With a GPU warnings and errors stay, so that a missing library or a broken driver
    shows. `TF_CPP_MIN_LOG_LEVEL` in the environment decides otherwise; 0 shows all.
    """
    # A command that was started by another finds what that one has set.
    if os.environ.get(_LEVEL) != os.environ.get(_OURS) or "tensorflow" in sys.modules:
        return
    os.environ[_LEVEL] = _ALL_BUT_INFO if has_gpu() else _FATAL_ALONE
    os.environ[_OURS] = os.environ[_LEVEL]
    sys.meta_path.insert(0, _QuietImport())


def has_gpu(root: str | os.PathLike = "/") -> bool:
    """Tells whether an NVIDIA GPU, with or without driver, is not hidden from CUDA.

    `root` is where `dev` and `sys` are.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    root = pathlib.Path(root)
    # Of the driver, and of Windows where it lends its GPU to Linux.
    if any((root / "dev" / name).exists() for name in ("nvidia0", "nvidiactl", "dxg")):
        return True
    for device in (root / "sys/bus/pci/devices").glob("*"):
        with contextlib.suppress(OSError):
            vendor, kind = ((device / f).read_text() for f in ("vendor", "class"))
            if vendor.startswith(_NVIDIA) and kind.startswith(_DISPLAY):
                return True
    return False


class _QuietImport(importlib.abc.MetaPathFinder):
    """Has the first import of TensorFlow happen within `without_information`."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def quietly(module):
                with without_information():
                    load(module)

            spec.loader.exec_module = quietly  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def without_information() -> Iterator[None]:
    """Keeps C++ lines of information off stderr; all others come at the end."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as lines:
        stderr = os.dup(2)
        os.dup2(lines.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            lines.seek(0)
            for line in lines:
                if not _INFORMATION.match(line):
                    os.write(2, line)
