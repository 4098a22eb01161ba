"""What an artefact costs to run: latency and memory."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from ekd_tf.checks import check_range

# Starts anew, so that what TensorFlow takes is not counted; NumPy and the runtime are
# in memory before the model is.
_PEAK = """
import re, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
def memory(name):
    return int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1])
before = memory("VmRSS")
interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
details = interpreter.get_input_details()[0]
for _ in range(3):
    interpreter.set_tensor(details["index"], np.zeros(details["shape"], np.uint8))
    interpreter.invoke()
print("peak", (memory("VmHWM") - before) * 1024)
"""


def time_images(
    embed: Callable, images: np.ndarray, repeats: int = 50
) -> tuple[float, float]:
    """Times single images after a warm-up.

    Args:
        embed: Called with one image `(height, width, 3)`.
        images: Uint8 `(n, height, width, 3)`, n >= 1; taken in turn.
        repeats: Int >= 1, number of timed images.

    Returns:
        Median and 95th percentile in milliseconds.
    """
    check_range("repeats", repeats, low=1)
    check_range("len(images)", len(images), low=1)
    # The first calls pack weights and fill caches.
    for image in images[:5]:
        embed(image)
    times = []
    for step in range(repeats):
        start = time.perf_counter()
        embed(images[step % len(images)])
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times)), float(np.percentile(times, 95))


def peak_memory(path) -> int | None:
    """Measures what a TFLite file takes in a process of its own, on one thread.

    Args:
        path: The `.tflite` file.

    Returns:
        Bytes by which the process's peak resident memory grew from before the file was
        opened to after three images. None where `ai-edge-litert` is not installed:
        TensorFlow alone takes fifty times what is to be measured.
    """
    if importlib.util.find_spec("ai_edge_litert") is None:
        return None
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, os.fspath(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    # The runtime writes lines of its own to stdout.
    (line,) = [text for text in done.stdout.splitlines() if text.startswith("peak ")]
    return int(line.split()[1])
