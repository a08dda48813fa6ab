"""Files that are damaged, or made by strangers: whatever they hold, reading them ends in a result or in our own error.

Seeded mutations, 240 of each format (60 in the default tier) unless ``--mutations N`` asks for more; ``N = 1700`` makes
ten thousand.
"""

from __future__ import annotations

import copy
import io
import json
import math
import random
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from aasvc_cli.audio.files import read_audio
from aasvc_cli.config.layers import read_settings_file
from aasvc_cli.config.reading import parse_config
from aasvc_cli.config.settings import MelConfig
from aasvc_cli.config.yaml_files import read_config_file
from aasvc_cli.conversion.voice import load_voice
from aasvc_cli.data.manifest import read_manifest
from aasvc_cli.errors import AasvcError
from aasvc_cli.features.kinds import feature_key
from aasvc_cli.features.stats import NormStats
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.pipeline.models import known_models
from aasvc_cli.published.vocoders import read_published_vocoder
from aasvc_cli.published.voices import read_published_voice
from aasvc_cli.report.collect import best_step_of, training_of
from aasvc_cli.storage.archive import ZipLimits, read_members, unpack
from aasvc_cli.storage.checkpoint import load_checkpoint
from aasvc_cli.storage.files import read_json
from aasvc_cli.storage.home import Home
from aasvc_cli.storage.result_cache import ResultCache
from aasvc_cli.training.memory import peak, reset_peak
from aasvc_cli.training.run_folder import RunFolder
from aasvc_cli.vocoder.build import StoredVocoder, load_vocoder, read_vocoder, write_vocoder
from aasvc_cli.vocoder.istft import IstftGenerator, IstftSizes
from tests import examples
from tests.voices import tiny_config, write_voice

pytestmark = pytest.mark.filterwarnings("ignore")
ASSETS = Path(__file__).parent / "assets"
PRESETS = Path(__file__).parent.parent / "aasvc_cli" / "presets"
CPU = torch.device("cpu")
LONGEST_SECONDS = 20.0
MOST_BYTES = 1 << 30
"""Beyond what the process had, which the tests before decide."""
EDGE_BYTES = 2048
"""Formats keep their structure at both ends; half of the mutations go there."""
ODD = [
    None, True, 0, -1, 3, 2**31, 2**63, 10**30, 10**400, 1e308, -0.0, 0.5, float("nan"), float("inf"), "", "x",
    "é\u0000", "../../etc", "x" * 5000, [], [1, [2]], {}, {"a": 1}, [[]] * 50,
]  # fmt: skip
WORDS = [
    b"null", b"[]", b"{}", b"true", b"-1", b"0", b"1e400", b"9" * 25, b"9" * 5000, b".nan", b"NaN", b"'x'", b"!!int ''",
    b"*a", b"&a [*a]", b"? ", b"- ", b": ", b"{", b"]", b"\xff", b"\x00", b"\n", b"!!binary x", b"%", b"<<: 1",
    b"[" * 500,
]  # fmt: skip


def place(size: int, rng: random.Random) -> int:
    """A position in a file."""
    if size > 2 * EDGE_BYTES and rng.random() < 0.5:
        return rng.choice([rng.randrange(EDGE_BYTES), size - 1 - rng.randrange(EDGE_BYTES)])
    return rng.randrange(size + 1)


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    """Some bytes are others, gone, added, or elsewhere."""
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        at, length = place(len(data), rng), rng.choice([1, 1, 2, 4, 8, 100])
        match rng.randrange(7):
            case 0:
                data = data[:at]
            case 1:
                data = data[:at] + data[at + length :]
            case 2:
                data = data[:at] + rng.randbytes(length) + data[at + length :]
            case 3:
                data = data[:at] + bytes([rng.choice([0, 1, 127, 128, 255])]) * length + data[at + length :]
            case 4:
                data = data[:at] + data[place(len(data), rng) :][:length] + data[at:]
            case 5:
                data = data[:at] + rng.choice(WORDS) + data[at:]
            case 6:
                words = list(re.finditer(rb"[\w.+-]+", data[:20_000]))
                if words:
                    word = rng.choice(words)
                    data = data[: word.start()] + rng.choice(WORDS) + data[word.end() :]
    return data


def mutated_tree(tree: Any, rng: random.Random) -> Any:
    """Something in nested containers is something else, gone, or has another name."""
    tree = copy.deepcopy(tree)
    node, path = tree, [tree]
    while isinstance(node, (dict, list)) and node and (node is tree or rng.random() < 0.75):
        node = rng.choice(list(node.values()) if isinstance(node, dict) else node)
        path.append(node)
    parent = next((each for each in reversed(path[:-1]) if isinstance(each, (dict, list))), None)
    if parent is None:
        return rng.choice(ODD)
    keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
    key = rng.choice(keys)
    match rng.randrange(4):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, dict):
            parent[rng.choice(["", "x", "é", str(key)[:-1]])] = parent.pop(key)
        case _:
            parent[key] = rng.choice(ODD)
    return tree


def mutated(path: Path, data: bytes, rng: random.Random) -> bytes:
    """A file's content, changed as text, as bytes, or in what it means."""
    if path.suffix == ".json" and rng.random() < 0.6:
        return json.dumps(mutated_tree(json.loads(data), rng)).encode("utf-8", "surrogatepass")
    if path.suffix == ".pkl" and rng.random() < 0.5:
        tree = torch.load(io.BytesIO(data), weights_only=True)
        holder = rng.choice([tree, tree["model"]])
        key = rng.choice(list(holder))
        value = rng.choice([holder[key], *(each for each in ODD if not isinstance(each, int) or abs(each) < 2**62)])
        holder[rng.choice([key, 3, None, ("a", 1), b"x"])] = value
        buffer = io.BytesIO()
        torch.save(tree, buffer)
        return buffer.getvalue()
    return mutated_bytes(data, rng)


@pytest.fixture
def count(request: pytest.FixtureRequest) -> int:
    """How many mutations in each case of a format."""
    wanted = request.config.getoption("--mutations") or 240 * examples.share
    return math.ceil(wanted / request.cls.cases)


@pytest.fixture
def attack(count: int, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Mutates one of the files of a folder at a time, and uses the folder."""

    def attack(folder: Path, files: list[Path], use: Callable[[Path], object], n: int = count) -> None:
        originals = {path: path.read_bytes() for path in files}
        refused = 0
        reset_peak(CPU)
        had = peak(CPU)
        for seed in range(n):
            rng = random.Random(f"{request.node.name} {seed}")
            path = rng.choice(files)
            path.write_bytes(mutated(path, originals[path], rng))
            begin = time.monotonic()
            try:
                use(path)
            except AasvcError as error:
                refused += 1
                message = str(error)
                assert len(message) < 3000, (seed, path, message[:500])
            except Exception as error:
                raise AssertionError(f"seed {seed}, {path.relative_to(folder)}: {type(error).__name__}") from error
            assert time.monotonic() - begin < LONGEST_SECONDS, (seed, path)
            path.write_bytes(originals[path])
        for path in files:
            use(path)
        assert refused > 0, "no mutation was noticed"
        assert peak(CPU) - had < MOST_BYTES

    return attack


@pytest.fixture(autouse=True)
def _calm() -> Iterator[None]:
    """Warnings are no errors here: what overflows is looked at by its result."""
    with np.errstate(all="ignore"):
        yield


class TestConfiguration:
    cases = 1

    def test_settings(self, tmp_path: Path, attack: Callable[..., None]):
        files = [tmp_path / "small.yaml", tmp_path / "aasvc.yaml"]
        shutil.copy(PRESETS / "small.yaml", files[0])
        files[1].write_text(
            "options: {device: cpu, train: {tag: x}}\ntrain: &a {lr: 8e-5, device: cpu}\nloss: {align_weight: 1.0}\n"
            "model: {source_dim: null, mask_padding: true}\nfeatures: {mel: {n_mels: 80}, source: mel}\n"
        )

        def use(path: Path) -> None:
            read_settings_file(path)
            tree = read_config_file(path)
            tree.pop("options", None)
            parse_config(tree, "x")

        attack(tmp_path, files, use)


class TestVoices:
    cases = 2

    def test_voices(self, tmp_path: Path, attack: Callable[..., None]):
        folder = write_voice(tmp_path / "a_b_voice", tiny_config())
        (folder / "card.json").write_text('{"vocoder": "vocoder", "converts": "x", "scores": {"mean": {"MCD": 1.0}}}')
        (folder / "data.json").write_text('{"prepared": "x", "digest": "y"}')
        files = [path for path in sorted(folder.iterdir()) if path.is_file()]
        home = Home(tmp_path / "home")
        (home.models).mkdir(parents=True)
        (home.models / "link").symlink_to(folder)

        def use(_: Path) -> None:
            known_models(home).lines()
            state = load_voice(folder).model.state_dict()
            assert all(torch.equal(state[name], tensor) for name, tensor in weights.items()), "another voice"

        weights = load_voice(folder).model.state_dict()
        attack(tmp_path, files, use)

    def test_vocoders(self, tmp_path: Path, attack: Callable[..., None]):
        sizes = IstftSizes(width=8, hidden=8, n_blocks=1, pitch_width=8, pitch_blocks=1, pitch_bins=16)
        mel = MelConfig(sample_rate=16000, n_fft=64, hop_length=16, n_mels=8)
        network = IstftGenerator(mel, sizes)
        write_vocoder(tmp_path / "v", StoredVocoder("istft", mel, asdict(sizes), network.state_dict(), {"step": 7}))

        def use(_: Path) -> None:
            load_vocoder(tmp_path / "v")
            tensors = read_vocoder(tmp_path / "v").tensors
            assert all(torch.equal(tensors[name], tensor) for name, tensor in network.state_dict().items())

        attack(tmp_path, sorted((tmp_path / "v").iterdir()), use)


class TestPublished:
    cases = 6

    @pytest.mark.parametrize("kind", ["aasvc-deterministic", "aasvc-stochastic"])
    def test_voices(self, tmp_path: Path, attack: Callable[..., None], kind: str):
        folder = published(tmp_path, ASSETS / kind)
        attack(tmp_path, sorted(folder.iterdir()), lambda _: read_published_voice(folder))

    @pytest.mark.parametrize("kind", ["vocoder-hifigan", "vocoder-pwg"])
    @pytest.mark.parametrize("statistics", ["stats.h5", "stats.npy"])
    def test_vocoders(self, tmp_path: Path, attack: Callable[..., None], kind: str, statistics: str):
        folder = published(tmp_path, ASSETS / kind)
        if statistics == "stats.npy":
            with h5py.File(folder / "stats.h5") as stream:
                np.save(folder / "stats.npy", np.stack([stream["mean"][()], stream["scale"][()]]))
            (folder / "stats.h5").unlink()
        attack(tmp_path, sorted(folder.iterdir()), lambda _: read_published_vocoder(folder))


class TestState:
    cases = 3

    def test_state_in_the_data_folder(self, trained: Home, attack: Callable[..., None]):
        run = trained.exp / "male_female_tiny"
        name = read_manifest(trained).name
        files = [
            trained.prepared / "latest.json",
            trained.prepared / name / "manifest.json",
            trained.stats / name / "self.json",
            *(run / file for file in ("log.jsonl", "data.json", "checkpoints.json", "config.yaml", "last.safetensors")),
        ]

        def use(_: Path) -> None:
            manifest = read_manifest(trained)
            assert manifest.name == name
            NormStats.from_tree(read_json(files[2], "statistics"), "x")
            training_of(run / "log.jsonl", "x", best_step_of(run))
            folder = RunFolder(run)
            folder.cut_log(1)
            folder.open({}, {"digest": json.loads(original)["digest"]}, ())
            loaded, header = load_checkpoint(run / "last.safetensors")
            assert header == kept_header and all(torch.equal(loaded[name], kept[name]) for name in kept)
            known_models(trained).lines()

        original = (run / "data.json").read_text()
        kept, kept_header = load_checkpoint(run / "last.safetensors")
        attack(trained.root, files, use)

    def test_features_are_those_that_were_kept_or_refused(self, tmp_path: Path, attack: Callable[..., None]):
        recording = tmp_path / "a.wav"
        recording.write_bytes(b"sound")
        store = FeatureStore(tmp_path / "features", tiny_config().features, feature_key)
        feature = np.arange(60, dtype=np.float32).reshape(3, 20)
        store.save("mel", recording, feature, facts={"seconds": 1.0})

        def use(_: Path) -> None:
            facts = store.facts("mel", recording)
            assert facts in (None, {"seconds": 1.0})
            loaded = store.load("mel", recording)
            assert loaded.shape == feature.shape and (loaded == feature).all()

        attack(tmp_path, [store.path("mel", recording)], use)

    def test_results_are_those_that_were_computed(self, tmp_path: Path, count: int):
        cache, rng = ResultCache(tmp_path / "cache"), random.Random(1)
        arrays = {"a": np.arange(5.0), "b": np.arange(3)}
        tree = {"text": "é", "score": 1.5, "none": float("nan")}
        computed = []

        def both() -> None:
            kept = cache.arrays("x", {"k": 1}, lambda: computed.append("arrays") or arrays)
            assert {name: kept[name].tolist() for name in kept} == {name: arrays[name].tolist() for name in arrays}
            again = cache.tree("y", {"k": 1}, lambda: computed.append("tree") or tree)
            assert repr(again) == repr(tree)

        both()
        both()
        assert computed == ["arrays", "tree"], "what is whole is used"
        for _ in range(count):
            path = rng.choice([path for path in (tmp_path / "cache").rglob("*") if path.is_file()])
            path.write_bytes(mutated_bytes(path.read_bytes(), rng))
            both()


class TestArchives:
    cases = 1

    def test_zips(self, tmp_path: Path, attack: Callable[..., None]):
        content = {f"a/{number}.wav": random.Random(number).randbytes(200) * 3 for number in range(4)}
        archive = tmp_path / "a.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
            for name, data in content.items():
                writer.writestr(name, data)

        def use(_: Path) -> None:
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
            members = read_members(archive, lambda path: path, ZipLimits(members=100, total_bytes=50_000_000))
            unpack(archive, members, tmp_path / "out")
            for path in (tmp_path / "out").rglob("*.wav"):
                assert path.read_bytes() in content.values()

        attack(tmp_path, [archive], use)


class TestRecordings:
    cases = 4

    @pytest.mark.parametrize("name", ["male.flac", "short.wav", "short.ogg", "short.mp3"])
    def test_recordings(self, tmp_path: Path, attack: Callable[..., None], name: str):
        import soundfile

        path = tmp_path / name
        if name == "male.flac":
            shutil.copy(ASSETS / name, path)
        else:
            soundfile.write(path, np.sin(np.arange(100 if name.endswith("wav") else 4000) / 9) * 0.5, 16000)

        def use(_: Path) -> None:
            wave, rate = read_audio(path)
            assert wave.ndim == 1 and np.isfinite(wave).all() and rate > 0

        attack(tmp_path, [path], use)


def published(tmp_path: Path, folder: Path) -> Path:
    """A published folder with the small ones of its tensors."""
    kept = tmp_path / folder.name
    kept.mkdir()
    for path in folder.iterdir():
        if path.name in ("config.yml", "stats.h5"):
            shutil.copy(path, kept)
        elif path.suffix == ".pkl":
            tree = torch.load(path, weights_only=True)
            tensors = tree["model"].get("generator", tree["model"])
            if "vocoder" not in folder.name:
                for name in [name for name, tensor in tensors.items() if tensor.numel() > 64]:
                    del tensors[name]
            torch.save(tree, kept / path.name)
    return kept


def test_a_model_card_cannot_name_a_vocoder_outside_its_folder(tmp_path: Path):
    from aasvc_cli.conversion.converter import Converter

    folder = write_voice(tmp_path / "models" / "a_b_voice", tiny_config())
    outside = tmp_path / "outside"
    outside.mkdir()
    (folder / "link").symlink_to(outside)
    for name in ("../../outside", str(outside), "link", "..", "x/../../../outside"):
        (folder / "card.json").write_text(json.dumps({"vocoder": name}))
        with pytest.raises(AasvcError, match="names the vocoder .* outside this folder"):
            Converter.load(folder, home=Home(tmp_path / "home"), device="cpu")
