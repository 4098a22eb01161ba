"""The conventions of the house that a program can check, by reading the source."""

import ast
import functools
import inspect
import pathlib
import subprocess
import sys

import pytest

import ekd_tf

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "ekd_tf"
ENTRY_POINTS = set("train evaluate export_model embed_teacher verify report".split())
# A module imports only from strictly lower rows, or from its own package.
ROWS = [
    {"checks", "files", "keras_compat", "ops", "version"},
    {"data", "models", "heads", "mining", "metrics"},
    {"losses", "evaluation", "embedders"},
    {"training", "export", "page"},
    {"run"},
    {"compare", *ENTRY_POINTS},
]
ROW_OF = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    return str(path.relative_to(ROOT))


def room_of(path):
    """Returns `ops` for ekd_tf/ops/numerics.py and `train` for ekd_tf/train.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_rooms(tree):
    """Returns the rooms of `ekd_tf` a syntax tree imports, wherever in the file."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("ekd_tf.")}


def wrong_imports(room, tree):
    """Returns the rooms `room` may not import but does."""
    return {
        other
        for other in imported_rooms(tree) - {room}
        if ROW_OF.get(other, len(ROWS)) >= ROW_OF[room]
    }


@functools.cache
def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def test_imports_point_to_lower_rows():
    for path in set(MODULES) - {PACKAGE / "__init__.py"}:
        wrong = wrong_imports(room_of(path), parse(path))
        assert not wrong, f"{name_of(path)} imports {sorted(wrong)}"
    # It names the rooms as text and opens one when a name is first used.
    assert imported_rooms(parse(PACKAGE / "__init__.py")) == {"version"}


def test_wrong_imports_are_found():
    for wrong, line in (
        (True, "from ekd_tf import evaluation"),
        (True, "import ekd_tf.export.convert"),
        (True, "def late():\n    from ekd_tf.training import loop"),
        (True, "from ekd_tf.unheard_of import thing"),
        (False, "from ekd_tf.losses.base import DistillationLoss"),
        (False, "from ekd_tf import checks"),
        (False, "import ekd_tf"),
    ):
        assert bool(wrong_imports("losses", ast.parse(line))) == wrong, line


def faults(path):
    """Yields what a module does that the house's style forbids."""
    tree = parse(path)
    if not ast.get_docstring(tree):
        yield "the module has no docstring"
    if len(path.read_text(encoding="utf-8").splitlines()) > 400:
        yield "more than 400 lines"
    reads_no_flags = room_of(path) not in ENTRY_POINTS and path.name != "command.py"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield f"line {node.lineno}: a relative import"
        elif reads_no_flags and reads_flags(node):
            yield f"line {node.lineno}: flags are read in entry points alone"
    for node in public(tree):
        if not ast.get_docstring(node):
            yield f"{node.name} has no docstring"
    for name in unannotated(tree):
        yield f"{name} has no types for all it takes"


def public(owner):
    """Returns the public functions and classes of a module, or methods of a class."""
    return [
        node
        for node in owner.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and not node.name.startswith("_")
    ]


def reads_flags(node):
    """Whether a node imports absl's flags or uses `FLAGS`."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        names = {alias.name for alias in node.names}
        module = getattr(node, "module", None)
        return (
            "absl.flags" in names | {module}
            or module == "absl"
            and bool(names & {"flags", "app"})
        )
    return isinstance(node, ast.Name) and node.id == "FLAGS"


def test_modules_keep_to_the_style():
    found = [f"{name_of(path)}: {fault}" for path in MODULES for fault in faults(path)]
    assert not found, "\n".join(found)


def unannotated(tree):
    """Returns the public functions and methods without types for all they take."""
    found = []
    for owner in [tree, *(n for n in public(tree) if isinstance(n, ast.ClassDef))]:
        methods = [n for n in owner.body if getattr(n, "name", "") == "__init__"]
        for node in [*methods, *public(owner)]:
            if not isinstance(node, ast.FunctionDef):
                continue
            arguments = [*node.args.posonlyargs, *node.args.args]
            decorators = {getattr(d, "id", "") for d in node.decorator_list}
            if owner is not tree and "staticmethod" not in decorators:
                arguments = arguments[1:]
            rest = node.args.vararg, node.args.kwarg
            arguments += [*node.args.kwonlyargs, *filter(None, rest)]
            is_typed = node.name == "__init__" or node.returns
            if not is_typed or not all(each.annotation for each in arguments):
                found.append(f"{getattr(owner, 'name', '')}.{node.name}".lstrip("."))
    return found


def test_faults_of_style_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    path = tmp_path / "loop.py"
    path.write_text(
        "from absl import flags\nfrom . import a\n"
        "def f() -> int:\n    return FLAGS.x\n" + "\n" * 400
    )
    assert len(list(faults(path))) == 6
    tree = ast.parse(
        "def f(x: int): pass\ndef g(x) -> int: pass\ndef h(x: int) -> int: pass\n"
        "class C:\n def __init__(self, a): pass\n def m(self) -> int: pass\n"
        " def _p(self, a): pass\n"
    )
    assert unannotated(tree) == ["f", "g", "C.__init__"]


def test_names_of_the_package_are_no_modules():
    names = set(ekd_tf.__all__)
    # `from ekd_tf import verify` must not depend on what was imported before.
    assert not names & {room_of(path) for path in MODULES}
    assert not [name for name in names if inspect.ismodule(getattr(ekd_tf, name))]


def check_runs(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_importing_the_package_and_its_metrics_touches_nothing():
    check_runs(
        "import sys\n"
        "sys.argv = ['x', '--no_such_flag']\n"
        "import ekd_tf.metrics\n"
        "heavy = {'tensorflow', 'keras', 'absl', 'matplotlib', 'socket'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )


# Fast sibling: test_importing_the_package_and_its_metrics_touches_nothing.
@pytest.mark.slow
def test_importing_the_losses_touches_no_device():
    # Virtual devices can be set only before TensorFlow has started any.
    check_runs(
        "import tensorflow as tf\n"
        "import ekd_tf.losses\n"
        "import ekd_tf.mining\n"
        "cpu = tf.config.list_physical_devices('CPU')[0]\n"
        "two = [tf.config.LogicalDeviceConfiguration()] * 2\n"
        "tf.config.set_logical_device_configuration(cpu, two)\n"
        "raise SystemExit(len(tf.config.list_logical_devices('CPU')) - 2)\n"
    )
