"""How commands start and end, and how flags become settings: the only module that
reads flags.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import signal
import sys
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

from absl import app
from absl import flags
from absl import logging

from ekd_tf.files.user_text import command_line
from ekd_tf.run.interruption import RESUME_STATUS
from ekd_tf.run.interruption import sigterm_as_ctrl_c
from ekd_tf.run.quiet import quiet_tensorflow
from ekd_tf.run.quiet import use_onednn
from ekd_tf.run.settings import check_effects
from ekd_tf.run.settings import check_finite

# Flags are those of the module that calls, in `--help` too.
flags.disclaim_key_flags()

# What shells give a process that a signal has ended.
_STOPPED = {"Ctrl-C": 128 + signal.SIGINT, "SIGTERM": 128 + signal.SIGTERM}
WAY_OUT = "remove or replace what is damaged, or allow N with --skip_corrupt=N"

# Words of other tools, and of earlier versions of this one -> the flags here that may
# be meant: of these the answer names the first that the command has.
_MEANT = {
    "lr base_lr init_lr": "learning_rate",
    "wd decay": "weight_decay",
    "batch batch_size bs": "general_batch",
    "epoch num_epochs": "epochs",
    "max_steps num_steps total_steps": "steps",
    "warmup warmup_epochs": "warmup_steps",
    "opt optim": "optimizer",
    "scheduler lr_scheduler lr_policy": "schedule",
    "milestones lr_steps decay_epochs drop_at": "lr_milestones",
    "gamma lr_decay decay_rate drop_factor": "lr_gamma",
    "keep": "max_checkpoints",
    "clip clip_grad": "clip_norm",
    "fp16 bf16 amp mixed_precision": "precision",
    "gpus num_gpus distributed worker_hosts worker_index": "strategy",
    "output output_dir out save_dir log_dir logdir resume directory": "workdir output",
    "arch net network backbone student": "model",
    "dim embedding_size num_features": "embedding_dim",
    "image_size img_size resolution": "input_size",
    "loss losses method kd distill_weight temperature ekd_weight ekd_temperature "
    "ekd_memory ekd_thresholds ekd_threshold_gradient ekd_fprs ekd_num_negatives "
    "ekd_momentum ekd_preset sp_gram darkrank_length kd_temperature": "distill",
    "combined_margins": "margin",
    "augment_crop augment_brightness augment_contrast augment_saturation "
    "augment_occlusion augment_low_resolution augment_jpeg": "augment",
    "representative": "calibration_images",
    "num_representative": "num_calibration_images",
    "s": "scale",
    "dataset data_dir data_path root rec train_data images": "data eval_sets",
    "evaluate on pairs eval_set val val_data test_data": "eval_sets data",
    "eval_interval": "evaluate_every",
    "save_interval": "checkpoint_every",
    "log_interval print_freq": "log_every",
    "mirror hflip random_flip": "flip",
    "fpr far": "fprs calibrate_fpr",
}
_OURS = {word: ours for words, ours in _MEANT.items() for word in words.split()}
# What a name alone does not say.
_HOW = {
    "general_batch": "the batch is these rows and, of --balanced_identities, "
    "--images_per_identity each",
    "precision": "float32, mixed_float16 or mixed_bfloat16",
    "strategy": "mirrored for all GPUs of this machine; multi_worker for the machines "
    "that TF_CONFIG lists",
    "augment": "as in --augment=crop:4,jpeg:0.3",
    "margin": "for --head=combined three, as in --margin=1,0.3,0.2",
    "workdir": "the folder of the run, from which the same command resumes",
    "distill": "losses with weights and settings, as in "
    "--distill=ekd:100%:temperature=0.05,cosine:100 or ekd_reference:8",
    "data": "KIND:PATH, as in --data=folder:DIR",
    "eval_sets": "NAME:KIND:PATH, as in --eval_sets=lfw:pairs:lfw.bin or "
    "--eval_sets=faces:folder:DIR; may be repeated",
}


def define_flags(kind: type, into: flags.FlagValues = flags.FLAGS) -> None:
    """Defines a flag for each field of a dataclass of settings."""
    for field in dataclasses.fields(kind):
        about = field.metadata
        arguments: list[Any] = [field.name, field.default, about["help"]]
        # As text: Python 3.9 does not know what `int | None` is.
        annotation = str(field.type).replace(" | None", "")
        define: Callable = flags.DEFINE_string
        if about["choices"]:
            define = flags.DEFINE_enum
            arguments.insert(2, about["choices"])
        elif annotation.startswith("tuple"):
            define = flags.DEFINE_list
            if about["repeated"]:
                define = flags.DEFINE_multi_string
            arguments[1] = list(arguments[1])
        elif annotation in ("int", "float"):
            define = flags.DEFINE_float
            if annotation == "int":
                define = flags.DEFINE_integer
            arguments += [about["low"], about["high"]]
        elif annotation == "bool":
            define = flags.DEFINE_bool
        define(*arguments, flag_values=into)


def read_flags(kind: type, parsed: flags.FlagValues = flags.FLAGS) -> Any:
    """Returns the settings that parsed flags describe."""
    # The ranges of absl's flags let NaN through.
    values = {n: check_finite(f"--{n}", parsed[n].value) for n in _names(kind)}
    lists = {n: tuple(v) for n, v in values.items() if isinstance(v, list)}
    return kind(**{**values, **lists})


def parse(arguments: Sequence[str], base: Any, command: str) -> Any:
    """Returns the settings `base` with what some flags of a command replace."""
    kind, parsed = type(base), flags.FlagValues()
    define_flags(kind, parsed)
    for name in _names(kind):
        value = getattr(base, name)
        parsed[name].value = list(value) if isinstance(value, tuple) else value
    try:
        rest = parsed([command, *arguments])[1:]
    except flags.Error as error:
        raise ValueError(explain(error, parsed)) from None
    if rest:
        raise ValueError(f"Not a flag of {command}: {' '.join(rest)}")
    return read_flags(kind, parsed)


def _names(kind):
    return [field.name for field in dataclasses.fields(kind)]


def run(
    main: Callable,
    name: str,
    *kinds: type,
    required: Iterable[str] = (),
    resumes: bool | Callable = False,
    way_out: str = WAY_OUT,
    takes_arguments: bool = False,
) -> None:
    """Runs a command from its flags to its end, before TensorFlow is imported.

    A `ValueError` or `OSError` ends it with its message, Ctrl-C and SIGTERM with one
    line.

    Args:
        main: Called with the settings, one of each of `kinds`. It imports TensorFlow,
            which takes seconds, itself: `--help` must not wait for it.
        name: Of the command, before its messages.
        *kinds: Dataclasses of settings, the first its own; none for a script that
            defines its flags itself.
        required: Names of flags that must be given.
        resumes: Whether the same command continues where it was stopped, by status 75
            in place of 130 or 143; or a function of the settings that says so, or in a
            sentence what would make it continue.
        way_out: What the message says of images that cannot be read.
        takes_arguments: Whether `main` takes the list of the other arguments too.
    """
    quiet_tensorflow()
    # Settings that depend on the network import TensorFlow to be checked.
    use_onednn()
    # Imports and traces make millions of objects that stay: looking for garbage among
    # them at the default thresholds takes a seventh of the time to the first step.
    gc.set_threshold(100_000, 20, 100)
    for kind in kinds:
        define_flags(kind)
    flags.mark_flags_as_required(required)

    def read_all():
        return [read_flags(kind) for kind in kinds]

    def parse_line(argv):
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            sys.exit(f"{name}: {explain(error, flags.FLAGS)}")

    def start(argv):
        try:
            if argv[1:] and not takes_arguments:
                raise ValueError(
                    "Every argument must be --FLAG=VALUE; --helpfull lists the flags. "
                    f"Received: {' '.join(argv[1:])}"
                )
            settings = read_all()
            for own in settings[:1]:
                check_effects(own)
            main(*settings, *([argv[1:]] if takes_arguments else []))
        except (OSError, ValueError) as error:
            from ekd_tf.data import unreadable

            logging.debug("", exc_info=True)
            sys.exit(f"{name}: {unreadable.explain(error, way_out)}")

    try:
        with sigterm_as_ctrl_c():
            app.run(start, argv=command_line(), flags_parser=parse_line)
    except KeyboardInterrupt as stop:
        continues = resumes(*read_all()) if callable(resumes) else resumes
        how = {True: " The same command continues it.", False: ""}
        advice = how.get(continues, f" {continues}")
        by = "SIGTERM" if str(stop) == "SIGTERM" else "Ctrl-C"
        sys.stderr.write(f"\n{name}: stopped by {by}.{advice}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        # All contexts have been left. The interpreter's own end would wait for threads
        # of TensorFlow's input pipeline that wait for the interpreter.
        os._exit(RESUME_STATUS if continues is True else _STOPPED[by])


def explain(error: flags.Error, known: flags.FlagValues) -> str:
    """Words an error of the command line, whose flags are known, in one line."""
    text = " ".join(str(error).split())
    if not isinstance(error, flags.UnrecognizedFlagError):
        return text
    unknown = error.flagname
    word = unknown.replace("-", "_")
    for flag in (word, *_OURS.get(word, "").split()):
        if flag in known:
            how = f": {_HOW[flag]}" if flag in _HOW else ""
            return f"Unknown command line flag '{unknown}'. Here it is --{flag}{how}"
    return f"{text.rstrip(' ?.')}. --helpfull lists every flag"
