"""A served application, and a Chromium whose microphone is a file."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from aasvc_cli.audio.files import read_audio
from aasvc_cli.serve import server
from tests.browsers import open_browser


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """The address of an application on a port of this machine."""
    listening, address = server.listen(None, 0)
    running = server.http_server(app)
    thread = threading.Thread(target=running.run, args=([listening],))
    thread.start()
    try:
        while not running.started:
            time.sleep(0.01)
        yield address.url()
    finally:
        running.should_exit = running.force_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="package")
def spoken(demo_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the microphone hears, over and over: a sentence, as the browser takes it."""
    wave, rate = read_audio(demo_corpus / "male" / "wav" / "eval" / "eval_0680.ogg")
    path = tmp_path_factory.mktemp("microphone") / "spoken.wav"
    soundfile.write(path, wave, rate, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def browser(spoken: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser that hears :func:`spoken` and asks nobody for permission."""
    arguments = (
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={spoken}",
    )
    with open_browser(tmp_path_factory.mktemp("browser"), *arguments) as window:
        yield window


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[[Any], str]]:
    """Serves applications until the tests of a module are over."""
    with contextlib.ExitStack() as stack:
        yield lambda app: stack.enter_context(served(app))
