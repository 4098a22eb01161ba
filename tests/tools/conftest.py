"""Tools are scripts: they are loaded by path, without leaving their flags behind."""

import importlib.util
import pathlib
import re
import sys

import pytest
from absl.flags import FLAGS

import ekd_tf.train as train_module

TOOLS = pathlib.Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="session")
def load_tool():
    """Returns `name -> module`. Two tools may define a flag of one name."""

    def load(name):
        path = TOOLS / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        defined = re.findall(r'DEFINE_\w+\(\s*"(\w+)"', path.read_text())
        taken = {flag: FLAGS[flag] for flag in defined if flag in FLAGS}
        for flag in taken:
            delattr(FLAGS, flag)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        for flag in defined:
            delattr(FLAGS, flag)
        for flag, of_train in taken.items():
            FLAGS[flag] = of_train
            FLAGS.register_flag_by_module(train_module.__name__, of_train)
        return module

    return load
