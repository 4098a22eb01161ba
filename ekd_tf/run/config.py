"""Every setting of a training run: the flags of `ekd_tf.train`.

`free` settings may differ when a run is resumed, because the arithmetic does not depend
on them; `common=False` marks those that are a method's own. `python -m
ekd_tf.run.config` prints them as the table of flags/README.md.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from ekd_tf.run.settings import Needs
from ekd_tf.run.settings import has_argument
from ekd_tf.run.settings import marked
from ekd_tf.run.settings import setting
from ekd_tf.run.settings import table

# What `--distill=best` stands for: the best of flags/leaderboard.flags.
BEST = "ekd_centres:300%,cosine:100"
# How many people the balanced images of a batch show, which losses of pairs need.
BALANCED_IDENTITIES = 16
CACHE = "cache:"
MOST_WARMUP_STEPS = 1000


def _any_loss(config, holds):
    """Returns whether something holds of one of the losses in --distill."""
    # Settings are read before TensorFlow, which takes seconds, is imported.
    from ekd_tf.losses import LOSSES

    distill = BEST if config.distill == "best" else config.distill
    names = {item.partition(":")[0] for item in distill.split(",")}
    return any(holds(LOSSES[name]) for name in names & LOSSES.keys())


# What gives settings their effect.
CENTRES = Needs(
    "a loss with the teacher's class centres in --distill, such as best",
    lambda c: _any_loss(c, lambda loss: has_argument(loss, "centres")),
)
HEAD = Needs("a --head", lambda c: c.head != "none")
MARGIN = Needs(
    "a --head and a --general_batch",
    lambda c: c.head != "none" and c.general_batch,
)
SCALE = Needs(
    "a --head, or a loss that has a scale in --distill, such as kd",
    lambda c: (
        c.head != "none" or _any_loss(c, lambda loss: has_argument(loss, "scale"))
    ),
)
INIT = Needs("--init", lambda c: c.init)
BALANCED = Needs("--balanced_identities above 0", lambda c: c.balanced_identities != 0)
STEPPED = Needs("--schedule=step", lambda c: c.schedule in (None, "step"))
DROPS = Needs("--lr_milestones", lambda c: c.lr_milestones)
EVALUATES = Needs(
    "--heldout_data, --holdout_identities or --eval_sets",
    lambda c: c.heldout_data or c.holdout_identities or c.eval_sets,
)
REPLICAS = Needs("--strategy=mirrored or multi_worker", lambda c: c.strategy != "none")


def model_takes(flag: str) -> Needs:
    """Returns the condition of a flag that not every network has."""

    def holds(config):
        # Settings are read before TensorFlow, which takes seconds, is imported.
        from ekd_tf.run.student import takes

        return takes(config.model, flag)

    return Needs(f"a --model that has --{flag}", holds)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The settings of a training run; the help of each says what it is."""

    workdir: str | None = setting(
        None, "Folder of the run; made if missing.", free=True, common=True
    )
    seed: int = setting(
        0, "Seed of weights, batches and augmentation.", low=0, high=2**32 - 1
    )

    data: str | None = setting(
        None,
        "Training images: recordio:DIR (insightface), folder:DIR (one directory per "
        "identity), webdataset:SHARDS, hf:NAME, tfrecord:DIR, tface:INDEX or "
        "synthetic:identities=N,images=N,size=PIXELS,seed=N,first=N; several joined "
        "by +.",
    )
    heldout_data: str | None = setting(
        None, "Images of other identities to evaluate on, like --data."
    )
    holdout_identities: int = setting(
        0, "Identities of --data to hold out for evaluation.", low=0
    )
    general_batch: int = setting(
        64, "Random rows of a global batch; the margin loss sees these.", low=0
    )
    balanced_identities: int | None = setting(
        None,
        "Identities of the balanced rows of a global batch, which are for losses of "
        f"pairs. Default: {BALANCED_IDENTITIES} where --distill has one, 0 without "
        "--distill and with losses of single images, as cosine and best are.",
        low=0,
    )
    images_per_identity: int = setting(
        2, "Balanced images of each of these identities.", low=1, needs=BALANCED
    )
    flip: bool = setting(True, "Mirror half of the training images.")
    augment: str = setting(
        "",
        "What else is done to training images, as crop:4,jpeg:0.3. crop: pixels each "
        "edge may move inwards; brightness, contrast, saturation: largest relative "
        "change; occlusion (a mask over the lower face), low_resolution, jpeg: "
        "probability.",
    )
    skip_corrupt: int = setting(
        0,
        "Unreadable images to allow before the run stops. In training each is replaced "
        "by another of its identity, evaluations and exports leave it out.",
        low=0,
        free=True,
        common=True,
    )

    model: str = setting(
        "mobilefacenet",
        "The network: mobilefacenet, ghostfacenet_v1 or _v2, mbf or mbf_large "
        "(insightface's MobileFaceNets), iresnet18 ... iresnet200; keras:NAME of "
        "keras.applications; package.module:function of your own; or FILE.keras, "
        "FILE.keras@-1..1 if it takes pixels as floats from -1 to 1. Settings without "
        "a flag follow it: ghostfacenet_v2:stem_stride=2.",
    )
    width: float = setting(
        1.0, "Channel multiplier of the network.", low=0, needs=model_takes("width")
    )
    embedding_dim: int = setting(
        512, "Size of the embedding.", low=1, needs=model_takes("embedding_dim")
    )
    input_size: int = setting(112, "Side of the images in pixels.", low=32)
    activation: str = setting(
        "prelu",
        "Activation: prelu, relu or leaky_relu.",
        needs=model_takes("activation"),
    )
    dropout: float = setting(
        0.0, "Dropout before the last layer, [0, 1).", needs=model_takes("dropout")
    )
    init: str | None = setting(
        None,
        "Weights to start from: a .keras file, the workdir of a finished run, or "
        "FAMILY:FILE of torch. All must fit.",
    )
    init_partial: bool = setting(
        False,
        "Start at random what --init has no weights for; the log lists it.",
        needs=INIT,
    )

    head: str = setting(
        "arcface",
        "Margin head: arcface, cosface, curricularface, adaface, combined or none.",
        common=False,
    )
    margin: str | None = setting(
        None,
        "Of the head: radians, or a cosine for cosface; of combined three, such as "
        "1,0.3,0.2: a factor of the angle, radians added, a cosine subtracted. "
        "Default: the head's own.",
        needs=HEAD,
        common=False,
    )
    head_gradient: str = setting(
        "true",
        "Through the margin: true, or straight_through as insightface has it.",
        needs=HEAD,
        common=False,
    )
    head_sample_rate: float = setting(
        1.0,
        "Fraction of the identities in the softmax of a step, (0, 1]; those of the "
        "batch always are.",
        needs=HEAD,
        common=False,
    )
    scale: float | None = setting(
        None,
        "Scale of the logits. Default: sqrt(2) log(identities - 1) within 16 .. 64.",
        needs=SCALE,
        common=False,
    )
    margin_weight: float = setting(
        1.0, "Weight of the margin loss.", low=0, needs=MARGIN, common=False
    )

    teacher: str = setting(
        "none",
        "Teacher: a .keras, .onnx or .tflite file, a SavedModel's directory, the "
        "workdir of a run, FAMILY:FILE of torch weights, several of these joined by +, "
        "cache:DIR of ekd_tf.embed_teacher, or none. FILE@-1..1 for a model of float "
        "input that takes pixels from -1 to 1.",
        common=False,
    )
    distill: str = setting(
        "",
        "Distillation losses as NAME[:WEIGHT],..., such as ekd:100%,cosine:100. N% "
        "follows the gradients: averaged over about 100 steps the norm of the weighted "
        "loss's gradient on the embeddings is that percentage of the margin loss's, up "
        "to 1000%. Default: what was best on many people, which the plan says, or 1 "
        "without a margin loss. Has: ekd, ekd_reference (as published), cosine, "
        "fitnet, unikd, sp, cckd, pkt, rkd, darkrank, icd_face, triplet_distillation, "
        "ada_distill; and with a cache or --teacher_centres: ekd_centres, kd, gkd, "
        "shrinkteanet, margin_distillation, proxyless_kd. Settings of a loss follow "
        f"it: ekd:100%:temperature=0.05. Or best, which is {BEST}.",
        common=False,
    )
    teacher_centres: str | None = setting(
        None,
        "A .npy file, (identities, size): row i is the teacher's mean embedding of the "
        "training images of label i. Default: those of --teacher=cache:DIR.",
        needs=CENTRES,
        common=False,
    )
    steps: int | None = setting(None, "Updates of the run. This or --epochs.", low=1)
    epochs: float | None = setting(
        None, "Passes over the general images. This or --steps."
    )
    optimizer: str = setting(
        "sgd",
        "Optimizer: sgd, adam, adamw, lion, or of TensorFlow Addons by name: "
        "addons/LAMB, addons/Lookahead:SGD.",
    )
    learning_rate: float = setting(0.1, "Learning rate at full height.")
    momentum: float = setting(0.9, "Momentum of SGD, beta_1 of the others.")
    schedule: str | None = setting(
        None,
        "Learning rate: step, cosine or constant. Default: step with --lr_milestones, "
        "else cosine.",
    )
    lr_milestones: tuple[str, ...] = setting(
        (),
        "Where the step schedule drops the rate: in epochs with --epochs, else in "
        "steps.",
        needs=STEPPED,
    )
    lr_gamma: float = setting(0.1, "What the rate is multiplied by there.", needs=DROPS)
    warmup_steps: int | None = setting(
        None,
        "Updates of linear warm-up. Default: a twentieth of the run, at most "
        f"{MOST_WARMUP_STEPS}.",
        low=0,
    )
    weight_decay: float = setting(
        5e-4,
        "On kernels and class centres, as torch means it: added to the gradient (sgd, "
        "adam) or, where the optimizer decouples it, w -= learning_rate * weight_decay "
        "* w.",
        low=0,
    )
    clip_norm: float | None = setting(
        None, "Largest global gradient norm, before decay."
    )

    precision: str = setting("float32", "float32, mixed_float16 or mixed_bfloat16.")
    strategy: str = setting(
        "none",
        "none (one device), mirrored (all GPUs), multi_worker (several machines, which "
        "TF_CONFIG lists).",
        free=True,
    )
    num_virtual_devices: int = setting(
        1,
        "Logical CPUs to try a strategy without GPUs.",
        low=1,
        free=True,
        needs=REPLICAS,
    )

    log_every: int = setting(
        20,
        "Steps between lines of metrics; the first and the last step have one, too.",
        low=1,
        free=True,
    )
    profile_steps: str | None = setting(
        None,
        "FIRST:LAST, steps counted from 1: writes a trace of what the machine does in "
        "them for TensorBoard's Profile page (pip install tensorboard-plugin-profile).",
        free=True,
    )
    eval_sets: tuple[str, ...] = setting(
        (),
        "NAME:KIND:PATH of a set to evaluate on beside the identities held out; may be "
        "repeated. NAME:pairs:FILE is a verification set, NAME:allpairs:FILE every "
        "pair of its images; KIND:PATH may be images like --data, of which every pair "
        "counts.",
        free=True,
        repeated=True,
    )
    evaluate_every: int = setting(
        0,
        "Steps between evaluations; 0: at the end only.",
        low=0,
        free=True,
        needs=EVALUATES,
    )
    checkpoint_every: int = setting(
        1000, "Steps between checkpoints; 0: at the end only.", low=0, free=True
    )
    max_checkpoints: int = setting(3, "Newest checkpoints to keep.", low=1, free=True)
    max_bad_steps: int = setting(
        20,
        "Consecutive updates skipped for NaN or infinity that end the run.",
        low=1,
        free=True,
    )
    collapse_steps: int = setting(
        500,
        "Consecutive steps with a mean cosine above 0.99 between the images of a batch "
        "that end the run; 0: never.",
        low=0,
        free=True,
    )
    deterministic: bool = setting(
        False,
        "Use only operations that repeat bit for bit; slower, on GPUs most of all.",
        free=True,
    )
    force_flags: bool = setting(
        False,
        "Resume with flags that change the arithmetic; run.json records which.",
        free=True,
    )
    force_data: bool = setting(
        False,
        "Resume with images that have changed since the run was started. Identities "
        "that were added are left out.",
        free=True,
    )
    export: bool = setting(False, "Export SavedModel and TFLite at the end.", free=True)

    @classmethod
    def from_record(cls, flags: Mapping[str, Any]) -> TrainConfig:
        """Returns the settings that a run's record holds; see `to_record`."""
        names = [field.name for field in dataclasses.fields(cls) if field.name in flags]
        values = {name: flags[name] for name in names}
        lists = {n: tuple(v) for n, v in values.items() if isinstance(v, list)}
        return cls(**{**values, **lists})

    def to_record(self) -> dict[str, object]:
        """Returns name -> value, as `run.json` holds them."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }

    def completed(self) -> TrainConfig:
        """Returns the settings with what others decide filled in.

        A teacher's folder that `ekd_tf.embed_teacher` wrote is a cache without being
        called one.
        """
        if not self.data:
            raise ValueError(
                "`--data` is missing: give your images, as in --data=folder:DIR; to "
                "try it on synthetic faces, "
                "--data=synthetic:identities=400,images=20,size=48"
            )
        from ekd_tf.run.factory import weighted  # Imports TensorFlow.

        balanced, teacher = self.balanced_identities, self.teacher
        if balanced is None:
            # What is no class, as EKD's published form, makes one that does.
            pairs = _any_loss(self, lambda loss: getattr(loss, "compares_pairs", True))
            balanced = BALANCED_IDENTITIES if pairs else 0
        if teacher != "none" and not teacher.startswith(CACHE):
            from ekd_tf.embedders.cache import is_cache

            teacher = CACHE + teacher if is_cache(teacher) else teacher
        return dataclasses.replace(
            self,
            balanced_identities=balanced,
            teacher=teacher,
            distill=weighted(self),
        )


# The last was a flag once and stands in run.json of older runs.
FREE = {*marked(TrainConfig, "free"), "best_metric"}
COMMON = marked(TrainConfig, "common")


if __name__ == "__main__":
    sys.stdout.write(table(TrainConfig))
