"""Times the training step of a MobileFaceNet: beside torch, and with a teacher.

Every case is a process of its own, since what it measures is set at start: oneDNN,
precision, torch. All wait but one, which makes a step. Batches are in memory, but in
the cases "of files", whose steps begin with the next batch of the input pipeline.

    python tools/benchmarks/bench_train_step.py --torch_python=torch_env/bin/python
    python tools/benchmarks/bench_train_step.py --cases=alone,cached,online --turns=5
    python tools/benchmarks/bench_train_step.py --data=recordio:faces_rec --dim=128 \
        --cache=faces_teacher --cases="alone of files,cached of files"
"""

import itertools
import json
import os
import pathlib
import subprocess
import sys

import measuring
import numpy as np
from absl import app
from absl import flags

TORCH = {
    "torch": ("float32", False),
    "torch channels_last": ("float32", True),
    "torch bfloat16": ("bfloat16", False),
    "torch bfloat16 channels_last": ("bfloat16", True),
}
OURS = {
    "ours": {},
    "ours bfloat16": {"precision": "mixed_bfloat16"},
    "ours without oneDNN": {"onednn": "0"},
    "alone": {"teacher": "none"},
    "cached": {"teacher": "rows"},
    "cached cosine": {"teacher": "rows", "losses": ("cosine",)},
    "online": {"teacher": "iresnet50"},
    "alone of files": {"teacher": "none", "files": True},
    "cached of files": {"teacher": "rows", "files": True},
}
BESIDE_TORCH = ["ours", "ours bfloat16", "ours without oneDNN", *TORCH]

CASES = flags.DEFINE_list("cases", BESIDE_TORCH, "Which; ratios are to the first.")
TORCH_PYTHON = flags.DEFINE_string("torch_python", None, "Interpreter with torch.")
TURNS = flags.DEFINE_integer("turns", 9, "Steps of each case.", 1)
THREADS = flags.DEFINE_integer("threads", 2, "Threads of each case.", 1)
BATCH = flags.DEFINE_integer("batch", 64, "Images of a step.", 2)
SIZE = flags.DEFINE_integer("size", 112, "Side of the images in pixels.", 32)
WIDTH = flags.DEFINE_float("width", 1.0, "Channel multiplier of the student.", 0)
DIM = flags.DEFINE_integer("dim", 512, "Size of the embedding.", 1)
IDENTITIES = flags.DEFINE_integer("identities", 1000, "Identities of the head.", 2)
DATA = flags.DEFINE_string("data", None, "Images of the cases of files.")
CACHE = flags.DEFINE_string("cache", None, "Folder that embed_teacher wrote of them.")
WORKER = flags.DEFINE_string("worker", None, "Internal: the case to make steps of.")

TORCH_STEP = pathlib.Path(__file__).with_name("torch_step.py")


class Case:
    """A process that makes a step when told to."""

    def __init__(self, name):
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        if name in TORCH:
            setting = dict(zip(("precision", "channels_last"), TORCH[name]))
            for flag in ("threads", "batch", "size", "width", "dim", "identities"):
                setting[flag] = flags.FLAGS[flag].value
            command = [TORCH_PYTHON.value, str(TORCH_STEP), json.dumps(setting)]
        else:
            environment["TF_ENABLE_ONEDNN_OPTS"] = OURS[name].get("onednn", "1")
            command = [sys.executable, *sys.argv, f"--worker={name}"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        # It says how many parameters its network has when it is ready.
        self.parameters = int(self._process.stdout.readline())

    def step(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return [float(t) for t in self._process.stdout.readline().split()]

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def batches_in_memory(with_rows):
    """Returns the number of identities and endless batches, always the same one."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    rows = BATCH.value
    batch = {
        "image": rng.integers(0, 256, (rows, SIZE.value, SIZE.value, 3), np.uint8),
        # Pairs of one identity, as balanced rows have them.
        "label": (np.arange(rows) // 2 % IDENTITIES.value).astype(np.int32),
        "in_margin": np.ones(rows, np.float32),
        "image_id": np.arange(rows, dtype=np.int32),
    }
    if with_rows:
        batch["teacher"] = rng.normal(size=(rows, DIM.value)).astype(np.float32)
    batch = {key: tf.constant(value) for key, value in batch.items()}
    return IDENTITIES.value, itertools.repeat(batch)


def batches_of_files(with_rows):
    """Returns the number of identities and the batches a run would have."""
    from ekd_tf.data import BatchSampler
    from ekd_tf.data import make_pipeline
    from ekd_tf.run.factory import make_source
    from ekd_tf.run.teacher import open_run_teacher

    source = make_source(DATA.value)
    half = BATCH.value // 2
    sampler = BatchSampler(source.labels, BATCH.value - half, half // 2, 2, seed=0)
    pipeline = make_pipeline(source, sampler, SIZE.value)
    dataset = pipeline.dataset
    if with_rows:
        teacher = open_run_teacher(f"cache:{CACHE.value}", source, flip=True)
        dataset = teacher.attach(dataset)
    return source.num_identities, iter(dataset)


def work(name):
    """Makes a step for each line read, and answers with wall and CPU milliseconds."""
    import keras
    import tensorflow as tf

    from ekd_tf.heads import ArcFace
    from ekd_tf.losses import CosineLoss
    from ekd_tf.losses import EKDLoss
    from ekd_tf.models import IResNet
    from ekd_tf.models import MobileFaceNet
    from ekd_tf.training import Distiller
    from ekd_tf.training import FaceClassifier
    from ekd_tf.training.loop import compile_step

    tf.config.threading.set_intra_op_parallelism_threads(THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS.value)
    keras.utils.set_random_seed(0)
    setting = OURS[name]
    teacher = setting.get("teacher", "none")
    online = IResNet(depth=50) if teacher == "iresnet50" else None
    keras.mixed_precision.set_global_policy(setting.get("precision", "float32"))
    student = MobileFaceNet(
        embedding_dim=DIM.value, width=WIDTH.value, input_size=SIZE.value
    )
    make_batches = batches_of_files if setting.get("files") else batches_in_memory
    identities, batches = make_batches(with_rows=teacher == "rows")
    head = ArcFace(identities)
    if teacher == "none":
        model = FaceClassifier(student, head)
    else:
        dims = DIM.value, online.output_shape[-1] if online else DIM.value
        losses = {"ekd": (EKDLoss(*dims), 8.0), "cosine": (CosineLoss(*dims), 100.0)}
        chosen = {name: losses[name] for name in setting.get("losses", losses)}
        model = Distiller(student, online, chosen, head)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), weight_decay=5e-4)
    step = compile_step(model, tf.distribute.get_strategy())
    for _ in range(2):
        float(step(next(batches))["loss"])
    print(sum(int(np.prod(v.shape)) for v in student.trainable_variables), flush=True)
    for _ in sys.stdin:
        print(
            *measuring.clocked(lambda: float(step(next(batches))["loss"])), flush=True
        )


def table(times):
    """Returns the Markdown table; ratios are of turns, to the first case."""
    from ekd_tf.evaluation import format_table

    first, lines = next(iter(times.values())), []
    for name, turns in times.items():
        wall, cpu = np.median(turns, axis=0) / BATCH.value
        ratios = (measuring.spread(ratio, 2) for ratio in (turns / first).T)
        lines.append([name, f"{1e3 / wall:.1f}", f"{cpu:.2f}", *ratios])
    header = ["case", "images/s", "CPU ms an image", "time / first's, wall", "CPU"]
    return format_table(lines, header)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    if WORKER.value:
        return work(WORKER.value)
    unknown = [name for name in CASES.value if name not in {*OURS, *TORCH}]
    if unknown:
        raise app.UsageError(f"--cases must be of {[*OURS, *TORCH]}: {unknown}")
    if TORCH_PYTHON.value is None and any(name in TORCH for name in CASES.value):
        raise app.UsageError("The cases of torch need --torch_python.")
    if any(OURS.get(name, {}).get("files") for name in CASES.value):
        if DATA.value is None or CACHE.value is None:
            raise app.UsageError("The cases of files need --data and --cache.")
    cases = {name: Case(name) for name in CASES.value}
    steps = {name: case.step for name, case in cases.items()}
    times = measuring.take_turns(steps, TURNS.value, warm_up=0)
    for case in cases.values():
        case.close()
    counts = {name: case.parameters for name, case in cases.items()}
    print(f"parameters of the student: {counts}", file=sys.stderr)
    print(table(times))


if __name__ == "__main__":
    app.run(main)
