"""The layers import downwards only, and start-up stays light."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.once import PACKAGE, parsed

HEAVY = {
    "dask", "distributed", "h5py", "joblib", "librosa", "matplotlib", "numba", "numpy", "onnx", "onnxruntime", "pandas",
    "pysptk", "pyworld", "requests", "safetensors", "scipy", "sklearn", "soundfile", "soxr", "tensorboard", "torch",
    "torchaudio",
}  # fmt: skip
FLOORS = (
    {"errors"},
    {"compiled", "config", "storage", "workers"},
    {"audio", "cluster", "model"},
    {"features"},
    {"measures", "published"},
    {"data", "vocoder"},
    {"conversion", "training"},
    {"exporting", "report"},
    {"pipeline"},
    {"serve"},
    {"cli"},
    {"", "__main__"},
)
"""The folders of the package from the ground up. A module may import from its own folder and from lower floors."""
LIGHT = {"", "__main__", "cli", "compiled", "config", "errors", "storage", "workers"}
"""Folders that are loaded for ``aasvc --help``."""
DOORS = {
    "audio": "recordings",
    "config": "presets and settings files",
    "data": "texts and lists of a corpus; codecs, in memory",
    "exporting.page": "the files of the page",
    "features.folder": "features that another program wrote",
    "features.shelf": "features",
    "measures.judges": "models that judge",
    "pipeline.doctor": "what can be freed",
    "pipeline.download": "folders that are laid out",
    "pipeline.models": "model cards",
    "published": "published checkpoints and statistics",
    "report": "its templates, and logs of runs",
    "serve.api": "what clients send",
    "storage": "everything that is written",
    "training.memory": "what the system says of memory",
    "training.run_folder": "the log and the checkpoints of a run",
    "workers": "what the system says of cores",
}
"""Folders and modules that may open, create, rename or remove files, and which. All others are handed what they work
on, so that every file is written atomically, and every error names it."""
LONGEST_COMMAND = 60
"""Lines of a function in cli/, which declares, calls and shows; what it decides belongs lower."""
COMMANDS = ["download", "prepare", "stats", "train", "convert", "evaluate", "export", "serve", "doctor"]


def folder(module: str) -> str:
    """The folder of a module, by its dotted name below the package."""
    return module.split(".")[0]


def floor(module: str) -> int:
    """The floor of a module's folder."""
    return next(number for number, folders in enumerate(FLOORS) if folder(module) in folders)


def dotted(path: Path) -> str:
    """The name of a module below the package."""
    return ".".join(part for part in path.relative_to(PACKAGE).with_suffix("").parts if part != "__init__")


@cache
def modules() -> dict[str, ast.Module]:
    """The modules of the package by their dotted names; not before a test asks, as every worker collects them all."""
    return {dotted(path): tree for path, tree in parsed().items()}


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
    return {name for name in own if name in modules()}


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
    assert {"cli", "config.settings", "errors", "storage.files", "model.layers"} <= set(modules())


def violations(check) -> dict[str, object]:
    """What a check returns for the modules in which it finds something."""
    found = {name: check(name) for name in modules()}
    return {name: what for name, what in found.items() if what}


def test_every_folder_has_a_floor():
    assert {folder(name) for name in modules()} == set().union(*FLOORS)


def test_imports_point_downwards_only():
    def upward(name: str) -> list[str]:
        others = own_imports(modules()[name]) - {""}  # the package itself holds the version
        return [other for other in others if folder(other) != folder(name) and floor(other) >= floor(name)]

    assert not violations(lambda name: upward(name) if name else [])


def test_the_package_itself_loads_nothing_but_what_is_asked_of_it():
    """Its front door hands out the library, so it names modules of higher floors, but loads none by itself."""
    assert module_level_imports(modules()[""]) == {"typing"}
    assert own_imports(modules()[""]) <= {"conversion.converter"}


def test_modules_do_not_import_each_other_in_circles():
    # naming a neighbour, as in `from aasvc_cli.cli import options`, is no import of the folder that both lie in
    graph = {name: own_imports(tree) - {"", name, name.rpartition(".")[0]} for name, tree in modules().items()}
    while leaves := {name for name, others in graph.items() if not others & graph.keys()}:
        graph = {name: others for name, others in graph.items() if name not in leaves}
    assert not graph, f"circles among {sorted(graph)}"


def test_pipeline_modules_do_not_import_each_other():
    def others(name: str) -> list[str]:
        return [other for other in own_imports(modules()[name]) if other.startswith("pipeline.")]

    assert not violations(lambda name: others(name) if name.startswith("pipeline.") else [])


def test_reports_show_what_was_computed_and_run_no_network():
    def networks(name: str) -> set[str]:
        used = {each for node in ast.walk(modules()[name]) for each in imported(node)}
        return {each for each in used if each.split(".")[0] == "torch"} | {
            each for each in own_imports(modules()[name]) if folder(each) in ("model", "vocoder", "conversion")
        }

    assert not violations(lambda name: networks(name) if folder(name) == "report" else set())


def test_only_the_command_line_talks_to_the_terminal():
    def talk(name: str) -> list[object]:
        tree = modules()[name]
        shell = {top.split(".")[0] for node in ast.walk(tree) for top in imported(node)} & {"typer", "rich"}
        endings = {"print", "input", "sys.exit", "exit", "quit", "os._exit"}
        endings -= {"os._exit"} if name == "workers" else set()  # a worker ends itself, nobody looks at its exit code
        calls = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) in endings]
        return [*shell, *calls]

    assert not violations(lambda name: talk(name) if folder(name) not in ("cli", "__main__") else [])


def test_commands_are_short():
    def too_long(name: str) -> list[str]:
        functions = [n for n in ast.walk(modules()[name]) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
        lengths = {each.name: (each.end_lineno or 0) - each.lineno + 1 for each in functions}
        return [f"{function}: {lines}" for function, lines in lengths.items() if lines > LONGEST_COMMAND]

    assert not violations(lambda name: too_long(name) if folder(name) == "cli" else [])


def test_processes_are_started_in_one_place_and_by_the_pipeline_only():
    def pools(name: str) -> list[str]:
        names = {top.split(".")[0] for node in ast.walk(modules()[name]) for top in imported(node)}
        starts = names & {"joblib", "multiprocessing", "concurrent"}
        uses = own_imports(modules()[name]) & {"workers"} if folder(name) not in ("pipeline", "cluster") else set()
        return [*starts, *uses]

    assert not violations(lambda name: pools(name) if name not in ("workers", "cli.cluster") else [])


FILE_CALLS = {
    "open", "os.open", "os.fdopen", "os.replace", "os.rename", "os.remove", "os.unlink", "os.rmdir", "os.mkdir",
    "os.makedirs", "np.load", "torch.load", "torch.save", "h5py.File", "zipfile.ZipFile", "safe_open", "load_file",
    "save_file", "soundfile.SoundFile", "soundfile.read", "soundfile.write", "soundfile.info", "shutil.rmtree",
    "shutil.move", "shutil.copy", "shutil.copyfile", "shutil.copytree", "tempfile.mkstemp", "tempfile.mkdtemp",
    "tempfile.TemporaryDirectory", "tempfile.NamedTemporaryFile",
}  # fmt: skip
PATH_CALLS = {
    "open", "read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "touch", "unlink", "rmdir", "rename",
    "symlink_to", "hardlink_to",
}  # fmt: skip
"""Methods of paths; functions of these names that a module imports are somebody else's doors."""


def test_files_are_opened_by_those_who_may():
    def opens(name: str) -> list[str]:
        calls = [node for node in ast.walk(modules()[name]) if isinstance(node, ast.Call)]
        found = [
            ast.unparse(call)
            for call in calls
            if ast.unparse(call.func) in FILE_CALLS
            or (isinstance(call.func, ast.Attribute) and call.func.attr in PATH_CALLS)
        ]
        # the null device is no file, and runs and transfers have an `open` of their own
        return [call for call in found if "os.devnull" not in call and not call.startswith("self.")]

    assert not violations(lambda name: opens(name) if not {name, folder(name)} & DOORS.keys() else [])
    unused = {door for door in DOORS if not any(opens(name) for name in modules() if door in (name, folder(name)))}
    assert not unused, "doors that nobody uses"


def test_light_modules_import_nothing_heavy_at_module_level():
    heavy = HEAVY | {"yaml", "rich"}
    assert not violations(
        lambda name: module_level_imports(modules()[name]) & heavy if folder(name) in LIGHT else set()
    )


def test_no_star_imports():
    def stars(name: str) -> list[int]:
        nodes = [node for node in ast.walk(modules()[name]) if isinstance(node, ast.ImportFrom)]
        return [node.lineno for node in nodes if any(alias.name == "*" for alias in node.names)]

    assert not violations(stars)


LOADED = """
import json, runpy, sys
sys.argv = ["aasvc", *json.loads(sys.argv[1])]
try:
    runpy.run_module("aasvc_cli", run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
print("\\n" + json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


@pytest.mark.process
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
