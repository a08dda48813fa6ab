"""The layers import downwards only, and start-up stays light."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "aasvc_cli"
HEAVY = {
    "h5py", "joblib", "librosa", "matplotlib", "numba", "numpy", "pandas", "pysptk", "pyworld", "requests",
    "safetensors", "scipy", "sklearn", "soundfile", "soxr", "tensorboard", "torch", "torchaudio",
}  # fmt: skip
FOUNDATION, STORAGE, DOMAIN, PIPELINE, SHELL = range(5)
COMMANDS = ["download", "prepare", "stats", "train", "convert", "evaluate", "doctor"]


def layer(module: str) -> int:
    """The layer of a module of the package, by its dotted name below the package."""
    head = module.split(".")[0]
    if head in ("", "config", "config_layers", "config_schema", "errors"):
        return FOUNDATION
    if head in ("cli", "__main__"):
        return SHELL
    return {"storage": STORAGE, "pipeline": PIPELINE}.get(head, DOMAIN)


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()


def imported(node: ast.AST) -> Iterator[str]:
    """Every module that one statement imports; `from package import name` counts as package and package.name."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        yield node.module or ""
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(tree: ast.Module) -> set[str]:
    """Modules of the package that a module imports, anywhere in it."""
    names = {name for node in ast.walk(tree) for name in imported(node)}
    own = {name.removeprefix("aasvc_cli").removeprefix(".") for name in names if name.split(".")[0] == "aasvc_cli"}
    return {name for name in own if name in MODULES}


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def module_level_imports(tree: ast.Module) -> set[str]:
    """Top names imported while the module loads: outside functions and outside `if TYPE_CHECKING`."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.stmt) and is_type_checking(node):
            continue
        found.update(name.split(".")[0] for name in imported(node))
        waiting.extend(ast.iter_child_nodes(node))
    return found


def test_the_package_was_found():
    assert {"cli", "config", "errors", "storage.files", "model.layers"} <= set(MODULES)


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_imports_point_downwards_only(name: str):
    upward = [other for other in own_imports(MODULES[name]) if layer(other) > layer(name)]
    assert not upward, f"{name} imports from a layer above it: {upward}"


def test_the_package_itself_loads_nothing_but_what_is_asked_of_it():
    """Its front door hands out the library, so it names modules of higher layers, but loads none by itself."""
    assert module_level_imports(MODULES[""]) == {"typing"}
    assert own_imports(MODULES[""]) <= {"converter"}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("pipeline.")])
def test_pipeline_modules_do_not_import_each_other(name: str):
    others = [other for other in own_imports(MODULES[name]) if other.startswith("pipeline.")]
    assert not others, f"{name} imports {others}; they meet through files and through the domain"


@pytest.mark.parametrize("name", [name for name in MODULES if layer(name) != SHELL])
def test_only_the_command_line_talks_to_the_terminal(name: str):
    tree = MODULES[name]
    shell = {top.split(".")[0] for node in ast.walk(tree) for top in imported(node)} & {"typer", "rich"}
    prints = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) in ("print", "input")]
    # a worker ends itself, and nobody looks at its exit code
    endings = {"sys.exit", "exit", "quit", "os._exit"} - ({"os._exit"} if name == "workers" else set())
    exits = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) in endings]
    assert not shell, f"{name} imports {shell}"
    assert not prints, f"{name} prints in lines {prints}"
    assert not exits, f"{name} exits in lines {exits}"


@pytest.mark.parametrize("name", [name for name in MODULES if name != "workers"])
def test_processes_are_started_in_one_place_and_by_the_pipeline_only(name: str):
    pools = {"joblib", "multiprocessing", "concurrent"}
    used = {top.split(".")[0] for node in ast.walk(MODULES[name]) for top in imported(node)} & pools
    assert not used, f"{name} imports {used}"
    assert layer(name) == PIPELINE or "workers" not in own_imports(MODULES[name]), f"{name} is no pipeline"


@pytest.mark.parametrize("name", [name for name in MODULES if layer(name) in (FOUNDATION, STORAGE, SHELL)])
def test_light_modules_import_nothing_heavy_at_module_level(name: str):
    heavy = module_level_imports(MODULES[name]) & (HEAVY | {"yaml", "rich"})
    assert not heavy, f"{name} loads {heavy} before it is used"


@pytest.mark.parametrize("name", MODULES)
def test_no_star_imports(name: str):
    stars = [
        node.lineno
        for node in ast.walk(MODULES[name])
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    ]
    assert not stars


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("legacy.")])
def test_published_formats_are_known_to_the_pipeline_and_to_what_loads_models_only(name: str):
    users = {user for user, tree in MODULES.items() if name in own_imports(tree) and not user.startswith("legacy")}
    stray = {user for user in users if layer(user) != PIPELINE and user not in ("voice", "vocoder.build")}
    assert not stray, f"{name} is imported by {stray}"


LOADED = """
import json, runpy, sys
sys.argv = ["aasvc", *json.loads(sys.argv[1])]
try:
    runpy.run_module("aasvc_cli", run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
print("\\n" + json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)],
    ids=lambda arguments: " ".join(arguments),
)
def test_help_loads_nothing_heavy(arguments: list[str]):
    done = subprocess.run(
        [sys.executable, "-c", LOADED, json.dumps(arguments)],
        capture_output=True, text=True, check=True, cwd=PACKAGE.parent, env=os.environ,
    )  # fmt: skip
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "typer" in loaded
    assert not loaded & (HEAVY | {"yaml", "pydantic", "rich", "logging"})
