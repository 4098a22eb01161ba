"""How commands start and are stopped, and what they answer to flags of other tools."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from collections.abc import Iterable

from absl import app
from absl import flags

from ekd_tf.files.user_text import command_line
from ekd_tf.run import effects
from ekd_tf.run.child import RESUME_STATUS
from ekd_tf.run.quiet import quiet_tensorflow

# What shells give a process that Ctrl-C has ended.
STOPPED_STATUS = 128 + signal.SIGINT

# Words of other tools, and of earlier versions of this one -> the flags here that may
# be meant: of these the answer names the first that the command has.
_MEANT = {
    "lr base_lr init_lr initial_lr max_lr": "learning_rate",
    "wd decay l2": "weight_decay",
    "batch batch_size bs train_batch_size per_device_train_batch_size": "general_batch",
    "epoch num_epoch num_epochs max_epochs n_epochs nb_epochs": "epochs",
    "max_steps num_steps total_steps train_steps iters iterations max_iter": "steps",
    "warmup warmup_epochs warmup_iters warmup_iterations warmup_step": "warmup_steps",
    "opt optim": "optimizer",
    "scheduler lr_scheduler lr_schedule lr_policy sched": "schedule",
    "milestones lr_steps decay_steps decay_epochs drop_steps": "drop_at",
    "gamma lr_decay lr_gamma decay_rate": "drop_factor",
    "mom": "momentum",
    "clip grad_clip clip_grad max_grad_norm max_norm": "clip_norm",
    "fp16 bf16 amp half mixed_precision use_amp": "precision",
    "gpus num_gpus gpu devices distributed world_size nproc_per_node": "strategy",
    "output output_dir out out_dir save_dir log_dir logdir ckpt_dir checkpoint_dir "
    "exp_dir work_dir run_dir directory": "workdir output out directory",
    "arch architecture net network backbone student": "model",
    "channels width_mult width_multiplier": "width",
    "dim embed_dim emb_size embedding_size feature_dim num_features": "embedding_dim",
    "image_size img_size imgsz resolution size": "input_size",
    "loss losses method kd distillation kd_loss": "distill",
    "margin_head loss_head": "head",
    "m": "margin",
    "s": "scale",
    "teacher_path teacher_model teacher_ckpt teacher_checkpoint": "teacher",
    "dataset datasets data_dir data_path data_root root rec train_data train_dir "
    "train_path images": "data eval_sets",
    "evaluate on pairs eval_set val val_data val_dir val_targets validation_data test "
    "test_data verification": "eval_sets data",
    "eval_every eval_steps eval_interval val_every validate_every": "evaluate_every",
    "save_every save_steps save_interval save_freq": "checkpoint_every",
    "log_steps log_interval print_freq print_every frequent": "log_every",
    "random_seed manual_seed": "seed",
    "mirror hflip horizontal_flip random_flip": "flip",
    "ekd_weight distill_weight kd_weight tau temperature temp ekd_temperature "
    "kd_temperature ekd_memory ekd_thresholds ekd_threshold_gradient ekd_fprs "
    "ekd_num_negatives ekd_momentum ekd_preset sp_gram darkrank_length": "distill",
    "resume resume_from restore": "workdir",
    "fpr far target_fpr": "fprs calibrate_fpr",
}
_OURS = {word: ours for words, ours in _MEANT.items() for word in words.split()}
# What a name alone does not say.
_HOW = {
    "general_batch": "the batch is these rows and, of --balanced_identities, "
    "--images_per_identity each",
    "precision": "float32, mixed_float16 or mixed_bfloat16",
    "strategy": "mirrored for all GPUs of this machine",
    "workdir": "the folder of the run, from which the same command resumes",
    "distill": "losses with weights and settings, as in "
    "--distill=ekd:100%:temperature=0.05,cosine:100 or ekd_reference:8",
    "data": "KIND:PATH, as in --data=folder:DIR",
    "eval_sets": "NAME:KIND:PATH, as in --eval_sets=lfw:pairs:lfw.bin or "
    "--eval_sets=faces:folder:DIR; may be repeated",
}


def run(
    main: Callable[[list[str]], None],
    name: str,
    required: Iterable[str] = (),
    resumes: bool | Callable[[], bool] = False,
) -> None:
    """Runs a command to its end, as `app.run` does.

    TensorFlow must not have been imported yet: its lines at the start are silenced.
    Ctrl-C ends the command with one line, a second one at once.

    Args:
        main: Called with the arguments that are no flags.
        name: Of the command, before its messages.
        required: Names of flags that must be given.
        resumes: Whether the same command goes on where it was stopped: status 75 says
            so, else it is 130. A function is asked when it is stopped.
    """
    quiet_tensorflow()
    flags.mark_flags_as_required(required)

    def parse(argv):
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            sys.exit(f"{name}: {explain(error, flags.FLAGS)}")

    try:
        app.run(main, argv=command_line(), flags_parser=parse)
    except KeyboardInterrupt:
        goes_on = resumes() if callable(resumes) else resumes
        how = " The same command goes on with it." if goes_on else ""
        sys.stderr.write(f"\n{name}: stopped by Ctrl-C.{how}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        # All contexts have been left. The interpreter's own end would wait for threads
        # of TensorFlow's input pipeline that wait for the interpreter.
        os._exit(RESUME_STATUS if goes_on else STOPPED_STATUS)


def check_effects(module, rules: Iterable[effects.Needs]) -> None:
    """Raises `ValueError` for flags a command was given that have no effect.

    Args:
        module: The command, which defines the flags.
        rules: What they need.
    """
    found = flags.FLAGS.get_flags_for_module(module)
    values = {flag.name: flag.value for flag in found}
    effects.check_effects(values, {flag.name: flag.default for flag in found}, rules)


def explain(error: flags.Error, known: flags.FlagValues) -> str:
    """Words an error of the command line in one line.

    Args:
        error: Of parsing the flags.
        known: The flags of the command.
    """
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
