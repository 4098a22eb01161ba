"""Embeds aligned face images with a TFLite student; needs no TensorFlow.

    pip install ai-edge-litert numpy pillow
    python tools/run_tflite.py student-1-int8.tflite a.jpg b.jpg

Prints the cosine of every pair of images and, where card.json beside the student gives
its threshold, whether they show one person; with `--output=FILE.npy` writes the
embeddings, float32 `(n, dim)` of length 1. Copy it into your project: it is one file
and imports nothing else of this one.
"""

import argparse
import hashlib
import itertools
import json
import os
import pathlib
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

# Pillow's own limit is below what photographs have.
MOST_PIXELS = 1 << 28
Image.MAX_IMAGE_PIXELS = None
ORIENTATION, BITS, PHOTOMETRIC = 0x0112, 0x0102, 0x0106
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path):
    """Returns an image file as RGB, upright, as the student saw images in training."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(
                    f"it is {image.width}x{image.height}: images of more than "
                    f"{MOST_PIXELS:,} pixels are not read. Make it smaller"
                )
            image.load()
            upright = to_rgb(image)
            turn = TURNS.get(orientation(image))
            return upright if turn is None else upright.transpose(turn)
    # Pillow's parsers raise nearly anything on damaged files.
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot read {path}: {reason}") from error


def orientation(image):
    """Returns the EXIF orientation of a loaded image, 1 where it has none."""
    if image.format == "TIFF":
        return image.tag_v2.get(ORIENTATION, 1)
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif") or b"")
        return exif.get(ORIENTATION, 1)
    # Damaged EXIF data say nothing.
    except Exception:
        return 1


def to_rgb(image):
    """Returns a loaded image as RGB."""
    gray16 = image.mode == "I" and image.format in ("PNG", "PPM")
    if image.mode.startswith("I;16") or gray16:
        tags = getattr(image, "tag_v2", {})
        gray = np.asarray(image) >> (tags.get(BITS, (16,))[0] - 8)
        if tags.get(PHOTOMETRIC) == 0:
            gray = 255 - gray
        return Image.fromarray(gray.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits. Save it with 8 or 16 bits")
    # Pillow's way from some modes to RGB is over another.
    between = {"P": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "La": "LA"}
    return image.convert(between.get(image.mode, image.mode)).convert("RGB")


class Student:
    """A TFLite student: uint8 RGB images to embeddings of length 1.

    Attributes:
        threshold: Cosine above which two images show one person, as card.json beside
            the file has it; None where it has none for an image without its mirror
            image, which is what `embed` embeds.
    """

    def __init__(self, path, num_threads=1):
        # By its bytes, since LiteRT opens no name that is not UTF-8.
        content = pathlib.Path(path).read_bytes()
        try:
            self._interpreter = Interpreter(
                model_content=content, num_threads=num_threads
            )
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} cannot be run by LiteRT: {error}") from error
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]
        self.threshold = _threshold(pathlib.Path(path), content)
        self.height, self.width = (int(n) for n in self._input["shape"][1:3])

    def read(self, path):
        """Returns an aligned face as the student takes it: RGB, resized if need be."""
        image = read_image(path)
        if image.size != (self.width, self.height):
            # In floats and rounded once, halves up, as the student's training does it.
            channels = [
                channel.convert("F").resize((self.width, self.height), Image.BILINEAR)
                for channel in image.split()
            ]
            pixels = np.floor(np.stack(channels, axis=-1) + 0.501)
            return pixels.clip(0, 255).astype(np.uint8)
        return np.asarray(image, np.uint8)

    def embed(self, image):
        """Returns the embedding, float32 `(dim,)` of length 1, of one image."""
        self._interpreter.set_tensor(self._input["index"], image[None])
        self._interpreter.invoke()
        raw = self._interpreter.get_tensor(self._output["index"])[0].astype(np.float32)
        scale, zero_point = self._output["quantization"]
        if scale:
            raw = (raw - zero_point) * np.float32(scale)
        return raw / max(float(np.linalg.norm(raw)), 1e-12)


def _threshold(path, content):
    card = path.with_name("card.json")
    if not card.is_file():
        return None
    try:
        entry = json.loads(card.read_text(encoding="utf-8-sig"))["calibration"] or {}
        entry = entry.get(path.name)
        if entry is None:
            return None
        is_of_another = entry.get("sha256") != hashlib.sha256(content).hexdigest()
        is_of_one_image = entry["view"] == "one image"
        threshold = float(entry["threshold"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{card} is no model card: {error!r}") from None
    if is_of_another:
        raise ValueError(
            f"The calibration in {card} is of another {path.name}, which has changed "
            "since; write it anew with ekd_tf.evaluate --calibrate_fpr"
        )
    return threshold if is_of_one_image else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="A .tflite file.")
    parser.add_argument("images", nargs="+", help="Aligned face images.")
    parser.add_argument("--output", help="A .npy file for the embeddings.")
    parser.add_argument("--num_threads", type=int, default=1)
    arguments = parser.parse_args()
    output = arguments.output
    # Before the images are embedded.
    if output and not os.access(os.path.dirname(output) or ".", os.W_OK):
        sys.exit(f"run_tflite.py: --output={output}: its folder cannot be written to")
    try:
        student = Student(arguments.model, arguments.num_threads)
        faces = [student.read(path) for path in arguments.images]
    except OSError as error:
        sys.exit(f"run_tflite.py: {error.filename}: {error.strerror}")
    except ValueError as error:
        sys.exit(f"run_tflite.py: {error}")
    if len(faces) == 1 and not output:
        sys.exit("run_tflite.py: give two images to compare, or --output=FILE.npy")
    embeddings = np.stack([student.embed(face) for face in faces])
    if output:
        try:
            np.save(output, embeddings)
        except OSError as error:
            sys.exit(
                f"run_tflite.py: --output={output} cannot be written: {error.strerror}"
            )
    named = list(zip(arguments.images, embeddings))
    for (a, left), (b, right) in itertools.combinations(named, 2):
        cosine, decision = float(left @ right), ""
        if student.threshold is not None:
            is_one = cosine > student.threshold
            decision = "  one person" if is_one else "  two people"
        print(f"{cosine:.4f}{decision}  {a}  {b}")
    if student.threshold is not None:
        print(f"threshold {student.threshold:.4f}, of card.json")
    elif len(faces) > 1:
        print(
            "no decision, as no threshold is known: put the card.json of the export, "
            "calibrated, beside the model"
        )


if __name__ == "__main__":
    main()
