"""The shell: help, options, exit codes, progress, signals. What the commands do is tested with the pipeline."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import typer

from aasvc_cli import __version__, cli
from aasvc_cli.cli import program as program_module
from aasvc_cli.cli import progress
from aasvc_cli.cli.interrupt import watch
from aasvc_cli.config.reading import read_preset
from aasvc_cli.config.settings import Config
from aasvc_cli.data import manifest as manifest_module
from aasvc_cli.data.manifest import Finding, Manifest
from aasvc_cli.errors import DataError, StorageError
from aasvc_cli.storage.files import atomic_write
from aasvc_cli.storage.home import HOME_VARIABLE, Home

Aasvc = Callable[..., Any]
COMMANDS = ["download", "prepare", "stats", "train", "convert", "evaluate", "export", "serve", "doctor"]
NO_DEFAULT = {
    "download": {"names", "mirror"},
    "convert": {
        "inputs", "output", "out_dir", "from0", "set_name", "data", "source_stats", "save_mel", "raw_format",
        "raw_rate", "jsonl",
    },
    "export": {"model", "folder", "source_stats", "data"},
    "evaluate": {
        "systems", "model", "converted", "target", "source", "text", "measures", "asr_model", "language", "fail_if",
        "csv_file", "report", "listening",
    },
    "serve": {"record", "sentences", "target", "listen"},
    "prepare": {"report"},
}  # fmt: skip
"""Parameters that nothing stands in for: where results go, and what is to be done at all."""


def replace(monkeypatch: pytest.MonkeyPatch, target: str, function: Callable[..., Any]) -> None:
    """Put a stand-in where a command finds its pipeline function."""
    pytest.importorskip(target.rpartition(".")[0])
    monkeypatch.setattr(target, function)


def program() -> Any:
    """The program with its commands, built anew."""
    return typer.main.get_command(cli.app)


class TestHelp:
    def test_the_list_of_commands_is_complete_and_in_the_order_of_work(self, aasvc: Aasvc):
        listed = aasvc("--help").out.split("Commands")[1].split("\n\n")[0]
        assert re.findall(r"^  (\w+) {2,}\w", listed, re.MULTILINE) == COMMANDS
        assert list(program().commands) == COMMANDS
        modules = {path.stem for path in Path(cli.__file__).parent.glob("*.py")}
        assert set(COMMANDS) <= modules

    @pytest.mark.parametrize("command", COMMANDS)
    def test_the_summary_in_the_list_is_the_one_of_the_command(self, command: str):
        text = program().commands[command].help
        assert text.split("\n\n")[0] == program().modules[command]

    @pytest.mark.parametrize("command", COMMANDS)
    @pytest.mark.parametrize("flag", ["-h", "--help"])
    def test_every_command_shows_help_that_opens_with_an_example(self, aasvc: Aasvc, command: str, flag: str):
        outcome = aasvc(command, flag)
        assert (outcome.code, outcome.err) == (0, "")
        usage, _, example, *_ = outcome.out.split("\n\n")
        assert usage.startswith(f"Usage: aasvc {command} ")
        assert example.startswith(f"Example: aasvc {command}")

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_option_is_explained_has_a_panel_and_shows_its_default(self, command: str):
        for parameter in program().commands[command].params:
            where = f"aasvc {command} {parameter.opts}"
            assert getattr(parameter, "help", ""), where
            if parameter.param_type_name == "option":
                assert parameter.rich_help_panel, f"{where} is in no group"
            if getattr(parameter, "is_flag", False) or parameter.hidden:
                continue
            shown = isinstance(parameter.show_default, str) or parameter.default is not None
            assert shown != (parameter.name in {"json_target", *NO_DEFAULT.get(command, ())}), (
                f"{where}: say what happens without it"
            )

    def test_the_options_of_the_program_are_explained_and_stand_behind_every_command_too(self):
        everywhere = {
            parameter.name for parameter in program().params if parameter.expose_value and not parameter.is_eager
        }
        shown = [parameter for parameter in program().params if parameter.name in everywhere]
        assert all(parameter.help and parameter.rich_help_panel for parameter in shown)
        for command in COMMANDS:
            hidden = {parameter.name for parameter in program().commands[command].params if parameter.hidden}
            assert hidden == everywhere

    def test_options_are_listed_with_their_values_ranges_and_defaults(self, aasvc: Aasvc):
        text = aasvc("convert", "-h").out
        assert re.search(r"^  -o, --output FILE  +The converted", text, re.MULTILINE)
        assert re.search(r"--speed X +2 speaks twice as fast. \[default: 1.0; 0.1 to 10\]", text)
        assert "[default: the bundled voice]" in " ".join(text.split())
        assert re.search(r"--precision fp32\|bf16\|fp16\|auto", aasvc("train", "-h").out)

    @pytest.mark.parametrize(
        ("command", "name", "old"),
        [
            ("train", "--loader-workers", "--workers"),
            ("convert", "--jobs", "--workers"),
            ("evaluate", "--model", "--tag"),
        ],
    )
    def test_spellings_of_former_releases_work_and_are_not_shown(self, aasvc: Aasvc, command: str, name: str, old: str):
        (parameter,) = [each for each in program().commands[command].params if old in each.opts]
        assert name in parameter.opts
        text = aasvc(command, "-h").out
        assert re.search(rf"{name}\b", text)
        assert not re.search(rf"^ .*{old}\b", text, re.MULTILINE)

    @pytest.mark.parametrize("columns", ["20", "60", "300"])
    def test_help_fits_the_terminal(self, aasvc: Aasvc, monkeypatch: pytest.MonkeyPatch, columns: str):
        monkeypatch.setenv("COLUMNS", columns)
        for command in COMMANDS:
            text = aasvc(command, "-h").out
            widest = max(len(line) for line in text.splitlines() if "aasvc " not in line)
            assert widest <= max(50, min(110, int(columns)))
            assert text.isascii()

    @pytest.mark.parametrize(
        ("variables", "coloured"),
        [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
    )
    def test_colour_is_what_the_user_says(
        self, aasvc: Aasvc, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], coloured: bool
    ):
        for name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert ("\x1b[" in aasvc("train", "-h").out) == coloured
        assert ("\x1b[" in aasvc("train", "--nonsense").err) == coloured

    @pytest.mark.parametrize("command", COMMANDS)
    def test_the_example_of_every_help_is_a_command_line_that_parses(self, command: str):
        text = program().commands[command].help
        examples = re.findall(r"\[bold\]aasvc (.*?)\[/bold\]", text)
        assert examples
        for example in examples:
            name, *arguments = shlex.split(example)
            with program().commands[name].make_context(name, arguments):
                pass

    def test_no_arguments_show_the_help(self, aasvc: Aasvc):
        outcome = aasvc()
        assert outcome.code == 2
        assert "Usage: aasvc" in outcome.out + outcome.err

    def test_the_version_is_the_packages(self, aasvc: Aasvc):
        assert aasvc("--version").out == f"aasvc {__version__}\n"

    def test_python_runs_the_package_as_the_program(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(sys, "argv", ["aasvc", "--version"])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_module("aasvc_cli", run_name="__main__")
        assert not stopped.value.code
        assert capfd.readouterr().out == f"aasvc {__version__}\n"


class TestWrongUsage:
    def test_it_is_one_line_that_says_where_help_is_and_exits_with_two(self, aasvc: Aasvc):
        mistakes = [
            (["trai"], "Did you mean 'train'"),
            (["train", "--batchsize", "2"], "--batch-size"),
            (["train", "--batch-size", "many"], "--batch-size"),
            (["train", "--batch-size", "0"], "greater than or equal to 1"),
            (["train", "--lr"], "--lr"),
            (["train", "extra"], "extra"),
            (["convert"], "name a recording"),
            (["convert", "a.wav", "--set", "eval", "--model", "x"], "--set stands alone"),
            (["convert", "--set", "test", "--model", "x"], "eval"),
            (["convert", "--set", "eval"], "--set needs --model"),
            (["convert", "a.wav"], "-o FILE"),
            (["convert", "a.wav", "-o", "b.wav", "--out-dir", "c"], "-o and --out-dir both say where results go"),
            (
                ["convert", "a.wav", "-o", "b.wav", "--data", "c", "--source-stats", "d.h5"],
                "--data and --source-stats both give statistics",
            ),
            (["convert", "a.wav", "--speed", "0"], "--speed"),
            (["convert", "a.wav", "--from0", "-", "--out-dir", "b"], "--from0 stands in place of inputs"),
            (["convert", "--from0", "names", "-o", "b.wav"], "--from0 stands in place of inputs"),
            (["convert", "a.wav", "-o", "b.wav", "--format", "mp4"], "--format mp4: use one of wav, flac, ogg, s8"),
            (["convert", "a.wav", "-o", "b.wav", "--raw-rate", "8000"], "--raw-format and --raw-rate go together"),
            (["convert", "a.wav", "-o", "b.wav", "--raw-format", "s16le"], "--raw-format and --raw-rate go together"),
            (
                ["convert", "a.wav", "-o", "b.wav", "--raw-format", "s17", "--raw-rate", "8000"],
                "--raw-format s17: use one of s8",
            ),
            (["convert", "a.wav", "-o", "-", "--json", "-"], "standard output takes one thing"),
            (["convert", "a.wav", "-o", "b.wav", "--json", "-", "--jsonl", "-"], "standard output takes one thing"),
            (["convert", "a.wav", "-o", "b.wav", "--jobs", "0"], "--jobs"),
            (["download", "everything"], "demo"),
            (["--nonsense"], "--nonsense"),
            (["doctor", "--yes"], "--yes goes with --clean"),
            (["train", "--print-confg"], "--print-config"),
            (["train", "--precision", "bf61"], "bf16"),
        ]
        for arguments, message in mistakes:
            outcome = aasvc(*arguments)
            assert (outcome.code, outcome.out) == (2, ""), arguments
            assert re.fullmatch(r"aasvc: error: .* \(help: aasvc.* -h\)\n", outcome.err)
            assert message in outcome.err


class TestErrorBoundary:
    @pytest.fixture
    def failing(self, aasvc: Aasvc, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
        def call(error: BaseException, *before: str) -> Any:
            def fail(*_: Any, **__: Any) -> None:
                raise error

            replace(monkeypatch, "aasvc_cli.pipeline.download.download", fail)
            return aasvc(*before, "download", "demo")

        return call

    def test_an_expected_error_is_one_line_and_exit_code_one(self, failing: Aasvc):
        outcome = failing(DataError("corpus: has no\nspeakers"))
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err == "aasvc: error: corpus: has no speakers\n"

    def test_an_unexpected_error_is_one_line_that_names_debug(self, failing: Aasvc):
        outcome = failing(ZeroDivisionError("division by zero"))
        assert outcome.code == 1
        assert outcome.err.startswith(
            "aasvc: unexpected error: ZeroDivisionError: division by zero (run `aasvc --debug"
        )
        assert outcome.err.count("\n") == 1

    @pytest.mark.parametrize("error", [StorageError("disk full"), ZeroDivisionError("division by zero")])
    def test_debug_shows_where_it_happened(self, failing: Aasvc, error: Exception):
        outcome = failing(error, "--debug")
        assert outcome.code == 1
        assert "Traceback" in outcome.err
        assert "def fail" in outcome.err or "in fail" in outcome.err
        assert outcome.err.splitlines()[-1].startswith("aasvc: ")

    def test_an_interrupt_exits_with_130(self, failing: Aasvc):
        outcome = failing(KeyboardInterrupt())
        assert (outcome.code, outcome.err) == (130, "aasvc: interrupted\n")

    def test_too_little_memory_is_one_line(self, failing: Aasvc):
        outcome = failing(MemoryError())
        assert (outcome.code, outcome.err) == (1, "aasvc: error: not enough memory\n")

    def test_main_exits_with_the_code_and_leaves_no_handlers(self):
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        with pytest.raises(SystemExit) as caught:
            program_module.main(["nonsense"])
        assert caught.value.code == 2
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
        assert signal.set_wakeup_fd(-1) == -1

    def test_a_request_to_terminate_cleans_up_like_an_interrupt(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        def write(*_: Any, **__: Any) -> None:
            with atomic_write(tmp_path / "file") as stream:
                stream.write(b"half")
                os.kill(os.getpid(), signal.SIGTERM)

        replace(monkeypatch, "aasvc_cli.pipeline.download.download", write)
        with pytest.raises(SystemExit) as caught:
            program_module.main(["download"])
        assert caught.value.code == 130
        assert not list(tmp_path.glob(".*")) + list(tmp_path.glob("file"))
        for thread in threading.enumerate():
            if thread.name == "ctrl-c":
                thread.join()
        assert not watch.asked, "whatever this process runs next was not asked to stop"


class TestResults:
    @pytest.fixture
    def downloads(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def download(home: Home, items: Any, source: Any, **options: Any) -> SimpleNamespace:
            calls.append({"home": home, "names": [item.name for item in items], "source": source, **options})
            if options["on_bytes"]:
                for done in (1_000_000, 2_000_000, 3_000_000):
                    options["on_bytes"]("x.zip", done, 5_000_000)
            item = SimpleNamespace(
                name="demo", kind="corpus", folder=home.corpora / "demo", n_files=3, n_bytes=5_000_000,
                already_there=False,
            )  # fmt: skip
            return SimpleNamespace(items=[item], to_tree=lambda: {"name": "デモ"})

        replace(monkeypatch, "aasvc_cli.pipeline.download.download", download)
        return calls

    def test_the_result_goes_to_standard_output_and_talk_to_standard_error(
        self, aasvc: Aasvc, downloads: list[Any], home: Home
    ):
        outcome = aasvc("download")
        assert outcome.code == 0
        assert str(home.corpora / "demo") in outcome.out
        assert "next: aasvc prepare" in outcome.err

    def test_quiet_leaves_results_only(self, aasvc: Aasvc, downloads: list[Any]):
        outcome = aasvc("--quiet", "download")
        assert outcome.out
        assert outcome.err == ""
        assert downloads[0]["on_bytes"] is None

    def test_json_on_standard_output_is_nothing_but_json(self, aasvc: Aasvc, downloads: list[Any]):
        assert json.loads(aasvc("download", "--json", "-").out) == {"name": "デモ"}

    def test_json_in_a_file_leaves_the_summary(self, aasvc: Aasvc, downloads: list[Any], tmp_path: Path):
        outcome = aasvc("download", "--json", tmp_path / "new" / "result.json")
        assert json.loads((tmp_path / "new" / "result.json").read_text(encoding="utf-8")) == {"name": "デモ"}
        assert outcome.out

    def test_home_comes_from_the_option_before_the_environment(
        self, aasvc: Aasvc, downloads: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "variable"))
        aasvc("download")
        aasvc("--home", tmp_path / "option", "download")
        assert [call["home"].root for call in downloads] == [tmp_path / "variable", tmp_path / "option"]

    def test_plain_progress_is_a_line_with_rate_and_remaining_time(
        self, aasvc: Aasvc, downloads: list[Any], monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(progress, "PLAIN_PROGRESS_SECONDS", 0.0)
        assert re.search(r"x\.zip: 2\.0 MB of 5\.0 MB, [\d.]+ .?B/s, 0:00:\d\d left", aasvc("download").err)

    def test_plain_progress_counts_recordings_in_the_same_way(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(progress, "PLAIN_PROGRESS_SECONDS", 0.0)
        with progress.progress("features") as on_progress:
            assert on_progress is not None
            on_progress(1, 2)
        assert re.search(r"features: 1/2, [\d.]+/s, 0:00:\d\d left", capsys.readouterr().err)

    def test_on_a_terminal_progress_is_a_bar(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        with progress.progress("features") as on_progress:
            assert on_progress is not None
            on_progress(3, 7)
        assert "3/7" in capsys.readouterr().err

    def test_on_a_terminal_a_transfer_is_a_bar_with_bytes(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        with progress.byte_progress() as on_bytes:
            assert on_bytes is not None
            assert capsys.readouterr().err == ""  # a question may have to be asked first
            on_bytes("a.zip", 1_500_000, 3_000_000)
            on_bytes("b.zip", 0, None)
        shown = capsys.readouterr().err
        assert "a.zip" in shown or "b.zip" in shown


class TestTrain:
    """The command around a stand-in for the training loop."""

    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch, home: Home) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []
        manifest = Manifest("demo", "male", "female", read_preset("small"), {})

        def train(home: Home, config: Config, **options: Any) -> SimpleNamespace:
            calls.append({"what": "train", "config": config, **options})
            for step, dev in ((1, None), (2, {"loss": 1.25})):
                options["on_report"](
                    SimpleNamespace(
                        step=step, max_steps=config.train.max_steps, loss=2.5, losses={}, lr=1e-3, grad_norm=1.0,
                        seconds=1.0, steps_per_second=2.0, dev=dev,
                    )
                )  # fmt: skip
            options["on_message"]("a message")
            return SimpleNamespace(
                folder=home.exp / "male_female_x", step=2, best_step=2, best_dev={"loss": 1.25},
                stopped=options["should_stop"](), out_of_time=False, out_of_patience=False, seconds=1.0,
                to_tree=lambda: {"step": 2},
            )  # fmt: skip

        def compute_stats(home: Home, **options: Any) -> None:
            calls.append({"what": "stats", **options})

        replace(monkeypatch, "aasvc_cli.pipeline.train.train", train)
        replace(monkeypatch, "aasvc_cli.pipeline.stats.compute_stats", compute_stats)
        # last, as modules that are imported for the first time would keep the stand-in
        monkeypatch.setattr(manifest_module, "read_manifest", lambda home, name=None: manifest)
        return calls

    def test_flags_override_the_prepared_configuration(self, aasvc: Aasvc, calls: list[dict[str, Any]]):
        outcome = aasvc(
            "train", "--tag", "x", "--batch-size", 3, "--accum", 2, "--max-steps", 7, "--lr", "1e-4", "--seed", 5,
            "--device", "cpu", "--threads", 1, "--src-feat", "mcep", "--dp-feat", "mcep", "--norm-name", "other",
            "--eval-every", 2, "--save-every", 3, "--warmup-steps", 4, "--frames-per-token", 2, "--overwrite",
            "--tensorboard", "--precision", "bf16",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        call = calls[-1]
        train, features = call["config"].train, call["config"].features
        assert (train.batch_size, train.accum, train.max_steps, train.lr, train.seed) == (3, 2, 7, 1e-4, 5)
        assert (train.device, train.threads, train.eval_every, train.save_every) == ("cpu", 1, 2, 3)
        assert (train.warmup_steps, call["config"].model.frames_per_token) == (4, 2)
        assert (features.source, features.target, features.duration) == ("mcep", "mel", "mcep")
        assert (train.precision, call["tensorboard"]) == ("bf16", True)
        assert (call["tag"], call["norm_name"], call["overwrite"], call["data"]) == ("x", "other", True, "demo")

    def test_without_flags_the_prepared_configuration_is_used_as_it_is(self, aasvc: Aasvc, calls: list[dict[str, Any]]):
        assert aasvc("train", "--init", "none").code == 0
        assert (calls[-1]["config"], calls[-1]["init"]) == (read_preset("small"), "none")
        assert aasvc("train", "--conf", "small").code == 0
        assert (calls[-1]["config"], calls[-1]["init"]) == (read_preset("small"), None)

    def test_the_bundled_voice_is_begun_with_where_it_fits(self, aasvc: Aasvc, calls: list[dict[str, Any]]):
        assert aasvc("train").code == aasvc("train", "--frames-per-token", 2).code == 0
        fits, other = (call for call in calls if call["what"] == "train")
        assert (fits["init"], fits["config"].train.max_steps) == ("bundled", 300)
        assert fits["config"].train.lr == 0.5 * read_preset("small").train.lr
        assert fits["config"].loss.variance_weight == 1.0 and other["config"].loss.variance_weight == 0.0
        assert (other["init"], other["config"].train.max_steps) == (None, read_preset("small").train.max_steps)
        assert other["config"].model.source_melody and not fits["config"].model.source_melody

    @pytest.mark.parametrize("said", ["melody", "no-melody"])
    def test_whether_the_melody_is_heard_can_be_said(self, aasvc: Aasvc, calls: list[dict[str, Any]], said: str):
        assert aasvc("train", f"--{said}").code == 0
        assert (calls[-1]["init"], calls[-1]["config"].model.source_melody) == ("bundled", said == "melody")
        outcome = aasvc("train", "--kind", "vocoder", f"--{said}")
        assert outcome.code == 2 and "--melody and --no-melody: only for voices" in outcome.err

    def test_missing_statistics_are_computed_first_and_existing_ones_are_not(
        self, aasvc: Aasvc, calls: list[dict[str, Any]], home: Home
    ):
        aasvc("train")
        assert [(call["what"], call["data"], call["norm_name"]) for call in calls] == [
            ("stats", "demo", "self"),
            ("train", "demo", "self"),
        ]
        (home.stats / "demo").mkdir(parents=True)
        (home.stats / "demo" / "self.json").write_text("{}")
        aasvc("train")
        assert [call["what"] for call in calls] == ["stats", "train", "train"]

    def test_loss_speed_and_remaining_time_are_shown(self, aasvc: Aasvc, calls: list[dict[str, Any]]):
        outcome = aasvc("train", "--max-steps", 10)
        assert "step 2/10: loss 2.5000, 2.00 steps/s, 0:00:04 left, dev loss 1.2500" in outcome.err
        assert "a message" in outcome.err
        assert "male_female_x" in outcome.out
        assert "next: aasvc convert --set eval --model male_female_x" in outcome.err

    def test_on_a_terminal_the_state_is_redrawn(
        self, calls: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "200")
        assert cli.run(["train", "--max-steps", "10"]) == 0
        shown = capsys.readouterr().err
        assert "loss 2.5000, 2.00 steps/s, 0:00:04 left" in shown
        assert "dev loss 1.2500" in shown

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_stops_in_good_order_and_says_how_to_go_on(
        self, aasvc: Aasvc, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
    ):
        inner = sys.modules["aasvc_cli.pipeline.train"].train

        def signalled(*arguments: Any, **options: Any) -> Any:
            assert not options["should_stop"]()
            os.kill(os.getpid(), number)
            return inner(*arguments, **options)

        monkeypatch.setattr("aasvc_cli.pipeline.train.train", signalled)
        before = signal.getsignal(number)
        outcome = aasvc("train", "--tag", "x", "--max-steps", 3000)
        assert outcome.code == 130
        assert outcome.out == ""
        assert "stopping after this step" in outcome.err
        assert "stopped after step 2 of 3000" in outcome.err.splitlines()[-1]
        assert "the same command goes on from there" in outcome.err.splitlines()[-1]
        assert signal.getsignal(number) == before

    def test_a_second_signal_aborts_at_once(
        self, aasvc: Aasvc, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ):
        def stubborn(*_: Any, **__: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("went on")

        monkeypatch.setattr("aasvc_cli.pipeline.train.train", stubborn)
        outcome = aasvc("train")
        assert (outcome.code, outcome.err.splitlines()[-1]) == (130, "aasvc: interrupted")


class TestPrepare:
    @pytest.fixture
    def shown(self, aasvc: Aasvc, monkeypatch: pytest.MonkeyPatch, home: Home) -> Callable[..., str]:
        """What is shown of a report that the preparation might give."""

        def call(**facts: Any) -> str:
            report = SimpleNamespace(
                **{
                    "name": "a_b", "n_pairs": {"train": 8, "dev": 1, "eval": 1}, "source_seconds": 125.0,
                    "target_seconds": 61.0, "source_speaker": "a", "target_speaker": "b", "findings": (),
                    "n_excluded": 0, "report": home.prepared / "a_b" / "report.json", "n_breaking": 0,
                    "frames_per_token": 4, "smallest_frames_per_token": 2, "to_tree": dict, "matched_by": {"path": 10},
                    "trimmed_seconds": 0.0, "n_cut": 0, "advice": (), "batch_size": 4, "n_pairs_of": {},
                    "n_extra": 0, "extra_seconds": 0.0, **facts,
                }
            )  # fmt: skip
            replace(monkeypatch, "aasvc_cli.pipeline.prepare.prepare", lambda *_, **__: report)
            outcome = aasvc("prepare", "demo")
            assert outcome.code == 0, outcome.err
            return str(outcome.out)

        return call

    def test_the_sizes_of_the_sets_and_the_lengths_of_the_recordings_are_shown(self, shown: Callable[..., str]):
        assert "a_b: 8 train, 1 dev, 1 eval pairs; 0:02:05 of a, 0:01:01 of b" in shown()

    def test_the_first_pairs_that_are_left_out_are_listed_and_the_rest_counted(self, shown: Callable[..., str]):
        findings = [Finding(f"u{number:02d}", "train", "source", "silent", True, "is silent") for number in range(12)]
        text = shown(findings=tuple(findings), n_excluded=12)
        assert "left out: 12 (12 silent)\n  u00: is silent\n" in text
        assert "u09" in text
        assert "u10" not in text
        assert "and 2 more" in text

    def test_a_reduction_factor_that_keeps_all_pairs_is_proposed(self, shown: Callable[..., str]):
        text = shown(n_breaking=3, smallest_frames_per_token=6)
        assert "3 pairs have more source tokens than target frames at 4 frames per token" in text
        assert "--frames-per-token 6" in text
        assert "all pairs allow 2" in shown()

    def test_what_was_matched_trimmed_and_cut_is_shown_with_the_advice(self, shown: Callable[..., str]):
        text = shown(matched_by={"path": 7, "affix": 3}, trimmed_seconds=65.0, n_cut=2, advice=("do this",))
        assert "matched: 7 by path, 3 by affix\ntrimmed: 0:01:05 of silence" in text
        assert "cut: 2 long pairs" in text
        assert "advice: do this\n" in text

    def test_several_sources_are_counted_one_by_one(self, shown: Callable[..., str]):
        assert "pairs: 7 of anna, 3 of bob\n" in shown(n_pairs_of={"anna": 7, "bob": 3})

    def test_recordings_without_a_partner_are_counted(self, shown: Callable[..., str]):
        assert "extra: 3 recordings of b without a partner" in shown(n_extra=3, extra_seconds=61.0)
        assert "extra" not in shown()
        assert "pairs: " not in shown()

    def test_notes_on_files_are_shown_in_full(self, shown: Callable[..., str]):
        assert "note: 3 m4a not readable\n" in shown(
            findings=(Finding("", "", "source", "other_format", False, "3 m4a not readable"),)
        )

    def test_notes_are_counted(self, shown: Callable[..., str]):
        notes = [Finding("u", "train", "source", code, False, "") for code in ("clipped", "clipped", "low_rate")]
        assert "worth a look: 2 clipped, 1 low_rate" in shown(findings=tuple(notes))


class TestConvert:
    def test_without_a_model_the_bundled_voice_is_used_and_named(
        self, aasvc: Aasvc, data: Path, tmp_path: Path, trained: Home, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("aasvc_cli.conversion.voice.bundled", lambda name: trained.exp / "male_female_tiny")
        outcome = aasvc("convert", data / "male.flac", "-o", tmp_path / "out.wav")
        assert outcome.code == 0, outcome.err
        assert outcome.out == f"{tmp_path / 'out.wav'}\n"
        assert outcome.err.startswith("model: the bundled voice")
        info = soundfile.info(tmp_path / "out.wav")
        assert (info.samplerate, info.channels) == (16000, 1)

    def test_the_model_may_come_from_the_environment(
        self, aasvc: Aasvc, data: Path, tmp_path: Path, trained: Home, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("AASVC_MODEL", "tiny")
        outcome = aasvc("convert", data / "male.flac", "-o", tmp_path / "out.flac", "--save-mel", tmp_path / "mel.npy")
        assert (outcome.code, outcome.err) == (0, ""), outcome.err
        frames = len(np.load(tmp_path / "mel.npy"))
        assert soundfile.info(tmp_path / "out.flac").frames == frames * 256

    def test_a_folder_and_files_go_to_the_output_folder(self, aasvc: Aasvc, data: Path, tmp_path: Path, trained: Home):
        folder = tmp_path / "with space" / "録音"
        folder.mkdir(parents=True)
        shutil.copy(data / "male.flac", folder / "声.flac")
        out = tmp_path / "out dir"
        outcome = aasvc(
            "convert", tmp_path / "with space", data / "female.flac", "--out-dir", out, "--model", "tiny", "--json", "-"
        )
        assert outcome.code == 0, outcome.err
        assert {path.relative_to(out).as_posix() for path in out.rglob("*.wav")} == {"録音/声.wav", "female.wav"}
        assert [Path(file["output"]).name for file in json.loads(outcome.out)["files"]] == ["声.wav", "female.wav"]

    def test_a_dry_run_shows_what_would_be_done_and_loads_nothing(
        self, aasvc: Aasvc, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr("aasvc_cli.conversion.converter.Converter.load", None)
        (tmp_path / "rec" / "sub").mkdir(parents=True)
        for name in ("rec/a.flac", "rec/sub/b.flac"):
            shutil.copy(data / "male.flac", tmp_path / name)
        arguments = ["convert", tmp_path / "rec", "--out-dir", tmp_path / "out", "--dry-run"]
        outcome = aasvc(*arguments)
        assert outcome.code == 0
        assert [line.split(" -> ")[1] for line in outcome.out.splitlines()] == [
            str(tmp_path / "out" / "a.wav"), str(tmp_path / "out" / "sub" / "b.wav")
        ]  # fmt: skip
        assert outcome.err == "2 recordings would be converted\n"
        assert len(json.loads(aasvc(*arguments, "--json", "-").out)["jobs"]) == 2
        assert not (tmp_path / "out").exists()
        assert "no such model" in aasvc(*arguments, "--model", "nothing").err
        assert aasvc("convert", tmp_path / "gone.wav", "-o", tmp_path / "x.wav", "-n").code == 1

    def test_the_usual_format_yields_to_the_name_of_a_result(
        self, aasvc: Aasvc, data: Path, tmp_path: Path, trained: Home, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("AASVC_FORMAT", "flac")
        plan = ["convert", data / "male.flac", "--model", "tiny", "--dry-run", "--json", "-"]
        for place, name in (("-o", "a.wav"), ("--out-dir", "folder")):
            outcome = aasvc(*plan, place, tmp_path / name)
            assert outcome.code == 0, outcome.err
            (job,) = json.loads(outcome.out)["jobs"]
            assert Path(job["output"]).suffix == {"a.wav": ".wav", "folder": ".flac"}[name]
        outcome = aasvc(*plan, "-o", tmp_path / "a.wav", "--format", "flac")
        assert outcome.code == 1 and "the name says wav, the format flac" in outcome.err

    def test_lines_of_json_leave_standard_output_to_themselves(
        self, aasvc: Aasvc, data: Path, tmp_path: Path, trained: Home
    ):
        arguments = ["convert", data / "male.flac", tmp_path / "gone.wav", "--out-dir", tmp_path, "--model", "tiny"]
        outcome = aasvc(*arguments, "--jsonl", "-")
        assert outcome.code == 1
        assert [json.loads(line)["status"] for line in outcome.out.splitlines()] == ["converted", "failed"]
        assert str(tmp_path / "male.wav") in outcome.err
        lines = tmp_path / "new" / "lines.jsonl"
        outcome = aasvc(*arguments, "--jsonl", lines, "--skip-existing")
        assert [json.loads(line)["status"] for line in lines.read_text(encoding="utf-8").splitlines()] == [
            "skipped", "failed"
        ]  # fmt: skip
        assert outcome.out == f"0 recordings converted, 0.0 s in {tmp_path}; 1 were there already\n"
        assert outcome.err.endswith("error: 1 recording was not converted; converted: 0\n")
        assert "cannot write" in aasvc(*arguments, "--jsonl", tmp_path).err

    def test_a_set_goes_to_the_folder_of_the_run_where_evaluate_finds_it(self, aasvc: Aasvc, trained: Home):
        outcome = aasvc("convert", "--set", "dev", "--model", "tiny")
        assert outcome.code == 0, outcome.err
        assert "next: aasvc evaluate --model tiny --set dev" in outcome.err
        assert len(list((trained.exp / "male_female_tiny" / "converted" / "dev").glob("*.wav"))) == 2
        outcome = aasvc(
            "evaluate", "--model", "tiny", "--set", "dev", "--baseline", "--measures", "signal,text", "--jobs", 1
        )
        assert outcome.code == 0, outcome.err
        assert "unconverted" in outcome.out
        assert "left out: CER, WER: " in outcome.err
        assert (trained.exp / "male_female_tiny" / "scores-dev.json").is_file()


class TestEvaluate:
    @pytest.fixture
    def folders(self, demo_corpus: Path, tmp_path: Path) -> tuple[Path, Path]:
        """Two sentences by two speakers, a second of each."""
        folders = tmp_path / "male", tmp_path / "female"
        for folder in folders:
            folder.mkdir()
            for path in sorted((demo_corpus / folder.name / "wav" / "eval").iterdir())[:2]:
                wave, rate = soundfile.read(path)
                soundfile.write(folder / f"{path.stem}.flac", wave[rate // 2 : rate * 3 // 2], rate)
        return folders

    def test_recordings_against_themselves_are_perfect(self, aasvc: Aasvc, folders: tuple[Path, Path]):
        male, female = folders
        outcome = aasvc(
            "evaluate", "--converted", female, "--target", female, "--source", male, "--measures", "signal", "--jobs", 1
        )
        assert outcome.code == 0, outcome.err
        published, corrected, further, summary = (block.splitlines() for block in outcome.out.split("\n\n"))
        assert "published" in published[0]
        assert published[1].split() == "utterance MCD [dB] F0RMSE [Hz] F0CORR DDUR [s] GV".split()
        assert [row.split()[0] for row in published[2:]] == [path.stem for path in sorted(female.iterdir())]
        assert [row.split()[1:5] for row in published[2:]] == [["0.000", "0.000", "1.000", "0.000"]] * 2
        assert len({len(line) for line in published[1:]}) == 1, "columns are aligned"
        assert "corrected" in corrected[0]
        assert [row.split()[1:] for row in further[2:]] == [["0.000", "0.000", "1.000"]] * 2
        mcd = next(row for row in summary if row.startswith("MCD [dB]"))
        mean, low, _, high, unconverted, n = mcd.removeprefix("MCD [dB]").split()[:6]
        assert (mean, low, high, n) == ("0.000", "0.000", "0.000", "2")
        assert float(unconverted) > 1.0

    def test_two_folders_are_compared(self, aasvc: Aasvc, folders: tuple[Path, Path], tmp_path: Path):
        male, female = folders
        outcome = aasvc(
            "evaluate", male, female, "--target", female, "--measures", "signal", "--jobs", 1,
            "--csv", tmp_path / "scores.csv", "--json", tmp_path / "scores.json", "--fail-if", "mcd > 0.5",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err  # the second is held to the threshold, and is perfect
        tree = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
        mcd = next(each for each in tree["differences"] if each["measure"] == "MCD")
        assert (mcd["second"], mcd["better"], mcd["n"]) == (0.0, 2, 2)
        line = next(line for line in outcome.out.splitlines() if line.startswith("MCD [dB]") and "second" in line)
        assert f"{mcd['difference']:+.3f}" in line
        assert line.endswith("second, not clearly"), "two utterances prove nothing"
        rows = (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()
        assert rows[0].startswith("system,id,MCD,F0RMSE,F0CORR,DDUR,GV,MCD_corrected")
        assert len(rows) == 5

    def test_a_crossed_threshold_ends_with_one_and_one_line_with_value_and_bound(
        self, aasvc: Aasvc, folders: tuple[Path, Path]
    ):
        male, female = folders
        arguments = ["evaluate", "--converted", male, "--target", female, "--measures", "signal", "--jobs", 1]
        outcome = aasvc(*arguments, "--fail-if", "mcd>0.5", "--fail-if", "ddur>100", "--json", "-")
        assert outcome.code == 1
        mean = json.loads(outcome.out)["corpus"]["MCD"]["mean"]
        assert outcome.err.splitlines()[-1] == f"aasvc: error: fails mcd>0.5: MCD is {mean:.6g}"
        outcome = aasvc(*arguments, "--fail-if", "mdc>0.5")
        assert outcome.code == 2
        assert "no measure 'mdc'" in outcome.err

    def test_on_a_terminal_the_tables_are_drawn(self, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch):
        from aasvc_cli.cli import tables

        rows = [["measure", "mean"], ["[bold]x", "1.000"], ["病院", "-1.5"]]
        plain = tables.draw(rows, "title")
        assert plain == ["title", "measure   mean", "[bold]x  1.000", "病院      -1.5"]
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        drawn = "\n".join(tables.draw(rows, "title"))
        assert "\u2500" in drawn
        for cell in ("[bold]x", "1.000", "病院"):
            assert cell in drawn, "nothing is taken for markup"

    def test_an_utterance_that_cannot_be_scored_is_named_and_the_exit_code_says_so(
        self, aasvc: Aasvc, folders: tuple[Path, Path]
    ):
        male, female = folders
        bad = sorted(male.iterdir())[0]
        bad.write_text("this is no sound")
        outcome = aasvc(
            "evaluate", "--converted", male, "--target", female, "--measures", "signal", "--jobs", 1, "--json", "-"
        )
        assert outcome.code == 1
        assert json.loads(outcome.out)["n_scored"] == 1
        assert bad.stem in outcome.err
        assert outcome.err.splitlines()[-1] == "aasvc: error: 1 utterance could not be scored completely"

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--converted", "a"],
            ["--target", "a"],
            ["--source", "a", "--tag", "x"],
            ["--tag", "x", "y"],
            ["x", "y", "z"],
            ["x", "--converted", "a", "--target", "b"],
            ["--tag", "x", "--target", "b"],
            [],
        ],
        ids=lambda arguments: " ".join(arguments) or "nothing",
    )
    def test_options_that_do_not_go_together_are_wrong_usage(self, aasvc: Aasvc, arguments: list[str]):
        outcome = aasvc("evaluate", *arguments)
        assert outcome.code == 2
        assert outcome.err.count("\n") == 1


class TestProcess:
    """The program as a process of its own."""

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.Popen([sys.executable, "-m", "aasvc_cli", *arguments], env=environment, **options)

    @pytest.mark.process
    def test_a_reader_that_goes_away_ends_it_quietly(self):
        read_end, write_end = os.pipe()
        os.close(read_end)
        with self.start("--version", stdout=write_end, stderr=subprocess.PIPE) as process:
            os.close(write_end)
            assert process.stderr is not None
            assert process.stderr.read() == b""

    @pytest.mark.process
    def test_wrong_usage_exits_with_two_and_one_line(self):
        with self.start("nonsense", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            out, err = process.communicate(timeout=60)
        assert process.returncode == 2
        assert out == b""
        assert err.count(b"\n") == 1

    @pytest.mark.process
    def test_training_that_is_stopped_goes_on_where_it_was(self, trained: Home, aasvc: Aasvc):
        train = ["train", "--tag", "stopped", "--eval-every", "1000", "--max-steps"]
        with self.start(*train, "100000", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            plan, first = process.stderr.readline(), process.stderr.readline()
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read().decode()
        assert re.match(
            rb"longest batch: 2 utterances, \d+ frames; it takes .* 100000 steps will take about \d+:", plan
        )
        assert re.match(rb"step \d+/100000: loss", first)
        assert process.returncode == 130
        stopped = re.search(r"stopped after step (\d+) of 100000", rest)
        assert stopped
        assert "Traceback" not in rest
        step = int(stopped[1])

        outcome = aasvc(*train, step + 2, "--json", "-")
        assert f"at step {step}" in outcome.err
        assert json.loads(outcome.out)["step"] == step + 2
