"""Trains one student alone and with each method, and compares them.

    python tools/compare_methods.py --flagfile=flags/compare_demo.flags \\
        --workdir=runs/compare_demo --seeds=0,1

Takes the flags of `ekd_tf.train`: they make the student, its data, batches and
schedule, and are the same for all runs. Each `--method=NAME: FLAGS` adds those of a
method, which may not touch what is common; "alone", without a teacher, is always
there. Runs go seed by seed into WORKDIR/NAME/seedN. The same command goes on where it
was interrupted, passes over what is finished, and writes WORKDIR/report.md,
report.json and pictures. A run that a guard ended is listed with the reason.

Exit status: 0, the report is written; 75, interrupted, and the same command goes on.
"""

import copy
import json
import os
import pathlib
import platform
import shlex
import signal
import sys

from absl import app
from absl import flags

from ekd_tf import train
from ekd_tf.data.unreadable import explain
from ekd_tf.files.outputs import make_folder
from ekd_tf.run import command
from ekd_tf.run import effects
from ekd_tf.run.child import RESUME_STATUS

METHODS = flags.DEFINE_multi_string(
    "method",
    [],
    "NAME: FLAGS of ekd_tf.train, such as 'cosine: --distill=cosine:100'; repeated. Of "
    "two with one name the later one counts.",
)
ONLY = flags.DEFINE_list("methods", [], "Names of the methods to run. Default: all.")
SEEDS = flags.DEFINE_list("seeds", "0", "Seeds: of weights, batches and held-out sets.")
TRAIN_TEACHER = flags.DEFINE_string(
    "train_teacher",
    None,
    "Flags of ekd_tf.train to train the teacher with first, as WORKDIR/teacher, on the "
    "data of all; instead of --teacher.",
)
TEACHER_MODEL = flags.DEFINE_string(
    "teacher_model",
    None,
    "The teacher as ekd_tf.evaluate takes a model, where --teacher is none: a cache.",
)
ON = flags.DEFINE_multi_string(
    "on",
    [],
    "NAME:SPEC of what to compare on beside the identities held out, like "
    "--eval_sets; repeated. Of two with one name the later one counts.",
)
REPORT_ONLY = flags.DEFINE_bool(
    "report_only", False, "Train nothing; report on the runs that are finished."
)
RETRY_FAILED = flags.DEFINE_bool(
    "retry_failed", False, "Start runs again that failed with the same flags."
)

ALONE = "alone"
# What a comparison holds equal. A method may set anything else.
SHARED = set(
    "workdir seed data heldout_data holdout_identities general_batch flip steps epochs "
    "balanced_identities images_per_identity skip_corrupt model width embedding_dim "
    "input_size activation dropout optimizer learning_rate momentum schedule drop_at "
    "drop_factor warmup_steps weight_decay clip_norm precision".split()
)


def train_flags(*arguments):
    """Returns the flags of `ekd_tf.train` as this command has them, with more set."""
    found = flags.FlagValues()
    for flag in flags.FLAGS.get_flags_for_module(train):
        found[flag.name] = copy.deepcopy(flag)
    try:
        rest = found(["train", *arguments])[1:]
    except flags.Error as error:
        raise ValueError(command.explain(error, found)) from None
    if rest:
        raise ValueError(f"Not a flag of ekd_tf.train: {' '.join(rest)}")
    return found


def serialized(of_train):
    """Returns the flags that are not at their defaults, as arguments of a command."""
    given = [of_train[name] for name in of_train]
    changed = [flag.serialize() for flag in given if flag.value != flag.default]
    return tuple(argument for text in changed for argument in text.splitlines())


def parse_methods(specs, only):
    """Returns name -> arguments of the methods, "alone" first.

    Of two specifications with one name the later one counts.

    Raises:
        ValueError: A specification is not `NAME: FLAGS`, a name is reserved or
            unknown, or a method sets what is common.
    """
    found = {ALONE: ["--teacher=none", "--distill="]}
    common = train_flags()
    for spec in specs:
        name, colon, arguments = spec.partition(":")
        plain = name.replace("+", "").replace("-", "").replace("_", "").isalnum()
        if not plain or not colon or name in (ALONE, "teacher"):
            raise ValueError(
                "`--method` must be 'NAME: FLAGS', NAME of letters, digits, +, - and _ "
                f"and neither {ALONE} nor teacher. Received: {spec!r}"
            )
        found[name] = shlex.split(arguments)
        own = train_flags(*found[name])
        changed = {key for key in own if own[key].value != common[key].value}
        wrong = sorted(k for k in changed if k in SHARED or k.startswith("augment_"))
        if wrong:
            raise ValueError(
                f"`--method={name}` must leave alone what all runs have in common. "
                + "; ".join(
                    f"Received: --{key}={own[key].value}, for all {common[key].value}"
                    for key in wrong
                )
            )
    unknown = sorted(set(only) - set(found))
    if unknown:
        raise ValueError(
            f"`--methods` must be among {', '.join(found)}. Received: {unknown}"
        )
    return {name: found[name] for name in found if not only or name in only}


def parse_seeds(texts):
    """Returns the seeds as integers, each once."""
    if not texts or not all(text.isdecimal() for text in texts):
        raise ValueError(f"`--seeds` must be integers >= 0. Received: {texts}")
    return list(dict.fromkeys(map(int, texts)))


def make_run(method, seed, path, *arguments):
    """Returns a `GridRun` with the flags all have in common and those given.

    Of the common ones it leaves out what has no effect on it.

    Raises:
        ValueError: One of those given has no effect.
    """
    from ekd_tf.compare.grid import GridRun

    common = train_flags()
    own = train_flags(*arguments, f"--seed={seed}", f"--workdir={path}")
    for name in train.idle_flags(own):
        if own[name].value == common[name].value:
            own[name].unparse()
    try:
        values = train.run_values(own)
    except ValueError as error:
        raise ValueError(f"{method}: {error}") from None
    return GridRun(method, seed, path, values, serialized(own), train.FREE_TO_CHANGE)


def make_runs(root, methods, seeds, train_teacher=None):
    """Returns the teacher's run or None, and the grid's, seed by seed."""
    common = train_flags()
    teacher = None
    if train_teacher is not None:
        if common["teacher"].value != "none":
            raise ValueError("Give `--teacher` or `--train_teacher`, not both.")
        own = [*shlex.split(train_teacher), "--teacher=none", "--distill="]
        teacher = make_run("teacher", common["seed"].value, root / "teacher", *own)
    # The same batches for all: left open, they would depend on the method.
    batches = []
    if common["balanced_identities"].value is None:
        batches.append(f"--balanced_identities={effects.BALANCED_IDENTITIES}")
    runs = []
    for seed in seeds:
        for name, own in methods.items():
            path = root / name / f"seed{seed}"
            of_teacher = [f"--teacher={teacher.path}"] if teacher else []
            runs.append(make_run(name, seed, path, *batches, *of_teacher, *own))
    return teacher, runs


def teacher_to_evaluate(teacher, told):
    """Returns the teacher as a model that embeds images, "none" for no teacher.

    Args:
        teacher: Its run in this grid, or None.
        told: What the user calls it, or None.

    Raises:
        ValueError: The teacher is a cache, and no model is named.
    """
    if told is not None:
        return told
    spec = str(teacher.path) if teacher else train_flags()["teacher"].value
    if effects.is_cache(spec):
        raise ValueError(
            f"`--teacher={spec}` holds embeddings of the training images alone. Give "
            "the model they are of as --teacher_model=FILE.onnx, or =none"
        )
    return spec


def evaluate(root, runs, teacher_spec, on):
    """Evaluates what is finished.

    Args:
        root: Folder of the grid; the teacher's figures are kept there.
        runs: `GridRun`s.
        teacher_spec: The teacher, or "none".
        on: NAME:SPEC of sets beside the identities held out.

    Returns:
        A `Comparison` per set, and method, seed -> why a run has no figures.
    """
    from ekd_tf.compare import Comparison
    from ekd_tf.compare import kept_figures
    from ekd_tf.data.unreadable import Unreadable
    from ekd_tf.embedders import content_hash
    from ekd_tf.run import evaluators
    from ekd_tf.run.session import sources_of_run

    common = train_flags()
    unreadable = Unreadable(common["skip_corrupt"].value)
    sets, data, figures, failures = {}, {}, {}, {}
    # As of all flags, the later one counts.
    on = list({spec.partition(":")[0]: spec for spec in on}.values())
    for run in runs:
        if not run.is_finished:
            continue
        if run.seed not in sets:
            _, heldout = sources_of_run(
                run.path, unreadable, common["force_data"].value
            )
            sets[run.seed] = evaluators.make_evaluations(
                on, heldout, seed=0, unreadable=unreadable
            )
            data[run.seed] = run
        check_same_data(data[run.seed], run, common["force_data"].value)
        try:
            figures[run.method, run.seed] = kept_figures(
                run.path / "reports" / "comparison.json",
                content_hash(run.path / "model.keras"),
                lambda path=str(run.path): evaluators.make_source_embedder(path),
                sets[run.seed],
            )
        except ValueError as error:
            failures[run.method, run.seed] = f"cannot be evaluated: {error}"
    teacher = evaluators.make_source_embedder(teacher_spec)
    if teacher is not None:
        path, opened = root / "teacher_figures.json", lambda: teacher
        for seed, of_seed in sets.items():
            figures["teacher", seed] = kept_figures(
                path, teacher.fingerprint, opened, of_seed
            )
    comparisons = [
        Comparison(
            name,
            {
                method: {s: f[name] for (m, s), f in figures.items() if m == method}
                for method in dict.fromkeys(run.method for run in runs)
            },
            {s: f[name] for (m, s), f in figures.items() if m == "teacher"},
            ALONE,
        )
        for name in dict.fromkeys(name for found in figures.values() for name in found)
    ]
    return comparisons, failures


def check_same_data(first, run, force):
    """Raises `ValueError` where two runs of a seed were started with other images."""
    from ekd_tf.run.workdir import Workdir

    if first is run or force:
        return
    was, now = (Workdir(r.path, create=False).read_data() for r in (first, run))
    if was != now:
        raise ValueError(
            f"the data has changed between {first.path} and {run.path}: they were "
            "trained or are evaluated on other images. Train one of them again, or "
            "give --force_data to compare them all the same"
        )


def machine():
    """Returns processor and number of cores, in words."""
    name = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        name = models[0] if models else name
    return f"{name}, {os.cpu_count()} cores, {platform.platform()}"


def facts_of(runs, methods, seeds, teacher_spec):
    """Returns what the figures depend on, for the report."""
    from ekd_tf.evaluation.embed import WITH_MIRROR_IMAGE
    from ekd_tf.run.provenance import package_versions
    from ekd_tf.run.provenance import provenance

    trained = [start for run in runs for start in run.starts]
    versions = {json.dumps(start["versions"], sort_keys=True) for start in trained}
    made = provenance(["python", *sys.argv])
    return {
        "Command": made["command"],
        "Date": made["date"],
        "Machine": machine(),
        "ekd_tf": made["ekd_tf"],
        "Trained by commits": sorted({str(start["commit"]) for start in trained}),
        "Trained with": [json.loads(each) for each in sorted(versions)],
        "Evaluated with": package_versions(),
        "Embeddings": WITH_MIRROR_IMAGE,
        "Seeds": seeds,
        "Teacher": teacher_spec,
        "Common flags": shlex.join(serialized(train_flags())),
        "Methods": {name: shlex.join(own) for name, own in methods.items()},
    }


def compare():
    """Trains what is to be trained, and reports."""
    root = make_folder("workdir", train_flags()["workdir"].value)
    methods = parse_methods(METHODS.value, ONLY.value)
    seeds = parse_seeds(SEEDS.value)
    teacher, runs = make_runs(root, methods, seeds, TRAIN_TEACHER.value)
    every = [teacher, *runs] if teacher else runs
    teacher_spec = teacher_to_evaluate(teacher, TEACHER_MODEL.value)
    if not REPORT_ONLY.value:
        for run in every:
            if not run.is_finished:
                print(f"\n$ {run.command}", flush=True)
            run.train(RETRY_FAILED.value)
            if run is teacher and run.failure:
                raise ValueError(f"The teacher's run failed: {run.failure}")
    from ekd_tf.compare import write_comparison

    comparisons, failures = evaluate(root, runs, teacher_spec, ON.value)
    summaries = [run.summary(failures.get((run.method, run.seed), "")) for run in every]
    facts = facts_of(every, methods, seeds, teacher_spec)
    print("\n" + write_comparison(root, comparisons, summaries, facts))
    print(f"Written to {root / 'report.md'}")


def main(argv):
    """Compares what the flags describe."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(RESUME_STATUS))
    from ekd_tf.run.interruption import Interrupted

    try:
        compare()
    except Interrupted as reason:
        print(f"{reason} The same command goes on.", file=sys.stderr)
        sys.exit(RESUME_STATUS)
    except (OSError, ValueError) as error:
        sys.exit(f"compare_methods: {explain(error, train.WAY_OUT)}")


if __name__ == "__main__":
    command.run(main, "compare_methods", ["workdir"], resumes=True)
