"""Trains a tiny run and kills it where it is told to: `crash_run.py REQUEST`.

Workdir, checkpoints, logs, loss, loop and pipeline are those of `ekd_tf.train`; the
backbone is a small one unless the values say `"toy_student": false`, and pictures are
not drawn.

The request is `{"values": {...}, "kill": ...}` in JSON. "kill" is null; `{"steps": s}`,
so many steps and parts of one after the first; or `{"call": n}`, at the n-th of the
calls by which the run changes files, with another signal under "signal". A run that
reaches its end, or ends with the status to resume, prints the number of its calls.
"""

import json
import os
import signal
import sys
import threading
import time
import zipfile

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


def kill_after(steps):
    """Kills the process so many steps after the first, if it makes as many.

    In steps, not seconds: other work on the machine may slow each start differently.
    """
    original, marks = ProgressHook.after_step, []

    def after_step(hook, step):
        marks.append(time.monotonic())
        if len(marks) == 1 + int(steps):
            wait = steps % 1 * (marks[-1] - marks[max(len(marks) - 2, 0)])
            arguments = os.getpid(), signal.SIGKILL
            threading.Timer(wait, os.kill, arguments).start()
        original(hook, step)

    ProgressHook.after_step = after_step


# Converting Python by autograph would be most of what a start costs; nothing here needs
# it.
@tf.autograph.experimental.do_not_convert
def main(values, kill):
    kill = kill or {}
    if values.get("toy_student", True):
        assembly.make_student = lambda name, **arguments: toys.backbone(dim=8, size=32)
    protocols.plot_roc = lambda *a, **k: np.zeros((4, 4, 3), np.uint8)
    protocols.plot_similarities = protocols.contact_sheet = protocols.plot_roc
    if "steps" in kill:
        kill_after(kill["steps"])
    moments = Moments(kill.get("call"), kill.get("signal", signal.SIGKILL))
    for name in ("fsync", "link", "rename", "replace", "unlink"):
        moments.watch(os, name)
    # In the middle of a checkpoint, and of a line's points.
    moments.watch(zipfile.ZipFile, "open")
    moments.watch(tf.summary.experimental, "write_raw_pb")
    try:
        run_training(TrainConfig.from_record(values))
    except Interrupted:
        sys.exit(RESUME_STATUS)
    finally:
        print(moments.count)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
