"""Batches, long recordings, threads: what the converter promises beyond one short recording."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import aasvc_cli
from aasvc_cli.audio.pauses import LevelMeter, find_pieces
from aasvc_cli.config.reading import parse_config, to_tree
from aasvc_cli.config.settings import MelConfig
from aasvc_cli.conversion import converter as module
from aasvc_cli.conversion.converter import Converted, Converter
from aasvc_cli.errors import AudioError, DataError
from aasvc_cli.features.kinds import extract, with_widths
from aasvc_cli.model.aasvc import AASVC
from aasvc_cli.storage.files import write_json
from aasvc_cli.storage.home import Home
from tests.voices import TINY, tiny_config, write_voice

RATE = 16000
HOP = 128


def buzz(seconds: float = 0.5, rate: int = RATE, frequency: float = 120.0) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    sound = sum(np.sin(2 * np.pi * frequency * k * t) / k for k in range(1, 20))
    return (0.1 * sound * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))).astype(np.float32)


def talk(*lengths: float) -> np.ndarray:
    """Sound and silence by turns, sound first, each of another pitch."""
    parts = [
        buzz(length, frequency=90.0 + 13 * index) if index % 2 == 0 else np.zeros(round(length * RATE), np.float32)
        for index, length in enumerate(lengths)
    ]
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def converter(tmp_path_factory: pytest.TempPathFactory) -> Converter:
    return Converter.load(write_voice(tmp_path_factory.mktemp("voices") / "tiny", tiny_config()), device="cpu")


class TestVocoder:
    def load(self, root: Path, mel: MelConfig, said: list[str], **card: str) -> Converter:
        config = with_widths(parse_config({**TINY, "features": {"mel": to_tree(mel)}}, "test"))
        voice = write_voice(root / "voice", config)
        write_json(voice / "card.json", card)
        return Converter.load(voice, home=Home(root), device="cpu", on_message=said.append)

    @pytest.mark.parametrize(
        ("mel", "expected"),
        [
            (MelConfig(), "universal"),
            (MelConfig(fmax=7600.0), "griffin-lim"),
            (MelConfig(sample_rate=16000, hop_length=128), "griffin-lim"),
        ],
    )
    def test_a_voice_without_one_of_its_own_takes_the_universal_one_where_that_fits(
        self, tmp_path: Path, mel: MelConfig, expected: str
    ):
        said: list[str] = []
        converter = self.load(tmp_path, mel, said)
        assert (converter.vocoder_name, said) == (expected, [])
        assert converter.convert(buzz(), RATE).sample_rate == mel.sample_rate

    def test_one_that_the_voice_names_and_that_is_missing_is_replaced_aloud(self, tmp_path: Path):
        said: list[str] = []
        assert self.load(tmp_path, MelConfig(), said, vocoder="lost").vocoder_name == "universal"
        assert len(said) == 1
        assert "using universal instead of the vocoder of this model: lost: no such vocoder" in said[0]


class TestBatches:
    LENGTHS = (61, 9, 40, 23, 60)

    def both(self, config: Any, seed: int = 3) -> tuple[list[Any], list[Any]]:
        torch.manual_seed(0)
        model = AASVC(config.model).eval()
        # weights as they come are too small for durations to differ
        for parameter in model.duration_predictor.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        sources = [torch.randn(length, 20) for length in self.LENGTHS]

        def generators() -> list[torch.Generator]:
            return [torch.Generator().manual_seed(seed + index) for index in range(len(sources))]

        alone = [
            model.convert(source, source, generator=own, noise_scale=0.9)
            for source, own in zip(sources, generators(), strict=True)
        ]
        return alone, model.convert_batch(sources, sources, generators=generators(), noise_scale=0.9)

    @pytest.mark.parametrize("predictor", ["poisson", "deterministic", "stochastic"])
    @pytest.mark.parametrize("heard", ["tokens", "feature"])
    def test_each_result_is_that_of_the_utterance_alone(self, predictor: str, heard: str):
        config = tiny_config(duration_predictor=predictor, duration_input=heard, mask_padding=True, postnet_layers=3)
        alone, together = self.both(config)
        assert len({len(result.mel) for result in alone}) > 1
        for one, other in zip(alone, together, strict=True):
            assert torch.equal(one.durations, other.durations)
            assert one.mel.shape == other.mel.shape
            assert (one.mel - other.mel).abs().max() <= 1e-5

    def test_a_model_that_leaks_padding_converts_one_by_one(self):
        alone, together = self.both(tiny_config(mask_padding=False))
        for one, other in zip(alone, together, strict=True):
            assert torch.equal(one.mel, other.mel)

    def test_many_recordings_give_what_each_gives_alone(self, converter: Converter):
        waves = [buzz(length, frequency=100 + 50 * length) for length in (0.5, 0.2, 0.6, 0.55, 0.21)]
        scale = converter.voice.stats.target.scale
        for wave, result in zip(waves, converter.convert_many(waves, RATE, seed=4, noise_scale=1.0), strict=True):
            alone = converter.convert(wave, RATE, seed=4, noise_scale=1.0)
            assert result.durations.tolist() == alone.durations.tolist()
            assert (np.abs(result.log_mel - alone.log_mel) / scale).max() <= 1e-5
            assert result.wave.shape == alone.wave.shape
        assert converter.convert_many([], RATE) == []

    def test_a_bad_recording_among_many_is_named_by_its_place(self, converter: Converter):
        with pytest.raises(AudioError, match="recording 1: too short"):
            converter.convert_many([buzz(), buzz(0.001)], RATE)

    def test_batches_hold_what_is_alike_and_no_more_than_fits(self):
        lengths = [1200, 100, 110, 1190, 105, 3000, 100, 100, 100, 100, 100, 100, 100]
        order = sorted(range(len(lengths)), key=lambda index: lengths[index])
        batches = list(module._batches(order, lengths))
        assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
        for batch in batches:
            longest = max(lengths[index] for index in batch)
            assert len(batch) <= module.BATCH_PIECES
            assert len(batch) == 1 or len(batch) * longest**2 <= module.BATCH_FRAMES_SQUARED
            assert len(batch) * longest <= module.MOST_PADDING * sum(lengths[index] for index in batch)
        assert {len(batch) for batch in batches} > {1}


@dataclass
class Endless:
    """A recording that is made as it is read, so that nobody can hold all of it by accident."""

    seconds: float
    name: str = "endless"
    sample_rate: int = RATE
    readings: int = 0

    def blocks(self) -> Iterator[np.ndarray]:
        self.readings += 1
        period = talk(4, 0.4, 3, 1.5, 5, 0.3)
        for _ in range(round(self.seconds * RATE / len(period))):
            for start in range(0, len(period), 5000):
                yield period[start : start + 5000]


class TestLongRecordings:
    SOUND = talk(5, 2, 6, 0.4, 7, 1.5, 4)

    def pieces(self, sound: np.ndarray) -> list[Any]:
        meter = LevelMeter(RATE)
        meter.add(sound)
        return find_pieces(meter.levels(), len(sound), RATE)

    def parts(self, converter: Converter, sound: np.ndarray, speed: float = 1.0, **told: Any) -> list[Converted]:
        recording = module._Samples("long", RATE, sound)
        return list(converter.stream(recording, module.ConvertOptions(speed=speed), **told))

    def test_up_to_the_threshold_a_recording_is_one_utterance(self, converter: Converter):
        sound = buzz(module.WHOLE_SECONDS)
        (part,) = self.parts(converter, sound)
        mel = converter.voice.config.features.mel
        heard = extract("mel", sound, converter.voice.config.features)
        source = torch.from_numpy(converter.voice.stats.source.normalise(heard))
        direct = converter.voice.model.convert(source, source, generator=torch.Generator().manual_seed(1))
        expected = converter.voice.stats.target.denormalise(direct.mel.numpy()).astype(np.float32)
        assert np.array_equal(part.log_mel, expected)
        assert mel.hop_length == HOP
        assert converter.convert(np.append(sound, sound[:1]), RATE).pieces > 1

    def test_pieces_are_what_they_are_alone_and_pauses_are_kept_to_the_sample(self, converter: Converter):
        found = self.pieces(self.SOUND)
        assert len(found) >= 3
        result = converter.convert(self.SOUND, RATE, noise_scale=0.0)
        assert result.pieces == len(found)
        expected, place = [], 0
        for index, piece in enumerate(found):
            expected.append(np.zeros(piece.start - place, np.float32))
            alone = converter.convert(self.SOUND[piece.start : piece.stop], RATE, noise_scale=0.0, seed=1 + index)
            expected.append(alone.wave)
            place = piece.stop
        expected.append(np.zeros(len(self.SOUND) - place, np.float32))
        lengths = [len(part) for part in expected]
        assert len(result.wave) == sum(lengths)
        edges = np.cumsum([0, *lengths])
        for index in range(1, len(expected), 2):  # pieces: the same but for the fades
            start, stop = edges[index] + 80, edges[index + 1] - 80
            assert np.abs(result.wave[start:stop] - expected[index][80:-80]).max() < 2e-3
        for index in range(0, len(expected), 2):  # pauses
            assert not result.wave[edges[index] : edges[index + 1]].any()
        assert len(result.log_mel) * HOP == sum(lengths[1::2])

    def test_there_are_no_clicks_where_pieces_meet(self, converter: Converter):
        sound = talk(15, 0.3, 9, 1.2, 14)  # 15 s without a pause are cut within the voice
        parts = self.parts(converter, sound)
        inside = max(np.abs(np.diff(part.wave)).max() for part in parts if part.pieces)
        joined = np.concatenate([part.wave for part in parts])
        for edge in np.cumsum([len(part.wave) for part in parts])[:-1]:
            assert np.abs(np.diff(joined[edge - 2 : edge + 2])).max() <= 0.01 * inside
        assert np.abs(np.diff(joined)).max() <= inside

    def test_kept_pauses_follow_the_speed_and_do_not_drift(self, converter: Converter):
        sound = talk(*([2.0, 1.37] * 9))
        kept = len(sound) - sum(piece.stop - piece.start for piece in self.pieces(sound))
        for speed in (0.7, 1.0, 3.0):
            parts = self.parts(converter, sound, speed=speed)
            assert abs(sum(len(part.wave) for part in parts if not part.pieces) - kept / speed) <= 1

    def test_nothing_but_silence_stays_that_long(self, converter: Converter):
        for n in (RATE // 4, 5 * RATE, 25 * RATE + 7):
            silent = np.zeros(n, np.float32)
            (many,) = converter.convert_many([silent], RATE)
            told: list[str] = []
            parts = self.parts(converter, silent, on_message=told.append)
            assert sum(len(part.wave) for part in parts) == n
            assert told == ["long: holds no speech, so the result is silent"]
            for result in (converter.convert(silent, RATE), many):
                assert len(result.wave) == n
                assert (result.pieces, len(result.log_mel), result.wave.any()) == (0, 0, False)
        with pytest.raises(AudioError, match="too short"):
            converter.convert(np.zeros(1, np.float32), 48000)

    @pytest.mark.parametrize("seconds", [0.05, 0.1, 0.3])
    def test_a_speed_that_leaves_nothing_of_a_recording_leaves_a_sample(self, converter: Converter, seconds: float):
        for wave, n_pieces in ((np.zeros(round(seconds * RATE), np.float32), 0), (buzz(seconds), 1)):
            for speed in (10.0, 1e4, 1e9):
                (many,) = converter.convert_many([wave], RATE, speed=speed)
                one = converter.convert(wave, RATE, speed=speed)
                assert one.pieces == many.pieces == n_pieces
                assert len(one.wave) == len(many.wave)
                if not n_pieces:
                    assert len(one.wave) == max(1, round(len(wave) / speed))
                    assert not one.wave.any()

    def test_a_long_pause_is_kept_in_a_short_recording_too(self, converter: Converter):
        sound = np.concatenate([np.zeros(4 * RATE, np.float32), buzz(2), np.zeros(8 * RATE, np.float32)])
        (piece,) = self.pieces(sound)
        result = converter.convert(sound, RATE)
        (many,) = converter.convert_many([sound], RATE)
        assert result.pieces == many.pieces == 1
        assert not result.wave[: piece.start].any()
        assert not result.wave[-(len(sound) - piece.stop) :].any()
        assert np.array_equal(result.wave, many.wave)
        assert len(result.wave) == len(sound) - (piece.stop - piece.start) + len(result.log_mel) * HOP

    def test_a_sound_that_is_too_short_for_the_model_borrows_from_its_pause(self, converter: Converter):
        sound = np.concatenate([np.zeros(15 * RATE, np.float32), buzz(0.01), np.zeros(15 * RATE, np.float32)])
        assert converter.convert(sound, RATE).pieces == 1

    def test_a_cut_within_speech_is_reported(self, converter: Converter):
        told: list[str] = []
        self.parts(converter, buzz(21.0), on_message=told.append)
        assert told
        assert all(line.startswith("long: no pause to cut at before ") for line in told)

    def test_the_result_does_not_depend_on_the_blocks_it_is_read_by(
        self, converter: Converter, monkeypatch: pytest.MonkeyPatch
    ):
        expected = converter.convert(self.SOUND, RATE)
        monkeypatch.setattr(module, "_BLOCK", 777)
        assert np.array_equal(converter.convert(self.SOUND, RATE).wave, expected.wave)

    def test_minutes_need_no_more_memory_than_seconds(self, converter: Converter, monkeypatch: pytest.MonkeyPatch):
        """The largest thing that model, vocoder and reader ever hold stays the same however long the recording is."""
        largest: dict[str, int] = {}

        def watch(owner: Any, name: str, measure: Any) -> None:
            inner = getattr(owner, name)

            def watched(*arguments: Any, **options: Any) -> Any:
                result = inner(*arguments, **options)
                largest[name] = max(largest.get(name, 0), measure(result, *arguments))
                return result

            monkeypatch.setattr(owner, name, watched)

        watch(
            converter.voice.model,
            "convert_batch",
            lambda _, sources, *__: len(sources) * max(len(source) for source in sources) ** 2,
        )
        watch(converter.vocoder, "synthesise", lambda wave, _: wave.numel())
        watch(np, "concatenate", lambda joined, *_: joined.size)
        peaks = []
        told: list[tuple[int, int]] = []
        for seconds in (40, 120):
            largest.clear()
            recording = Endless(seconds)
            told.clear()
            n = [len(part.wave) for part in converter.stream(recording, on_progress=lambda *now: told.append(now))]
            assert recording.readings == 2
            assert max(n) <= 12 * 2 * RATE
            assert told[-1][0] == told[-1][1] == len(told)
            peaks.append(dict(largest))
        # levels are one number per 160 samples; everything else is bounded by the longest piece
        assert peaks[1]["convert_batch"] <= module.BATCH_FRAMES_SQUARED
        assert peaks[1]["synthesise"] <= 1.2 * peaks[0]["synthesise"]
        assert peaks[1]["concatenate"] == peaks[0]["concatenate"] <= 21 * RATE

    def test_a_model_without_source_statistics_takes_those_of_the_whole_recording(self, data: Path):
        converter = Converter.load(data / "aasvc-stochastic", device="cpu")
        assert converter.voice.source_from_input
        sound = np.concatenate([buzz(9), np.zeros(2 * RATE, np.float32), 0.1 * buzz(10, frequency=200.0)])
        heard: list[torch.Tensor] = []
        inner = converter.voice.model.convert_batch

        def watched(sources: Any, *arguments: Any, **options: Any) -> Any:
            heard.extend(sources)
            return inner(sources, *arguments, **options)

        converter.voice.model.convert_batch = watched  # type: ignore[method-assign]
        converter.convert(sound, RATE)
        together = torch.cat(heard)
        assert len(heard) == 2
        assert together.mean(0).abs().max() < 1e-3
        assert (together.std(0) - 1).abs().max() < 1e-2
        assert heard[0].mean() > heard[1].mean() + 0.5


class TestLibrary:
    def test_the_package_hands_out_the_converter_and_its_result(self):
        assert aasvc_cli.Converter is Converter
        assert aasvc_cli.Converted is Converted
        assert {"Converter", "Converted", "__version__"} == set(aasvc_cli.__all__)
        with pytest.raises(AttributeError, match="has no attribute 'Convertor'"):
            _ = aasvc_cli.Convertor  # type: ignore[attr-defined]

    @pytest.mark.parametrize("method", ["load", "convert", "convert_many", "stream"])
    def test_everything_in_it_is_typed_and_explained(self, method: str):
        function = getattr(Converter, method)
        assert all(
            parameter.annotation is not inspect.Parameter.empty
            for name, parameter in inspect.signature(function).parameters.items()
            if name not in ("self", "cls")
        )
        for name in inspect.signature(function).parameters:
            assert name in ("self", "cls", "device") or name in function.__doc__

    def test_four_threads_give_what_one_gives_bit_for_bit(self, converter: Converter):
        waves = [buzz(0.3 + 0.05 * index, frequency=100 + 20 * index) for index in range(12)]
        expected = [converter.convert(wave, RATE, noise_scale=1.0) for wave in waves]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda wave: converter.convert(wave, RATE, noise_scale=1.0), waves * 2))
        for one, other in zip(expected * 2, found, strict=True):
            assert np.array_equal(one.wave, other.wave)
            assert np.array_equal(one.log_mel, other.log_mel)

    @pytest.mark.process
    def test_it_is_quiet_and_brings_no_command_line(self, converter: Converter):
        code = (
            "import sys, json, logging\n"
            "import aasvc_cli\n"
            "assert not {'torch', 'numpy'} & set(sys.modules)\n"
            "from aasvc_cli import Converter\n"
            "import numpy as np\n"
            f"c = Converter.load({str(converter.voice.folder)!r}, device='cpu')\n"
            "wave = np.random.default_rng(0).normal(0, .1, 25 * 16000)\n"
            "result = c.convert(wave, 16000)\n"
            "assert isinstance(result.wave, np.ndarray) and result.wave.dtype == np.float32\n"
            "assert not {'typer', 'rich'} & set(sys.modules)\n"
            "assert not logging.getLogger().handlers and not logging.getLogger('aasvc_cli').handlers\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    @pytest.mark.parametrize(
        ("subtype", "dtype"), [("PCM_U8", "uint8"), ("PCM_S8", "int8"), ("PCM_16", "int16"), ("PCM_32", "int32")]
    )
    def test_integers_are_scaled_as_soundfile_reads_them(
        self, converter: Converter, tmp_path: Path, subtype: str, dtype: str
    ):
        path, kind = tmp_path / "a.raw", {"samplerate": RATE, "format": "RAW", "subtype": subtype}
        soundfile.write(path, np.stack([buzz(), 0.5 * buzz()], axis=1), RATE, format="RAW", subtype=subtype)
        floats, _ = soundfile.read(path, dtype="float32", channels=2, **kind)
        integers = np.frombuffer(path.read_bytes(), dtype).reshape(-1, 2)
        expected = converter.convert(floats, RATE)
        (many,) = converter.convert_many([integers], RATE)
        for result in (converter.convert(integers, RATE), many):
            assert np.array_equal(result.wave, expected.wave)

    @pytest.mark.parametrize("dtype", ["int64", "uint16", "bool", "complex64", "object"])
    def test_samples_of_a_type_without_a_full_scale_are_refused(self, converter: Converter, dtype: str):
        with pytest.raises(AudioError, match=f"mine: samples of type {dtype}, whose full scale is not known; expected"):
            converter.convert(np.zeros(RATE, dtype), RATE, name="mine")

    def test_options_out_of_range_are_refused_before_anything_is_read(self, converter: Converter):
        with pytest.raises(DataError, match="speed"):
            converter.convert_many([buzz()], RATE, speed=0.0)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float32("nan")])
    def test_options_that_are_not_finite_are_refused_by_name(self, value: float):
        with pytest.raises(DataError, match=f"^speed {value}: expected a finite number above 0"):
            module.ConvertOptions(speed=value)
        with pytest.raises(DataError, match=f"^noise scale {value}: expected a finite number, 0 or more"):
            module.ConvertOptions(noise_scale=value)


UNWANTED = [
    "librosa", "torchaudio", "numba", "scipy", "matplotlib", "sklearn", "pandas", "h5py", "pyworld", "pysptk", "joblib",
    "jinja2", "torch._dynamo", "torch._inductor", "sympy", "pkg_resources",
]  # fmt: skip


@pytest.mark.process
def test_a_conversion_on_the_command_line_loads_only_what_it_uses(data: Path, tmp_path: Path):
    code = (
        "import json, runpy, sys\n"
        f"sys.argv = ['aasvc', 'convert', {str(data / 'male.flac')!r}, '-o', {str(tmp_path / 'out.wav')!r}]\n"
        "try:\n    runpy.run_module('aasvc_cli', run_name='__main__')\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"torch", "soundfile", "safetensors"} <= loaded
    assert not [name for name in UNWANTED if name in loaded]
