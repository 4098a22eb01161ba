"""tools/swap_activation.py: a PReLU student becomes a ReLU one."""

import pathlib

import keras
import pytest
from commands import run

from ekd_tf.models import MobileFaceNet

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "swap_activation.py"


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    path = tmp_path_factory.mktemp("student") / "prelu.keras"
    MobileFaceNet(width=0.125, input_size=32, embedding_dim=8).save(path)
    return path


# Its fast sibling is tests/models/test_activations.py.
@pytest.mark.slow
def test_the_student_written_has_no_prelu_and_has_been_trained(student, tmp_path):
    output = tmp_path / "relu.keras"
    done = run(
        TOOL,
        f"--model={student}",
        f"--output={output}",
        "--data=synthetic:identities=4,images=3,size=32",
        "--steps=2",
        "--balanced_identities=4",
        "--images_per_identity=2",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    before = keras.models.load_model(student, compile=False)
    after = keras.models.load_model(output, compile=False)
    kinds = {type(layer).__name__ for layer in after.layers}
    assert "ReLU" in kinds and "PReLU" not in kinds
    name = "conv1.conv"
    moved = after.get_layer(name).kernel - before.get_layer(name).kernel
    assert float(abs(moved.numpy()).max()) > 0


@pytest.mark.slow
def test_a_mistake_ends_in_one_line(student):
    done = run(TOOL, f"--model={student}", "--output=x.keras")
    assert done.returncode == 1
    assert "is not the workdir of a run" in done.stderr
    assert "Traceback" not in done.stderr
