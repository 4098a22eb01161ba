"""Tests for `ekd_tf.run.guards`."""

import numpy as np
import pytest

from ekd_tf.data import SyntheticFaces
from ekd_tf.run.guards import CollapseGuard
from ekd_tf.run.guards import FaintLossHook
from ekd_tf.run.guards import LateHook
from ekd_tf.run.guards import RunStopped
from ekd_tf.run.guards import UpdateGuard
from ekd_tf.training.loop import Step

SOURCE = SyntheticFaces(identities=3, images_per_identity=4, size=32)


def embed(batch):
    """Image 7 has no finite embedding."""
    rows = np.ones((len(batch["image"]), 2))
    rows[np.asarray(batch["image"]) == 7, 0] = np.inf
    return rows


@pytest.fixture
def make_guard(tmp_path):
    def make(max_bad_steps, dynamic=False):
        models = [lambda x: np.ones((len(x["image"]), 2)), embed]
        return UpdateGuard(max_bad_steps, dynamic, SOURCE, models, tmp_path)

    return make


def feed(guard, bad, scale=1.0, ids=(2, 7)):
    """One step per entry, True for a skipped one, all but the last not the last."""
    for number, is_bad in enumerate(bad, 1):
        scalars = {"gradient_norm": np.nan if is_bad else 1.0, "loss_scale": scale}
        batch = {"image_id": np.array(ids), "image": np.array(ids)}
        guard.after_step(Step(number, number == len(bad), scalars, batch))


def test_consecutive_bad_steps_end_the_run(make_guard, tmp_path):
    with pytest.raises(RunStopped) as stopped:
        feed(make_guard(3), [0, 1, 1, 0, 1, 1, 1])
    text = str(stopped.value)
    assert text.startswith(
        "Loss or gradient of the last 3 steps, up to step 7, are not finite "
        "(--max_bad_steps=3). 1 of the last batch's 2 images have no finite "
        f"embedding: {SOURCE.describe(7)}. All batches are in "
    )
    expected = [f"{n}\t{SOURCE.describe(i)}" for n in (5, 6, 7) for i in (2, 7)]
    assert (tmp_path / "bad_steps.txt").read_text().splitlines() == expected


def test_says_when_no_image_is_at_fault_alone(make_guard):
    with pytest.raises(RunStopped, match="No image is at fault alone; the batches"):
        feed(make_guard(1), [1], ids=(2, 3))


def test_search_of_the_loss_scale_is_no_collapse(make_guard):
    feed(make_guard(20, dynamic=True), [1, 1, 1, 0], scale=4096.0)


def test_collapsed_loss_scale_ends_the_run_at_once(make_guard):
    with pytest.raises(RunStopped, match="scale has collapsed: at step 2 loss or"):
        feed(make_guard(20, dynamic=True), [0, 1, 0], scale=1.0)


def test_without_scaling_a_scale_of_one_says_nothing(make_guard):
    feed(make_guard(20), [0, 1, 0], scale=1.0)


def test_rows_of_all_replicas_are_joined(tmp_path):
    guard = UpdateGuard(1, False, SOURCE, [embed], tmp_path, lambda value: value)
    parts = (np.array([1, 7]), np.array([7, 2]))
    scalars = {"gradient_norm": np.nan, "loss_scale": 1.0}
    with pytest.raises(RunStopped, match="2 of the last batch's 4 images"):
        guard.after_step(Step(1, True, scalars, {"image_id": parts, "image": parts}))


def collapse(steps, cosines):
    guard = CollapseGuard(steps)
    for number, cosine in enumerate(cosines, 1):
        scalars = {"embedding/mean_cosine": cosine}
        guard.after_step(Step(number, number == len(cosines), scalars, {}))


def test_collapsed_embeddings_end_the_run():
    with pytest.raises(RunStopped, match="for 2 steps, up to step 4, .*0.9950"):
        collapse(2, [0.995, 0.5, 0.992, 0.995])


def test_embeddings_that_come_apart_again_go_on():
    collapse(3, [0.999, 0.999, 0.99, 0.999, 0.999])


def test_scalars_are_read_one_step_late_and_the_last_at_once():
    seen = []

    class Watcher(LateHook):
        def look(self, step):
            seen.append(step.number)

    hook = Watcher()
    hook.after_step(Step(1, False, {}, {}))
    assert seen == []
    hook.after_step(Step(2, False, {}, {}))
    assert seen == [1]
    hook.after_step(Step(3, True, {}, {}))
    assert seen == [1, 2, 3]


def test_a_loss_without_gradient_is_warned_of_once(caplog):
    faint, paused = [0.001, np.nan, 0.002, 0.003], []
    ratios = {"ekd": [0.5, *faint, 0.001, 1.0], "sp": [*faint[:3], 1.0, *faint[:3]]}
    hook = FaintLossHook(lambda: paused.append(len(caplog.records)), steps=3)
    for number, values in enumerate(zip(*ratios.values()), 1):
        scalars = {"loss": 1.0, "weight/ekd": 2.0, "weight/sp": 2.0}
        scalars.update({f"gradient_ratio/{k}": v for k, v in zip(ratios, values)})
        hook.after_step(Step(number, number == 7, scalars, {}))
    (record,) = caplog.records
    # Skipped steps, which have no ratio, do not count; SP was never faint for three.
    assert paused == [0] and record.getMessage() == (
        "For 3 steps, up to step 5, the gradient of 'ekd' on the embeddings was below "
        "1 % of the margin loss's: 0.2 % on average at weight 2. --distill=ekd:30% "
        "makes it 30 % and keeps it there."
    )
