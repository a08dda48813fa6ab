"""The files of an exported voice: each graph with what a reader has to know of it."""

from __future__ import annotations

import torch

from aasvc_cli.config.reading import to_tree
from aasvc_cli.conversion.exported import CONTENT_FILE, FORMAT, VOCODER_FILE
from aasvc_cli.conversion.voice import EXPORTED_FILE, Voice
from aasvc_cli.errors import ModelError
from aasvc_cli.exporting.onnx_files import Inputs, onnx_bytes
from aasvc_cli.exporting.vocoder_graphs import vocoder_graph
from aasvc_cli.exporting.voice_graphs import VoiceGraph, content_graph
from aasvc_cli.features.content import CONTENT_MEL
from aasvc_cli.vocoder.build import Vocoder

EXAMPLE_FRAMES = 120
"""Of the utterance that graphs are traced with; they take any other length."""


def graph_files(voice: Voice, vocoder: Vocoder, vocoder_name: str) -> dict[str, bytes]:
    """All graphs of a voice by the names of their files, the one that makes the folder a model last.

    Raises:
        ModelError: a part of it cannot be exported; the message names it.
        MissingExtraError: the extra ``onnx`` is not installed.
    """
    if voice.source_from_input:
        raise ModelError(
            f"{voice.folder}: has no statistics of its source speaker, which an exported model has inside; give "
            "--source-stats FILE or --data NAME"
        )
    files = {VOCODER_FILE: vocoder_file(vocoder, vocoder_name)}
    features = voice.config.features
    graph = content_graph((features.source, features.duration))
    if graph is not None:
        inputs: Inputs = {
            name: (torch.zeros(EXAMPLE_FRAMES, mel.n_mels), {0: "frames"}) for name, mel in graph.inputs.items()
        }
        facts = {"aasvc_format": FORMAT, "sample_rate": CONTENT_MEL.sample_rate}
        files[CONTENT_FILE] = onnx_bytes(graph, inputs, ["feature"], facts)
    return files | {EXPORTED_FILE: voice_file(voice)}


def voice_file(voice: Voice) -> bytes:
    """The graph of a voice as a file; raises what :func:`graph_files` does."""
    model = voice.config.model
    graph = VoiceGraph(voice.model)
    assert model.source_dim is not None and model.duration_dim is not None
    examples: Inputs = {
        "source": (torch.zeros(EXAMPLE_FRAMES, model.source_dim), {0: "frames"}),
        "speed": (torch.tensor(1.0), {}),
        "duration_feature": (torch.zeros(EXAMPLE_FRAMES, model.duration_dim), {0: "frames"}),
        "noise": (torch.zeros(model.n_tokens(EXAMPLE_FRAMES), 2), {0: "tokens"}),
    }
    mel = voice.config.features.mel
    metadata = {
        "aasvc_format": FORMAT,
        "config": to_tree(voice.config),
        "stats": voice.stats.to_tree(),
        "min_source_frames": voice.min_source_frames,
        "sample_rate": mel.sample_rate,
        "hop_length": mel.hop_length,
    }
    return onnx_bytes(graph, {name: examples[name] for name in graph.inputs}, ["mel", "durations"], metadata)


def vocoder_file(vocoder: Vocoder, name: str) -> bytes:
    """The graph of a vocoder as a file; raises what :func:`graph_files` does."""
    graph = vocoder_graph(vocoder, name)
    metadata = {
        "aasvc_format": FORMAT,
        "name": name,
        "mel": to_tree(vocoder.mel),
        "sample_rate": vocoder.sample_rate,
        "hop_length": vocoder.hop_length,
        "reach": graph.reach,
    }
    examples: Inputs = {
        "log_mel": (torch.full((EXAMPLE_FRAMES, vocoder.mel.n_mels), -2.0), {0: "frames"}),
        "seed": (torch.tensor(1), {}),
        "noise": (torch.zeros(EXAMPLE_FRAMES * vocoder.hop_length), {0: "samples"}),
    }
    return onnx_bytes(graph, {name: examples[name] for name in graph.inputs}, ["wave"], metadata)
