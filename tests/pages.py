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


def make_case():
    """Returns source, models and result of a teacher better than its student."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 5)
    centres = rng.normal(size=(40, 16))[labels]
    source = HostileFaces([encode(face(rng, 24, 24)) for _ in labels], labels)

    def model(noise):
        rows = centres + noise * rng.normal(size=centres.shape)
        return Fixed(rows.astype(np.float32))

    models = Models(student=model(1.1), teacher=model(0.4))
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
