"""aasvc convert --runtime: which runtime converts, and exports that are made on first use and kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from aasvc_cli.conversion.converter import Converter
from aasvc_cli.errors import DataError, ModelError, StorageError
from aasvc_cli.exporting import checked, kept
from aasvc_cli.exporting.kept import load_kept
from aasvc_cli.storage.files import read_json, write_json
from aasvc_cli.storage.home import Home
from tests.conversion.test_exported import LOADED
from tests.exports import RATE, make_graphs_once, sound, speaking_voice


@pytest.fixture
def voice(tmp_path: Path) -> Path:
    return speaking_voice(tmp_path / "voice")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "in.wav", sound(1.0), RATE, subtype="FLOAT")
    return tmp_path / "in.wav"


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Which models were exported, in place of exporting them; what is loaded is the folder, if it is not damaged."""
    made: list[Any] = []

    def checked_graphs(home: Home, model: Any, folder: Path, **options: Any) -> SimpleNamespace:
        made.append(model)
        return SimpleNamespace(files={"voice.onnx": b"a graph"})

    def load(folder: Path, **_: Any) -> Path:
        if not (folder / "voice.onnx").is_file() or (folder / "voice.onnx").read_bytes() != b"a graph":
            raise ModelError("damaged")
        return folder

    monkeypatch.setattr(checked, "checked_graphs", checked_graphs)
    monkeypatch.setattr(kept, "Converter", SimpleNamespace(load=load))
    return made


class TestKept:
    def test_an_export_is_made_once_and_found_again_by_content(
        self, home: Home, voice: Path, exports: list[Any], tmp_path: Path
    ):
        said: list[str] = []
        place = load_kept(home, voice, on_message=said.append)
        assert place.parent == home.imported and (place / "voice.onnx").is_file()
        assert len(said) == 1 and said[0].startswith("exporting voice for onnxruntime, once")
        moved = Path(shutil.copytree(voice, tmp_path / "elsewhere" / "voice"))
        assert {load_kept(home, each, on_message=said.append) for each in (voice, moved)} == {place}
        assert len(said) == 1 and exports == [voice]

    @pytest.mark.parametrize("part", ["best.safetensors", "stats.json", "card.json", "own/generator.safetensors"])
    def test_another_is_made_when_a_part_of_the_voice_changes(
        self, home: Home, voice: Path, exports: list[Any], part: str
    ):
        first = load_kept(home, voice)
        (voice / part).write_bytes((voice / part).read_bytes() + b" ")
        assert load_kept(home, voice) != first and len(exports) == 2

    def test_another_is_made_for_another_vocoder_and_other_statistics(
        self, home: Home, voice: Path, exports: list[Any], tmp_path: Path
    ):
        write_json(tmp_path / "speaker.json", {"source": 1})
        for name, content in (("one", 1), ("two", 2)):
            write_json(home.stats / name / "self.json", {"source": content})
        choices: list[dict[str, Any]] = [
            {}, {"vocoder": "bundled"}, {"source_stats": tmp_path / "speaker.json"}, {"data": "one"}, {"data": "two"}
        ]  # fmt: skip
        assert len({load_kept(home, voice, **choice) for choice in choices}) == len(choices)

    def test_a_voice_without_its_source_speaker_depends_on_what_is_prepared(
        self, home: Home, voice: Path, exports: list[Any]
    ):
        stats = read_json(voice / "stats.json", "statistics")
        write_json(voice / "stats.json", {"target": stats["target"]})
        first = load_kept(home, voice)
        write_json(home.stats / "later" / "self.json", {"source": 1})
        assert load_kept(home, voice) != first

    @pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"half"), Path.unlink], ids=["half", "gone"])
    def test_a_damaged_one_is_made_anew_and_one_line_says_so(
        self, home: Home, voice: Path, exports: list[Any], damage: Callable[[Path], Any]
    ):
        said: list[str] = []
        place = load_kept(home, voice)
        damage(place / "voice.onnx")
        assert load_kept(home, voice, on_message=said.append) == place
        assert said == ["exporting voice for onnxruntime, as the export that was kept is damaged"]
        assert (place / "voice.onnx").read_bytes() == b"a graph" and exports == [voice, voice]
        assert [path.name for path in home.imported.iterdir() if path.suffix == ".part"] == []

    def test_a_device_it_does_not_run_on_is_refused_before_anything_is_made(
        self, home: Home, voice: Path, exports: list[Any]
    ):
        with pytest.raises(ModelError, match="--device cuda: .* onnxruntime, which runs on the CPU; use auto or cpu"):
            load_kept(home, voice, device="cuda")
        assert exports == []

    def test_nothing_is_kept_of_a_failure(self, home: Home, voice: Path, monkeypatch: pytest.MonkeyPatch):
        def refuse(*_: Any, **__: Any) -> None:
            raise DataError("not this one")

        monkeypatch.setattr(checked, "checked_graphs", refuse)
        with pytest.raises(DataError, match="not this one"):
            load_kept(home, voice)
        assert [path for path in home.imported.iterdir() if not path.name.startswith(".")] == []

    def test_a_data_folder_that_cannot_be_written_has_advice(self, home: Home, voice: Path, exports: list[Any]):
        home.root.mkdir()
        home.imported.write_text("a file in its place")
        with pytest.raises(StorageError, match="keeps what --runtime onnx runs; run: aasvc export MODEL FOLDER"):
            load_kept(home, voice)


class TestCommand:
    def test_torch_is_refused_for_an_exported_folder(
        self, aasvc: Callable[..., Any], voice: Path, recording: Path, tmp_path: Path
    ):
        exported = tmp_path / "exported"
        exported.mkdir()
        (exported / "voice.onnx").write_text("a graph")
        outcome = aasvc("convert", recording, "-o", tmp_path / "out.wav", "--model", exported, "--runtime", "torch")
        assert outcome.code == 1
        assert outcome.err.splitlines()[-1] == (
            f"aasvc: error: --runtime torch: {exported} is an exported model, which onnxruntime runs; use the one it "
            "was made of"
        )

    def test_without_the_extra_one_line_says_how_to_install_it(
        self, aasvc: Callable[..., Any], voice: Path, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setitem(sys.modules, "onnxscript", None)
        outcome = aasvc("convert", recording, "-o", tmp_path / "out.wav", "--model", voice, "--runtime", "onnx", "-q")
        assert outcome.code == 1
        (line,) = outcome.err.splitlines()
        assert line.endswith("run: pip install 'aasvc[onnx]'")

    def test_a_vocoder_that_has_no_graph_is_refused_by_name(
        self, aasvc: Callable[..., Any], voice: Path, recording: Path, tmp_path: Path
    ):
        arguments = ["--model", voice, "--runtime", "onnx", "--vocoder", "griffin-lim"]
        outcome = aasvc("convert", recording, "-o", tmp_path / "out.wav", *arguments)
        assert outcome.code == 1 and "griffin-lim: this kind of vocoder cannot be exported" in outcome.err

    @pytest.mark.slow
    @pytest.mark.process
    def test_onnx_exports_a_voice_once_and_then_converts_without_torch(
        self, aasvc: Callable[..., Any], home: Home, voice: Path, recording: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ):  # fmt: skip
        make_graphs_once(monkeypatch)
        arguments = ["convert", recording, "-o", tmp_path / "out.wav", "--model", voice, "--runtime", "onnx"]
        first = aasvc(*arguments, "--json", tmp_path / "out.json")
        assert first.code == 0 and "exporting voice for onnxruntime" in first.err
        facts = json.loads((tmp_path / "out.json").read_text())
        assert (facts["model"], facts["vocoder"]) == (str(voice), "own")
        expected = Converter.load(voice, device="cpu").convert(sound(1.0), RATE).wave
        code = f"import sys\nsys.argv = ['aasvc', *{[str(each) for each in arguments]!r}]\n{LOADED}"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        later = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
        assert b"exporting" not in later.stderr
        found, _ = soundfile.read(tmp_path / "out.wav", dtype="float32")
        assert len(found) == len(expected) and np.abs(found - expected).max() < 1e-3
        # a weight that is another one is no weight, though the graph can be run
        (graph,) = home.imported.glob("voice-*/vocoder.onnx")
        content = bytearray(graph.read_bytes())
        content[len(content) // 2] ^= 1
        graph.write_bytes(content)
        again = aasvc(*arguments)
        assert (
            again.code == 0 and "exporting voice for onnxruntime, as the export that was kept is damaged" in again.err
        )
        found, _ = soundfile.read(tmp_path / "out.wav", dtype="float32")
        assert np.abs(found - expected).max() < 1e-3
