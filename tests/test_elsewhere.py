"""Other systems, as far as they can be had here: odd names, odd locales, spawned processes, nothing of POSIX."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from aasvc_cli.storage.home import Home
from tests.once import PACKAGE, parsed

ROOT = Path(__file__).parent.parent
POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "termios", "tty"}
POSIX_NAMES = {
    "os": {"fork", "forkpty", "getuid", "geteuid", "getgid", "kill", "killpg", "mkfifo", "nice", "setsid", "statvfs",
           "uname", "wait", "waitpid", "sched_getaffinity"},
    "signal": {"SIGALRM", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGUSR1", "SIGUSR2", "alarm", "pause",
               "pthread_sigmask", "setitimer"},
}  # fmt: skip
ODD = "mit Leerzeichen & 録音 ‘ü’"


ONE_AFTER_ANOTHER = """
import json, sys
from aasvc_cli.cli import program
if __name__ == "__main__":
    program._speak_utf8()
    for words in json.loads(sys.argv[1]):
        if program.run(words):
            sys.exit(" ".join(words))
"""


def run(*arguments: object, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run(
        [sys.executable, "-m", "aasvc_cli", *map(str, arguments)],
        cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip


@pytest.fixture
def odd(tmp_path: Path, small_corpus: Path) -> Path:
    """A folder with an odd name, and recordings with odd names in it."""
    folder = tmp_path / ODD
    for speaker in ("male", "female"):
        (folder / f"{speaker} 話者").mkdir(parents=True)
        for number, path in enumerate(sorted((small_corpus / speaker / "wav" / "train_parallel").iterdir())):
            shutil.copy(path, folder / f"{speaker} 話者" / f"文 {number} é{path.suffix}")
    return folder


@pytest.mark.process
def test_everything_works_with_spaces_and_signs_of_any_language_whatever_the_locale(odd: Path, tiny_conf: Path):
    conf = odd / "meine Einstellungen.yaml"
    shutil.copy(tiny_conf, conf)
    variables = {"AASVC_HOME": str(odd / "データ"), "LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii"}
    male, female = odd / "male 話者", odd / "female 話者"
    lines = (
        ["prepare", "--source", male, "--target", female, "--name", "声", "--conf", conf, "--jobs", 2],
        ["stats", "--data", "声"],
        ["train", "--data", "声", "--tag", "試験"],
        ["convert", male, "--out-dir", odd / "結果", "--model", "試験", "--json", odd / "結果.json"],
        ["evaluate", "--converted", female, "--target", female, "--jobs", 2],
    )
    program = odd / "all.py"
    program.write_text(ONE_AFTER_ANOTHER)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(
        [sys.executable, program, json.dumps(lines, default=str)],
        cwd=odd, env=environment, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "文 5 é" in done.stdout
    results = list((odd / "結果").rglob("*.wav"))
    assert {path.name for path in results} == {f"文 {number} é.wav" for number in range(6)}
    assert all(soundfile.info(path).frames for path in results)
    assert "文 0 é" in (odd / "結果.json").read_text(encoding="utf-8")


@pytest.mark.process
def test_messages_name_files_of_any_language_under_an_ascii_locale(tmp_path: Path):
    done = run(
        "convert", "録音.wav", "-o", "x.wav", folder=tmp_path, LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0"
    )
    assert done.returncode == 1
    assert "録音.wav: no such file" in done.stderr


@pytest.mark.process
@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are always text there")
def test_a_name_that_is_no_text_is_printed_as_it_is(trained: Home, data: Path, tmp_path: Path):
    name = os.fsdecode(b"r\xe9sum\xe9.wav")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "aasvc_cli", "convert", data / "male.flac", "-o", name, "--model", "tiny"],
        cwd=tmp_path, env=environment, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"r\xe9sum\xe9.wav\n"
    done = subprocess.run(
        [sys.executable, "-m", "aasvc_cli", "convert", name, "-o", "out.wav", "--model", "tiny"],
        cwd=tmp_path, env=environment, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.process
def test_training_reads_its_data_in_spawned_processes(trained: Home, tmp_path: Path):
    """As on Windows and macOS, where nothing is inherited: what goes to the workers has to be picklable."""
    (tmp_path / "aasvc.yaml").write_text("train: {n_workers: 1}")
    program = tmp_path / "spawn.py"
    program.write_text(
        "import multiprocessing, sys\n"
        "from aasvc_cli.cli import run\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.set_start_method('spawn')\n"
        "    sys.exit(run(['--quiet', 'train', '--tag', 'spawned', '--json', '-']))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == 2


def lines_of(source: str | ast.Module, offends: Callable[[ast.AST], bool], guards: tuple[str, ...] = ()) -> list[str]:
    """The statements of a source that a check objects to, unless a surrounding try, with or if names a guard."""
    nodes = list(ast.walk(ast.parse(source) if isinstance(source, str) else source))
    offending = [node for node in nodes if offends(node)]
    if not offending:
        return []
    guarded = {
        id(inner)
        for node in nodes
        if isinstance(node, (ast.Try, ast.With, ast.If)) and any(word in ast.unparse(node) for word in guards)
        for inner in ast.walk(node)
    }
    return [f"line {node.lineno}: {ast.unparse(node)}" for node in offending if id(node) not in guarded]


def offences(offends: Callable[[ast.AST], bool], guards: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """The same for every file of the package, by name."""
    found = {str(path.relative_to(PACKAGE)): lines_of(tree, offends, guards) for path, tree in parsed().items()}
    return {name: lines for name, lines in found.items() if lines}


def needs_posix(node: ast.AST) -> bool:
    """Whether a node imports or names what only POSIX has."""
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in POSIX_MODULES for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in POSIX_MODULES
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.attr in POSIX_NAMES.get(node.value.id, ())
    # comparing a path with such a name does no harm elsewhere, opening it does
    arguments = node.args if isinstance(node, ast.Call) else []
    return any(isinstance(a, ast.Constant) and str(a.value).startswith("/dev/") for a in arguments)


def leaves_the_encoding_open(node: ast.AST) -> bool:
    """Whether a node reads or writes text in the encoding of the system, which is not UTF-8 on Windows."""
    if not isinstance(node, ast.Call) or "encoding" in {keyword.arg for keyword in node.keywords}:
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in ("read_text", "write_text"):
        return isinstance(node.func, ast.Attribute)
    # the built-in open(), or a path's with a mode; archives and the like have an open() of their own
    modes = [a.value for a in node.args if isinstance(a, ast.Constant) and re.fullmatch(r"[rwax+bt]+", str(a.value))]
    is_open = name == "open" and (isinstance(node.func, ast.Name) or bool(modes))
    return is_open and not any("b" in str(mode) for mode in modes)


def test_no_module_needs_what_only_posix_has():
    guards = ("AttributeError", "ImportError", "hasattr")
    assert len(lines_of("import fcntl\nos.fork()\nopen('/dev/null')", needs_posix, guards)) == 3
    assert not lines_of("try:\n    import fcntl\nexcept ImportError:\n    pass", needs_posix, guards)
    assert not offences(needs_posix, guards)


def test_text_files_are_read_and_written_as_utf8():
    assert len(lines_of("path.read_text()\nopen('name')\npath.open('w')", leaves_the_encoding_open)) == 3
    assert not lines_of(
        "archive.open('name')\nopen('name', 'rb')\nopen('name', encoding='utf-8')", leaves_the_encoding_open
    )
    assert not offences(leaves_the_encoding_open)


WITHOUT_POSIX = """
import os, signal, sys
for module in {modules!r}:
    sys.modules[module] = None
import multiprocessing, subprocess, tempfile  # the standard library knows both worlds
for owner, names in ((os, {os!r}), (signal, {signal!r})):
    for name in names:
        if hasattr(owner, name):
            delattr(owner, name)
from aasvc_cli.cli import program
sys.exit(program.run(sys.argv[1:]))
"""


@pytest.mark.process
def test_conversion_needs_nothing_that_windows_has_not(trained: Home, data: Path, tmp_path: Path):
    names = {"os": sorted({"fork", "forkpty", "killpg", "getuid", "geteuid", "setsid", "sysconf"}),
             "signal": sorted(POSIX_NAMES["signal"])}  # fmt: skip
    code = WITHOUT_POSIX.format(modules=["fcntl", "resource", "termios", "pwd", "grp"], **names)
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = call("convert", data / "male.flac", "-o", "out.wav", "--model", "tiny")
    assert done.returncode == 0, done.stderr
    assert soundfile.info(tmp_path / "out.wav").frames
    assert call("--help").returncode == 0


REMOVED = {
    "3.12": {"asynchat", "asyncore", "distutils", "imp", "smtpd"},
    "3.13": {"aifc", "audioop", "cgi", "cgitb", "chunk", "crypt", "imghdr", "lib2to3", "mailcap", "msilib", "nis",
             "nntplib", "ossaudiodev", "pipes", "sndhdr", "spwd", "sunau", "telnetlib", "uu", "xdrlib"},
}  # fmt: skip
"""Modules that a Python has taken out of its library."""


def imported_by(tree: ast.Module) -> set[str]:
    """Top names of the modules that a source imports anywhere."""
    nodes = list(ast.walk(tree))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.split(".")[0] for name in names}


def test_no_module_needs_what_a_later_python_has_not():
    assert imported_by(ast.parse("def f():\n    from imp import x\nimport cgi.y as z")) == {"imp", "cgi"}
    gone = set().union(*REMOVED.values())
    for path, tree in parsed().items():
        assert not imported_by(tree) & gone, path.name


@pytest.mark.filterwarnings("error")
def test_the_source_compiles_without_a_warning():
    for path in PACKAGE.rglob("*.py"):
        compile(path.read_text(encoding="utf-8"), str(path), "exec")


def test_the_source_is_of_the_oldest_supported_python():
    for path in PACKAGE.rglob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 11))
