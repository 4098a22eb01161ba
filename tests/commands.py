"""Runs the commands of the package as a user does."""

import atexit
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

SERVER = pathlib.Path(__file__).with_name("command_server.py")
ENVIRONMENT = {
    **os.environ,
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "PYTHONPATH": os.pathsep.join(
        [str(SERVER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    ),
}
# Flags that make a training small.
TINY = [
    *"--general_batch=8 --balanced_identities=2 --model=toys:student".split(),
    *"--embedding_dim=16 --input_size=32 --scale=16".split(),
]


def run(program, *arguments):
    """Runs `python -m ekd_tf.<program>`, or a script, and returns the finished process.

    In a fork of a process that has imported TensorFlow, which takes longer than most
    commands do. A script is a `pathlib.Path`.
    """
    program = str(program) if isinstance(program, pathlib.Path) else f"ekd_tf.{program}"
    arguments = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as output:
        server = _server()
        request = {"program": program, "arguments": arguments, "output": output}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        texts = [
            pathlib.Path(output, name).read_text() for name in ("stdout", "stderr")
        ]
    return subprocess.CompletedProcess([program, *arguments], status, *texts)


def succeed(program, *arguments):
    """Runs a command that must end well; returns what `run` does."""
    done = run(program, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def refuse(program, *arguments):
    """Runs a command that must end with a message; returns what `run` does."""
    done = run(program, *arguments)
    assert done.returncode == 1, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done


@functools.lru_cache(maxsize=1)
def _server():
    server = subprocess.Popen(
        [sys.executable, str(SERVER)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    # Closes its input, at which it ends.
    atexit.register(server.communicate)
    return server
