"""Runs commands of the package, each in a fork that has TensorFlow imported.

Started by commands.py. Reads one JSON object per line, `{"program": module or script,
"arguments": [...], "output": folder}`, and answers each with the exit status; what the
command prints is in `stdout` and `stderr` of the folder.
"""

import json
import os
import runpy
import sys

import matplotlib.pyplot  # noqa: F401 - imported for the forks
import tensorflow as tf  # noqa: F401

import ekd_tf.run.evaluators
import ekd_tf.run.session  # noqa: F401


def command(program, arguments, output):
    """The child: becomes `python [-m] program arguments` and never returns."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(os.path.join(output, name), os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
    sys.argv = [program, *arguments]
    status = 1
    try:
        if program.endswith(".py"):
            sys.path.insert(0, os.path.dirname(program))
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as stop:
        status = stop.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)


if __name__ == "__main__":
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            command(**json.loads(line))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        sys.__stdout__.write(f"{status}\n")
        sys.__stdout__.flush()
