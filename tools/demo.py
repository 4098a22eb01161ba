"""Runs the whole path on synthetic faces: teacher, student alone, student with EKD.

    python tools/demo.py --workdir=runs/demo

Trains the three demo flagfiles in turn, prints each command, evaluates all three on
identities none was trained on, exports both students, and ends with one table and a
picture of the ROC curves. `--seeds=0,1,2` repeats all of it per seed.
"""

import json
import pathlib
import sys
import time

from absl import flags

from ekd_tf.files.outputs import make_folder
from ekd_tf.run import command
from ekd_tf.run.interruption import RESUME_STATUS
from ekd_tf.run.interruption import child_process

WORKDIR = flags.DEFINE_string("workdir", "runs/demo", "Folder of all runs.")
SEEDS = flags.DEFINE_list("seeds", "0", "Seeds of the runs.")
SHORT = flags.DEFINE_integer(
    "short_steps",
    None,
    "Train each run this many steps and evaluate on few images, to try the path.",
    1,
)

TITLES = {
    "teacher": "teacher",
    "baseline": "student alone",
    "ekd": "student with EKD",
}
COLUMNS = "seed model accuracy TPR@1e-2 TPR@1e-3 parameters TFLite latency".split()
REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


def call(module, *arguments):
    """Prints a command and runs it; its failure ends the demo."""
    words = [sys.executable, "-m", f"ekd_tf.{module}", *arguments]
    print("\n$ " + " ".join(["python", *words[1:]]), flush=True)
    with child_process(words, cwd=REPOSITORY) as (child, signals):
        status = child.wait()
    if signals or status == RESUME_STATUS:
        print("demo: stopped. The same command continues it.", file=sys.stderr)
        sys.exit(RESUME_STATUS)
    if status:
        sys.exit(f"The command above failed with status {status}.")


def train(root, seed):
    """Trains the three runs of a seed; a finished one is passed over by the trainer."""
    for run in TITLES:
        arguments = [
            f"--flagfile=flags/demo_{run}.flags",
            f"--workdir={root / run}",
            f"--seed={seed}",
        ]
        if run == "ekd":
            arguments.append(f"--teacher={root / 'teacher'}")
        if SHORT.value:
            heldout = "synthetic:identities=30,images=4,size=32,first=1000000"
            arguments += [f"--steps={SHORT.value}", "--warmup_steps=0"]
            arguments.append(f"--heldout_data={heldout}")
        call("train", *arguments)


def report(root):
    """Evaluates and exports a seed's runs; returns its rows and draws its ROC."""
    from ekd_tf.embedders import load_embedder
    from ekd_tf.evaluation import LabelledEvaluation
    from ekd_tf.evaluation import Models
    from ekd_tf.evaluation import SourceEmbedder
    from ekd_tf.evaluation import measurable_curve
    from ekd_tf.evaluation import plot_roc
    from ekd_tf.run.data import sources_of_run

    _, heldout = sources_of_run(root / "teacher")
    rows, curves = [], {}
    for run, title in TITLES.items():
        model = load_embedder(root / run)
        embedder = SourceEmbedder(model, model.input_shape[1])
        result = LabelledEvaluation("heldout", heldout)(Models(embedder))
        figures = result.student
        curves[title] = measurable_curve(figures.roc)
        export = json.loads((root / run / "reports" / "export.json").read_text())
        artefact = next(a for a in export["artefacts"] if a["kind"] == "tflite_float32")
        rows.append(
            [
                title,
                figures.accuracy_mean,
                figures.tpr[1e-2],
                figures.tpr[1e-3],
                model.count_params(),
                f"{artefact['size_bytes'] / 1e6:.2f} MB",
                f"{artefact['median_ms']:.2f} ms",
            ]
        )
    picture = root / "roc.png"
    plot_roc(curves, picture, "Held-out drawn identities, all pairs")
    return rows, picture


def main():
    """Runs the demo the flags describe."""
    from ekd_tf.evaluation import format_table

    start = time.time()
    root = make_folder("workdir", WORKDIR.value).resolve()
    rows, pictures = [], []
    for seed in SEEDS.value:
        train(root / f"seed{seed}", seed)
        seed_rows, picture = report(root / f"seed{seed}")
        rows += [[seed, *row] for row in seed_rows]
        pictures.append(picture)
    print("\n" + format_table(rows, COLUMNS))
    print(
        "\nAccuracy: ten folds over drawn pairs. TPR: all pairs of held-out "
        "identities. Latency: median, one image, one thread."
    )
    for picture in pictures:
        print(f"ROC curves: {picture}")
    print(f"{time.time() - start:.0f} s")


if __name__ == "__main__":
    command.run(main, "demo", resumes=True)
