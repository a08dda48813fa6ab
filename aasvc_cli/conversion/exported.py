"""Exported models: the ONNX graphs that ``aasvc export`` writes, run by onnxruntime, without torch.

Everything else of a conversion (pauses, pieces, features, levels) is what it is with torch: an :class:`ExportedVoice`
stands in for a :class:`~aasvc_cli.conversion.voice.Voice` in the converter, and an :class:`ExportedVocoder` for a
vocoder.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aasvc_cli.audio.mel import Array, n_frames
from aasvc_cli.audio.resampling import resample
from aasvc_cli.config.reading import from_tree
from aasvc_cli.config.settings import Config
from aasvc_cli.conversion.voice import EXPORTED_FILE, Utterance, check_statistics, read_card
from aasvc_cli.errors import MissingExtraError, ModelError
from aasvc_cli.features.content import (
    CONTENT_CHANNELS,
    CONTENT_MEL,
    ENCODED,
    FRAMES_PER_SECOND,
    TAUGHT,
    beside,
    content_input,
    melody_input,
    taught,
)
from aasvc_cli.features.kinds import at_frames, extract, with_widths
from aasvc_cli.features.stats import NormStats
from aasvc_cli.features.whisper import whisper_encoder
from aasvc_cli.storage.files import open_binary, reading
from aasvc_cli.vocoder.noise import noise_between, standard_normal

VOCODER_FILE = "vocoder.onnx"
CONTENT_FILE = "content.onnx"
FORMAT = "1"
"""Of the metadata; counted up when an older program could not read it."""
CHUNK_FRAMES = 256
"""Frames that a vocoder of bounded reach synthesises at once."""


@dataclass(frozen=True)
class Graph:
    """An ONNX graph that is ready to run, and what it says of itself."""

    path: Path
    session: Any
    metadata: Mapping[str, str]

    def run(self, **inputs: Any) -> list[npt.NDArray[Any]]:
        """All outputs; of the inputs, those that it does not take are left out."""
        taken = {name: np.asarray(value) for name, value in inputs.items() if name in self.inputs}
        results: list[npt.NDArray[Any]] = self.session.run(None, taken)
        return results

    @property
    def inputs(self) -> set[str]:
        """Names of what it takes."""
        return {entry.name for entry in self.session.get_inputs()}

    def fact(self, name: str) -> Any:
        """An entry of the metadata that is JSON."""
        with reading(self.path, f"metadata with {name}", ModelError, advice="export the model again"):
            return json.loads(self.metadata[name])


@dataclass(frozen=True, eq=False)
class ExportedVoice:
    """A voice as a graph; attributes as those of :class:`~aasvc_cli.conversion.voice.Voice`."""

    name: str
    folder: Path
    config: Config
    stats: NormStats
    graph: Graph
    min_source_frames: int
    encoder: Graph | None = None
    card: Mapping[str, Any] = field(default_factory=dict)
    source_from_input = False

    def extract(self, kind: str, wave: Array, given: tuple[Array, float] | None = None) -> Array:
        """One feature of a recording, see :func:`aasvc_cli.features.kinds.extract`."""
        if self.encoder is None or kind not in (*ENCODED, TAUGHT):
            return extract(kind, wave, self.config.features, given)
        mel, rate = self.config.features.mel, CONTENT_MEL.sample_rate
        heard = resample(wave, mel.sample_rate, rate)
        levels = {"levels": content_input(heard, rate)}
        if "fine_levels" in self.encoder.inputs:
            levels["fine_levels"] = melody_input(heard, rate)
        (feature,) = self.encoder.run(**levels)
        if kind == TAUGHT:
            said = taught(heard, whisper_encoder(self.config.features.whisper.model))
            feature = beside(said, feature[:, CONTENT_CHANNELS:])
        count = n_frames(len(wave), mel.hop_length)
        return at_frames(feature[:, : ENCODED.get(kind)], FRAMES_PER_SECOND, count, mel.frames_per_second)

    def convert(
        self,
        sources: Sequence[Array],
        durations: Sequence[Array],
        seeds: Sequence[int],
        *,
        noise_scale: float | None,
        speed: float,
    ) -> list[Utterance]:
        """What the target would say, utterance by utterance."""
        scale = self.config.model.noise_scale if noise_scale is None else noise_scale
        results = []
        for source, duration, seed in zip(sources, durations, seeds, strict=True):
            n_tokens = self.config.model.n_tokens(len(source))
            # channel first, as the model draws it
            noise = standard_normal(2 * n_tokens, seed).reshape(2, n_tokens).T * np.float32(scale)
            mel, frames = self.graph.run(source=source, duration_feature=duration, noise=noise, speed=np.float32(speed))
            results.append(Utterance(mel, frames))
        return results

    def speak(self, vocoder: Any, log_mel: Array, seed: int) -> Array:
        """The sound of a log-mel (T, M), not normalised, by an exported vocoder: (T * hop_length,)."""
        wave: Array = vocoder.speak(log_mel, seed)
        return wave


@dataclass(frozen=True, eq=False)
class ExportedVocoder:
    """A vocoder as a graph.

    Attributes:
        reach: frames on either side that a frame of the result depends on; None for all
    """

    name: str
    sample_rate: int
    hop_length: int
    reach: int | None
    graph: Graph

    def speak(self, log_mel: Array, seed: int) -> Array:
        """(T, M), not normalised, to (T * hop_length,), in pieces of bounded memory where they join without a seam."""
        total = len(log_mel)
        step, reach = (total, 0) if self.reach is None else (CHUNK_FRAMES, self.reach)
        pieces = [self._piece(log_mel, start, min(start + step, total), reach, seed) for start in range(0, total, step)]
        return np.concatenate([np.zeros(0, dtype=np.float32), *pieces])

    def _piece(self, log_mel: Array, start: int, stop: int, reach: int, seed: int) -> Array:
        first, last, hop = max(0, start - reach), min(len(log_mel), stop + reach), self.hop_length
        inputs: dict[str, Any] = {"log_mel": log_mel[first:last], "seed": np.int64(seed)}
        if "noise" in self.graph.inputs:
            inputs["noise"] = noise_between(seed, first * hop, last * hop)
        (wave,) = self.graph.run(**inputs)
        return wave[(start - first) * hop : (stop - first) * hop]


def load_exported(
    folder: Path,
    device: str = "auto",
    *,
    vocoder: str | None = None,
    source_stats: Path | None = None,
    data: str | None = None,
) -> tuple[ExportedVoice, ExportedVocoder]:
    """Load an exported folder.

    Args:
        device: ``auto`` or ``cpu``
        vocoder, source_stats, data: an exported model has them inside; refused

    Raises:
        ModelError: a part is missing or damaged, or something is asked for that it cannot do.
        MissingExtraError: onnxruntime is not installed.
    """
    refuse_device(folder, device)
    for option, value in (("--vocoder", vocoder), ("--source-stats", source_stats), ("--data", data)):
        if value is not None:
            raise ModelError(
                f"{option} {value}: {folder} is an exported model, which has its own inside; give {option} to "
                "aasvc export instead"
            )
    names = [name for name in (EXPORTED_FILE, VOCODER_FILE, CONTENT_FILE) if (folder / name).is_file()]
    return exported_from(folder, {name: _content(folder / name) for name in names}, read_card(folder))


def refuse_device(folder: Path, device: str) -> None:
    """Raise ModelError for a device on which exported models do not run."""
    if device not in ("auto", "cpu"):
        raise ModelError(f"--device {device}: {folder} is run by onnxruntime, which runs on the CPU; use auto or cpu")


def exported_from(
    folder: Path, files: Mapping[str, bytes], card: Mapping[str, Any]
) -> tuple[ExportedVoice, ExportedVocoder]:
    """:func:`load_exported` of files in memory; ``folder`` is what messages call their place."""

    def load(name: str) -> Graph:
        if name not in files:
            raise ModelError(f"{folder / name}: not found, expected a part of an exported model; export it again")
        return _graph(folder / name, files[name])

    graph, sound = load(EXPORTED_FILE), load(VOCODER_FILE)
    with reading(graph.path, "metadata with the configuration of a voice", ModelError, advice="export it again"):
        config = with_widths(from_tree(Config, graph.fact("config")), str(graph.path))
    stats = NormStats.from_tree(graph.fact("stats"), str(graph.path))
    check_statistics(stats, config.features, graph.path, "its configuration; export the model again")
    heard = {str(config.features.source), str(config.features.duration)}
    encoder = load(CONTENT_FILE) if heard & {*ENCODED, TAUGHT} else None
    facts = [graph.fact("min_source_frames"), *map(sound.fact, ("sample_rate", "hop_length"))]
    reach = sound.fact("reach")
    if not all(isinstance(fact, int) and fact > 0 for fact in facts) or not isinstance(reach, int | None):
        raise ModelError(f"{folder}: its metadata holds {[*facts, reach]}, expected whole numbers; export it again")
    name = sound.metadata.get("name", VOCODER_FILE)
    voice = ExportedVoice(folder.absolute().name, folder, config, stats, graph, facts[0], encoder, card)
    return voice, ExportedVocoder(name, facts[1], facts[2], reach, sound)


def sealed(content: bytes) -> bytes:
    """An ONNX file that ends with a checksum of what is before: protobuf takes it for one more entry of metadata."""
    return content + _seal(content)


def _seal(content: bytes | memoryview) -> bytes:
    entry = b"\x0a\x05crc32\x12\x08%08x" % zlib.crc32(content)
    return b"\x72%c%b" % (len(entry), entry)  # metadata_props, field 14 of a model


_SEAL_BYTES = len(_seal(b""))


def _content(path: Path) -> bytes:
    with open_binary(path) as stream:
        return stream.read()


def _graph(path: Path, content: bytes) -> Graph:
    """A graph from the content of its file; read from memory, it cannot refer to other files."""
    if content[-_SEAL_BYTES:] != _seal(memoryview(content)[:-_SEAL_BYTES]):
        raise ModelError(
            f"{path}: expected an ONNX graph of aasvc export, but its checksum is wrong; export the model again"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            f"an exported model needs onnxruntime ({error}); run: pip install 'aasvc[onnx]'"
        ) from None
    options = onnxruntime.SessionOptions()
    # as torch has it; 0 is one for each core
    threads = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(threads) if threads.isdecimal() else 0
    # threads that wait by spinning take a busy machine's cores from those they wait for
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # pieces have a length each, and memory that was kept for one would not fit the next
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.log_severity_level = 4
    with reading(path, "an ONNX graph", ModelError, advice="export the model again"):
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    if metadata.get("aasvc_format") != FORMAT:
        raise ModelError(
            f"{path}: is of format {metadata.get('aasvc_format')}, expected {FORMAT}; export the model again"
        )
    return Graph(path, session, metadata)
