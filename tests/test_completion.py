"""Completion by bash, zsh and fish: the shell asks the program, which answers without loading anything slow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aasvc_cli.storage.cache import Home

ROOT = Path(__file__).parent.parent
SLOW = {"torch", "numpy", "yaml", "pydantic", "rich", "logging", "scipy", "soundfile", "joblib", "h5py", "requests"}
REPORT = """
import atexit, json, os, sys
def report():
    with open(os.environ["LOADED"], "w") as stream:
        json.dump(sorted(name.split(".")[0] for name in sys.modules), stream)
atexit.register(report)
from aasvc_cli.cli import main
sys.argv[0] = "aasvc"
main()
"""
SHELLS = ["bash", "zsh", "fish"]


@pytest.fixture
def complete(tmp_path: Path) -> Callable[..., list[str]]:
    """What a shell offers for the last word of a line, by the protocol of that shell."""

    def call(shell: str, *words: str) -> list[str]:
        line = " ".join(["aasvc", *words])
        protocol = {
            "bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(words))},
            "zsh": {"_TYPER_COMPLETE_ARGS": line},
            "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        }[shell]
        environment = {
            **os.environ, **protocol, "_AASVC_COMPLETE": f"complete_{shell}", "PYTHONPATH": str(ROOT),
            "LOADED": str(tmp_path / "loaded.json"),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", REPORT], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.stderr == ""
        loaded = set(json.loads((tmp_path / "loaded.json").read_text()))
        assert not loaded & SLOW
        if shell == "zsh":
            rows = done.stdout.strip().removeprefix("_arguments '*: :((").removesuffix("))'").splitlines()
            return [row.split('":"')[0].strip('"') for row in rows if row.startswith('"')]
        return [row.split("\t")[0] for row in done.stdout.splitlines() if row]

    return call


@pytest.fixture
def furnished(home: Home) -> Home:
    """A data folder with a bit of everything, as far as names go."""
    for name in (
        "exp/male_female_first", "exp/male_female_small", "models/published", "vocoders/pwg_jp_female",
        "corpora/demo/ja-JP/male/wav", "corpora/demo/ja-JP/female/wav", "prepared/male_female", "prepared/unfinished",
    ):  # fmt: skip
        (home.root / name).mkdir(parents=True)
    (home.prepared / "male_female" / "manifest.json").write_text("{}")
    return home


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], ["train"]),
        (["do"], ["download", "doctor"]),
        (["train", "--batch"], ["--batch-size"]),
        (["convert", "--model", "f"], ["first"]),
        (["convert", "--model", "male"], ["male_female_first", "male_female_small"]),
        (["convert", "--model", "pub"], ["published"]),
        (["evaluate", "--tag", "s"], ["small"]),
        (["train", "--conf", "h"], ["hificaptain"]),
        (["prepare", "d"], ["demo"]),
        (["prepare", "demo", "--source", "m"], ["male"]),
        (["train", "--data", "male"], ["male_female"]),
        (["stats", "--norm-name", "se"], ["self"]),
        (["train", "--precision", "b"], ["bf16"]),
        (["train", "--device", "cu"], ["cuda"]),
        (["train", "--data", "unf"], []),
    ],
    ids=lambda value: " ".join(value),
)
def test_names_are_completed(
    complete: Callable[..., list[str]], furnished: Home, words: list[str], expected: list[str]
):
    assert complete("bash", *words) == expected


@pytest.mark.parametrize("shell", ["zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "expected"),
    [(["tr"], ["train"]), (["convert", "--model", "f"], ["first"])],
    ids=lambda value: " ".join(value),
)
def test_other_shells_ask_in_their_own_way(
    complete: Callable[..., list[str]], furnished: Home, shell: str, words: list[str], expected: list[str]
):
    assert complete(shell, *words) == expected


def test_the_data_folder_of_the_line_is_looked_at(
    complete: Callable[..., list[str]], furnished: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AASVC_HOME", str(tmp_path / "nothing"))
    assert complete("bash", "convert", "--model", "f") == []
    assert complete("bash", "--home", str(furnished.root), "convert", "--model", "f") == ["first"]


def test_configuration_files_in_the_working_directory_are_offered(complete: Callable[..., list[str]], tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("")
    assert complete("bash", "train", "--conf", "mi") == ["mine.yaml"]


def test_vocoders_are_found(furnished: Home):
    from types import SimpleNamespace

    from aasvc_cli.cli import completion

    context = SimpleNamespace(params={}, find_root=lambda: SimpleNamespace(params={"home": str(furnished.root)}))
    assert [name for name, _ in completion.vocoders(context)] == ["griffin-lim", "pwg_jp_female"]


def test_without_a_data_folder_nothing_breaks(complete: Callable[..., list[str]], home: Home):
    assert complete("zsh", "convert", "--model", "x") == []
    assert not home.root.exists()


def test_zsh_and_fish_show_what_a_name_means(furnished: Home, tmp_path: Path):
    for shell in ("zsh", "fish"):
        environment = {
            **os.environ, "_AASVC_COMPLETE": f"complete_{shell}", "PYTHONPATH": str(ROOT),
            "_TYPER_COMPLETE_ARGS": "aasvc convert --model f", "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "aasvc_cli"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "training run male_female_first" in done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_for_the_shell_can_be_had(shell: str):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "_AASVC_COMPLETE": f"source_{shell}"}
    done = subprocess.run(
        [sys.executable, "-m", "aasvc_cli"], env=environment, capture_output=True, text=True, check=True
    )
    assert f"complete_{shell}" in done.stdout
    assert "aasvc" in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_real_bash_completes(furnished: Home, tmp_path: Path):
    program = tmp_path / "bin" / "aasvc"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m aasvc_cli "$@"\n')
    program.chmod(0o755)
    script = """
        source <(_AASVC_COMPLETE=source_bash aasvc)
        type=$(complete -p aasvc); function=${type#*-F }; function=${function%% *}
        COMP_WORDS=(aasvc convert --model fi); COMP_CWORD=3; COMP_LINE="${COMP_WORDS[*]}"; COMP_POINT=${#COMP_LINE}
        $function aasvc fi --model
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "first\n"
