"""Makes a `.keras` file of a torch state_dict, to be a teacher or to be evaluated.

    python tools/convert_weights.py --family=insightface_r50 --weights=r50.pt \\
        --output=r50.keras

The model takes uint8 RGB images, as all models here do: scale and order of colours are
inside. Every key of the file is used once, or the rest is listed and nothing written.
"""

import os
import pathlib

from absl import flags

from ekd_tf.files.outputs import check_file
from ekd_tf.run import command

FAMILY = flags.DEFINE_string(
    "family",
    None,
    "The network: insightface_r18, _r34, _r50, _r100, _r200, _mbf, _mbf_large; "
    "tface_ir_18, _34, _50, _101, _152, _200, tface_mobilefacenet.",
)
WEIGHTS = flags.DEFINE_string(
    "weights", None, "A file of torch.save, or a .npz of the arrays by their keys."
)
OUTPUT = flags.DEFINE_string("output", None, "The .keras file to write.")
COLOR = flags.DEFINE_enum(
    "color",
    "rgb",
    ["rgb", "bgr"],
    "Order of the colours the weights were trained on. insightface's and TFace's own "
    "are rgb; AdaFace, of the same network as tface_ir_*, is bgr.",
)


def main():
    """Converts the file the flags name."""
    convert(FAMILY.value, WEIGHTS.value, OUTPUT.value, COLOR.value)


def convert(family, weights, out, color="rgb"):
    """Reads, builds and writes; the arguments are the flags."""
    from ekd_tf.embedders import read_state_dict
    from ekd_tf.models import build_from_torch
    from ekd_tf.models import count_parameters

    out = pathlib.Path(out)
    if out.suffix != ".keras":
        raise ValueError(f"`output` must be a .keras file. Received: {out}")
    check_file("output", out)
    state = read_state_dict(weights)
    try:
        model = build_from_torch(family, state, color)
    except ValueError as error:
        raise ValueError(f"{weights}: {error}") from error
    aside = out.with_name(f".{out.stem}.{os.getpid()}.keras")
    try:
        model.save(aside)
        os.replace(aside, out)
    finally:
        aside.unlink(missing_ok=True)
    size, dim = model.input_shape[1], model.output_shape[1]
    print(
        f"Wrote {out}: {family}, {count_parameters(model):,} parameters, "
        f"uint8 RGB ({size}, {size}, 3) -> ({dim},)."
    )


if __name__ == "__main__":
    command.run(main, "convert_weights", required=["family", "weights", "output"])
