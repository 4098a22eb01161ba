"""Intel's CPU kernels for commands that compute, whatever the processor."""

import os


def use_onednn() -> None:
    """Asks TensorFlow for oneDNN's kernels, unless the environment decides.

    TensorFlow takes them by itself only on processors with instructions made for
    neural networks (AVX-512 VNNI and later), yet on one with AVX2 alone they train a
    MobileFaceNet in two thirds of the time (tools/benchmarks/README.md). It reads
    `TF_ENABLE_ONEDNN_OPTS` once, when it is imported: call this before. On a GPU
    nothing changes.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
