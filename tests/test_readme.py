"""Every command in the README works: what it promises is run, from the first line to the last."""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from typer.main import get_command

from aasvc_cli import cli
from aasvc_cli.serve import server as web_server
from aasvc_cli.storage.home import Home
from tests import servers

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK = {
    "train": ["--max-steps", "2", "--batch-size", "1", "--eval-every", "2", "--save-every", "2", "--threads", "1"],
    "prepare": ["--jobs", "1"],
    "evaluate": ["--jobs", "1"],
    "serve": ["--no-browser"],
}
"""What makes a tutorial command quick enough for a test; everything else is run as it is written."""


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def command_lines() -> list[list[str]]:
    """Every command in a bash block, without its comment."""
    lines = [line for block in code_blocks("bash") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def split_on(words: list[str], separator: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == separator:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


INSTALL_AND_CONVERT, INSTALL_AND_TEST, *COMMANDS = command_lines()


def test_the_first_two_commands_set_everything_up_themselves():
    convert, test = split_on(INSTALL_AND_CONVERT, "&&"), split_on(INSTALL_AND_TEST, "&&")
    assert convert[0] == test[0] == ["python3", "-m", "venv", ".venv"]
    assert convert[1] == [".venv/bin/pip", "install", "."]
    assert test[1] == [".venv/bin/pip", "install", "-e", ".[test]"]
    assert convert[2][:2] == [".venv/bin/aasvc", "convert"]
    assert test[2] == [".venv/bin/python", "-m", "pytest"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["scripts"]["aasvc"] == "aasvc_cli.cli:main"
    assert any(line.startswith("pytest") for line in project["project"]["optional-dependencies"]["test"])


@pytest.mark.process
@pytest.mark.slow
def test_the_installed_package_converts_the_recording_of_the_first_command(tmp_path: Path):
    """Installs what `pip install .` would, with the dependencies that are here already."""
    tree = tmp_path / "clone"
    shutil.copytree(ROOT / "aasvc_cli", tree / "aasvc_cli", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "--target", site, "."], cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (site / "aasvc_cli" / "py.typed").is_file()

    words = split_on(INSTALL_AND_CONVERT, "&&")[2]
    data = tmp_path / "tests" / "assets"
    data.mkdir(parents=True)
    shutil.copy(ROOT / words[2], data)
    done = subprocess.run(
        [site / "bin" / "aasvc", *words[1:]],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(site), "PATH": "", "AASVC_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert soundfile.info(tmp_path / words[words.index("-o") + 1]).duration > 0.5


@pytest.fixture
def mirror(demo_corpus: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[servers.Server]:
    """Stands for the servers of the published files: the same paths, with a small model and a small corpus."""
    with servers.serving() as server:
        servers.put_published(server, data)
        servers.put_captain(server, {each: servers.captain_zip(demo_corpus, each, 4) for each in ("male", "female")})
        monkeypatch.setenv("AASVC_MIRROR", server.url)
        yield server


@pytest.mark.slow
def test_every_other_command_works_in_the_order_of_the_readme(
    aasvc: Callable[..., Any],
    home: Home,
    demo_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mirror: servers.Server,
):
    monkeypatch.chdir(tmp_path)
    male, female = demo_corpus / "male" / "wav", demo_corpus / "female" / "wav"
    for folder, wav in (("source-speaker", male), ("target-speaker", female)):
        (tmp_path / folder).mkdir()
        for path in sorted((wav / "train_parallel").iterdir())[:12]:
            shutil.copy(path, tmp_path / folder)
    shutil.copytree(male / "eval", tmp_path / "recordings")
    for path in sorted((tmp_path / "recordings").iterdir())[2:]:
        path.unlink()
    wave, rate = soundfile.read(ROOT / "tests" / "assets" / "male.flac")
    soundfile.write(tmp_path / "in.wav", wave, rate)

    # the server stops as soon as it serves
    monkeypatch.setattr(web_server, "serve", lambda _app, listening, on_ready: (on_ready(), listening.close()))
    for program, *words in COMMANDS:
        if program == "source":
            continue  # activates the environment
        assert program == "aasvc", f"the README names a command that this test does not know: {program}"
        outcome = aasvc(*words, *QUICK.get(words[0], []))
        assert outcome.code == 0, f"aasvc {shlex.join(words)}: {outcome.err}"

    run = home.exp / "male_female_first"
    assert (run / "best.safetensors").is_file()
    assert len(list((run / "converted" / "eval").glob("*.wav"))) == 10
    assert (run / "scores-eval.json").is_file()
    assert soundfile.info(tmp_path / "out.wav").duration > 0.1
    assert (home.models / "male_female_aas_vc_mel_pretrained" / "checkpoint-50000steps.pkl").is_file()
    assert (home.vocoders / "pwg_jp_female" / "checkpoint-400000steps.pkl").is_file()
    assert len(list((home.corpora / "hificaptain-ja").glob("*/wav/train_parallel/*.wav"))) == 8
    assert (home.prepared / "captain" / "manifest.json").is_file()
    assert len(list((tmp_path / "converted").glob("*.wav"))) == 2


@pytest.fixture
def folder(tmp_path: Path, demo_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``in.wav`` and two recordings, and ``aasvc`` on the path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recordings").mkdir()
    for path in sorted((demo_corpus / "male" / "wav" / "eval").iterdir())[:2]:
        shutil.copy(path, tmp_path / "recordings")
    wave, rate = soundfile.read(ROOT / "tests" / "assets" / "male.flac")
    soundfile.write(tmp_path / "in.wav", wave, rate)
    program = tmp_path / "bin" / "aasvc"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m aasvc_cli "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


@pytest.mark.process
@pytest.mark.slow
def test_every_pipe_works_as_it_is_written(folder: Path):
    for tool in ("bash", "sox", "ffmpeg", "find"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}: apt-get install {tool}")
    lines = [line for block in code_blocks("shell") for line in block.splitlines()]
    for line in lines:
        done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        assert "error" not in done.stderr
    assert soundfile.info(folder / "out.flac").duration > 0.5
    assert len([path for path in (folder / "converted").rglob("*") if path.is_file()]) == 2


def test_the_python_session_gives_what_the_text_says(folder: Path):
    (session,) = code_blocks("pycon")
    test = doctest.DocTestParser().get_doctest(session, {}, "README", "README.md", 0)
    assert len(test.examples) >= 8
    assert doctest.DocTestRunner().run(test).failed == 0
    assert soundfile.info(folder / "out.wav").duration > 0.5


def test_the_tutorial_names_every_command_of_the_program():
    used = [words[1] for words in COMMANDS if words[0] == "aasvc"]
    assert list(dict.fromkeys(used)) == list(get_command(cli.app).commands)


def test_every_option_in_the_text_exists():
    group = get_command(cli.app)
    known = {name for parameter in group.params for name in parameter.opts}
    for command in group.commands.values():  # type: ignore[attr-defined]
        known |= {name for parameter in command.params for name in parameter.opts}
    named = set(re.findall(r"`[^`\n]*?(--[a-z][a-z0-9-]*)", README))
    assert named
    assert named - known - {"--help"} == set()


def test_the_text_before_the_reference_is_short():
    text, _, reference = README.partition("## Where things are\n")
    assert reference
    assert len(text.split()) <= 1500


def test_the_settings_file_in_the_text_works(
    aasvc: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AASVC_HOME")
    (settings,) = code_blocks("yaml")
    (tmp_path / "aasvc.yaml").write_text(settings, encoding="utf-8")
    outcome = aasvc("train", "--print-config", "--json", "-")
    assert outcome.code == 0, outcome.err
    shown = json.loads(outcome.out)
    assert (shown["config"]["train"]["batch_size"], shown["config"]["train"]["seed"]) == (4, 3)
    assert shown["config"]["train"]["device"] == "cuda"
    assert shown["options"]["tag"]["value"] == "mine"


def test_files_that_the_text_links_to_exist():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert all((ROOT / link).is_file() for link in links)
