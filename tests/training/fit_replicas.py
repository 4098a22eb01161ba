"""`Distiller.fit` on two replicas, as a process that must come to an end by itself.

    python tests/training/fit_replicas.py float32 mixed_float16

prints per policy one JSON object with the history of `fit`; before them one of the step
of a single device on the same batches, in float32.
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import keras
import tensorflow as tf
from toys import backbone

import ekd_tf
from ekd_tf.training.loop import compile_step
from ekd_tf.training.strategy import set_virtual_devices

STEPS = 3


def make():
    student = backbone(batch_norm=False, size=32)
    teacher = backbone(dim=12, seed=7, size=32)
    keras.utils.set_random_seed(3)
    losses = {"ekd": (ekd_tf.EKDLoss(student_dim=8, teacher_dim=12), 30.0)}
    head = ekd_tf.ArcFace(num_identities=6, scale=4.0, margin=0.2)
    model = ekd_tf.Distiller(student, teacher, losses, head)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    return model


def main(policies):
    set_virtual_devices(2)
    faces = ekd_tf.SyntheticFaces(6, 3, size=32)
    sampler = ekd_tf.BatchSampler(faces.labels, 8, 4, 2)
    alone = compile_step(make(), tf.distribute.get_strategy())
    pipeline = ekd_tf.make_pipeline(faces, sampler, 32, steps=STEPS)
    logs = [alone(batch) for batch in pipeline.dataset]
    print(json.dumps({name: [float(log[name]) for log in logs] for name in logs[0]}))
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for policy in policies:
        tf.keras.mixed_precision.set_global_policy(policy)
        with strategy.scope():
            model = make()
        endless = ekd_tf.make_pipeline(faces, sampler, 32)
        history = model.fit(endless, epochs=STEPS, steps_per_epoch=1, verbose=0)
        print(json.dumps(history.history))


if __name__ == "__main__":
    main(sys.argv[1:])
