"""The house's rules: imports go one way, and nothing that a checkpoint holds can run."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Container, Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT

PACKAGES = ("crlviz", "training", "analyses")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
FORBIDDEN = {
    "crlviz": {"training", "analyses"},
    "training": {"analyses"},
    "analyses": {"training"},
}
# Each of these runs what a file says.
UNSAFE_MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}

modules = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_all_modules_are_looked_at():
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(PACKAGES)
    assert len(MODULES) > 15


@modules
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@modules
def test_imports_go_one_way(path):
    package = path.relative_to(ROOT).parts[0]
    for name in _imports(ast.parse(path.read_text(encoding="utf-8"))):
        assert name.partition(".")[0] not in FORBIDDEN[package], f"{path.name} imports {name}"


def _running(text: str) -> ast.AST:
    """The tree of a module without imports for type checkers, which do not count as dependencies."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    return tree


def _rooms_used(path: Path) -> set[str]:
    """The sub-packages, and modules of the top level, that a module imports: ``crlviz.envs``, ``crlviz.charts``."""
    tree = _running(path.read_text(encoding="utf-8"))
    rooms = {".".join(name.split(".")[:2]) for name in _imports(tree) if name.partition(".")[0] in PACKAGES}
    return {room for room in rooms if (ROOT / room.replace(".", "/")).is_dir() or _module(room).is_file()}


def _module(name: str) -> Path:
    return ROOT / (name.replace(".", "/") + ".py")


def test_no_test_module_imports_another():
    """What tests share is in tests/helpers, in a conftest, or in tests/torture."""
    for path in (ROOT / "tests").rglob("*.py"):
        for name in _imports(ast.parse(path.read_text(encoding="utf-8"))):
            parts = name.split(".")
            assert parts[0] != "tests" or not any(part.startswith("test_") for part in parts), f"{path} imports {name}"


def test_no_circle_among_rooms():
    """Between sub-packages, and modules beside them, the arrows go one way (graphlib names a circle)."""
    used: dict[str, set[str]] = {}
    for path in MODULES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[1:] != ("__init__",):
            room = ".".join(parts[:2])
            used.setdefault(room, set()).update(_rooms_used(path) - {room} - set(PACKAGES))
    order = list(graphlib.TopologicalSorter(used).static_order())
    assert order.index("crlviz.errors") < order.index("crlviz.envs") < order.index("training.run")


def _name(path: Path) -> str:
    """Of a module as it is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imported(text: str, names: Container[str]) -> set[str]:
    """Those of ``names`` that a module imports: at its top, in its functions, or by name as a string."""
    tree = _running(text)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in names else node.module for name in submodules}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return {name for name in found if name in names}


def test_no_circle_among_modules():
    """No two modules import each other, directly or indirectly. A late import of a lower module is not a cycle."""
    texts = {_name(path): path.read_text(encoding="utf-8") for path in MODULES}
    used = {name: _imported(text, texts) - {name} for name, text in texts.items()}
    assert used["crlviz.gymnasium_env"] >= {"crlviz.envs", "crlviz.rollouts"}
    # A user finds all environments in one place; the one of Gymnasium stands above them, since it draws.
    used["crlviz.envs"].remove("crlviz.gymnasium_env")
    order = list(graphlib.TopologicalSorter(used).static_order())
    assert order.index("crlviz.networks.config") < order.index("crlviz.agent") < order.index("analyses.norms")


@pytest.mark.parametrize(
    "low",
    [
        "def late():\n    from a.high import f",
        "def late():\n    from a import high",
        "def late():\n    import a.high",
        "import importlib\ndef late():\n    return importlib.import_module('a.high')",
    ],
)
def test_a_circle_by_a_late_import_is_seen(low):
    texts = {"a.low": low, "a.high": "from a.low import g"}
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter({name: _imported(text, texts) for name, text in texts.items()}).prepare()
    assert not _imported("if TYPE_CHECKING:\n    from a import high", texts)


@modules
def test_others_are_named_in_the_command_alone(path):
    """A module could also be reached by its name in a string; only the command's table may do that."""
    if path == ROOT / "crlviz" / "cli.py":
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            text = ast.unparse(node)
            assert "training" not in text, text
            assert "analyses" not in text, text


@modules
def test_nothing_that_is_read_can_run(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not {name.partition(".")[0] for name in _imports(tree)} & UNSAFE_MODULES
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in UNSAFE_CALLS, f"line {node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False


@modules
def test_modules_are_named_by_us(path):
    """Imports by name happen where a table of the program holds the names: verbs, bodies, engines and so on."""
    tables = (
        "analyses/__init__.py",
        "training/__init__.py",
        "crlviz/__init__.py",
        "crlviz/algorithms/registry.py",
        "crlviz/cli.py",
        "crlviz/envs/__init__.py",
        "crlviz/envs/physics.py",
        "crlviz/rendering/renderers.py",
    )
    if path.relative_to(ROOT).as_posix() in tables:
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not {"import_module", "__import__", "runpy", "load_module"} & {
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(tree)
        if isinstance(node, (ast.Name, ast.Attribute))
    }


def test_the_commands_table_names_real_modules():
    from crlviz.cli import VERBS

    for where, line in VERBS.values():
        module, _, attribute = where.partition(":")
        path = ROOT / (module.replace(".", "/") + ".py")
        assert path.is_file(), module
        names = {getattr(node, "name", None) for node in ast.parse(path.read_text(encoding="utf-8")).body}
        assert attribute in names
        assert line.endswith(".")


def test_each_analysis_is_there_by_its_name_without_jax():
    """As a notebook reaches it: import analyses; analyses.heatmap.q_map.compute(...)."""
    code = "import sys, analyses; assert not {'jax', 'altair'} & set(sys.modules)\n"
    code += "for name in analyses.__all__: assert getattr(analyses, name).__name__.startswith('analyses.')\n"
    code += "for name in set(analyses.__all__) - {'paper', 'runs'}:\n"
    code += "    module = getattr(analyses, name); module.compute, module.plot\n"
    code += "try: analyses.heatmapp\nexcept AttributeError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "module 'analyses' has no attribute 'heatmapp'\n"


@pytest.mark.parametrize("kind", [DeprecationWarning, FutureWarning])
def test_what_our_modules_are_told_to_leave_fails_a_test(kind):
    """By the filters of pyproject.toml; a module of somebody else's is only reported."""
    code = compile(f"import warnings; warnings.warn('gone soon', {kind.__name__})", "module", "exec")
    for module in ("crlviz", "crlviz.envs.point", "training.loop", "analyses.heatmap"):
        with pytest.raises(kind):
            exec(code, {"__name__": module})
    with pytest.warns(kind):
        exec(code, {"__name__": "crlvizard"})


def test_the_trainer_is_there_by_its_names_without_jax():
    code = "import sys, training; assert not {'jax', 'brax'} & set(sys.modules)\n"
    code += "for name in training.__all__: assert callable(getattr(training, name))"
    subprocess.run([sys.executable, "-c", code], check=True)
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").is_file()  # type checkers read our annotations


@pytest.mark.skipif(not (ROOT / ".ci" / "run").exists(), reason="not a clone of the repository")
def test_what_the_checks_of_a_change_name_is_there():
    """A test that moved away would end .ci/run with an error, and only there."""
    text = (ROOT / ".ci" / "run").read_text()
    named = re.findall(r"tests/[\w/.]+(?:::\w+)?", text)
    assert named
    for name in named:
        path, _, test = name.partition("::")
        assert (ROOT / path).exists(), name
        assert not test or f"def {test}(" in (ROOT / path).read_text(), name
