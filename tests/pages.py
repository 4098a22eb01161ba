"""Hostile names, fixed embeddings and what a page holds, for tests of pages."""

import json
import re

from pictures import Files
from toys import unit

from ekd_tf.evaluation.embed import add_views

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

    def unit(self, views, source):
        return add_views(views)


def data_of(path):
    """Returns what a page holds."""
    (data,) = re.findall(r'id="data">(.*?)</script>', path.read_text(), re.S)
    return json.loads(data)
