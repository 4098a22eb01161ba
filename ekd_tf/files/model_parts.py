"""What belongs to a model beside its file."""

from __future__ import annotations

import os
import pathlib
from typing import Any

SAVED_MODEL_FILE = "saved_model.pb"


def parts_beside(file: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the files and folders that hold a part of a model's file.

    Of a `saved_model.pb` its variables and assets, of an `.onnx` what it keeps tensors
    in, which takes onnx to find; of all others none.
    """
    file = pathlib.Path(file)
    names = []
    if file.name == SAVED_MODEL_FILE:
        names = ["variables", "assets", "assets.extra"]
    elif file.suffix.lower() == ".onnx":
        import onnx

        model = onnx.load(os.fspath(file), load_external_data=False)
        names = sorted(external_files(model))
    return [file.parent / n for n in names if (file.parent / n).exists()]


def external_files(message: Any) -> set[str]:
    """Returns the files that an ONNX model, or a part of one, keeps tensors in.

    Tensors of inner graphs and functions too.
    """
    if message.DESCRIPTOR.name == "TensorProto":
        return {e.value for e in message.external_data if e.key == "location"}
    files = set()
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                files |= external_files(part)
    return files
