"""Trains a teacher or a baseline, or distils a student: `python -m ekd_tf.train`.

Without `--teacher` a backbone is trained by its margin head alone; with one the
distillation losses of `--distill` are added. The same command on the same
`--workdir` resumes from its last checkpoint.

Exit status: 0, the run is finished; 75 (EX_TEMPFAIL), it was interrupted (Ctrl-C,
SIGTERM, pre-emption, a lost worker) and the same command goes on with it; anything
else, a mistake or a guard ended it and the message says what to change.
"""

import sys

from absl import app
from absl import flags
from absl import logging

from ekd_tf.run import command
from ekd_tf.run import effects
from ekd_tf.run.child import RESUME_STATUS
from ekd_tf.run.onednn import use_onednn

flags.DEFINE_string("workdir", None, "Folder of the run; made if missing.")
flags.DEFINE_integer("seed", 0, "Seed of weights, batches and augmentation.", 0)

flags.DEFINE_string(
    "data",
    None,
    "Training images: recordio:DIR (insightface), folder:DIR (one directory per "
    "identity), tfrecord:DIR, tface:INDEX or "
    "synthetic:identities=N,images=N,size=PIXELS,seed=N,first=N; several joined by +.",
)
flags.DEFINE_string(
    "heldout_data", None, "Images of other identities to evaluate on, like --data."
)
flags.DEFINE_integer(
    "holdout_identities", 0, "Identities of --data to hold out for evaluation.", 0
)
flags.DEFINE_integer(
    "general_batch", 64, "Random rows of a global batch; the margin loss sees these.", 0
)
flags.DEFINE_integer(
    "balanced_identities",
    None,
    "Identities of the balanced rows of a global batch, which distillation losses need "
    f"for pairs. Default: {effects.BALANCED_IDENTITIES} with --distill, else 0.",
    0,
)
flags.DEFINE_integer(
    "images_per_identity", 4, "Balanced images of each of these identities.", 1
)
flags.DEFINE_bool("flip", True, "Mirror half of the training images.")
flags.DEFINE_integer(
    "augment_crop", 0, "Pixels each edge of an image may be cut by; 0: off.", 0
)
flags.DEFINE_float(
    "augment_brightness", 0.0, "Largest shift, as a share of 255: 0.2 is 51.", 0, 1
)
flags.DEFINE_float(
    "augment_contrast", 0.0, "Largest relative change of contrast, [0, 1].", 0, 1
)
flags.DEFINE_float(
    "augment_saturation", 0.0, "Largest relative change of saturation, [0, 1].", 0, 1
)
flags.DEFINE_float(
    "augment_occlusion", 0.0, "Share of images whose lower face is covered.", 0, 1
)
flags.DEFINE_float(
    "augment_low_resolution",
    0.0,
    "Share of images shrunk to 1/4 to 3/4 of the side and enlarged again.",
    0,
    1,
)
flags.DEFINE_float(
    "augment_jpeg", 0.0, "Share of images compressed again at quality 20 to 80.", 0, 1
)
flags.DEFINE_integer(
    "skip_corrupt",
    0,
    "Unreadable images to allow before the run stops. In training each is replaced by "
    "another of its identity, evaluations and exports leave it out.",
    0,
)

flags.DEFINE_string(
    "model", "mobilefacenet", "Backbone: mobilefacenet or iresnet18 ... iresnet200."
)
flags.DEFINE_float("width", 1.0, "Channel multiplier of the backbone.", 0)
flags.DEFINE_integer("embedding_dim", 512, "Size of the embedding.", 1)
flags.DEFINE_integer("input_size", 112, "Side of the images in pixels.", 32)
flags.DEFINE_string(
    "activation", "prelu", "MobileFaceNet's activation: prelu, relu or leaky_relu."
)
flags.DEFINE_float("dropout", 0.0, "Dropout before IResNet's last layer, [0, 1).", 0)

flags.DEFINE_string(
    "head",
    "arcface",
    "Margin head: arcface, cosface, curricularface, adaface, combined or none.",
)
flags.DEFINE_float(
    "margin", None, "Of the head: radians, or a cosine for cosface. Not for combined."
)
flags.DEFINE_list(
    "combined_margins",
    "1,0.3,0.2",
    "Of --head=combined: a factor of the angle, radians added, a cosine subtracted.",
)
flags.DEFINE_string(
    "head_gradient",
    "true",
    "Through the margin: true, or straight_through as insightface has it.",
)
flags.DEFINE_float(
    "head_sample_rate",
    1.0,
    "Share of the identities in the softmax of a step, (0, 1]; those of the batch "
    "always are.",
)
flags.DEFINE_float("scale", 64.0, "Scale of the head's logits.")
flags.DEFINE_float("margin_weight", 1.0, "Weight of the margin loss.", 0)

flags.DEFINE_string(
    "teacher",
    "none",
    "Teacher: a .keras, .onnx or .tflite file, a SavedModel's directory, the workdir "
    "of a run, cache:DIR of ekd_tf.embed_teacher, or none. FILE@-1..1 for a model of "
    "float input that takes pixels from -1 to 1.",
)
flags.DEFINE_string(
    "distill",
    "",
    "Distillation losses as name:weight,... or name:share%,... with a teacher, such as "
    "ekd:100%,cosine:100. With a share the weight follows the gradients: averaged over "
    "about 100 steps, the norm of the weighted loss's gradient on the embeddings is "
    "that percentage of the margin loss's (which must be there; up to 1000%). Has: "
    "ekd, cosine, fitnet, sp, cckd, rkd, darkrank, triplet_distillation, ada_distill; "
    "and with a cache or --teacher_centres: kd, shrinkteanet, margin_distillation, "
    "proxyless_kd.",
)
flags.DEFINE_string(
    "teacher_centres",
    None,
    "A .npy file, (identities, size): row i is the teacher's mean embedding of the "
    "training images of label i. Default: those of --teacher=cache:DIR.",
)
flags.DEFINE_integer("steps", None, "Updates of the run. This or --epochs.", 1)
flags.DEFINE_float("epochs", None, "Passes over the general images. This or --steps.")
flags.DEFINE_string(
    "optimizer",
    "sgd",
    "Optimizer: sgd, adam, adamw, lion, or of TensorFlow Addons by name: addons/LAMB, "
    "addons/Lookahead:SGD.",
)
flags.DEFINE_float("learning_rate", 0.1, "Learning rate at full height.")
flags.DEFINE_float("momentum", 0.9, "Momentum of SGD, beta_1 of the others.")
flags.DEFINE_string("schedule", "step", "Learning rate: step, cosine or constant.")
flags.DEFINE_list(
    "drop_at",
    "",
    "Where the step schedule drops the rate: in epochs with --epochs, else in steps.",
)
flags.DEFINE_float("drop_factor", 0.1, "What the rate is multiplied by there.")
flags.DEFINE_integer("warmup_steps", 0, "Updates of linear warm-up.", 0)
flags.DEFINE_float(
    "weight_decay",
    5e-4,
    "On kernels and class centres, as torch means it: added to the gradient (sgd, adam)"
    " or, where the optimizer decouples it, w -= learning_rate * weight_decay * w.",
    0,
)
flags.DEFINE_float("clip_norm", None, "Largest global gradient norm, before decay.")

flags.DEFINE_string("precision", "float32", "float32, mixed_float16 or mixed_bfloat16.")
flags.DEFINE_string(
    "strategy",
    "none",
    "none, mirrored (all GPUs), multi_worker (the machines that TF_CONFIG lists).",
)
flags.DEFINE_integer(
    "num_virtual_devices", 1, "Logical CPUs to try a strategy without GPUs.", 1
)

flags.DEFINE_integer("log_every", 20, "Steps between lines of metrics.", 1)
flags.DEFINE_string(
    "profile_steps",
    None,
    "FIRST:LAST, steps counted from 1: writes a trace of what the machine does in them "
    "for TensorBoard's Profile page (pip install tensorboard-plugin-profile).",
)
flags.DEFINE_multi_string(
    "eval_sets",
    [],
    "NAME:KIND:PATH of a set to evaluate on beside the identities held out; may be "
    "repeated. NAME:pairs:FILE is a verification set, NAME:allpairs:FILE every pair of "
    "its images; KIND:PATH may be images like --data, of which every pair counts.",
)
flags.DEFINE_integer(
    "evaluate_every", 0, "Steps between evaluations; 0: at the end only.", 0
)
flags.DEFINE_integer(
    "checkpoint_every", 1000, "Steps between checkpoints; 0: at the end only.", 0
)
flags.DEFINE_integer("keep", 3, "Newest checkpoints to keep, the best not counted.", 1)
flags.DEFINE_string(
    "best_metric",
    "heldout/accuracy",
    "Metric of the evaluations whose best checkpoint is kept, as metrics.jsonl names "
    "it; larger is better, with - before it smaller: -heldout/eer.",
)
flags.DEFINE_integer(
    "max_bad_steps",
    20,
    "Consecutive updates skipped for NaN or infinity that end the run.",
    1,
)
flags.DEFINE_integer(
    "collapse_steps",
    500,
    "Consecutive steps with a mean cosine above 0.99 between the images of a batch "
    "that end the run; 0: never.",
    0,
)
flags.DEFINE_bool(
    "deterministic",
    False,
    "Use only operations that repeat bit for bit; slower, on GPUs most of all.",
)
flags.DEFINE_bool(
    "force_flags",
    False,
    "Resume with flags that change the arithmetic; run.json records which.",
)
flags.DEFINE_bool(
    "force_data",
    False,
    "Resume with images that have changed since the run was started. Identities that "
    "were added are left out.",
)
flags.DEFINE_bool("export", False, "Export SavedModel and TFLite at the end.")

# What may differ when a run is resumed, because the arithmetic does not depend on it.
FREE_TO_CHANGE = (
    "workdir",
    "log_every",
    "profile_steps",
    "eval_sets",
    "evaluate_every",
    "checkpoint_every",
    "keep",
    "best_metric",
    "max_bad_steps",
    "collapse_steps",
    "deterministic",
    "force_flags",
    "force_data",
    "export",
    "skip_corrupt",
    "strategy",
    "num_virtual_devices",
)


WAY_OUT = "remove or replace what is damaged, or allow N with --skip_corrupt=N"


def run_values(found: flags.FlagValues) -> dict:
    """Returns the values of a run, by name, with what follows from others filled in.

    Args:
        found: Parsed flags, those of this command among them.

    Raises:
        ValueError: There are no training images, or a flag has no effect.
    """
    values, defaults = _values(found)
    effects.check_effects(values, defaults, effects.TRAIN)
    return values


def idle_flags(found: flags.FlagValues) -> dict[str, str]:
    """Returns the flags that were changed and have no effect -> what they need."""
    return effects.idle_flags(*_values(found), effects.TRAIN)


def _values(found):
    """Returns the values, completed, and the defaults."""
    module = sys.modules[__name__]
    names = [flag.name for flag in flags.FLAGS.get_flags_for_module(module)]
    values = effects.complete({name: found[name].value for name in names})
    return values, {name: found[name].default for name in names}


def main(argv):
    """Runs the training the flags describe."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    try:
        train(run_values(flags.FLAGS))
    except ValueError as error:
        # A mistake in the flags or the data: the message says it, a traceback would
        # hide it.
        logging.debug("", exc_info=True)
        # Not at the top: it would load NumPy and TensorFlow for --help.
        from ekd_tf.data.unreadable import explain

        raise SystemExit(f"ekd_tf.train: {explain(error, WAY_OUT)}") from None


def train(values):
    """Runs the training of some values of the flags."""
    use_onednn()
    # TensorFlow takes seconds to import: `--help` must not wait for it.
    from ekd_tf.run.interruption import Interrupted
    from ekd_tf.run.session import TrainingSession

    try:
        TrainingSession(values).run(command=sys.argv, free=FREE_TO_CHANGE)
    except Interrupted as reason:
        logging.warning("%s The same command goes on with it.", reason)
        sys.exit(RESUME_STATUS)


def run():
    """Entry point of the console script."""
    command.run(main, "ekd_tf.train", ["workdir"], resumes=True)


if __name__ == "__main__":
    run()
