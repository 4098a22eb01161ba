import math

import keras
import numpy as np
import tensorflow as tf
from refusals import refused

from ekd_tf.training.schedules import CosineSchedule
from ekd_tf.training.schedules import StepSchedule


def values(schedule, steps):
    return [float(schedule(step)) for step in steps]


def test_warmup_rises_linearly_to_the_base():
    schedule = StepSchedule(base=0.2, warmup_steps=4)
    expected = [0.05, 0.1, 0.15, 0.2, 0.2, 0.2]
    np.testing.assert_allclose(values(schedule, range(6)), expected, rtol=1e-6)
    assert values(StepSchedule(base=0.5), [0, 1, 10**9]) == [0.5, 0.5, 0.5]


def test_step_drops_at_each_boundary():
    schedule = StepSchedule(base=0.1, boundaries=[3, 5])
    found = values(schedule, [0, 2, 3, 4, 5, 10**10])
    np.testing.assert_allclose(found, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-6)
    # From the start of the run, the warm-up included.
    schedule = StepSchedule(base=0.4, boundaries=[2], factor=0.5, warmup_steps=2)
    np.testing.assert_allclose(values(schedule, range(4)), [0.2, 0.4, 0.2, 0.2])


def test_cosine_by_hand():
    # From 0.4 to 0: a quarter of the way 0.2 * (1 + cos 45 degrees).
    schedule = CosineSchedule(base=0.4, total_steps=8)
    expected = [0.4, 0.2 * (1 + math.sqrt(0.5)), 0.2, 0, 0]
    np.testing.assert_allclose(values(schedule, [0, 2, 4, 8, 100]), expected, atol=1e-7)
    # Warm-up 1/2, 1; then the cosine over steps 2 to 6.
    schedule = CosineSchedule(base=1.0, total_steps=6, warmup_steps=2)
    expected = [0.5, 1.0, 1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0]
    np.testing.assert_allclose(values(schedule, range(7)), expected, atol=1e-7)


def test_a_config_keeps_every_argument_and_a_graph_the_values():
    steps = tf.range(11, dtype=tf.int64)
    for schedule in (
        StepSchedule(base=0.1, boundaries=[6, 9], factor=0.5, warmup_steps=4),
        CosineSchedule(base=0.1, total_steps=20, warmup_steps=4),
    ):
        config = keras.optimizers.schedules.serialize(schedule)
        restored = keras.optimizers.schedules.deserialize(config)
        assert type(restored) is type(schedule) and vars(restored) == vars(schedule)
        traced = tf.function(lambda s=restored: tf.map_fn(s, steps, tf.float32))
        np.testing.assert_allclose(traced(), values(schedule, range(11)), rtol=1e-6)


def test_rejects_wrong_arguments():
    for arguments, words in (
        ({"base": 0.0}, "`base` must be in .*base=0.0"),
        ({"warmup_steps": -1}, "`warmup_steps` must be"),
        ({"boundaries": [1], "factor": 1.0}, "`factor` must be"),
        ({"boundaries": [5, 5]}, "`boundaries` must increase"),
        ({"boundaries": [3], "warmup_steps": 4}, r"\[3\], warmup_steps=4"),
    ):
        refused(words, StepSchedule, **{"base": 1, **arguments})
    refused("`total_steps` must", CosineSchedule, base=1, total_steps=4, warmup_steps=4)
