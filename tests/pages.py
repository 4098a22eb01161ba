"""A set with hostile names, evaluated by fixed embeddings, for tests of pages."""

import json
import re
import types

import numpy as np
from pictures import Files
from pictures import encode
from pictures import face
from toys import unit

from ekd_tf.evaluation import LabelledEvaluation
from ekd_tf.evaluation import Models

HOSTILE = "</script><img src=x onerror='window.hacked = 1'><!-- "


class HostileFaces(Files):
    """Files whose names, and those of identities, are HTML."""

    def describe(self, index):
        return f"{HOSTILE}{index}.jpg"

    def identity_names(self):
        return [f"{HOSTILE}{label}" for label in range(self.num_identities)]


class Fixed:
    """An embedder that gives what it was made with."""

    view = "one image"

    progress = None

    def __init__(self, rows):
        self.rows = unit(rows)

    def __call__(self, source):
        return self.rows

    def views(self, source):
        return self.rows[:, None]


def make_case(people=40, each=5, images=True):
    """Returns source, models and result of a teacher better than its student."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(people), each)
    centres = rng.normal(size=(people, 16))[labels]
    files = (
        [encode(face(rng, 24, 24)) for _ in labels] if images else [b""] * labels.size
    )
    source = HostileFaces(files, labels)
    noise = rng.normal(size=centres.shape)
    student = Fixed((centres + 1.1 * noise).astype(np.float32))
    teacher = Fixed((centres + 0.4 * rng.normal(size=noise.shape)).astype(np.float32))
    models = Models(student, teacher)
    evaluation = LabelledEvaluation("faces", source, (1e-1, 1e-2, 1e-4), replicates=20)
    return types.SimpleNamespace(
        source=source,
        models=models,
        evaluation=evaluation,
        result=evaluation(models),
        labels=labels,
    )


def data_of(path):
    """Returns what a page holds."""
    (data,) = re.findall(r'id="data">(.*?)</script>', path.read_text(), re.S)
    return json.loads(data)
