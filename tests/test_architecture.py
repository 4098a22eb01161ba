"""The conventions of the house that a program can check, by reading the source."""

import ast
import functools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "ekd_tf"
ENTRY_POINTS = {"train", "evaluate", "export_model", "embed_teacher", "verify"}
# A module imports only from strictly lower rows, or from its own package.
ROWS = [
    {"checks", "files", "keras_compat", "ops", "version"},
    {"data", "models", "heads", "mining", "metrics"},
    {"losses", "evaluation", "embedders"},
    {"training", "export"},
    {"run"},
    {"compare", *ENTRY_POINTS},
]
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if {"ekd_tf", "tests", "tools"} & set(path.relative_to(ROOT).parts[:1])
]


def ids(path):
    return str(path.relative_to(ROOT))


def room_of(path):
    """Returns `ops` for ekd_tf/ops/ranking.py and `train` for ekd_tf/train.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(tree):
    """Returns the rooms of `ekd_tf` a syntax tree imports, wherever in the file."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.module == "ekd_tf":
                names += [f"ekd_tf.{alias.name}" for alias in node.names]
            else:
                names.append(node.module or "")
    return {name.split(".")[1] for name in names if name.startswith("ekd_tf.")}


def wrong_imports(room, tree):
    """Returns the rooms `room` may not import but does."""
    return {
        other
        for other in imported_rooms(tree) - {room}
        if ROW_OF.get(other, len(ROWS)) >= ROW_OF[room]
    }


def calls(tree, names):
    """Returns the lines on which a function of one of these names is called."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in names
    ]


@functools.cache
def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def test_every_room_has_a_row():
    rooms = {room_of(path) for path in MODULES} - {"__init__"}
    assert rooms <= set(ROW_OF), f"Rooms without a row: {sorted(rooms - set(ROW_OF))}"


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_imports_point_to_lower_rows(path):
    if path == PACKAGE / "__init__.py":
        # It names the rooms as text and opens one when a name is first used.
        assert imported_rooms(parse(path)) == {"version"}
        return
    assert not wrong_imports(room_of(path), parse(path))


def test_wrong_imports_are_found():
    for room, line in (
        ("ops", "from ekd_tf.mining.miner import PairMiner"),
        ("mining", "from ekd_tf.models import MobileFaceNet"),
        ("losses", "from ekd_tf import evaluation"),
        ("training", "import ekd_tf.export.tflite"),
        ("losses", "def late():\n    from ekd_tf.training import loop"),
        ("factory", "from ekd_tf.train import main"),
        ("data", "from ekd_tf.unheard_of import thing"),
    ):
        assert wrong_imports(room, ast.parse(line)), line
    for room, line in (
        ("losses", "from ekd_tf.losses.base import DistillationLoss"),
        ("losses", "from ekd_tf import checks"),
        ("train", "from ekd_tf.run.factory import make"),
        ("data", "import ekd_tf"),
    ):
        assert not wrong_imports(room, ast.parse(line)), line


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_imports_are_absolute(path):
    relative = [
        node.lineno
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_flags_are_read_in_entry_points_alone(path):
    if room_of(path) in ENTRY_POINTS | {"command"}:
        return
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("absl"):
            assert node.module != "absl.flags"
            assert not {"flags", "app"} & {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            assert not any(alias.name == "absl.flags" for alias in node.names)
        elif isinstance(node, ast.Name):
            assert node.id != "FLAGS"


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_no_assert_and_no_print(path):
    tree = parse(path)
    asserts = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert not asserts and not calls(tree, {"print"})


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_no_file_above_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_median_file_stays_small():
    lengths = sorted(len(p.read_text(encoding="utf-8").splitlines()) for p in MODULES)
    assert lengths[len(lengths) // 2] <= 200


def test_nothing_is_called_utils():
    for path in SOURCES:
        parts = set(path.relative_to(ROOT).with_suffix("").parts)
        assert not parts & {"utils", "util", "common", "helpers", "helper", "misc"}, (
            path
        )


def test_tests_mirror_the_package():
    missing = []
    for path in MODULES:
        # Entry points are run as commands, by tests/integration.
        if path.name in ("__init__.py", "version.py") or room_of(path) in ENTRY_POINTS:
            continue
        folder = ROOT / "tests" / path.relative_to(PACKAGE).parent
        if not any(folder.glob(f"test_{path.stem}*.py")):
            missing.append(ids(path))
    assert not missing


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_modules_and_public_names_are_documented(path):
    tree = parse(path)
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            assert node.name.startswith("_") or ast.get_docstring(node), node.name


def run_python(code):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_importing_the_package_touches_nothing():
    result = run_python(
        "import sys\n"
        "sys.argv = ['x', '--no_such_flag']\n"
        "import ekd_tf\n"
        "heavy = {'tensorflow', 'keras', 'absl', 'matplotlib', 'socket'}\n"
        "found = heavy & set(sys.modules)\n"
        "sys.exit(', '.join(found) if found else 0)\n"
    )
    assert result.returncode == 0, result.stderr


def test_importing_the_losses_touches_no_device():
    # Virtual devices can be set only before TensorFlow has started any.
    result = run_python(
        "import tensorflow as tf\n"
        "import ekd_tf.losses\n"
        "import ekd_tf.mining\n"
        "cpu = tf.config.list_physical_devices('CPU')[0]\n"
        "two = [tf.config.LogicalDeviceConfiguration()] * 2\n"
        "tf.config.set_logical_device_configuration(cpu, two)\n"
        "raise SystemExit(len(tf.config.list_logical_devices('CPU')) - 2)\n"
    )
    assert result.returncode == 0, result.stderr[-2000:]
