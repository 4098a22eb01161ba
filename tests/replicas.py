"""One step or two on any number of replicas, beside one device on the whole batch.

Every place is a process of its own (or two), because a process can gather over one
number of replicas only.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import tensorflow as tf
import toys

from ekd_tf.heads import ArcFace
from ekd_tf.losses import EKDLoss
from ekd_tf.training.classifier import FaceClassifier
from ekd_tf.training.distiller import Distiller
from ekd_tf.training.gradient_share import GradientShare
from ekd_tf.training.loop import compile_step
from ekd_tf.training.strategy import distribute
from ekd_tf.training.strategy import make_strategy
from ekd_tf.training.strategy import set_virtual_devices

ROWS, STEPS = 16, 2
LOSSES = ("margin", "ekd", "detached", "two")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
# How the batch is spread; each against one device without XLA.
PLACES = ("1, XLA", "2", "4", "2 processes")


class InParts(keras.layers.Layer):
    """A student that normalises each part of the batch by itself."""

    def __init__(self, student, parts):
        super().__init__()
        self.student, self.parts = student, parts

    @property
    def output_shape(self):
        return self.student.output_shape

    @property
    def variables(self):
        # In the student's order: Keras 2 would put the trainable ones first.
        return self.student.variables

    def call(self, images, training=None):
        rows = tf.split(images, self.parts)
        return tf.concat([self.student(r, training=training) for r in rows], axis=0)


def make(loss, norm="frozen", parts=1):
    """Returns a compiled model, the same wherever it is made.

    The loss is "margin", "ekd", "detached": EKD with thresholds that have no gradient,
    or "two": margin, EKD and cosine, this at 30 % of the margin loss's gradient, at
    once. A "training" normalisation sees the batch in `parts`.
    """
    student = toys.backbone(dim=8)
    for layer in student.layers:
        if "normalization" in layer.name:
            layer.moving_mean.assign(np.linspace(-0.2, 0.2, 6, dtype=np.float32))
            layer.moving_variance.assign(np.linspace(0.1, 0.3, 6, dtype=np.float32))
            layer.trainable = norm == "training"
    teacher = toys.backbone(dim=8, seed=7)
    keras.utils.set_random_seed(3)
    head = ArcFace(num_identities=3, scale=4.0, margin=0.2)
    if parts > 1:
        student = InParts(student, parts)
    if loss == "margin":
        model = FaceClassifier(student, head)
    else:
        ekd = EKDLoss(
            8, 8, memory=20, momentum=0.3, threshold_gradient=loss != "detached"
        )
        losses = {"ekd": (ekd, 50.0)}
        if loss == "two":
            losses["cosine"] = (toys.CosineGap(), GradientShare(0.3))
        model = Distiller(student, teacher, losses, head if loss == "two" else None)
    scaling = keras.mixed_precision.global_policy().name == "mixed_float16"
    model.compile(
        keras.optimizers.SGD(learning_rate=0.05, momentum=0.9),
        loss_scaling="dynamic" if scaling else "none",
    )
    if scaling:
        # At the first scale, 2^15, the part of a replica overflows where the sum of
        # all parts does not, and one of the runs to compare skips its step.
        model.state()["update/loss_scale"].assign(2.0**8)
    return model


def run(strategy, loss, precision="float32", norm="frozen", parts=1, xla=False):
    """Returns all a run of two steps logs and holds: dict of names to arrays.

    Without the moving statistics of training norms, which each replica keeps of its
    own rows: tests/models/test_batch_norm.py.
    """
    tf.keras.mixed_precision.set_global_policy(precision)
    try:
        with strategy.scope():
            model = make(loss, norm, parts)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    rng = np.random.default_rng(5)
    batches = [toys.batch(rng, rows=ROWS) for _ in range(STEPS)]
    stacked = {name: tf.stack([b[name] for b in batches]) for name in batches[0]}
    dataset = tf.data.Dataset.from_tensor_slices(stacked)
    step = compile_step(model, strategy)
    if xla:
        step = tf.function(model.train_step, jit_compile=True, autograph=False)
    result = {f"start/{name}": v.numpy() for name, v in model.state().items()}
    logged = [
        {name: float(value) for name, value in step(rows).items()}
        for rows in distribute(strategy, dataset)
    ]
    for name in logged[0]:
        result[f"logged/{name}"] = np.array([terms[name] for terms in logged])
    result.update({f"end/{name}": v.numpy() for name, v in model.state().items()})
    if norm == "training":
        result = {key: v for key, v in result.items() if "/moving_" not in key}
    return result


def differences(one, other):
    """Returns how far two runs are apart, four numbers.

    `update`: of the weights, as a share of each variable's largest; `logged`: of
    the terms and norms, relative; `threshold`: of thresholds, in cosine; `count`: of
    pairs, critical pairs, positives above a threshold and skipped steps, in pieces.
    Critical pairs are compared from the second step on: the first thresholds are
    cosines of negatives, and on which side of itself such a pair stands is a matter
    of the last bit.
    """
    assert one.keys() == other.keys()
    worst = dict.fromkeys(("update", "logged", "threshold", "count"), 0.0)
    for name, value in one.items():
        kind, _, rest = name.partition("/")
        gaps = np.abs(np.float64(other[name]) - np.float64(value))
        gap = (gaps[1:] if rest.startswith("critical/") else gaps).max()
        if kind == "start":
            assert gap == 0, name
        elif rest.endswith("_histogram"):
            # How far the counted cosines are apart in the mean: rounding that takes
            # one of them over the edge of a bin is no larger than others.
            moved = np.abs(np.cumsum(np.float64(other[name]) - value)).sum()
            gap = moved * 2.0**-11 / max(np.sum(value), 1.0)
            worst["threshold"] = max(worst["threshold"], gap)
        elif rest.startswith("batch_tpr/"):
            pairs = np.round(gaps * one["logged/pairs/positive"]).max()
            worst["count"] = max(worst["count"], pairs)
        elif rest.startswith("threshold/") or "_thresholds" in rest:
            worst["threshold"] = max(worst["threshold"], gap)
        elif rest.startswith(("critical/", "pairs/", "skipped_steps", "update/")):
            worst["count"] = max(worst["count"], gap)
        elif kind == "logged":
            largest = max(np.abs(value).max(), 1e-12)
            worst["logged"] = max(worst["logged"], gap / largest)
        elif kind == "end":
            moved = np.abs(np.float64(value) - one[f"start/{rest}"]).max()
            worst["update"] = max(worst["update"], gap / moved if moved else gap)
    return worst


def cases():
    """Returns the names and arguments of all runs of a place."""
    frozen = {
        f"{precision}/{loss}": {"loss": loss, "precision": precision}
        for precision in PRECISIONS
        for loss in LOSSES
    }
    return {**frozen, "training": {"loss": "two", "norm": "training"}}


def runs_in(place, hosts=(), index=0):
    """Runs all cases in a place, in this process; returns their results."""
    parts = int(place[-1]) if " in " in place else 1
    if place == "2 processes":
        cluster = {"worker": hosts}
        task = {"type": "worker", "index": index}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
        strategy = make_strategy("multi_worker")
    elif place in ("2", "4"):
        set_virtual_devices(int(place))
        strategy = make_strategy("mirrored")
    else:
        strategy = make_strategy("none")
    results = {}
    for case, arguments in cases().items():
        if case == "training":
            if "XLA" in place:
                continue
            arguments = {**arguments, "parts": parts}
        results[case] = run(strategy, xla="XLA" in place, **arguments)
    return results


def free_ports(count):
    """Returns ports of this machine nobody listens on."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def runs_of(place):
    """Runs all cases in a place, in processes of their own; returns their results."""
    count = 2 if place == "2 processes" else 1
    hosts = [f"localhost:{port}" for port in free_ports(count)]
    with multiprocessing.get_context("spawn").Pool(count) as processes:
        tasks = [(place, hosts, index) for index in range(count)]
        return processes.starmap(runs_in, tasks, chunksize=1)[0]
