"""Benchmarks define flags when they are imported; tests take these away again."""

import importlib
import inspect
import re

import pytest
from absl.flags import FLAGS


@pytest.fixture(scope="module")
def tool(request):
    """The benchmark that a module of tests names in `TOOL`.

    Two may define a flag of one name.
    """
    module = importlib.import_module(request.module.TOOL)
    for flag in re.findall(r'DEFINE_\w+\(\s*"(\w+)"', inspect.getsource(module)):
        delattr(FLAGS, flag)
    return module
