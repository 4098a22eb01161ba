"""Trains a teacher or a baseline, or distils a student: `python -m ekd_tf.train`.

Without `--teacher` a backbone is trained by its margin head alone; with one the
distillation losses of `--distill` are added. The same command on the same
`--workdir` resumes from its last checkpoint.

Exit status: 0, the run is finished; 75 (EX_TEMPFAIL), it was interrupted (Ctrl-C,
SIGTERM, pre-emption, a lost worker) and the same command continues it; anything else, a
mistake or a guard ended it and the message says what to change.
"""

from __future__ import annotations

import sys

from absl import logging

from ekd_tf.run import command
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.interruption import RESUME_STATUS
from ekd_tf.run.interruption import Interrupted
from ekd_tf.run.settings import check_effects


def main(config: TrainConfig) -> None:
    """Trains to the end of a run, or resumes and does so.

    Raises:
        ValueError: There are no training images, a setting has no effect or is wrong,
            or a guard ended the run.
    """
    config = config.completed()
    check_effects(config)
    from ekd_tf.run.session import run_training

    try:
        run_training(config)
    except Interrupted as reason:
        logging.warning("%s The same command continues it.", reason)
        sys.exit(RESUME_STATUS)


def run() -> None:
    """Entry point of the console script."""
    command.run(main, "ekd_tf.train", TrainConfig, required=["workdir"], resumes=True)


if __name__ == "__main__":
    run()
