"""Completion by bash, zsh and fish: the shell asks the program, which answers without loading anything slow."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from aasvc_cli.storage.home import Home

ROOT = Path(__file__).parents[2]
SLOW = {"torch", "numpy", "yaml", "pydantic", "rich", "logging", "scipy", "soundfile", "joblib", "h5py", "requests"}
REPORT = """
import atexit, json, os, sys
def report():
    with open(os.environ["LOADED"], "w") as stream:
        json.dump(sorted(name.split(".")[0] for name, module in sys.modules.items() if module), stream)
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
    for name in ("ended/encoder.safetensors", "ended/melody.safetensors", "stopped/checkpoint.pt"):
        (home.encoders / name).parent.mkdir(parents=True, exist_ok=True)
        (home.encoders / name).touch()
    return home


@pytest.mark.process
def test_names_are_completed(complete: Callable[..., list[str]], furnished: Home):
    lines = [
        (["tr"], ["train"]),
        (["do"], ["download", "doctor"]),
        (["train", "--batch"], ["--batch-size"]),
        (["convert", "--model", "f"], ["first"]),
        (["convert", "--model", "male"], ["male_female_first", "male_female_small"]),
        (["convert", "--model", "pub"], ["published"]),
        (["evaluate", "--model", "s"], ["small"]),
        (["train", "--conf", "h"], ["hificaptain"]),
        (["prepare", "d"], ["demo"]),
        (["prepare", "demo", "--source", "m"], ["male"]),
        (["train", "--data", "male"], ["male_female"]),
        (["stats", "--norm-name", "se"], ["self"]),
        (["train", "--precision", "b"], ["bf16"]),
        (["train", "--device", "cu"], ["cuda"]),
        (["train", "--data", "unf"], []),
        (["convert", "--vocoder", "p"], ["pwg_jp_female"]),
        (["convert", "--vocoder", ""], ["griffin-lim", "bundled", "universal", "pwg_jp_female"]),
        (["train", "--init", "p"], ["published"]),
        (["train", "--kind", "vocoder", "--init", ""], ["none", "bundled", "universal", "pwg_jp_female"]),
        (["train", "--kind", "content", "--init", ""], ["none", "bundled", "ended"]),
        (["train", "--kind", "vocoder", "--mels-from", "f"], ["first"]),
        (["evaluate", "first", "s"], ["small"]),
        (["download", "hif"], ["hificaptain-ja", "hificaptain-en"]),
    ]
    for words, expected in lines:
        assert complete("bash", *words) == expected, words


@pytest.mark.process
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_ask_in_their_own_way(complete: Callable[..., list[str]], furnished: Home, shell: str):
    assert complete(shell, "tr") == ["train"]
    assert complete(shell, "convert", "--model", "f") == ["first"]


@pytest.mark.process
def test_the_data_folder_of_the_line_is_looked_at(
    complete: Callable[..., list[str]], furnished: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AASVC_HOME", str(tmp_path / "nothing"))
    assert complete("bash", "convert", "--model", "f") == []
    assert complete("bash", "--home", str(furnished.root), "convert", "--model", "f") == ["first"]


@pytest.mark.process
def test_configuration_files_in_the_working_directory_are_offered(complete: Callable[..., list[str]], tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("")
    assert complete("bash", "train", "--conf", "mi") == ["mine.yaml"]


def test_everything_that_can_be_downloaded_is_offered():
    from aasvc_cli.cli import completion
    from aasvc_cli.published.catalogue import CATALOGUE

    assert [name for name, _ in completion.catalogue()] == list(CATALOGUE)


def test_files_of_an_encoder_are_called_as_those_that_write_them_call_them():
    from aasvc_cli.cli import completion
    from aasvc_cli.features.content import MELODY_FILE, WEIGHTS_FILE

    assert completion.ENCODERS == (WEIGHTS_FILE, MELODY_FILE)


@pytest.mark.process
def test_without_a_data_folder_nothing_breaks(complete: Callable[..., list[str]], home: Home):
    assert complete("zsh", "convert", "--model", "x") == []
    assert not home.root.exists()


@pytest.mark.process
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


@pytest.mark.process
@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_for_the_shell_can_be_had(shell: str):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "_AASVC_COMPLETE": f"source_{shell}"}
    done = subprocess.run(
        [sys.executable, "-m", "aasvc_cli"], env=environment, capture_output=True, text=True, check=True
    )
    assert f"complete_{shell}" in done.stdout
    assert "aasvc" in done.stdout


TYPED = {
    "aasvc tr": "aasvc train ",
    "aasvc convert --model fi": "aasvc convert --model first ",
    "aasvc convert --model male_female_s": "aasvc convert --model male_female_small ",
    "aasvc convert --vocoder pw": "aasvc convert --vocoder pwg_jp_female ",
    "aasvc train --conf hi": "aasvc train --conf hificaptain ",
    "aasvc prepare de": "aasvc prepare demo ",
    "aasvc train --batch": "aasvc train --batch-size ",
}
"""What stands on the line before and after the tab key."""
SHOW = {  # after sourcing the script, a key that writes the line down and empties it
    "bash": r"""
        PS1='> '; bind 'set bell-style none'
        show() { printf '%s\n' "$READLINE_LINE" >> "$SEEN"; READLINE_LINE=; READLINE_POINT=0; }
        bind -x '"\C-g": show'
    """,
    "zsh": r"""
        PS1='> '; unsetopt beep
        show() { print -r -- "$BUFFER" >> "$SEEN"; BUFFER= }
        zle -N show; bindkey '^G' show
    """,
    "fish": r"""
        function fish_prompt; echo '> '; end
        function show; commandline >> $SEEN; commandline ''; end
        bind \cg show
    """,
}
START = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(_AASVC_COMPLETE=source_bash aasvc)"),
    "zsh": (["zsh", "-f", "-i"], 'autoload -U compinit; compinit -u -D; eval "$(_AASVC_COMPLETE=source_zsh aasvc)"'),
    "fish": (["fish", "--no-config", "-i"], "_AASVC_COMPLETE=source_fish aasvc | source"),
}


@pytest.fixture
def type_into(tmp_path: Path) -> Iterator[Callable[[str, Sequence[str]], list[str]]]:
    """Start a shell on a terminal, type each line and the tab key; gives the lines as they were then."""
    pty, fcntl, termios = (
        pytest.importorskip(name, reason="needs pseudo-terminals") for name in ("pty", "fcntl", "termios")
    )
    program = tmp_path / "bin" / "aasvc"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m aasvc_cli "$@"\n')
    program.chmod(0o755)
    started: list[tuple[subprocess.Popen[bytes], int]] = []

    def call(shell: str, lines: Sequence[str]) -> list[str]:
        command, load = START[shell]
        seen, setup = tmp_path / "seen", tmp_path / "setup"
        seen.touch()
        setup.write_text(f"{load}\n{textwrap.dedent(SHOW[shell])}\n")
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
            "SEEN": str(seen), "TERM": "dumb" if shell != "fish" else "xterm", "HOME": str(tmp_path), "COLUMNS": "200",
        }  # fmt: skip
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # without a terminal of its own, fish refuses
        )  # fmt: skip
        os.close(theirs)
        started.append((process, ours))
        threading.Thread(target=_drain, args=(ours,), daemon=True).start()

        def lines_with(word: str) -> list[str]:
            return [line for line in seen.read_text().splitlines() if word in line]

        def wait_for(word: str, count: int, again: bytes = b"") -> None:
            deadline = time.monotonic() + 60
            while len(lines_with(word)) < count:
                assert time.monotonic() < deadline, seen.read_text()
                os.write(ours, again)
                time.sleep(0.2)

        os.write(ours, f". {setup}\r".encode())
        wait_for("ready", 1, again=b"ready\x07")  # a shell that is still starting may throw keys away
        for number, line in enumerate(lines, start=1):
            os.write(ours, f"{line}\t\x07".encode())
            wait_for("aasvc", number)
        return lines_with("aasvc")

    yield call
    for process, ours in started:
        process.kill()
        process.wait()
        os.close(ours)


def _drain(terminal: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(terminal, 65536):
            pass


@pytest.mark.process
@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes(furnished: Home, type_into: Callable[[str, Sequence[str]], list[str]], shell: str):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}: apt-get install {shell}")
    assert type_into(shell, list(TYPED)) == list(TYPED.values())
