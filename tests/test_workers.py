"""Worker processes: what they give back, what they remember, and that they can be ended at any moment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest

from aasvc_cli.errors import AudioError, ClusterError, ConfigError
from aasvc_cli.storage.files import atomic_write, remove_unfinished
from aasvc_cli.workers import MANY, THREAD_VARIABLES, Workers, core_count, each_in_chunks

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals"),
]


class Counting:
    """Counts how often it was called in its process, and says in which."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, item: int) -> tuple[int, int, int]:
        self.calls += 1
        time.sleep(0.05)
        return item, self.calls, os.getpid()


def process_of(_: str) -> int:
    return os.getpid()


def misbehave(how: str) -> str:
    """Whatever an item can do to its process."""
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "fault":
        raise ZeroDivisionError("by zero")
    if how == "audio":
        raise AudioError("a.wav: no such file", "missing")
    if how == "config":
        raise ConfigError("a.yaml", ["one: fault", "another: fault"])
    if how == "threads":
        return os.environ[THREAD_VARIABLES[0]]
    return how


def die_the_first_time(path: Path) -> str:
    if path.name == "c" and not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return path.name


class SleepsWhenDeleted:
    """An exception that ends the sleep goes no further, as any in a destructor."""

    def __del__(self) -> None:
        time.sleep(60)


def write_for_ever(path: Path) -> str:
    """Never ends, unless it is only to wait until the other one has begun."""
    begun = path.with_name("begun")
    while path.name == "wait":
        if begun.exists():
            return "waited"
        time.sleep(0.02)
    with atomic_write(path) as stream:
        stream.write(b"half")
        stream.flush()
        begun.touch()
        if path.name == "destructor":
            SleepsWhenDeleted()
        while True:
            with contextlib.suppress(KeyboardInterrupt) if path.name == "stubborn" else contextlib.nullcontext():
                time.sleep(0.1)


def refuse(item: Any) -> Any:
    raise AssertionError(f"{item} was killed")


@pytest.fixture
def workers() -> Iterator[Workers]:
    with Workers(2) as workers:
        yield workers


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def unfit() -> None:
    raise ClusterError("worker elsewhere: has aasvc 0.0, expected 1.0")


def test_a_worker_that_is_not_fit_for_the_work_gets_none(tmp_path: Path):
    with (
        Workers(2, before=unfit) as workers,
        pytest.raises(ClusterError, match=r"worker elsewhere: has aasvc 0\.0"),
    ):
        list(workers.spread(Path.touch, [tmp_path / "done"], killed=refuse))
    assert not (tmp_path / "done").exists()


def test_every_item_is_done_once_by_processes_that_remember(workers: Workers):
    done = list(workers.spread(Counting(), range(8), killed=refuse))
    assert sorted(item for item, _, _ in done) == list(range(8))
    pids = {pid for _, _, pid in done}
    assert 1 <= len(pids) <= 2 and os.getpid() not in pids
    for pid in pids:
        assert [calls for _, calls, other in done if other == pid] == list(
            range(1, 1 + sum(o == pid for *_, o in done))
        )
    again = list(workers.spread(Counting(), range(4), killed=refuse))
    assert {pid for _, _, pid in again} <= pids, "they serve again"
    assert min(calls for _, calls, _ in again) == 1, "another function remembers for itself"
    workers.close()
    assert not any(alive(pid) for pid in pids)


def test_items_are_taken_as_they_are_needed(workers: Workers):
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    outcomes = workers.spread(Counting(), items(), killed=refuse)
    next(outcomes)
    assert len(taken) == 2
    outcomes.close()


def test_an_item_that_kills_its_process_is_tried_again_and_costs_that_item_alone(workers: Workers):
    swept: list[str] = []
    done = list(
        workers.spread(misbehave, ["a", "die", "b", "die", "c"], killed=lambda item: f"{item}d", sweep=swept.append)
    )
    assert sorted(done) == ["a", "b", "c", "died", "died"]
    assert swept.count("die") == 4


def test_a_job_whose_process_was_killed_once_is_done(workers: Workers, tmp_path: Path):
    items = [tmp_path / name for name in "abcd"]
    assert sorted(workers.spread(die_the_first_time, items, killed=refuse)) == ["a", "b", "c", "d"]


def test_a_process_that_is_killed_while_it_has_nothing_to_do_is_replaced(workers: Workers):
    ((_, _, pid),) = workers.spread(Counting(), [1], killed=refuse)
    os.kill(pid, signal.SIGKILL)
    assert [item for item, _, _ in workers.spread(Counting(), [2], killed=refuse)] == [2]


@pytest.mark.parametrize(("error", "is_lost"), [(OSError("handle is closed"), True), (OSError(11, "no more"), False)])
def test_a_pool_that_breaks_while_it_starts_a_process_is_replaced(error: OSError, is_lost: bool):
    class Breaking(ThreadPoolExecutor):
        def submit(self, *_: object, **__: object) -> NoReturn:
            raise error

    kinds = iter([Breaking, ThreadPoolExecutor])
    with Workers(2, lambda count: next(kinds)(count)) as workers:
        outcome = contextlib.nullcontext() if is_lost else pytest.raises(OSError, match="no more")
        with outcome:
            assert sorted(workers.spread(str, range(3), killed=refuse)) == ["0", "1", "2"]


def test_any_executor_will_do():
    with Workers(3, ThreadPoolExecutor) as workers:
        assert sorted(workers.spread(str, range(9), killed=refuse)) == [str(number) for number in range(9)]
        with pytest.raises(AudioError, match=r"a\.wav"):
            list(workers.spread(misbehave, ["audio"], killed=refuse))


ORPHAN = """
import os, sys, time
from aasvc_cli.workers import Workers

def work(item):
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    with Workers(1) as workers:
        list(workers.spread(work, [1], killed=print))
"""


def test_no_worker_outlives_a_parent_that_was_killed(tmp_path: Path):
    (tmp_path / "orphan.py").write_text(ORPHAN)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "orphan.py"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def test_errors_arrive_as_they_were_raised(workers: Workers):
    with pytest.raises(AudioError, match=r"a\.wav") as audio:
        list(workers.spread(misbehave, ["audio"], killed=refuse))
    assert audio.value.code == "missing"
    with pytest.raises(ConfigError, match="one: fault; another: fault") as config:
        list(workers.spread(misbehave, ["config"], killed=refuse))
    assert config.value.faults == ("one: fault", "another: fault")
    with pytest.raises(RuntimeError, match="ZeroDivisionError: by zero") as fault:
        list(workers.spread(misbehave, ["fault"], killed=refuse))
    assert "in misbehave" in str(fault.value.__cause__)
    assert list(workers.spread(misbehave, ["a"], killed=refuse)) == ["a"], "the next ones are not harmed"


def test_threads_are_shared_out(workers: Workers, monkeypatch: pytest.MonkeyPatch):
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert list(workers.spread(misbehave, ["threads"], killed=refuse)) == [str(max(1, core_count() // 2))]


@pytest.mark.parametrize("name", ["willing", "stubborn"])
def test_what_was_being_written_is_removed_when_the_work_is_given_up(workers: Workers, tmp_path: Path, name: str):
    items = [tmp_path / name, tmp_path / "wait"]
    outcomes = workers.spread(write_for_ever, items, killed=refuse, sweep=remove_unfinished)
    assert next(outcomes) == "waited"
    assert len(list(tmp_path.iterdir())) == 2
    outcomes.close()
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]


def test_a_signal_that_meets_a_destructor_ends_the_job_as_any_other(workers: Workers, tmp_path: Path, capfd):
    outcomes = workers.spread(write_for_ever, [tmp_path / "destructor", tmp_path / "wait"], killed=refuse)
    assert next(outcomes) == "waited"
    outcomes.close()
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]  # by the job itself: nothing sweeps here
    assert capfd.readouterr().err == ""


SIGNALLED_EVERYWHERE = """
import os, pickle, shlex, signal, sys
from aasvc_cli.workers import _begin, _call

def after(steps):
    left = steps
    def trace(frame, event, _):
        nonlocal left
        left -= 1
        if left == 0:
            os.write(1, b"s")
            os.kill(os.getpid(), signal.SIGTERM)
        return trace
    return trace

for steps in range(1, 500):
    child = os.fork()
    if child == 0:
        _begin(1)
        sys.settrace(after(steps))
        try:
            assert _call(pickle.dumps(("", os.getcwd(), None, shlex.split)), "a b") == ["a", "b"]
        except BaseException:  # which the pool would send to the parent
            pass
        os._exit(0)
    os.write(1, b"%d " % os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_worker_exits_silently_wherever_the_signal_arrives():
    ran = subprocess.run([sys.executable, "-c", SIGNALLED_EVERYWHERE], capture_output=True, text=True, timeout=60)
    assert ran.stderr == ""
    told = ran.stdout.split()
    assert {each.lstrip("s") for each in told} == {"0"}, told
    signalled = [each.startswith("s") for each in told]
    assert 20 < sum(signalled) < len(told)  # the last ones were done before


@pytest.mark.parametrize(("count", "n_items", "apart"), [(1, MANY, True), (1, MANY - 1, False), (2, 8, False)])
def test_many_items_are_done_elsewhere_even_by_a_single_worker(count: int, n_items: int, apart: bool):
    items = [os.devnull] * n_items
    with Workers(count) as workers:
        outcomes = list(each_in_chunks(workers, process_of, items, killed=pytest.fail))
    assert len(outcomes) == n_items
    assert ({process for _, process in outcomes} != {os.getpid()}) == apart
