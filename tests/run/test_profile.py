"""Which steps a profile holds, read from the trace itself."""

import types

import pytest
import tensorflow as tf
from traces import steps_in

from ekd_tf.run import profile as profile_module
from ekd_tf.run.profile import ProfileHook
from ekd_tf.run.profile import profiled_steps
from ekd_tf.training.loop import Every
from ekd_tf.training.loop import run_steps


def traced_steps(folder):
    """Returns the numbers of the steps in every trace below a TensorBoard folder."""
    return [steps_in(path) for path in sorted(folder.rglob("*.xplane.pb"))]


def run(folder, text, steps, start=0, *hooks):
    step = tf.function(lambda batch: {"loss": tf.reduce_sum(batch)})
    batches = iter(tf.data.Dataset.from_tensors(tf.ones((2, 2))).repeat())
    hook = ProfileHook(folder, profiled_steps(text))
    run_steps(step, batches, start, steps, [hook, *hooks])


@pytest.mark.parametrize(
    ("start", "traces"), [(0, [[3, 4]]), (2, [[3, 4]]), (3, [[4]]), (4, [])]
)
def test_traces_those_of_its_steps_that_are_made(tmp_path, start, traces):
    run(tmp_path, "3:4", 6, start)
    assert traced_steps(tmp_path) == traces


def test_traces_the_first_step_and_a_run_that_ends_within(tmp_path):
    run(tmp_path, "1:9", 2)
    assert traced_steps(tmp_path) == [[1, 2]]


def test_a_run_that_dies_leaves_the_trace_so_far(tmp_path):
    def stop(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "2:8", 9, 0, Every(3, stop))
    assert traced_steps(tmp_path) == [[2, 3]]
    # Nothing is left running, which would forbid another.
    run(tmp_path / "next", "1:1", 1)
    assert traced_steps(tmp_path / "next") == [[1]]


def test_other_hooks_are_not_in_the_trace(tmp_path, monkeypatch):
    order = []
    profiler = types.SimpleNamespace(
        start=lambda folder: order.append("start"),
        stop=lambda: order.append("stop"),
        Trace=tf.profiler.experimental.Trace,
    )
    fake = types.SimpleNamespace(profiler=types.SimpleNamespace(experimental=profiler))
    monkeypatch.setattr(profile_module, "tf", fake)
    run(tmp_path, "2:2", 3, 0, Every(1, lambda step: order.append(step.number)))
    assert order == [1, "start", "stop", 2, 3]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file") as error:
        run(tmp_path / "file", "1:1", 2)
    assert error.value.filename == str(tmp_path / "file")


def test_reads_the_first_and_the_last_step():
    assert list(profiled_steps("2:5")) == [2, 3, 4, 5]
    assert not profiled_steps("") and not profiled_steps(None)
    for text in ("5", "5:3", "0:2", "a:b", "1:2:3", "-1:2", "1: 2"):
        with pytest.raises(ValueError, match=f"must be FIRST:LAST.*{text!r}"):
            profiled_steps(text)
