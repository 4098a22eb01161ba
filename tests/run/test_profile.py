"""Which steps a profile holds, read from the trace itself."""

import pytest
import tensorflow as tf
from traces import steps_in

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
    ("text", "start", "traces"),
    [
        ("3:4", 0, [[3, 4]]),
        ("3:4", 3, [[4]]),
        ("3:4", 4, []),
        ("1:9", 0, [list(range(1, 7))]),
    ],
)
def test_traces_those_of_its_steps_that_are_made(tmp_path, text, start, traces):
    run(tmp_path, text, 6, start)
    assert traced_steps(tmp_path) == traces


def test_a_run_that_dies_leaves_the_trace_so_far(tmp_path):
    def stop(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "2:8", 9, 0, Every(3, stop))
    assert traced_steps(tmp_path) == [[2, 3]]
    # Nothing is left running, which would forbid another.
    run(tmp_path / "next", "1:1", 1)
    assert traced_steps(tmp_path / "next") == [[1]]


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
