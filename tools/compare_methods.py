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
import dataclasses
import json
import os
import pathlib
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import time

from absl import app
from absl import flags

from ekd_tf import train

METHODS = flags.DEFINE_multi_string(
    "method",
    [],
    "NAME: FLAGS of ekd_tf.train, such as 'cosine: --distill=cosine:100'; repeated.",
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
    "NAME:SPEC of what to compare on beside the identities held out, like --evaluate.",
)
REPORT_ONLY = flags.DEFINE_bool(
    "report_only", False, "Train nothing; report on the runs that are finished."
)
RETRY_FAILED = flags.DEFINE_bool(
    "retry_failed", False, "Start runs again that failed with the same flags."
)

ALONE = "alone"
INTERRUPTED = os.EX_TEMPFAIL
# What a comparison holds equal. A method may set anything else.
SHARED = set(
    "workdir seed data heldout_data holdout_identities general_batch flip steps epochs "
    "balanced_identities images_per_identity skip_corrupt model width embedding_dim "
    "input_size activation dropout optimizer learning_rate momentum schedule drop_at "
    "drop_factor warmup_steps weight_decay clip_norm precision".split()
)
# Beyond it all images are one to a verifier.
COLLAPSED_COSINE = 0.99


def train_flags(*arguments):
    """Returns the flags of `ekd_tf.train` as this command has them, with more set."""
    found = flags.FlagValues()
    for flag in flags.FLAGS.get_flags_for_module(train):
        found[flag.name] = copy.deepcopy(flag)
    try:
        rest = found(["train", *arguments])[1:]
    except flags.Error as error:
        raise ValueError(str(error)) from None
    if rest:
        raise ValueError(f"Not a flag of ekd_tf.train: {' '.join(rest)}")
    return found


@dataclasses.dataclass(frozen=True)
class Run:
    """One training of the grid, or that of the teacher."""

    method: str
    seed: int
    path: pathlib.Path
    flags: flags.FlagValues

    @property
    def values(self):
        """Every flag of the run, as `run.json` records them."""
        return {name: self.flags[name].value for name in self.flags}

    @property
    def arguments(self):
        """The flags that are not at their defaults, as a command has them."""
        changed = [
            self.flags[name].serialize().splitlines()
            for name in self.flags
            if self.flags[name].value != self.flags[name].default
        ]
        return [argument for lines in changed for argument in lines]

    @property
    def note_file(self):
        return self.path / "comparison.json"

    def note(self):
        """What this tool noted about earlier starts of the run."""
        if self.note_file.is_file():
            return json.loads(self.note_file.read_text(encoding="utf-8"))
        return {"seconds": 0.0, "failure": None}

    def has_failed(self):
        """Whether it failed, with these very flags."""
        failure = self.note()["failure"]
        return failure is not None and failure["arguments"] == self.arguments

    def is_finished(self):
        """Whether it is finished.

        Raises:
            ValueError: The folder holds a run with other flags; both values are named.
        """
        from ekd_tf.training.workdir import Workdir

        if not self.starts():
            return False
        workdir = Workdir(self.path, create=False)
        workdir.check_same_run(self.values, train.FREE_TO_CHANGE)
        return (self.path / "model.keras").is_file()

    def starts(self):
        """The starts `run.json` records, the oldest first."""
        path = self.path / "run.json"
        return json.loads(path.read_text())["starts"] if path.is_file() else []


def parse_methods(specs, only):
    """Returns name -> arguments of the methods, "alone" first.

    Raises:
        ValueError: A specification is not `NAME: FLAGS`, a name is taken or unknown,
            or a method sets what is common.
    """
    found = {ALONE: ["--teacher=none", "--distill="]}
    common = train_flags()
    for spec in specs:
        name, colon, arguments = spec.partition(":")
        plain = name.replace("+", "").replace("-", "").replace("_", "").isalnum()
        if not plain or not colon or name in (*found, "teacher"):
            raise ValueError(
                "`--method` must be 'NAME: FLAGS' with a name of its own of letters, "
                f"digits, +, - and _. Received: {spec!r}"
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


def make_runs(root, methods, seeds):
    """Returns the teacher's run or None, and the grid's, all methods of a seed first."""
    teacher = []
    if TRAIN_TEACHER.value is not None:
        path = root / "teacher"
        arguments = [*shlex.split(TRAIN_TEACHER.value), "--teacher=none", "--distill="]
        run = Run("teacher", 0, path, train_flags(*arguments, f"--workdir={path}"))
        teacher = [run]
    runs = []
    for seed in seeds:
        for name, own in methods.items():
            path = root / name / f"seed{seed}"
            arguments = [f"--teacher={root / 'teacher'}"] if teacher else []
            arguments += [*own, f"--seed={seed}", f"--workdir={path}"]
            runs.append(Run(name, seed, path, train_flags(*arguments)))
    return (teacher[0] if teacher else None), runs


def call(arguments, log):
    """Runs the trainer, its messages going on to ours and to a file.

    Returns:
        `(status, last message)`; status 75 also where SIGTERM was passed on.
    """
    command = [sys.executable, "-m", "ekd_tf.train", *arguments]
    print("\n$ " + shlex.join(["python", *command[1:]]), flush=True)
    asked, tail = [], b""
    with open(log, "ab") as file:
        child = subprocess.Popen(command, stderr=subprocess.PIPE)

        def pass_on(*_):
            asked.append(True)
            child.terminate()

        previous = signal.signal(signal.SIGTERM, pass_on)
        try:
            while chunk := os.read(child.stderr.fileno(), 1 << 16):
                sys.stderr.buffer.write(chunk)
                sys.stderr.flush()
                file.write(chunk)
                tail = (tail + chunk)[-20_000:]
            status = child.wait()
        finally:
            signal.signal(signal.SIGTERM, previous)
    lines = tail.decode(errors="replace").split("ekd_tf.train: ")[-1].strip()
    message = lines if len(lines) < 2000 else lines.splitlines()[-1]
    return (INTERRUPTED if asked else status), message


def train_run(run, retry):
    """Trains a run to the end, unless it is finished or has failed before."""
    if run.is_finished() or (run.has_failed() and not retry):
        return
    run.path.mkdir(parents=True, exist_ok=True)
    started, start = run.starts(), time.time()
    status, message = call(run.arguments, run.path / "train.log")
    failure = None
    if status and status != INTERRUPTED:
        if status < 0 or run.starts() == started:
            # Killed, or a mistake before the first step: no property of the method.
            raise ValueError(
                f"{run.method}, seed {run.seed}: status {status}: {message}"
            )
        failure = {"reason": message, "arguments": run.arguments}
    seconds = run.note()["seconds"] + time.time() - start
    note = {"seconds": seconds, "failure": failure}
    run.note_file.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    if status == INTERRUPTED:
        sys.exit(INTERRUPTED)


def figures_of(path, fingerprint, open_model, evaluations):
    """Evaluates a model, or reads what that found before.

    Args:
        path: JSON file to keep figures in.
        fingerprint: String, changes when the model does.
        open_model: Function that returns its `SourceEmbedder`.
        evaluations: The sets, as `make_evaluations` returns them.

    Returns:
        Set's name -> `RunFigures`.
    """
    from ekd_tf.evaluation import Models
    from ekd_tf.evaluation import RunFigures

    kept = json.loads(path.read_text()) if path.is_file() else {}
    found, models = {}, None
    for evaluation in evaluations:
        key = f"{fingerprint} {evaluation.fingerprint}"
        if key not in kept:
            models = models or Models(open_model())
            result = evaluation(models)
            figures = RunFigures.of(result.student, result.curves["student"])
            kept[key] = figures.to_dict()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(kept) + "\n", encoding="utf-8")
        found[evaluation.name] = RunFigures.from_dict(kept[key])
    return found


def evaluate_runs(root, runs, teacher_model):
    """Returns a `Comparison` per set, and method, seed -> why there are no figures."""
    from ekd_tf import evaluators
    from ekd_tf.evaluation import Comparison
    from ekd_tf.session import sources_of_run
    from ekd_tf.teachers import content_hash

    names = list(dict.fromkeys(run.method for run in runs))
    figures, of_teacher, failures, sets = {}, {}, {}, {}
    teacher = evaluators.make_source_embedder(teacher_model)
    for run in filter(Run.is_finished, runs):
        if run.seed not in sets:
            _, heldout = sources_of_run(run.path)
            sets[run.seed] = evaluators.make_evaluations(ON.value, heldout, seed=0)
        print(f"Evaluating {run.method}, seed {run.seed}", flush=True)
        model = run.path / "model.keras"
        try:
            found = figures_of(
                run.path / "reports" / "comparison.json",
                content_hash(model),
                lambda path=run.path: evaluators.make_source_embedder(str(path)),
                sets[run.seed],
            )
        except ValueError as error:
            failures[run.method, run.seed] = f"not evaluated: {error}"
            continue
        for name, values in found.items():
            figures.setdefault(name, {}).setdefault(run.method, {})[run.seed] = values
    for seed, evaluations in sets.items():
        if teacher is not None:
            found = figures_of(
                root / "teacher.json", teacher.fingerprint, lambda: teacher, evaluations
            )
            for name, values in found.items():
                of_teacher.setdefault(name, {})[seed] = values
    comparisons = [
        Comparison(
            name,
            {method: of_methods.get(method, {}) for method in names},
            of_teacher.get(name),
            ALONE,
        )
        for name, of_methods in figures.items()
    ]
    return comparisons, failures


def summarise(run, failures):
    """Returns the `RunSummary` of a run."""
    from ekd_tf.evaluation import RunSummary

    lines, notes = [], []
    metrics = run.path / "metrics.jsonl"
    if metrics.is_file():
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    speeds = [line.get("throughput/images_per_second") for line in lines]
    speeds = [speed for speed in speeds if speed is not None]
    cosines = [line.get("embedding/mean_cosine") for line in lines]
    cosines = [cosine for cosine in cosines if cosine is not None]
    state = "finished" if run.is_finished() else "not finished"
    if state != "finished" and run.has_failed():
        state = "failed"
        notes.append(run.note()["failure"]["reason"])
    if (run.method, run.seed) in failures:
        notes.append(failures[run.method, run.seed])
    if cosines and cosines[-1] > COLLAPSED_COSINE:
        notes.append(f"collapsed: mean cosine between images {cosines[-1]:.4f}")
    for start in run.starts():
        if start["changed"]:
            notes.append(f"went on with other flags: {start['changed']}")
    return RunSummary(
        run.method,
        run.seed,
        state,
        "; ".join(notes),
        statistics.median(speeds) if speeds else None,
        run.note()["seconds"] or None,
        shlex.join(["python", "-m", "ekd_tf.train", *run.arguments]),
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


def facts_of(runs, methods, seeds, teacher_model):
    """Returns what the figures depend on, for the report."""
    from ekd_tf import __version__
    from ekd_tf.training.workdir import package_commit
    from ekd_tf.training.workdir import package_versions

    trained = [start for run in runs for start in run.starts()]
    versions = {json.dumps(start["versions"], sort_keys=True) for start in trained}
    commits = sorted({str(start["commit"]) for start in trained})
    return {
        "Command": shlex.join(["python", *sys.argv]),
        "Date": time.strftime("%Y-%m-%d %H:%M %z"),
        "Machine": machine(),
        "ekd_tf": f"{__version__}, commit {package_commit()}",
        "Versions": package_versions(),
        "Trained with commits": ", ".join(commits) or "none",
        "Trained with versions": [json.loads(v) for v in sorted(versions)],
        "Seeds": ", ".join(map(str, seeds)),
        "Teacher": teacher_model,
        "Methods": {name: shlex.join(own) for name, own in methods.items()},
    }


def compare():
    """Trains what is to be trained, and reports."""
    root = pathlib.Path(train_flags()["workdir"].value)
    methods = parse_methods(METHODS.value, ONLY.value)
    seeds = parse_seeds(SEEDS.value)
    teacher, runs = make_runs(root, methods, seeds)
    common = train_flags()["teacher"].value
    teacher_model = TEACHER_MODEL.value or (str(teacher.path) if teacher else common)
    if teacher and common != "none":
        raise ValueError("Give `--teacher` or `--train_teacher`, not both.")
    if teacher_model.startswith("cache:"):
        raise ValueError(
            f"`--teacher={teacher_model}` holds embeddings of training images alone. "
            "Give the model they are of as --teacher_model=FILE.onnx, or none"
        )
    if teacher_model == "none" and len(methods) > 1 and not TEACHER_MODEL.value:
        raise ValueError("The methods need `--teacher` or `--train_teacher`.")
    if not REPORT_ONLY.value:
        for run in [teacher, *runs] if teacher else runs:
            train_run(run, RETRY_FAILED.value)
    from ekd_tf.evaluation import write_comparison

    comparisons, failures = evaluate_runs(root, runs, teacher_model)
    summaries = [summarise(run, failures) for run in runs]
    facts = facts_of(runs, methods, seeds, teacher_model)
    print("\n" + write_comparison(root, comparisons, summaries, facts))
    print(f"Written to {root / 'report.md'}")


def main(argv):
    """Compares what the flags describe."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(INTERRUPTED))
    try:
        compare()
    except ValueError as error:
        sys.exit(f"compare_methods: {error}")


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    app.run(main)
