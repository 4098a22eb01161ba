import warnings

import eager
import keras
import numpy as np
import pytest
import tensorflow as tf
from refusals import refused
from toys import backbone
from toys import step_of
from toys import values

from ekd_tf.data import BatchSampler
from ekd_tf.data import FolderFaces
from ekd_tf.data import SyntheticFaces
from ekd_tf.data import make_pipeline
from ekd_tf.evaluation import Embedder
from ekd_tf.evaluation import verify_embeddings
from ekd_tf.heads import ArcFace
from ekd_tf.keras_compat import tf_variable
from ekd_tf.losses import SPLoss
from ekd_tf.training.distiller import Distiller
from ekd_tf.training.keras_fit import source_batches

FACES = SyntheticFaces(6, 4, size=32)
OTHERS = SyntheticFaces(8, 3, size=32, first_identity=6)
op_by_op = pytest.mark.usefixtures("op_by_op")


def make(seed=0, batch_norm=True, optimizer=keras.optimizers.AdamW, **arguments):
    """A loss without thresholds, which is traced in no time."""
    student = backbone(seed=seed, batch_norm=batch_norm, size=32)
    teacher = backbone(dim=12, seed=7, size=32)
    head = ArcFace(FACES.num_identities, scale=4.0, margin=0.2)
    model = Distiller(student, teacher, {"sp": (SPLoss(), 2.0)}, head)
    model.compile(optimizer(1e-3, **arguments))
    return model


def pipeline_of(source=FACES, **kwargs):
    return make_pipeline(source, BatchSampler(source.labels, 8, 2, 2), 32, **kwargs)


def figures_of(model):
    rows = Embedder(model.backbone)([OTHERS.read(np.arange(len(OTHERS)))])
    report = verify_embeddings(rows, OTHERS.labels).scalars("")
    return {name[1:]: value for name, value in report.items()}


@pytest.mark.parametrize(
    "policy", ["float32", pytest.param("mixed_float16", marks=pytest.mark.slow)]
)
def test_fit_on_two_replicas_takes_the_steps_of_one(two_replicas, mixed_policy, policy):
    def fresh():
        keras.utils.set_random_seed(3)
        return make(batch_norm=False, optimizer=keras.optimizers.SGD, momentum=0.9)

    step, alone = step_of(fresh()), []
    with eager.op_by_op():
        for rows in pipeline_of(steps=3).dataset:
            alone.append(step(rows))
    mixed_policy(policy)
    with two_replicas.scope():
        model = fresh()
    history = model.fit(pipeline_of(), epochs=3, steps_per_epoch=1, verbose=0).history
    assert history.keys() == alone[0].keys()
    for name in history:
        expected = [logs[name] for logs in alone]
        if policy == "float32":
            np.testing.assert_allclose(history[name], expected, rtol=1e-4, err_msg=name)
        elif name.startswith("loss/margin"):
            np.testing.assert_allclose(history[name], expected, rtol=1e-2)
    assert history["loss_scale"] == [2.0**15 if policy != "float32" else 1.0] * 3


def test_an_endless_epoch_visits_every_image_and_shows_five_scalars(tmp_path, capsys):
    model = make()
    board = keras.callbacks.TensorBoard(str(tmp_path), update_freq=1)
    said = {"callbacks": [board], "verbose": 2}
    fitted = model.fit(pipeline_of(), epochs=2, validation_data=OTHERS, **said)
    history = fitted.history
    assert int(model.optimizer.iterations) == 2 * 3
    assert len(history["loss/sp"]) == 2
    last = {n[4:]: v[-1] for n, v in history.items() if n.startswith("val_")}
    assert last == pytest.approx(figures_of(model))
    line = capsys.readouterr().out.splitlines()[-1]
    shown = {name for name in history if f" {name}: " in line}
    losses = {"loss", "loss/margin", "loss/sp", "gradient_ratio/sp", "gradient_norm"}
    assert {name for name in shown if not name.startswith("val_")} == losses
    assert "val_accuracy" in shown
    # TensorBoard has them all.
    events = b"".join(p.read_bytes() for p in tmp_path.rglob("*tfevents*"))
    assert b"embedding/mean_cosine" in events


@op_by_op
def test_evaluation_counts_each_image_once_whatever_it_is_given():
    model = make()
    expected = figures_of(model)
    assert {"accuracy", "auc", "eer", "tpr_at_fpr_1e-1"} <= set(expected)
    images = OTHERS.read(np.arange(len(OTHERS)))
    for given in (
        OTHERS,
        source_batches(OTHERS, 32, 5).repeat(2),
        tf.data.Dataset.from_tensor_slices((images, OTHERS.labels)).batch(7),
        (images, OTHERS.labels),
        pipeline_of(OTHERS, flip=False),
    ):
        assert model.evaluate(given) == pytest.approx(expected, abs=1e-6)
    listed = model.evaluate(given, return_dict=False)
    assert listed == pytest.approx([*expected.values()], abs=1e-6)
    refused("`x` must be a Source", model.evaluate, images)
    others = dict.fromkeys(("label", "in_margin", "image_id"))
    for embed in (model, lambda x: model.train_step({"image": x, **others})):
        refused(
            "must be uint8, 0 to 255. Rec.* float32", embed, tf.zeros((2, 16, 16, 3))
        )


@op_by_op
def test_weights_hold_what_is_trained_and_the_file_the_student(tmp_path):
    model = make()
    model.fit(pipeline_of(steps=2), verbose=0)
    model.state()["update/skipped_steps"].assign(3)
    model.save_weights(str(tmp_path / "run.weights.h5"))
    other = make(seed=5)
    other.load_weights(str(tmp_path / "run.weights.h5"))
    for name, value in values(model).items():
        np.testing.assert_array_equal(values(other)[name], value, err_msg=name)
    # Of a model that was not compiled.
    own = Distiller(model.backbone, None, {"sp": SPLoss()}, model.head)
    own.save_weights(str(tmp_path / "own.weights.h5"))
    with warnings.catch_warnings():
        # Keras says that the optimizer was not saved.
        warnings.simplefilter("ignore")
        other.load_weights(str(tmp_path / "own.weights.h5"))
    assert int(values(other)["update/skipped_steps"]) == 3
    model.save(str(tmp_path / "student.keras"))
    student = keras.models.load_model(tmp_path / "student.keras")
    images = OTHERS.read(np.arange(4))
    np.testing.assert_allclose(student(images), model.backbone(images), rtol=1e-6)
    model.export(str(tmp_path / "exported"))
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(student(images), exported.serve(images), rtol=1e-5)
    predicted = model.predict({"image": images}, verbose=0)
    np.testing.assert_allclose(predicted, student(images), rtol=1e-5)


@op_by_op
def test_an_image_that_cannot_be_read_is_named(tmp_path):
    for index in range(12):
        folder = tmp_path / str(index % 3)
        folder.mkdir(exist_ok=True)
        picture = tf.io.encode_png(FACES.read([index])[0]).numpy()
        (folder / f"{index}.png").write_bytes(picture if index != 7 else b"no image")
    refused("7.png", make().fit, pipeline_of(FolderFaces(tmp_path)), verbose=0)


def test_rejects_batches_that_do_not_divide_and_metrics_of_keras(two_replicas):
    with two_replicas.scope():
        model = make()
    sampler = BatchSampler(FACES.labels, 7, 0)
    refused("7 rows for 2 replicas", model.fit, make_pipeline(FACES, sampler, 32))
    refused("Received: SyntheticFaces$", model.fit, FACES)
    refused("ndarray and labels$", model.fit, FACES.read([0]), FACES.labels[:1])
    refused("takes no `metrics`", model.compile, "sgd", metrics=["accuracy"])


def test_prediction_on_replicas_is_that_of_the_model_that_is_saved(two_replicas, rng):
    with two_replicas.scope():
        model = make()
    norms = [v for v in model.backbone.non_trainable_variables if "mean" in v.name]
    for variable in map(tf_variable, norms):
        # As training leaves them: of each replica's own rows.
        for number, copy in enumerate(variable.values):
            copy.assign(tf.fill(copy.shape, 1.0 + number))
    assert norms
    images = rng.integers(0, 256, (8, 32, 32, 3), np.uint8)
    predicted = model.predict(images, batch_size=4, verbose=0)
    np.testing.assert_allclose(predicted, model.backbone(images), rtol=1e-4, atol=1e-5)
