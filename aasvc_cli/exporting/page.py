"""A page that records, converts and plays without a server: its files, the graph, and the runtime of graphs.

The runtime is onnxruntime-web (MIT), of which three files go into the page's folder. npm fetches its package once; it
is kept in the data folder.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from aasvc_cli.conversion.voice import Voice
from aasvc_cli.errors import DownloadError
from aasvc_cli.exporting.onnx_files import onnx_bytes
from aasvc_cli.exporting.page_graph import PageGraph
from aasvc_cli.exporting.vocoder_graphs import vocoder_graph
from aasvc_cli.storage.archive import read_tar
from aasvc_cli.storage.files import as_bytes, file_sha256, json_text, make_folder, remove_file
from aasvc_cli.storage.home import Home
from aasvc_cli.vocoder.build import Vocoder

PAGE_FILE = "index.html"
GRAPH_FILE = "convert.onnx"
FACTS_FILE = "model.json"
RUNTIME_VERSION = "1.30.0"
RUNTIME_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
EXAMPLE_SECONDS = 1.5
_NPM_SECONDS = 900
_PAGE = Path(__file__).parent / "page"


def prepare_page(
    home: Home, voice: Voice, vocoder: Vocoder, vocoder_name: str, on_message: Callable[[str], None] | None = None
) -> PageGraph:
    """Make sure that a page can be made, before a minute is spent on its graph.

    Raises:
        ModelError: the voice or the vocoder is of a kind that a page cannot have.
        DownloadError: onnxruntime-web is not there and cannot be fetched.
    """
    graph = PageGraph(voice, vocoder_graph(vocoder, vocoder_name), vocoder_name)
    _runtime(home, on_message or (lambda _: None))
    return graph


def page_files(
    home: Home, voice: Voice, vocoder: Vocoder, vocoder_name: str, on_message: Callable[[str], None] | None = None
) -> dict[str, bytes]:
    """All files of a page by their names, the one that is opened last.

    Raises:
        ModelError, DownloadError: as of :func:`prepare_page`.
        MissingExtraError: the extra ``onnx`` is not installed.
    """
    graph = prepare_page(home, voice, vocoder, vocoder_name, on_message)
    example = torch.zeros(round(EXAMPLE_SECONDS * graph.sample_rate))
    facts = _facts(voice, vocoder, graph)
    content = onnx_bytes(
        graph,
        {"samples": (example, {0: "samples"}), "speed": (torch.tensor(1.0), {}), "seed": (torch.tensor(1), {})},
        ["wave"],
        facts,
    )
    page = {path.name: path.read_bytes() for path in sorted(_PAGE.iterdir()) if path.name != PAGE_FILE}
    return {
        **{f"runtime/{name}": file for name, file in _runtime_files(home).items()},
        GRAPH_FILE: content,
        FACTS_FILE: as_bytes(json_text(facts) + "\n"),
        **page,
        PAGE_FILE: (_PAGE / PAGE_FILE).read_bytes(),
    }


def _facts(voice: Voice, vocoder: Vocoder, graph: PageGraph) -> dict[str, Any]:
    """What the page has to know, and what it says of the voice."""
    mel = voice.config.features.mel
    shortest = max(voice.min_source_frames * mel.hop_length, mel.n_fft) / mel.sample_rate
    card = {key: str(voice.card[key]) for key in ("name", "converts", "licence") if key in voice.card}
    return {
        "name": voice.name, **card, "input_rate": graph.sample_rate, "output_rate": vocoder.sample_rate,
        "shortest_seconds": shortest, "runtime": f"onnxruntime-web {RUNTIME_VERSION}, MIT licence",
    }  # fmt: skip


def _runtime_package(home: Home) -> Path:
    return home.cache / f"onnxruntime-web-{RUNTIME_VERSION}.tgz"


def _runtime(home: Home, say: Callable[[str], None]) -> None:
    """Fetch onnxruntime-web unless it is there, and look whether it is what is expected."""
    package = _runtime_package(home)
    if not package.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise DownloadError(
                f"a page needs onnxruntime-web, and there is no npm here to fetch it; run npm pack "
                f"onnxruntime-web@{RUNTIME_VERSION} elsewhere, and put {package.name} into {home.cache}"
            )
        say(f"fetching onnxruntime-web {RUNTIME_VERSION} with npm, 33 MB, for this and later pages")
        _fetch(npm, make_folder(home.cache))
    if not package.is_file() or file_sha256(package) != RUNTIME_SHA256:
        remove_file(package)
        raise DownloadError(f"{package}: is not the onnxruntime-web that was expected, and was removed; try again")


def _runtime_files(home: Home) -> dict[str, bytes]:
    """The files of onnxruntime-web that a page needs."""
    files = read_tar(_runtime_package(home), [f"package/dist/{file}" for file in RUNTIME_FILES])
    return {Path(member).name: content for member, content in files.items()}


def _fetch(npm: str, folder: Path) -> None:
    command = [npm, "pack", f"onnxruntime-web@{RUNTIME_VERSION}", "--silent", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_NPM_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DownloadError(f"npm could not fetch onnxruntime-web: {error}") from None
    if done.returncode:
        reason = " ".join(done.stderr.split())[-200:] or f"exit code {done.returncode}"
        raise DownloadError(
            f"npm could not fetch onnxruntime-web {RUNTIME_VERSION}: {reason}; check the network and try again"
        )
