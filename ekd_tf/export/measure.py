"""What an artefact costs to run: latency and memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

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


def latency(
    embedder: Callable, images: np.ndarray, repeats: int = 50
) -> tuple[float, float]:
    """Returns median and 95th percentile of the time of one image in milliseconds.

    Of `images`, uint8 `(n, height, width, 3)`, `repeats` are taken in turn.
    """
    times = []
    for step in range(-5, repeats):
        # The first calls pack weights and fill caches.
        image = images[step % len(images)][None]
        start = time.perf_counter()
        embedder(image)
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times[5:])), float(np.percentile(times[5:], 95))


def peak_memory(path: str | os.PathLike) -> int | None:
    """Returns by how many bytes a TFLite file raises a process's peak memory.

    On one thread, over three images. None where `ai-edge-litert` is not installed
    (TensorFlow alone takes fifty times what is to be measured) or the system has no
    `/proc`.
    """
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, os.fspath(path)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return None
    # The runtime writes lines of its own to stdout.
    (line,) = [text for text in done.stdout.splitlines() if text.startswith("peak ")]
    return int(line.split()[1])
