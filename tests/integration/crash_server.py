"""Trains a tiny run again and again and kills it where it is told to.

Started by test_crash.py. TensorFlow is imported once and every run is a fork, so a
start costs little more than the tracing of one small step. Workdir, checkpoints, logs,
loss, loop and pipeline are those of `ekd_tf.train`; the backbone is a small one unless
the values say `"toy_student": false`, and pictures are not drawn.

Reads one JSON object per line, `{"values": {...}, "kill": ...}`, and answers each with
`{"status": exit status or minus the signal, "calls": n}`. "kill" is null;
`{"steps": s}`, so many steps and parts of one after the first; or `{"call": n}`, at the
n-th of the calls by which the run changes files, with another signal under "signal".
"""

import json
import os
import signal
import sys
import time
import traceback
import zipfile

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
# As `ekd_tf.train` has it.
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"

import numpy as np
import tensorflow as tf
import toys

from ekd_tf.evaluation import protocols
from ekd_tf.run import assembly
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.interruption import RESUME_STATUS
from ekd_tf.run.interruption import Interrupted
from ekd_tf.run.progress import ProgressHook
from ekd_tf.run.session import run_training


class Moments:
    """Counts the calls that change files and ends the process at one of them."""

    def __init__(self, fatal, number):
        self.count = 0
        self.fatal = fatal
        self.number = number

    def watch(self, owner, name):
        original = getattr(owner, name)

        def watched(*args, **kwargs):
            self.count += 1
            if self.count == self.fatal:
                os.kill(os.getpid(), self.number)
            return original(*args, **kwargs)

        setattr(owner, name, watched)


def tell_steps(pipe):
    """Writes a line to the parent after every step."""
    original = ProgressHook.after_step

    def after_step(hook, step):
        os.write(pipe, b"\n")
        original(hook, step)

    ProgressHook.after_step = after_step


# Converting Python by autograph would be most of what a start costs; nothing here needs
# it.
@tf.autograph.experimental.do_not_convert
def train(values, kill, pipe):
    """The child: never returns."""
    if values.get("toy_student", True):
        assembly.make_student = lambda name, **arguments: toys.backbone(dim=8, size=32)
    protocols.plot_roc = lambda *a, **k: np.zeros((4, 4, 3), np.uint8)
    protocols.plot_similarities = protocols.contact_sheet = protocols.plot_roc
    number = kill.get("signal", signal.SIGKILL)
    tell_steps(pipe)
    moments, status = Moments(kill.get("call"), number), 0
    for name in ("fsync", "link", "rename", "replace", "unlink"):
        moments.watch(os, name)
    # In the middle of a checkpoint, and of a line's points.
    moments.watch(zipfile.ZipFile, "open")
    moments.watch(tf.summary.experimental, "write_raw_pb")
    try:
        run_training(TrainConfig.of_record(values), ["train"])
    except Interrupted:
        status = RESUME_STATUS
    os.write(pipe, json.dumps({"calls": moments.count}).encode())
    os._exit(status)


def wait_for(steps, pipe):
    """Returns that many steps after the first, or at the end of the run.

    In steps, not seconds: other work on the machine may slow each start differently.
    """
    marks = []
    while len(marks) < 1 + int(steps):
        if pipe.peek(1)[:1] != b"\n":
            return
        pipe.read(1)
        marks.append(time.monotonic())
    if len(marks) > 1:
        time.sleep(steps % 1 * (marks[-1] - marks[-2]))


def serve(request):
    """Runs one request; returns the answer."""
    kill = request["kill"] or {}
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            train(request["values"], kill, writing)
        finally:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    with open(reading, "rb") as pipe:
        if "steps" in kill:
            wait_for(kill["steps"], pipe)
            os.kill(pid, signal.SIGKILL)
        answer = json.loads(pipe.read().strip() or "{}")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"status": status, **answer}


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(serve(json.loads(line))) + "\n")
        sys.stdout.flush()
