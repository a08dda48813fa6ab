"""Work on a Dask cluster: the same files as with local processes, and clear words when the cluster cannot do it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aasvc_cli
from aasvc_cli.cluster import check_worker, connect
from aasvc_cli.config.settings import Config
from aasvc_cli.errors import ClusterError
from aasvc_cli.pipeline.evaluate import Options, evaluate_folders
from aasvc_cli.pipeline.prepare import PrepareOptions, prepare
from aasvc_cli.storage.home import Home
from aasvc_cli.workers import Workers

distributed = pytest.importorskip("distributed")
pytestmark = [pytest.mark.process, pytest.mark.slow]
ROOT = Path(__file__).parents[1]


class Machines:
    """A scheduler and two workers, as processes on this machine, each in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scheduler = self.start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", "cluster.json"
        )
        deadline = time.monotonic() + 60
        while not (folder / "cluster.json").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        with distributed.Client(scheduler_file=str(folder / "cluster.json"), set_as_default=False) as client:
            self.address = client.scheduler.address
            self.workers = [self.start("worker", self.address, "--nthreads", "1") for _ in range(2)]
            client.wait_for_workers(2, timeout=60)

    def start(self, what: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard", *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    machines = Machines(tmp_path_factory.mktemp("cluster"))
    yield machines
    machines.close()


@pytest.fixture
def workers(machines: Machines, home: Home) -> Iterator[Workers]:
    with connect(machines.address, home.root, aasvc_cli.__version__) as workers:
        yield workers


def refuse(item: Any) -> Any:
    raise AssertionError(f"{item} was killed")


def die_the_first_time(path: Path) -> str:
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return path.name


def wait_in(folder: Path) -> None:
    (folder / f"begun-{os.getpid()}").touch()
    time.sleep(60)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_features_are_the_same_bit_for_bit(workers: Workers, home: Home, tmp_path: Path, small_corpus: Path):
    alone = Home(tmp_path / "alone")
    reports = [
        prepare(place, Config(), PrepareOptions(corpus=small_corpus, jobs=1, workers=pool))
        for place, pool in ((alone, None), (home, workers))
    ]
    assert reports[0].n_computed == reports[1].n_computed > 0
    assert contents(alone.features) == contents(home.features)
    assert (alone.prepared / reports[0].name / "manifest.json").read_bytes() == reports[1].manifest.read_bytes()


def test_scores_are_the_same(workers: Workers, small_corpus: Path):
    converted, target = (small_corpus / speaker / "wav" / "train_parallel" for speaker in ("male", "female"))
    alone, spread = (
        evaluate_folders(converted, target, options=Options(measures=["signal"], jobs=1, workers=pool))
        for pool in (None, workers)
    )
    assert len(alone.utterances) == 6 and repr(alone) == repr(spread)  # NaN equals itself there


def test_a_file_describes_the_jobs_of_a_batch_system(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aasvc: Any, small_corpus: Path, tiny_conf: Path
):
    """Dask's own local cluster stands in for the batch system, which is asked in the same words."""
    import dask.config

    asked: list[tuple[Any, int]] = []

    class SLURMCluster(distributed.LocalCluster):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__(n_workers=0, threads_per_worker=1, processes=False, dashboard_address=None)

        def scale(self, jobs: int) -> None:
            asked.append((dask.config.get("jobqueue.slurm"), jobs))
            super().scale(jobs)

    stub = types.ModuleType("dask_jobqueue")
    stub.SLURMCluster = SLURMCluster  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dask_jobqueue", stub)
    file = tmp_path / "slurm.yaml"
    file.write_text("jobqueue: {slurm: {cores: 4, memory: 8GB, jobs: 2}}", encoding="utf-8")
    outcome = aasvc("--quiet", "prepare", small_corpus, "--conf", tiny_conf, "--cluster", file)
    assert outcome.code == 0, outcome.err
    assert asked[0] == ({"cores": 4, "memory": "8GB"}, 2)
    assert {jobs for _, jobs in asked[1:]} <= {0}  # how a cluster is closed
    file.write_text("jobqueue: {lsf: {jobs: 2}}", encoding="utf-8")
    outcome = aasvc("prepare", small_corpus, "--cluster", file)
    assert outcome.code == 1 and "slurm.yaml: expected one of slurm with its options" in outcome.err


def test_the_jobs_of_a_worker_that_was_killed_run_again(workers: Workers, tmp_path: Path):
    names = list("abc")
    paths = [tmp_path / name for name in names]
    assert sorted(workers.spread(die_the_first_time, paths, killed=refuse)) == names


def test_a_worker_that_came_later_is_looked_at_before_its_first_job(tmp_path: Path):
    marker = tmp_path / "marker"
    with pytest.raises(ClusterError, match=f"does not see the data folder {tmp_path}; share it"):
        check_worker(str(tmp_path), marker, aasvc_cli.__version__)
    marker.touch()
    check_worker(str(tmp_path), marker, aasvc_cli.__version__)
    with pytest.raises(ClusterError, match=r"has aasvc .*, expected 99\.0"):
        check_worker(str(tmp_path), marker, "99.0")
    with pytest.raises(ClusterError, match="does not see the working directory /nowhere; share it"):
        check_worker("/nowhere", marker, aasvc_cli.__version__)


def test_relative_paths_mean_what_they_mean_here(workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert list(workers.spread(os.path.abspath, ["x"], killed=refuse)) == [str(tmp_path / "x")]


def test_a_worker_with_another_version_is_refused_by_name(machines: Machines, home: Home):
    with (
        pytest.raises(ClusterError, match=r"worker tcp://127\.0\.0\.1:\d+: has aasvc .*, expected 99\.0"),
        connect(machines.address, home.root, "99.0"),
    ):
        pass


def test_a_worker_that_does_not_see_the_data_folder_is_refused_by_name(machines: Machines, home: Home):
    blind = "import os.path; exists = os.path.exists; os.path.exists = lambda path: '.cluster.' not in path"
    with distributed.Client(machines.address, set_as_default=False) as client:
        client.run(exec, blind, {})
        try:
            with (
                pytest.raises(ClusterError, match=r"worker tcp://.*: does not see the data folder .*home; share it"),
                connect(machines.address, home.root, aasvc_cli.__version__),
            ):
                pass
        finally:
            client.run(exec, "import genericpath, os.path; os.path.exists = genericpath.exists")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("tcp://127.0.0.1:9", "no Dask scheduler answers"),
        ("no-such-file.yaml", "cannot be read|needs dask-jobqueue"),
    ],
)
def test_what_is_no_cluster_is_an_error(home: Home, place: str, message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("aasvc_cli.cluster.CONNECT_SECONDS", 1)
    with pytest.raises(aasvc_cli.errors.AasvcError, match=message), connect(place, home.root, "1"):
        pass


def test_ctrl_c_ends_the_command_and_not_the_cluster(machines: Machines, home: Home, demo_corpus: Path):
    command = [sys.executable, "-m", "aasvc_cli", "--quiet", "prepare", str(demo_corpus), "--cluster", machines.address]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(home.features.rglob("*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.05)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and time.monotonic() - began < 10
    assert err.startswith("aasvc: stopped after") and len(err.splitlines()) == 1
    assert all(worker.poll() is None for worker in machines.workers)


def test_a_scheduler_that_is_lost_is_an_error_that_keeps_what_is_done(tmp_path: Path, home: Home):
    machines = Machines(tmp_path)
    try:
        with connect(machines.address, home.root, aasvc_cli.__version__) as workers:

            def lose(count: int) -> Iterator[Path]:
                for _ in range(count):
                    yield tmp_path
                os.killpg(machines.scheduler.pid, signal.SIGKILL)

            outcomes = workers.spread(wait_in, lose(2), killed=refuse)
            with pytest.raises(ClusterError, match="connection to the cluster was lost; what is done is kept"):
                list(outcomes)
    finally:
        machines.close()
