"""Tools are scripts: they are loaded by path, without leaving their flags behind."""

import importlib.util
import pathlib
import sys

import pytest
from absl.flags import FLAGS

import ekd_tf.train as train_module

TOOLS = pathlib.Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="session")
def load_tool():
    """Returns `name -> module`. Two tools may define a flag of one name."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        kept = set(FLAGS) | set(FLAGS.flags_by_module_dict()[train_module.__name__])
        sys.modules[name] = module
        spec.loader.exec_module(module)
        for flag in set(FLAGS) - kept:
            delattr(FLAGS, flag)
        return module

    return load
