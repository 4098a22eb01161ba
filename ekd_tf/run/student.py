"""The student that --model names, and the weights it starts from."""

from __future__ import annotations

import functools
import inspect
import pathlib
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import keras
from absl import logging

from ekd_tf import checks
from ekd_tf.embedders import load_embedder
from ekd_tf.embedders import open_embedder
from ekd_tf.embedders.keras_model import KerasEmbedder
from ekd_tf.embedders.opening import split_model
from ekd_tf.export.convert import ConversionError
from ekd_tf.export.convert import convert_tflite
from ekd_tf.models import BACKBONES
from ekd_tf.models import applications
from ekd_tf.models import own
from ekd_tf.models.own import copy_weights
from ekd_tf.run.settings import has_argument
from ekd_tf.run.settings import read_words
from ekd_tf.run.settings import settings_of

FORMS = ("FILE.keras", "keras:NAME", "package.module:function")


def make_student(spec: str, **flags: Any) -> keras.Model:
    """Builds the network that `--model` names.

    `flags` are `input_size` and other arguments of the builders; those that a network
    does not take are left out. What is built maps uint8 images of `input_size` to
    embeddings.
    """
    if _is_file(spec):
        path, pixels = split_model(spec)
        if not pixels.keys() <= {"low", "high"}:
            raise ValueError(
                f"`--model={spec}`: only @LOW..HIGH may follow a .keras file, which "
                "takes red first"
            )
        student = own.as_backbone(load_embedder(path), str(path), **pixels)
    else:
        build, words = _builder(spec)
        place = f"--model={spec.partition('=')[0].rpartition(':')[0] or spec}"
        _check_flags(spec, build, flags)
        settings = settings_of(build, (*flags, "name", "version", "variant", "depth"))
        if spec.startswith("keras:"):
            settings.update(applications.settings_of_network(spec.split(":")[1]))
        arguments = read_words(place, words, settings)
        given = {name: value for name, value in flags.items() if takes(spec, name)}
        if is_built_in(spec):
            student = build(**given, **arguments)
        else:
            student = own.as_backbone(_built(spec, build, given | arguments), place)
    size = student.input_shape[1]
    if size != flags["input_size"]:
        raise ValueError(
            f"`--model={spec}` takes images of {size} px: give --input_size={size}. "
            f"Received: --input_size={flags['input_size']}"
        )
    return student


def takes(spec: str, name: str) -> bool:
    """Returns whether a flag of that name is an argument of the network."""
    if _is_file(spec):
        return False
    build, _ = _builder(spec)
    return has_argument(build, name)


def is_built_in(spec: str) -> bool:
    """Returns whether a network is one of this package's."""
    return not _is_file(spec) and spec.partition(":")[0] in (*BACKBONES, "keras")


def _is_file(spec):
    return split_model(spec)[0].suffix == ".keras"


def _builder(spec: str) -> tuple[Callable[..., keras.Model], list[str]]:
    """Returns what builds a network, and the words behind its name."""
    name, *words = spec.split(":")
    if name == "keras" and words:
        network = words.pop(0)
        checks.check_choice("model=keras:", network, applications.list_applications())
        return functools.partial(applications.Application, network), words
    if name not in BACKBONES and own.is_function(spec):
        return own.load_function(spec), words[1:]
    checks.check_choice("model", name, (*BACKBONES, *FORMS))
    return BACKBONES[name], words


def _check_flags(spec, build, flags):
    """Refuses a function whose arguments neither flags nor defaults give."""
    for name, parameter in inspect.signature(build).parameters.items():
        several = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.default is parameter.empty and name not in flags and not several:
            raise ValueError(
                f"`--model={spec}` takes {name!r}, which is no flag and has no "
                f"default: give it one in the function, and :{name}=VALUE sets it"
            )


def _built(spec, build, arguments):
    """Calls a function of the user's own, and says where it fails."""
    try:
        return build(**arguments)
    # Whatever it does.
    except Exception as error:
        file = getattr(getattr(build, "__code__", None), "co_filename", None)
        frames = traceback.extract_tb(error.__traceback__)
        own = [f"{f.filename}:{f.lineno}: " for f in frames if f.filename == file]
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"`--model={spec}` cannot be built: {''.join(own[-1:])}{reason}"
        ) from error


def check_loads(student: keras.Model, spec: str) -> None:
    """Refuses before the training a network that no one could read from its file."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        try:
            student.save(path)
            load_embedder(path)
        # What Keras raises in saving is of no one kind.
        except Exception as error:
            reason = " ".join(str(error).split()).rpartition("cannot be loaded: ")[2]
            raise ValueError(
                f"`--model={spec}` could not be loaded from its file after the "
                f"training: {reason.rstrip('.')}. Register layers of your own by "
                "@keras.saving.register_keras_serializable(), and write one in the "
                "place of a Lambda"
            ) from error


def start_from(student: keras.Model, spec: str, partial: bool) -> None:
    """Gives a student the weights of what `--init` names.

    With `partial` those without a counterpart may stay random, and are logged.
    """
    source = open_embedder(spec)
    if not isinstance(source, KerasEmbedder):
        raise ValueError(
            f"`--init={spec}` holds no Keras weights. Give a .keras file, the workdir "
            "of a run or FAMILY:FILE of torch"
        )
    left = copy_weights(source.model, student)
    count = len(student.weights)
    if left and (not partial or len(left) == count):
        way_out = "" if partial else ", or start these at random: --init_partial"
        raise ValueError(
            f"`--init={spec}` has nothing for {len(left)} of {count} weights: "
            f"{', '.join(left[:5])}{' ...' if len(left) > 5 else ''}. Build the same "
            f"network{way_out}"
        )
    if left:
        logging.info(
            "%d of %d weights start at random, the others from %s:\n  %s",
            *(len(left), count, spec, "\n  ".join(left)),
        )


def check_converts(student: keras.Model, needed: bool) -> None:
    """Warns before the training of what TFLite has no operation for.

    Where an export is `needed` that is a `ValueError`.
    """
    try:
        convert_tflite(student)
    except ConversionError as error:
        if needed:
            raise ValueError(f"`--export` is not possible: {error}") from error
        logging.warning("This network cannot be exported to TFLite: %s", error)
