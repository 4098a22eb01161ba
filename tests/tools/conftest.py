"""Tools are scripts: they are loaded by path, without leaving their flags behind."""

import importlib.util
import pathlib
import re
import sys

import pytest
from absl.flags import FLAGS

TOOLS = pathlib.Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="session")
def load_tool():
    """Returns `name -> module`. Two tools may define a flag of one name."""

    def load(name):
        path = TOOLS / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        for flag in re.findall(r'DEFINE_\w+\(\s*"(\w+)"', path.read_text()):
            delattr(FLAGS, flag)
        return module

    return load


@pytest.fixture(scope="module")
def tool(request, load_tool):
    """The tool that a module of tests names in `TOOL`."""
    return load_tool(request.module.TOOL)


@pytest.fixture
def path_of_tool(tool):
    """The script of that tool, which `commands` runs."""
    return pathlib.Path(tool.__file__)
