"""Times writing a teacher cache beside the bare model on pixels in memory.

Both embed the same images and their mirror images in the same batches. The floor is
`onnxruntime` alone on arrays its input takes as they are; a third case is the cache of
a model that does nothing, what all the rest costs.

    python tools/benchmarks/bench_embed_teacher.py --teacher=mobilefacenet_y1.onnx \
        --data=recordio:celeba900 --images=1024
"""

import os
import pathlib
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import measuring
import numpy as np
from absl import app
from absl import flags

from ekd_tf.data import evaluation_batches
from ekd_tf.data.source import Images
from ekd_tf.embedders import CacheWriter
from ekd_tf.embedders import TeacherCache
from ekd_tf.embedders import describe_cache
from ekd_tf.embedders import open_embedder
from ekd_tf.run import factory
from ekd_tf.run.teacher import write_cache

TEACHER = flags.DEFINE_string("teacher", None, "An .onnx file, channels first.")
DATA = flags.DEFINE_string("data", None, "A source as --data of ekd_tf.train.")
IMAGES = flags.DEFINE_integer("images", 1024, "The first so many; 0: all.", 0)
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images per forward pass.", 1)
TURNS = flags.DEFINE_integer("turns", 5, "Turns of each case.", 1)


class Nothing:
    """A session that has its rows at once."""

    def __init__(self, dim):
        self._dim = dim

    def run(self, outputs, inputs):
        (pixels,) = inputs.values()
        return [np.ones((len(pixels), self._dim), np.float32)]


def bare(session, batches):
    """Runs the model alone on what its input takes."""
    name = session.get_inputs()[0].name
    return [
        [session.run(None, {name: view})[0] for view in batch_views]
        for batch_views in batches
    ]


def write(model, source):
    """Writes a cache to a new folder and returns its rows."""
    with tempfile.TemporaryDirectory() as folder:
        note = describe_cache(model, source, TEACHER.value, DATA.value, dtype="float32")
        writer = CacheWriter(folder, note)
        write_cache(writer, model, source, batch_size=BATCH_SIZE.value)
        return np.array(TeacherCache(folder).rows)


def main(_):
    # Of the extra `onnx`; --help does without.
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        source = factory.make_source(DATA.value, folder)
        source = Images(source, np.arange(len(source))[: IMAGES.value or None])
        model = open_embedder(TEACHER.value)
        indices = np.arange(len(source))
        batches = []
        for images in evaluation_batches(
            source, indices, model.input_size, BATCH_SIZE.value
        ):
            pixels = images.astype(np.float32).transpose(0, 3, 1, 2)
            views = pixels, pixels[..., ::-1]
            batches.append([np.ascontiguousarray(view) for view in views])
        session = onnxruntime.InferenceSession(
            pathlib.Path(TEACHER.value).read_bytes(),
            providers=["CPUExecutionProvider"],
        )
        nothing = open_embedder(TEACHER.value)
        nothing._session = Nothing(nothing.embedding_dim)
        expected = [np.stack(views, axis=1) for views in bare(session, batches)]
        written = write(model, source)
        np.testing.assert_allclose(written, np.concatenate(expected), atol=1e-3)
        cases = {
            "onnxruntime alone": lambda: measuring.clocked(bare, session, batches),
            "embed_teacher": lambda: measuring.clocked(write, model, source),
            "all but the model": lambda: measuring.clocked(write, nothing, source),
        }
        times = measuring.take_turns(cases, TURNS.value)
    print(
        f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, {len(source)} images, "
        "two views"
    )
    print(measuring.beside_first(times, len(source)))


if __name__ == "__main__":
    flags.mark_flags_as_required(["teacher", "data"])
    app.run(main)
