"""What every test shares: the tiers, a data folder of its own, the bundled demo corpus, short synthetic recordings.

Tests belong to tiers, by marker: ``process`` (starts a process), ``browser``, ``slow`` (more than ten seconds),
``unprivileged`` (skips for root, whom no permission stops), and the default tier, which is all the others.

* ``pytest`` and ``pytest FOLDER`` run the default tier, in which properties are tried with fewer examples, and
  files with fewer mutations;
* ``pytest FILE`` and ``pytest -m EXPRESSION`` run whatever they select, of every tier;
* ``pytest --tiers all`` (or a list of names) runs those tiers, and fails if one of them ran no test.
"""

from __future__ import annotations

import gc
import math
import multiprocessing.process
import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from aasvc_cli.audio.files import read_audio, write_audio
from aasvc_cli.cli import run
from aasvc_cli.config.layers import CONFIG_VARIABLE
from aasvc_cli.data import ranking
from aasvc_cli.storage.home import HOME_VARIABLE, Home, bundled, find_home
from tests import examples
from tests.once import once

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # so it is in jobs that a script started in the background; programs under test would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
MEMORY = Path("/dev/shm")
ROOM = 4e9


def room_in_memory() -> bool:
    """Whether the files of tests can lie in memory: there is enough of it, and programs can be started there."""
    try:
        state = os.statvfs(MEMORY)
        available = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
        limits = [path.read_text().strip() for path in Path("/sys/fs/cgroup").glob("memory.max")]
    except (AttributeError, OSError):  # another system
        return False
    least = min(float(available[1]) * 1e3 if available else 0.0, float(state.f_bavail * state.f_frsize))
    least = min(least, *(float(limit) for limit in limits if limit != "max"), math.inf)
    return least > ROOM and os.access(MEMORY, os.W_OK) and not state.f_flag & getattr(os, "ST_NOEXEC", 0)


if "TMPDIR" not in os.environ and room_in_memory():
    # thousands of small files take half of the time of many tests on a disk
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
DATA = Path(__file__).parent / "assets"
TIERS = ("default", "slow", "process", "browser", "unprivileged")
"""From the first to the last. A test with several markers belongs to the last of its tiers."""


def tier(keywords: Container[str]) -> str:
    """The tier of a test, by the keywords that pytest knows it by."""
    return next((name for name in reversed(TIERS) if name in keywords), TIERS[0])


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare --tiers and --mutations."""
    parser.addoption("--mutations", type=int, help="how many mutations of each format test_mutations makes")
    parser.addoption(
        "--tiers",
        type=lambda text: list(TIERS) if text == "all" else text.split(","),
        help=f"run these tiers ({', '.join(TIERS)}; or all), and fail if one of them ran no test",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse tiers that do not exist; count what runs."""
    if unknown := set(config.getoption("--tiers") or ()) - set(TIERS):
        raise pytest.UsageError(f"--tiers: no such tier: {', '.join(unknown)}; there are {', '.join(TIERS)}")
    config.pluginmanager.register(_Count(config), "tiers")
    if _is_default(config):
        examples.share = 0.25


def _is_default(config: pytest.Config) -> bool:
    """Whether nothing is asked for but the default tier, of all folders or of some."""
    chosen = config.getoption("--tiers") or config.option.markexpr
    return not chosen and all(Path(argument).is_dir() for argument in config.args)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tiers that are not asked for."""
    tiers = ["default", "unprivileged"] if _is_default(config) else config.getoption("--tiers")
    if tiers is None:
        return
    left_out = [item for item in items if tier(item.keywords) not in tiers]
    config.hook.pytest_deselected(items=left_out)
    chosen = [item for item in items if tier(item.keywords) in tiers]
    items[:] = slow_first(chosen, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))


def slow_first(items: Sequence[pytest.Item], count: int) -> list[pytest.Item]:
    """Tests in an order in which no process is left alone with a slow one at the end.

    Each of ``count`` processes is given a stretch of the same length, which begins with files that have slow tests. The
    tests of a file stay together, as they share fixtures.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    slow = [file for file in files.values() if any("slow" in item.keywords for item in file)]
    quick = [item for file in files.values() if file not in slow for item in file]
    order: list[pytest.Item] = []
    for index in range(count):
        stretch = [item for file in slow[index::count] for item in file]
        room = max(0, len(items) // count - len(stretch))
        order += stretch + quick[:room]
        del quick[:room]
    return order + quick


def pytest_collection() -> None:
    """Collect no garbage while tests are collected: nearly all that is made by then stays."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave what collecting has imported out of every later collection of garbage, and collect seldom."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, *gc.get_threshold()[1:])


class _Count:
    """How many tests of each tier ran, and why the others did not."""

    def __init__(self, config: pytest.Config):
        self.ran: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.required = config.getoption("--tiers") or []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and not report.skipped:
            self.ran[tier(report.keywords)] += 1
        if report.skipped and isinstance(report.longrepr, tuple):
            self.skipped[report.longrepr[2].removeprefix("Skipped: ")] += 1

    @property
    def empty(self) -> list[str]:
        return [name for name in self.required if not self.ran[name]]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.empty and not hasattr(session.config, "workerinput") and not session.config.option.collectonly:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("tiers")
        for name in TIERS:
            if self.ran[name]:
                terminalreporter.line(f"{self.ran[name]:5} {name}")
        for reason, count in self.skipped.most_common():
            terminalreporter.line(f"{count:5} skipped: {reason}")
        for name in self.empty:
            terminalreporter.line(f"ERROR: no test of the tier {name} ran", red=True)


def permissions_hold(folder: Path) -> bool:
    """Whether the permissions of a file stop this user; nothing stops root, unless it has given up its capabilities."""
    path = folder / "unreadable"
    path.touch(mode=0)
    try:
        path.read_bytes()
    except PermissionError:
        return True
    finally:
        path.unlink()
    return False


@pytest.fixture(autouse=True)
def _as_its_tier_allows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test starts workers only if it is marked so; one of permissions is skipped where they stop nobody."""
    if "unprivileged" in request.keywords and not permissions_hold(request.getfixturevalue("tmp_path")):
        pytest.skip("no permission stops this user")
    if not {"process", "browser"} & set(request.keywords):

        def refuse(self: object) -> NoReturn:
            pytest.fail(f"{self}: a test that starts worker processes is marked @pytest.mark.process")

        monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's data folder, settings file or AASVC_... variables."""
    for name in [name for name in os.environ if name.startswith("AASVC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv(CONFIG_VARIABLE, "")  # the user's settings file


@pytest.fixture(scope="session", autouse=True)
def _no_power_failure() -> Iterator[None]:
    """Files go to the disk when the system likes: only where the power fails could a test see the difference."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which fails for the same descriptors
        yield


@pytest.fixture(scope="session", autouse=True)
def _heard_once() -> Iterator[None]:
    """What is said in a recording is computed once per process: many tests prepare the same few recordings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "content", once(ranking.content))
        yield


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
    """Six training, two dev and two eval pairs, the beginnings of sentences of the demo corpus, in the same layout."""
    root = tmp_path_factory.mktemp("corpus") / "ja-JP"
    for speaker, shortest in (("male", 1.2), ("female", 1.1)):
        shutil.copytree(demo_corpus / speaker / "text", root / speaker / "text")
        for name, count in (("train_parallel", 6), ("dev", 2), ("eval", 2)):
            for index, path in enumerate(sorted((demo_corpus / speaker / "wav" / name).iterdir())[:count]):
                place = root / speaker / "wav" / name / f"{path.stem}.wav"  # quicker to read than Vorbis
                _write_beginning(path, place, seconds=shortest + 0.1 * index)
    return root


def _write_beginning(recording: Path, path: Path, *, seconds: float) -> None:
    """What is said first: everything that is made of a whole sentence takes three times as long."""
    wave, rate = read_audio(recording)
    start = max(0, int((abs(wave) > 0.1 * abs(wave).max()).argmax()) - rate // 20)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, wave[start : start + round(seconds * rate)], rate)


TINY = """
features: {source: mel, duration: mel, mel: {sample_rate: 16000, n_fft: 512, hop_length: 256, n_mels: 20}}
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
    monkeypatch.setattr(gc, "freeze", lambda: None)  # what the command line loads stays for its process, not for ours

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        return Outcome(run([str(argument) for argument in arguments]), *capfd.readouterr())

    return call
