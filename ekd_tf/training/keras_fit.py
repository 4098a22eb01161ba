"""What `keras.Model` offers, made right for a backbone trained beside a teacher.

`FaceClassifier` says what a step does; this says what `fit`, `evaluate` and `save` do
with it.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ekd_tf.data import Pipeline
from ekd_tf.data import Source
from ekd_tf.data import evaluation_batches
from ekd_tf.evaluation import Embedder
from ekd_tf.evaluation import verify_embeddings
from ekd_tf.keras_compat import IS_KERAS_3
from ekd_tf.keras_compat import tf_variable

# Names on the progress bar, in this order; those that end with "/" are beginnings.
_SHOWN = ("loss", "loss/", "gradient_ratio/", "gradient_norm", "learning_rate")
_BATCH_SIZE = 128


class ShortProgress(keras.callbacks.ProgbarLogger):
    """Keras' progress bar with the first five scalars of a step and of a validation."""

    def __init__(self):
        super().__init__(**({} if IS_KERAS_3 else {"count_mode": "steps"}))

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        super().on_train_batch_end(batch, _shown(logs))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        super().on_epoch_end(epoch, _shown(logs))


def _shown(logs):
    logs = logs or {}
    names = [
        name
        for shown in _SHOWN
        for name in logs
        if name == shown or (shown[-1] == "/" and name.startswith(shown))
    ]
    names = names[:5] + [name for name in logs if name.startswith("val_")][:5]
    return {name: logs[name] for name in names}


class Untracked:
    """Hides an object from Keras' attribute tracking."""

    def __init__(self, value: Any):
        self.value = value


class BackboneModel(keras.Model):
    """A `keras.Model` around a backbone: what is fitted is more than what is saved.

    `save_weights` holds all that is trained: backbone, head, losses with their state,
    optimizer and loss scale, and no teacher.
    """

    def __init__(self, backbone: keras.Model, name: str | None = None):
        # The policy of this container decides nothing: the parts have their own. It
        # is float32 so that `compile` adds no second loss scaling.
        super().__init__(name=name, dtype="float32")
        self.backbone = backbone
        # Every replica returns the scalars of the global batch. Keras would take the
        # mean of them, or in Keras 2 the sum.
        self.distribute_reduction_method = "first"
        self._update: Any = None
        self._embedder = Untracked(Embedder(backbone))
        self.built = True

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # To build a model, Keras 3 takes the mean of the first batch over replicas:
        # of bools there is none. All parts are built when they come here.
        pass

    def call(self, inputs: tf.Tensor | dict, training: bool = False) -> tf.Tensor:
        """Returns the raw embeddings, float32 `(batch, dim)`, of images or a batch."""
        images = inputs["image"] if isinstance(inputs, dict) else inputs
        # Those of a class of one's own are not known.
        wanted = getattr(self.backbone, "inputs", None) or [images]
        kinds = [tf.as_dtype(x.dtype) for x in (wanted[0], images)]
        # Keras would cast them: of floats up to 1 black pictures become.
        if kinds[0].is_integer and not kinds[1].is_integer:
            raise ValueError(
                f"Images must be {kinds[0].name}, 0 to 255. Received: {kinds[1].name}"
            )
        return self.backbone(images, training=training)

    def predict(self, *args: Any, **kwargs: Any) -> np.ndarray:
        """Embeds as `keras.Model.predict`, on every replica as the saved model would.

        Each replica has BatchNorm averages of its own while it trains.
        """
        if self.distribute_strategy.num_replicas_in_sync > 1:
            for variable in map(tf_variable, self.backbone.non_trainable_variables):
                variable.assign(variable.numpy())
        return super().predict(*args, **kwargs)

    def fit(
        self,
        x: Pipeline | tf.data.Dataset,
        y: None = None,
        *,
        steps_per_epoch: int | None = None,
        validation_data: Any = None,
        callbacks: list | None = None,
        verbose: Any = "auto",
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, under any strategy of one process.

        Args:
            x: `Pipeline`, or dataset of its batches, which divide among the replicas.
            y: None: batches hold their labels.
            steps_per_epoch: Int. None: for a `Pipeline` without end one visit of
                every image; else the whole dataset.
            validation_data: What `evaluate` takes as `x`, after every epoch.
        """
        if y is not None or isinstance(x, Source):
            raise ValueError(
                "`fit` takes a Pipeline, as `make_pipeline` makes of a Source, or a "
                f"dataset of its batches. Received: {type(x).__name__}"
                f"{'' if y is None else ' and labels'}"
            )
        pipeline = x if isinstance(x, Pipeline) else None
        if pipeline is not None:
            x = pipeline.dataset
            steps_per_epoch = steps_per_epoch or pipeline.steps_per_epoch
        _check_divisible(x, self.distribute_strategy.num_replicas_in_sync)
        # Else Keras warns that it leaves the order to the dataset.
        kwargs.setdefault("shuffle", False)
        count = _BatchCount()
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = [*(callbacks or []), count]
            bars = [isinstance(c, keras.callbacks.ProgbarLogger) for c in callbacks]
            if verbose and not any(bars):
                callbacks.append(ShortProgress())
        if validation_data is not None:
            kwargs["validation_data"] = self._dataset_of(validation_data)
            if isinstance(validation_data, Pipeline):
                kwargs.setdefault("validation_steps", validation_data.steps_per_epoch)
        try:
            return super().fit(
                x,
                steps_per_epoch=steps_per_epoch,
                callbacks=callbacks,
                verbose=verbose,
                **kwargs,
            )
        except tf.errors.OpError:
            if pipeline:
                done = count.total if steps_per_epoch else count.epoch
                pipeline.check_images(pipeline.start_step + done)
            raise

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int | None = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> dict[str, float] | list[float]:
        """Verifies all pairs of labelled images, best of identities not trained on.

        An image counts once, its embedding being the sum of its own and its mirror
        image's, as in `ekd_tf.evaluate`.

        Args:
            x: `Source`; `Pipeline` or dataset of batches with `image`, `label` and
                `image_id`, or of pairs of images and labels; or uint8 images `(n,
                height, width, 3)`.
            y: Integer labels `(n,)`, where `x` are images.
            batch_size: Int, images per forward pass of a `Source` or of images.
            steps: Int, batches. None: all; of a `Pipeline` without end an epoch.
            **kwargs: What `keras.Model.fit` adds; ignored.

        Returns:
            Dict, or list, of `accuracy` (ten folds over drawn pairs), `auc`, `eer` and
            `tpr_at_fpr_1e-1` to `1e-4` of all pairs, as far as ten negative pairs
            stand behind the FPR.
        """
        if steps is None and isinstance(x, Pipeline):
            steps = x.steps_per_epoch
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = keras.callbacks.CallbackList(callbacks, model=self)
        callbacks.on_test_begin()
        dataset = self._dataset_of(x, y, batch_size)
        labels, image_ids = [], []

        def images():
            for batch in dataset if steps is None else dataset.take(steps):
                if not isinstance(batch, dict):
                    batch = dict(zip(("image", "label"), batch))
                labels.append(np.asarray(batch["label"]))
                if "image_id" in batch:
                    image_ids.append(np.asarray(batch["image_id"]))
                yield batch["image"]

        with self.averaged_weights():
            embeddings = self._embedder.value(images())
        all_labels = np.concatenate(labels)
        if image_ids:
            _, first = np.unique(np.concatenate(image_ids), return_index=True)
            embeddings, all_labels = embeddings[first], all_labels[first]
        scalars = verify_embeddings(embeddings, all_labels).scalars("")
        figures = {name.lstrip("/"): value for name, value in scalars.items()}
        callbacks.on_test_end(figures)
        return figures if return_dict else list(figures.values())

    def save(self, filepath: Any, overwrite: bool = True, **kwargs: Any) -> None:
        """Writes the backbone alone, as `keras.Model.save` does: what is deployed."""
        with self.averaged_weights():
            self.backbone.save(filepath, overwrite=overwrite, **kwargs)

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Exports the backbone alone, as `keras.Model.export` does."""
        with self.averaged_weights():
            self.backbone.export(filepath, *args, **kwargs)

    def save_own_variables(self, store: Any) -> None:
        """Adds the loss scale and the counts of steps to `save_weights`."""
        for name, variable in self._update_state().items():
            store[name] = variable.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Reads what `save_own_variables` wrote, if both models are compiled."""
        for name, variable in self._update_state().items():
            if name in store.keys():
                variable.assign(store[name])

    def _update_state(self):
        return self._update.value.state if self._update else {}

    def _dataset_of(self, x, y=None, batch_size=None):
        """Returns what `evaluate` takes as a `tf.data.Dataset`."""
        if isinstance(x, Pipeline):
            return x.dataset
        if isinstance(x, tuple) and y is None:
            x, y = x
        batch_size = batch_size or _BATCH_SIZE
        if isinstance(x, Source):
            return source_batches(x, self.backbone.input_shape[1], batch_size)
        if y is not None:
            return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)
        if not isinstance(x, tf.data.Dataset):
            raise ValueError(
                "`x` must be a Source, a Pipeline, a tf.data.Dataset of their batches, "
                f"or images with labels as `y`. Received: {type(x).__name__}"
            )
        return x


def source_batches(source: Source, input_size: int, batch_size: int) -> tf.data.Dataset:
    """Returns batches of every image of a source once, in order, resized where needed.

    Dicts of `image` uint8 `(batch, input_size, input_size, 3)`, `label` and `image_id`,
    its number, int32 `(batch,)`.
    """
    labels = np.asarray(source.labels, np.int32)
    numbers = np.arange(len(source), dtype=np.int32)

    def batches():
        starts = range(0, len(source), batch_size)
        images = evaluation_batches(source, numbers, input_size, batch_size)
        for start, rows in zip(starts, images):
            part = slice(start, start + batch_size)
            yield {"image": rows, "label": labels[part], "image_id": numbers[part]}

    vector = tf.TensorSpec([None], tf.int32)
    image = tf.TensorSpec([None, input_size, input_size, 3], tf.uint8)
    return tf.data.Dataset.from_generator(
        batches, output_signature={"image": image, "label": vector, "image_id": vector}
    )


class _BatchCount(keras.callbacks.Callback):
    """Counts batches, so that the one that could not be read has a number."""

    total = epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = 0

    def on_train_batch_end(self, batch, logs=None):
        self.total += 1
        self.epoch += 1


def _check_divisible(data, replicas):
    """Raises `ValueError` unless each replica gets as many rows as the others."""
    if replicas == 1 or not isinstance(data, tf.data.Dataset):
        return
    for spec in tf.nest.flatten(data.element_spec):
        rows = spec.shape[0] if spec.shape.rank else None
        if rows is None or rows % replicas:
            raise ValueError(
                "The rows of a batch must be divisible by the number of replicas, and "
                "their number known beforehand (`batch(..., drop_remainder=True)`). "
                f"Received: {rows} rows for {replicas} replicas"
            )
