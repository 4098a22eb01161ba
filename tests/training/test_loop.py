import numpy as np
import tensorflow as tf
from toys import backbone
from toys import batch

from ekd_tf.heads import ArcFace
from ekd_tf.training.classifier import FaceClassifier
from ekd_tf.training.loop import Every
from ekd_tf.training.loop import compile_step
from ekd_tf.training.loop import run_steps


class Recorder:
    """Stands in for the progress line and records what the loop does."""

    def __init__(self):
        self.events = []

    def update(self, count, terms):
        self.events.append(("update", count, sorted(terms)))

    def pause(self):
        self.events.append(("pause",))

    def close(self):
        self.events.append(("close",))

    def act(self, name):
        return lambda step, *scalars: self.events.append((name, step))


def make():
    model = FaceClassifier(backbone(), ArcFace(num_identities=3, scale=4.0))
    model.compile(tf.keras.optimizers.SGD(0.1))
    return model


def run(rng, start, steps, log_every=2, other_every=3):
    recorder = Recorder()
    dataset = tf.data.Dataset.from_tensors(batch(rng)).repeat(steps - start)
    run_steps(
        make(),
        tf.distribute.get_strategy(),
        dataset,
        start,
        steps,
        8,
        recorder,
        Every(log_every, recorder.act("log")),
        [Every(other_every, recorder.act("save"))],
    )
    return recorder.events


def steps_of(events, name):
    return [event[1] for event in events if event[0] == name]


def test_acts_every_so_many_steps_and_after_the_last(rng):
    events = run(rng, 0, 7)
    assert steps_of(events, "log") == [2, 4, 6, 7]
    assert steps_of(events, "save") == [3, 6, 7]
    assert steps_of(events, "update") == [8] * 7


def test_zero_means_after_the_last_step_only(rng):
    assert steps_of(run(rng, 0, 5, other_every=0), "save") == [5]


def test_resumed_loop_counts_on(rng):
    events = run(rng, 4, 7)
    assert steps_of(events, "log") == [6, 7]
    assert steps_of(events, "save") == [6, 7]
    assert len(steps_of(events, "update")) == 3


def test_pauses_the_progress_line_for_other_actions(rng):
    events = run(rng, 0, 3)
    assert events[events.index(("save", 3)) - 1] == ("pause",)


def test_shows_loss_terms_and_not_the_loss_scale(rng):
    update = run(rng, 0, 1)[0]
    assert update[2] == ["loss", "loss/margin"]


def test_step_is_traced_once(rng):
    model = make()
    step = compile_step(model, tf.distribute.get_strategy())
    for _ in range(3):
        out = step(batch(rng))
    assert step.experimental_get_tracing_count() == 1
    assert np.isfinite(float(out["loss"]))
