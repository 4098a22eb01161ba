"""Runs the commands of the package as a user does."""

import os
import subprocess
import sys


def run(module, *arguments):
    """Runs `python -m ekd_tf.<module>` and returns what `subprocess.run` does."""
    return subprocess.run(
        [sys.executable, "-m", f"ekd_tf.{module}", *map(str, arguments)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        timeout=300,
    )
