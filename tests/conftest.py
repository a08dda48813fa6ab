"""What every test shares: a data folder of its own, the bundled demo corpus, short synthetic recordings."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from aasvc_cli.cli import run
from aasvc_cli.config.layers import CONFIG_VARIABLE
from aasvc_cli.storage.home import HOME_VARIABLE, Home, bundled, find_home

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # so it is in jobs that a script started in the background; programs under test would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
DATA = Path(__file__).parent / "assets"


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's data folder, settings file or AASVC_... variables."""
    for name in [name for name in os.environ if name.startswith("AASVC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv(CONFIG_VARIABLE, "")  # the user's settings file


@pytest.fixture
def home() -> Home:
    """The data folder of this test; nothing in it yet."""
    return find_home()


@pytest.fixture(scope="session")
def demo_corpus() -> Path:
    """The demo corpus that ships with the package, in the Hi-Fi-CAPTAIN layout."""
    folder = bundled("demo") / "ja-JP"
    assert folder.is_dir(), f"{folder} is part of the package"
    return folder


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of small test data."""
    return DATA


@pytest.fixture(scope="session")
def small_corpus(demo_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training, two dev and two eval pairs of the demo corpus, in the same layout."""
    root = tmp_path_factory.mktemp("corpus") / "ja-JP"
    for speaker in ("male", "female"):
        shutil.copytree(demo_corpus / speaker / "text", root / speaker / "text")
        for name, count in (("train_parallel", 6), ("dev", 2), ("eval", 2)):
            folder = root / speaker / "wav" / name
            folder.mkdir(parents=True)
            for path in sorted((demo_corpus / speaker / "wav" / name).iterdir())[:count]:
                shutil.copy(path, folder)
    return root


TINY = """
features: {mel: {sample_rate: 16000, n_fft: 512, hop_length: 256, n_mels: 20}}
model:
  {width: 16, n_heads: 2, encoder_layers: 1, decoder_layers: 1, encoder_hidden: 16, decoder_hidden: 16,
   encoder_kernel: 3, decoder_kernel: 3, postnet_layers: 1, postnet_channels: 8, duration_layers: 1,
   duration_channels: 8, flow_count: 2, flow_layers: 1, frames_per_token: 4}
train:
  {batch_size: 2, accum: 1, max_steps: 2, lr: 1.0e-3, warmup_steps: 1, log_every: 1, eval_every: 1, save_every: 1,
   preview_every: 0, device: cpu, threads: 1}
"""
"""A model that learns nothing, but quickly."""


@pytest.fixture(scope="session")
def tiny_conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration file of a model that trains in a second."""
    path = tmp_path_factory.mktemp("conf") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained_once(small_corpus: Path, tiny_conf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which the small corpus is prepared and a tiny run was trained; not to be changed."""
    root = tmp_path_factory.mktemp("trained") / "home"
    for arguments in (
        ["prepare", str(small_corpus), "--conf", str(tiny_conf), "--jobs", "1"],
        ["stats"],
        ["train", "--tag", "tiny"],
    ):
        assert run(["--home", str(root), "--quiet", *arguments]) == 0, arguments
    return root


@pytest.fixture
def trained(trained_once: Path, home: Home) -> Home:
    """The data folder of this test, with the small corpus prepared and a run named tiny trained on it."""
    shutil.copytree(trained_once, home.root)
    return home


@dataclass(frozen=True)
class Outcome:
    """What a command left behind in its process."""

    code: int
    out: str
    err: str


@pytest.fixture
def aasvc(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run a command line in this process, error boundary included; importing torch anew each time would be slow."""
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # the command line sets it for its workers; this puts it back
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        return Outcome(code, *capfd.readouterr())

    return call
