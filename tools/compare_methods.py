"""Trains one student alone and with each method, and compares them.

    python tools/compare_methods.py --flagfile=flags/compare_demo.flags \\
        --workdir=runs/compare_demo --seeds=0,1

Takes the flags of `ekd_tf.train`: they make the student, its data, batches and
schedule, and are the same for all runs. Each `--method=NAME: FLAGS` adds those of a
method, which may not touch what is common; "alone", without a teacher, is there
unless `--methods` leaves it out. Runs go seed by seed into WORKDIR/NAME/seedN, and all
are compared on the identities held out and on `--eval_sets`. The same command goes on
where it was interrupted, passes over what is finished, and writes WORKDIR/report.md,
report.json and pictures. A run that a guard ended is listed with the reason.

Exit status: 0, the report is written; 75, interrupted, and the same command goes on.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import platform
import re
import shlex
import sys

from ekd_tf.files.outputs import make_folder
from ekd_tf.run import command
from ekd_tf.run.config import BALANCED_IDENTITIES
from ekd_tf.run.config import COMMON
from ekd_tf.run.config import FREE
from ekd_tf.run.config import TrainConfig
from ekd_tf.run.interruption import RESUME_STATUS
from ekd_tf.run.interruption import Interrupted
from ekd_tf.run.settings import as_arguments
from ekd_tf.run.settings import check_effects
from ekd_tf.run.settings import idle_settings
from ekd_tf.run.settings import setting


@dataclasses.dataclass(frozen=True)
class CompareSettings:
    """The flags of the tool beside those of `ekd_tf.train`."""

    method: tuple[str, ...] = setting(
        (),
        "NAME: FLAGS of ekd_tf.train, such as 'cosine: --distill=cosine:100'; "
        "repeated. Of two with one name the later one counts.",
        repeated=True,
    )
    methods: tuple[str, ...] = setting((), "Names of the methods to run. Default: all.")
    seeds: tuple[str, ...] = setting(
        ("0",), "Seeds: of weights, batches and held-out sets."
    )
    train_teacher: str | None = setting(
        None,
        "Flags of ekd_tf.train to train the teacher with first, as WORKDIR/teacher, on "
        "the data of all; instead of --teacher.",
    )
    teacher_model: str | None = setting(
        None,
        "The teacher as ekd_tf.evaluate takes a model, where --teacher is none: a "
        "cache.",
    )
    report_only: bool = setting(
        False, "Train nothing; report on the runs that are finished."
    )
    retry_failed: bool = setting(
        False, "Start runs again that failed with the same flags."
    )


ALONE = "alone"


def run_of(common, *arguments):
    """Returns the settings all runs have in common, with more set."""
    return command.parse(arguments, common, "ekd_tf.train")


def parse_methods(common, specs, only):
    """Returns name -> arguments of the methods, "alone" first."""
    methods = {ALONE: ["--teacher=none", "--distill="]}
    for spec in specs:
        name, colon, arguments = spec.partition(":")
        is_name = re.fullmatch(r"[\w+-]+", name) and name not in (ALONE, "teacher")
        if not is_name or not colon:
            raise ValueError(
                "`--method` must be 'NAME: FLAGS', NAME of letters, digits, +, - and _ "
                f"and neither {ALONE} nor teacher. Received: {spec!r}"
            )
        try:
            methods[name] = shlex.split(arguments)
        except ValueError as error:
            raise ValueError(f"`--method={name}`: {error} in{arguments}") from None
        own = run_of(common, *methods[name])
        wrong = [
            f"--{key}={getattr(own, key)}, for all {getattr(common, key)}"
            for key in sorted(COMMON)
            if getattr(own, key) != getattr(common, key)
        ]
        if wrong:
            raise ValueError(
                f"`--method={name}` must leave alone what all runs have in common. "
                f"Received: {'; '.join(wrong)}"
            )
    unknown = sorted(set(only) - set(methods))
    if unknown:
        raise ValueError(
            f"`--methods` must be among {', '.join(methods)}. Received: {unknown}"
        )
    return {name: methods[name] for name in methods if not only or name in only}


def parse_seeds(texts):
    """Returns the seeds as integers, each once."""
    if not texts or not all(text.isdecimal() for text in texts):
        raise ValueError(f"`--seeds` must be integers >= 0. Received: {texts}")
    return list(dict.fromkeys(map(int, texts)))


def make_run(common, method, seed, path, *arguments):
    """Returns a `GridRun` with the settings all have in common and those given.

    Of the common ones it leaves out what has no effect on it; one of those given that
    has none is refused.
    """
    from ekd_tf.compare.grid import GridRun
    from ekd_tf.run.assembly import check_losses
    from ekd_tf.run.assembly import check_parts

    # What all are compared on is evaluated once, at the end.
    common = dataclasses.replace(common, eval_sets=())
    own = run_of(common, *arguments, f"--seed={seed}", f"--workdir={path}")
    defaults = {field.name: field.default for field in dataclasses.fields(own)}
    try:
        idle = {
            name: defaults[name]
            for name in idle_settings(own.completed())
            if getattr(own, name) == getattr(common, name)
        }
        own = dataclasses.replace(own, **idle)
        config = own.completed()
        check_effects(config)
        # Else the runs before it would be trained first.
        check_losses(config)
        check_parts(config)
    except ValueError as error:
        raise ValueError(f"{method}: {error}") from None
    return GridRun(method, seed, path, config.to_record(), as_arguments(own), FREE)


def make_runs(common, root, methods, seeds, train_teacher=None):
    """Returns the teacher's run or None, and the grid's, seed by seed."""
    teacher = None
    if train_teacher is not None:
        if common.teacher != "none":
            raise ValueError("Give `--teacher` or `--train_teacher`, not both.")
        if common.holdout_identities and set(seeds) != {common.seed}:
            raise ValueError(
                "Each seed holds out other identities, on which the teacher of "
                "`--train_teacher` was trained: give --heldout_data, or "
                f"--seeds={common.seed}"
            )
        own = [*shlex.split(train_teacher), "--teacher=none", "--distill="]
        teacher = make_run(common, "teacher", common.seed, root / "teacher", *own)
        common = dataclasses.replace(common, teacher=str(teacher.path))
    # The same batches for all: left open, they would depend on the method.
    if common.balanced_identities is None:
        common = dataclasses.replace(common, balanced_identities=BALANCED_IDENTITIES)
    runs = [
        make_run(common, name, seed, root / name / f"seed{seed}", *own)
        for seed in seeds
        for name, own in methods.items()
    ]
    return teacher, runs


def teacher_to_evaluate(common, teacher, named):
    """Returns the model that embeds as the teacher, "none" for no teacher."""
    from ekd_tf.embedders.cache import is_cache

    if named is not None:
        return named
    spec = str(teacher.path) if teacher else common.teacher
    if is_cache(spec):
        raise ValueError(
            f"`--teacher={spec}` holds embeddings of the training images alone. Give "
            "the model they are of as --teacher_model=FILE.onnx, or =none"
        )
    return spec


def evaluate(common, root, runs, teacher_spec):
    """Evaluates what is finished of the runs of a grid in the folder `root`.

    Returns a `Comparison` per set, and method, seed -> why a run has no figures.
    """
    from ekd_tf.compare import Comparison
    from ekd_tf.compare import kept_figures
    from ekd_tf.data.unreadable import Unreadable
    from ekd_tf.embedders import content_hash
    from ekd_tf.run import evaluators
    from ekd_tf.run.data import sources_of_run

    unreadable = Unreadable(common.skip_corrupt)
    # As of all flags, the later one of a name counts.
    eval_sets = {spec.partition(":")[0]: spec for spec in common.eval_sets}.values()
    sets, first, figures, failures = {}, {}, {}, {}
    for run in runs:
        if not run.is_finished:
            continue
        if run.seed not in sets:
            _, heldout = sources_of_run(run.path, unreadable, common.force_data)
            sets[run.seed] = evaluators.make_evaluations(
                eval_sets, heldout, seed=0, unreadable=unreadable
            )
        check_same_data(first.setdefault(run.seed, run), run, common.force_data)
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
        for seed, seed_sets in sets.items():
            figures["teacher", seed] = kept_figures(
                root / "teacher_figures.json",
                teacher.fingerprint,
                lambda: teacher,
                seed_sets,
            )

    def figures_of(method, name):
        return {s: by_set[name] for (m, s), by_set in figures.items() if m == method}

    methods = dict.fromkeys(run.method for run in runs)
    comparisons = [
        Comparison(
            name,
            {method: figures_of(method, name) for method in methods},
            figures_of("teacher", name),
            ALONE,
        )
        for name in dict.fromkeys(name for sets in figures.values() for name in sets)
    ]
    return comparisons, failures


def check_data_of_runs(runs, common):
    """Refuses to train a run beside one that was started with other images."""
    from ekd_tf.data.unreadable import Unreadable
    from ekd_tf.run.data import sources_of_run

    for run in runs:
        if run.starts:
            sources_of_run(run.path, Unreadable(common.skip_corrupt), common.force_data)


def check_same_teachers(runs, force):
    """Refuses to compare runs whose teacher had other weights under the same name."""
    from ekd_tf.run.workdir import Workdir

    first = {}
    for run in runs:
        if not run.starts:
            continue
        known = Workdir(run.path, create=False).read_run().get("teacher")
        path, was = first.setdefault(run.values["teacher"], (run.path, known))
        if was != known and not force:
            raise ValueError(
                f"--teacher={run.values['teacher']} has changed between {path} and "
                f"{run.path}. Train one of them again, or give --force_flags to "
                "compare them all the same"
            )


def check_same_data(first, run, force):
    """Refuses to compare two runs of a seed that were started with other images."""
    from ekd_tf.run.workdir import Workdir

    was, now = (Workdir(r.path, create=False).read_data() for r in (first, run))
    if was != now and not force:
        raise ValueError(
            f"the data has changed between {first.path} and {run.path}: they were "
            "trained or are evaluated on other images. Train one of them again, or "
            "give --force_data to compare them all the same"
        )


def machine():
    """Returns processor and number of cores, in words."""
    name, cpuinfo = platform.machine(), pathlib.Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = re.findall(r"^model name\s*: (.*)", cpuinfo.read_text(), re.MULTILINE)
        name = models[0] if models else name
    return f"{name}, {os.cpu_count()} cores, {platform.platform()}"


def facts_of(common, runs, methods, seeds, teacher_spec):
    """Returns what the figures depend on, for the report."""
    from ekd_tf.evaluation.embed import WITH_MIRROR_IMAGE
    from ekd_tf.run.provenance import package_versions
    from ekd_tf.run.provenance import provenance

    # Folder and seed are those of no run of the grid; the last is never the teacher's.
    batch = runs[-1].values["balanced_identities"]
    common = dataclasses.replace(
        common, workdir=None, seed=0, balanced_identities=batch
    )
    trained = [start for run in runs for start in run.starts]
    versions = {json.dumps(start["versions"], sort_keys=True) for start in trained}
    made = provenance(sys.argv[0])
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
        "Common flags": shlex.join(as_arguments(common)),
        "Methods": {name: shlex.join(own) for name, own in methods.items()},
    }


def compare(settings, common):
    """Trains what is to be trained, and reports."""
    root = make_folder("workdir", common.workdir)
    methods = parse_methods(common, settings.method, settings.methods)
    seeds = parse_seeds(settings.seeds)
    teacher, runs = make_runs(common, root, methods, seeds, settings.train_teacher)
    every = [teacher, *runs] if teacher else runs
    teacher_spec = teacher_to_evaluate(common, teacher, settings.teacher_model)
    check_data_of_runs(runs, common)
    check_same_teachers(every, common.force_flags)
    if not settings.report_only:
        for run in every:
            if not run.is_finished:
                print(f"\n$ {run.command}", flush=True)
            run.train(settings.retry_failed)
            check_same_teachers(every, common.force_flags)
            if run is teacher and run.failure:
                raise ValueError(f"The teacher's run failed: {run.failure}")
    from ekd_tf.compare import write_comparison

    comparisons, failures = evaluate(common, root, runs, teacher_spec)
    summaries = [run.summary(failures.get((run.method, run.seed), "")) for run in every]
    facts = facts_of(common, every, methods, seeds, teacher_spec)
    print("\n" + write_comparison(root, comparisons, summaries, facts))
    print(f"Written to {root / 'report.md'}")


def main(settings, common):
    """Compares what the flags describe."""
    try:
        compare(settings, common)
    except Interrupted as reason:
        print(f"{reason} The same command continues it.", file=sys.stderr)
        sys.exit(RESUME_STATUS)


if __name__ == "__main__":
    command.run(
        main,
        "compare_methods",
        CompareSettings,
        TrainConfig,
        required=["workdir"],
        resumes=True,
    )
