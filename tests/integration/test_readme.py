"""What the documents show is so: flags and links exist, and the ten lines train."""

import functools
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import toys
from commands import run

from ekd_tf.heads import ArcFace

ROOT = pathlib.Path(__file__).parents[2]
ROOMS = sorted(
    str(path.relative_to(ROOT))
    for top in ("ekd_tf", "flags", "tools")
    for path in (ROOT / top).rglob("README.md")
)
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "tools/candidates.md", *ROOMS]
MOST_LINES = 220
# Of tensorboard and TF Serving.
FOREIGN = {"logdir", "model_name", "model_base_path", "rest_api_port"}


def text_of(document):
    return (ROOT / document).read_text(encoding="utf-8")


def shown_flags():
    """Returns the programs shown with flags, each with their names."""
    shown = {}
    for document in DOCUMENTS:
        text = text_of(document).replace("\\\n", " ")
        for program, line in re.findall(r"(ekd_tf\.\w+|tools/\S+\.py)([^`\n]*)", text):
            if flags := re.findall(r"(?<!\S)--(\w+)", line):
                shown.setdefault(program, set()).update(flags)
    return shown


@functools.lru_cache(maxsize=None)
def defined_flags(program):
    """Returns the names a program takes as flags, "no" before those of switches too."""
    is_script = program.startswith("tools/")
    done = run(ROOT / program if is_script else program[len("ekd_tf.") :], "--helpfull")
    flags = re.findall(r"^ +(?:-\w,)?--(\[no\])?(\w+)", done.stdout, re.MULTILINE)
    assert flags, done.stderr[-2000:]
    return {prefix + flag for no, flag in flags for prefix in ("", no.strip("[]"))}


def test_a_command_takes_the_flags_it_is_shown_with_and_every_flag_named_is_one():
    shown = shown_flags()
    for program, flags in shown.items():
        assert not flags - defined_flags(program), program
    known = set.union(*map(defined_flags, shown), FOREIGN, {"help"})
    for document in DOCUMENTS:
        named = set(re.findall(r"(?<![\w-])--(\w+)", text_of(document)))
        assert not named - known, document


def anchors(path):
    """Returns what a link can point to in a document, as GitHub names its headings."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


def test_every_relative_link_leads_somewhere():
    for document in DOCUMENTS:
        for link in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", text_of(document)):
            file, _, anchor = link.partition("#")
            path = (ROOT / document).parent / file if file else ROOT / document
            assert path.exists(), f"{document}: {link}"
            assert not anchor or anchor in anchors(path), f"{document}: {link}"
    # The README can be read at one sitting and leads to every room.
    assert len(text_of("README.md").splitlines()) <= MOST_LINES
    links = re.findall(r"\]\(([^)#\s]+)", text_of("README.md"))
    assert set(ROOMS) <= set(links)


def test_the_loop_of_the_readme_trains(rng):
    text = text_of("README.md")
    (loop,) = re.findall(r"```python\n(import tensorflow.*?)```", text, re.S)
    student, teacher = toys.backbone(dim=128), toys.backbone(dim=512)
    before = [np.array(weights) for weights in student.trainable_variables]
    images = tf.constant(rng.integers(0, 256, (8, toys.SIZE, toys.SIZE, 3)), tf.uint8)
    batch = images, tf.constant([0, 0, 1, 1, 2, 2, 3, 3]), tf.range(8)
    head = ArcFace(4)

    def margin_loss(embeddings, labels):
        losses = keras.losses.sparse_categorical_crossentropy
        logits = head(embeddings, labels)
        return tf.reduce_mean(losses(labels, logits, from_logits=True))

    names = {"student": student, "teacher": teacher, "margin_loss": margin_loss}
    names["batches"] = [batch, batch]
    exec(loop, names)
    assert names["terms"].keys() == {"ekd/positive", "ekd/negative"}
    assert np.isfinite(names["loss"]) and names["terms"]["ekd/positive"] > 0
    for left, right in zip(before, student.trainable_variables):
        assert np.abs(left - right).max() > 0


# Fast siblings: the loop above, and tests/training/test_keras_fit.py.
@pytest.mark.slow
def test_the_keras_example_runs(tmp_path, monkeypatch):
    (example,) = re.findall(
        r"<!-- keras example -->\n```python\n(.*?)```",
        text_of("ekd_tf/training/README.md"),
        re.S,
    )
    assert len(example.strip().splitlines()) <= 21
    # As it stands it takes minutes: of fewer people, one epoch.
    for many, few in (("200", "20"), ("(50, 10,", "(8, 3,"), ("epochs=10", "epochs=1")):
        assert many in example
        example = example.replace(many, few)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(example, names)
    assert names["model"].history.history["val_auc"][0] > 0
    student = keras.models.load_model("student.keras")
    assert student.output_shape == (None, 64)
    for left, right in zip(student.get_weights(), names["student"].get_weights()):
        np.testing.assert_array_equal(left, right)
