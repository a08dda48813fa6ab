"""``aasvc doctor``: looks at the installation, the machine and the data folder, and finds what can be freed.

Nothing is imported before it is looked at, so that a broken library is a finding instead of a crash.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from aasvc_cli.audio.files import read_audio
from aasvc_cli.errors import AasvcError, TrainingError
from aasvc_cli.features.kinds import KINDS, unavailable_kinds
from aasvc_cli.storage.files import byte_size, lock, remove_file, storage_error
from aasvc_cli.storage.home import Home, bundled
from aasvc_cli.storage.imported import made_again

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "aasvc"

OK, MISSING, BROKEN = "ok", "missing", "broken"
PARTS = (
    "corpora", "prepared", "features", "stats", "vocoders", "encoders", "models", "imported", "cache", "exp", "results",
)  # fmt: skip
"""Folders of the data folder."""
CACHES = ("features", "cache")
"""Those that hold nothing but what can be made again."""
LITTLE_SPACE = 1 << 30
"""Bytes of free space below which a hint is due."""
OLD_SECONDS = 3600.0
"""A temporary or partial file that was not written to for so long was left by a killed process."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        status: ``ok``, ``missing`` (optional, with the way to get it) or ``broken`` (needed)
        facts: the same for programs
    """

    name: str
    status: str
    message: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Examination:
    """Everything that was looked at."""

    checks: tuple[Check, ...]

    @property
    def broken(self) -> list[str]:
        """Names of needed things that do not work."""
        return [check.name for check in self.checks if check.status == BROKEN]

    def lines(self) -> list[str]:
        """One line per check."""
        width = max(len(check.name) for check in self.checks)
        mark = {OK: "ok", MISSING: "--", BROKEN: "!!"}
        return [private(f"{mark[check.status]}  {check.name.ljust(width)}  {check.message}") for check in self.checks]

    def to_tree(self) -> dict[str, Any]:
        """JSON-able, without names of the user, to be shown to others."""
        return {
            "ok": not self.broken,
            "broken": self.broken,
            "checks": {
                check.name: {
                    "status": check.status,
                    "message": private(check.message),
                    **_private_tree(check.facts),
                }
                for check in self.checks
            },
        }


@dataclass(frozen=True)
class Cache:
    """Files that can be made again.

    Attributes:
        note: what makes them again
    """

    name: str
    files: tuple[Path, ...]
    n_bytes: int
    note: str


@dataclass(frozen=True)
class Cleaning:
    """What was freed."""

    caches: tuple[Cache, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes in all."""
        return sum(cache.n_bytes for cache in self.caches)

    def lines(self) -> list[str]:
        """One line per cache."""
        return [
            f"{cache.name}: {byte_size(cache.n_bytes)} in {len(cache.files)} files; {cache.note}"
            for cache in self.caches
        ]

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "bytes": self.n_bytes,
            "caches": [
                {"name": cache.name, "files": len(cache.files), "bytes": cache.n_bytes} for cache in self.caches
            ],
        }


SelfTest = Callable[[Any, int], tuple[Any, int]]
"""Converts a waveform (n,) of a sample rate into another one."""


def examine(
    home: Home,
    version: str,
    *,
    load_converter: Callable[[], SelfTest] | None,
    configuration: Sequence[Check] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> Examination:
    """Check everything; findings are returned, never raised.

    Args:
        load_converter: loads the bundled voice, for a conversion as a test; None to leave it out
        configuration: what the command line found out about its settings
        on_progress: told (done, all) checks
    """
    steps: list[Callable[[], list[Check]]] = [
        lambda: [_program(version), _python(), _platform()],
        lambda: list(_packages()),
        lambda: [_torch()],
        lambda: [_memory(), _disk(home)],
        lambda: list(_data_folder(home)),
        lambda: [_writable(home)],
        lambda: list(configuration),
        lambda: [_features()],
        lambda: [_self_test(load_converter)] if load_converter is not None else [],
    ]
    checks: list[Check] = []
    for done, step in enumerate(steps, start=1):
        checks += step()
        if on_progress:
            on_progress(done, len(steps))
    return Examination(tuple(checks))


# --- the installation -----------------------------------------------------------------------------------------------


def _program(version: str) -> Check:
    place = str(Path(__file__).parent.parent)
    return Check("aasvc", OK, f"{version} in {place}", {"version": version, "place": place})


def _python() -> Check:
    version = platform.python_version()
    facts = {
        "version": version,
        "implementation": platform.python_implementation(),
        "encoding": sys.getfilesystemencoding(),
    }
    return Check("python", OK, f"{platform.python_implementation()} {version}", facts)


def _platform() -> Check:
    cores = os.cpu_count()
    facts = {"system": platform.system(), "machine": platform.machine(), "release": platform.release(), "cores": cores}
    return Check("platform", OK, f"{platform.platform()}, {cores} cores", facts)


def _packages() -> Iterator[Check]:
    """What the installation declares, extras included: installed, recent enough and, where it is needed, importable."""
    try:
        from packaging.requirements import Requirement

        distribution = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        yield Check("packages", MISSING, f"{DISTRIBUTION} is not installed as a package; run: pip install .")
        return
    except ImportError as error:
        yield Check("packages", BROKEN, f"cannot be checked ({error}); run: pip install packaging")
        return
    declared = [Requirement(line) for line in distribution.requires or []]
    needed = [each for each in declared if each.marker is None or each.marker.evaluate({"extra": ""})]
    names = [each.name for each in needed]
    faults = {each.name: fault for each in needed if (fault := _fault(each))}
    facts = {"versions": {name: _version(name) for name in names}, "faults": list(faults.values())}
    if faults:
        message = f"{'; '.join(faults.values())}; run: pip install {' '.join(faults)}"
        yield Check("packages", BROKEN, message, facts)
    else:
        yield Check("packages", OK, f"{len(needed)} needed packages can be imported", facts)
    for extra in distribution.metadata.get_all("Provides-Extra") or []:
        of_extra = [each for each in declared if each.marker is not None and each.marker.evaluate({"extra": extra})]
        of_extra = [each for each in of_extra if each not in needed]
        if extra == "test":
            continue
        absent = [fault for each in of_extra if (fault := _fault(each, importable=False))]
        packages = [each.name for each in of_extra]
        message = f"{'; '.join(absent)}; run: pip install '{DISTRIBUTION}[{extra}]'" if absent else ", ".join(packages)
        facts = {"packages": packages, "faults": absent}
        yield Check(f"extra {extra}", MISSING if absent else OK, message, facts)


def _module(package: str) -> str:
    """The module to import of an installed package: the one with its name, or else any that is not private."""
    name = package.lower().replace("-", "_")
    if importlib.util.find_spec(name) is not None:
        return name
    others = metadata.packages_distributions().items()  # which looks at every file of every package
    own = (module for module, packages in others if package.lower() in map(str.lower, packages))
    return next((module for module in own if not module.startswith("_")), name)


def _fault(requirement: Requirement, *, importable: bool = True) -> str:
    """What is wrong with a package; empty if it is as required.

    Args:
        importable: import it, too, in place of looking at its version only
    """
    name = requirement.name
    version = _version(name)
    if version is None:
        return f"{name} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{name} is {version}, expected {requirement.specifier}"
    if importable:
        try:
            importlib.import_module(_module(name))
        except Exception as error:  # whatever a foreign library raises
            return f"{name} cannot be imported ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    return ""


def _version(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _torch() -> Check:
    try:
        import torch
    except Exception:  # already reported by the package check
        return Check("torch", BROKEN, "cannot be imported")
    cuda = torch.cuda.is_available()
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if cuda else []
    facts = {
        "version": str(torch.__version__),
        "cuda": str(torch.version.cuda) if torch.version.cuda else None,
        "devices": devices,
        "threads": torch.get_num_threads(),
    }
    where = ", ".join(devices) if devices else "cpu (no CUDA device)"
    return Check("torch", OK, f"{torch.__version__}, {where}, {torch.get_num_threads()} threads", facts)


def _features() -> Check:
    """Which kinds of feature can be computed here."""
    absent = unavailable_kinds()
    known = ", ".join(name for name in KINDS if name not in absent)
    hints = [f"; {name}: run pip install 'aasvc[{extra}]'" for name, extra in absent.items()]
    facts = {"kinds": list(KINDS), "absent": list(absent)}
    return Check("features", MISSING if absent else OK, known + "".join(hints), facts)


# --- the machine ----------------------------------------------------------------------------------------------------


def _memory() -> Check:
    total, free = _memory_bytes()
    facts = {"total_bytes": total, "available_bytes": free}
    if total is None:
        return Check("memory", OK, "unknown", facts)
    available = f", {byte_size(free)} available" if free is not None else ""
    return Check("memory", OK, f"{byte_size(total)}{available}", facts)


def _memory_bytes() -> tuple[int | None, int | None]:
    """All and available memory, as far as this system tells."""
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        table = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if ":" in line}
        return table["MemTotal"], table["MemAvailable"]
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
    return None, None


def _disk(home: Home) -> Check:
    try:
        usage = shutil.disk_usage(_existing(home.root))
    except OSError as error:
        return Check("disk", BROKEN, f"{home.root}: {error.strerror or error}")
    facts = {"free_bytes": usage.free, "total_bytes": usage.total}
    hint = "; free some, e.g. with aasvc doctor --clean" if usage.free < LITTLE_SPACE else ""
    return Check(
        "disk", OK, f"{byte_size(usage.free)} of {byte_size(usage.total)} free for the data folder{hint}", facts
    )


# --- the data folder ------------------------------------------------------------------------------------------------


def _data_folder(home: Home) -> Iterator[Check]:
    if not home.root.exists():
        yield Check("data folder", OK, f"{home.root}, not there yet", {"place": str(home.root), "bytes": 0})
    elif not home.root.is_dir():
        yield Check("data folder", BROKEN, f"{home.root}: is a file; choose a folder with --home", {})
        return
    else:
        parts = {part: _bytes_below(home.root / part) for part in PARTS}
        total = sum(n_bytes for n_bytes, _ in parts.values())
        listed = ", ".join(f"{part} {byte_size(n_bytes)}" for part, (n_bytes, n_files) in parts.items() if n_files)
        facts = {
            "place": str(home.root),
            "bytes": total,
            "parts": {part: {"bytes": n_bytes, "files": n_files} for part, (n_bytes, n_files) in parts.items()},
        }
        yield Check("data folder", OK, f"{home.root}, {byte_size(total)}" + (f": {listed}" if listed else ""), facts)
    voice = bundled("voice")
    status = OK if (voice / "config.yaml").is_file() else BROKEN
    yield Check("bundled voice", status, str(voice) if status == OK else f"{voice}: missing; install aasvc again")
    wanted = (
        ("training runs", "exp", "config.yaml", "aasvc train"),
        ("models", "models", "", ""),
        ("vocoders", "vocoders", "", ""),
        ("corpora", "corpora", "", "aasvc download demo"),
        ("prepared sets", "prepared", "manifest.json", "aasvc prepare"),
    )
    for what, part, file, command in wanted:
        names = [folder.name for folder in _folders(home.root / part) if not file or (folder / file).is_file()]
        message = ", ".join(names) if names else "none" + (f"; get some with: {command}" if command else "")
        yield Check(what, OK if names else MISSING, message, {"names": names})


def _writable(home: Home) -> Check:
    """Write a file where results will go, and take it away again."""
    folder = _existing(home.root)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor.") as stream:
            stream.write(b"x" * 4096)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return Check("writing", BROKEN, str(storage_error("write to", folder, error)))
    return Check("writing", OK, f"files can be written in {folder}")


def _self_test(load_converter: Callable[[], SelfTest]) -> Check:
    """Convert a bundled recording with the bundled voice."""
    try:
        recording = min((bundled("demo") / "ja-JP" / "male" / "wav" / "eval").iterdir())
        wave, sample_rate = read_audio(recording)
        began = time.perf_counter()
        convert = load_converter()
        loaded = time.perf_counter()
        result, result_rate = convert(wave, sample_rate)
        done = time.perf_counter()
        fault = _fault_of(result, result_rate, len(wave) / sample_rate)
    except (OSError, ValueError) as error:
        return Check("self-test", BROKEN, f"the bundled recording is missing ({error}); install aasvc again")
    except AasvcError as error:
        return Check("self-test", BROKEN, str(error))
    except Exception as error:  # whatever a broken library raises
        return Check("self-test", BROKEN, f"{type(error).__name__}: {error}")
    if fault:
        return Check("self-test", BROKEN, f"the bundled voice converts wrongly: {fault}")
    seconds = len(result) / result_rate
    factor = (done - loaded) / seconds
    facts = {
        "source_seconds": len(wave) / sample_rate,
        "seconds": seconds,
        "load_seconds": loaded - began,
        "convert_seconds": done - loaded,
        "real_time_factor": factor,
    }
    return Check(
        "self-test",
        OK,
        f"{seconds:.1f} s of speech converted in {done - loaded:.2f} s (real-time factor {factor:.2f}), "
        f"after loading for {loaded - began:.1f} s",
        facts,
    )


def _fault_of(wave: Any, sample_rate: int, source_seconds: float) -> str:
    """What is wrong with the result of the self-test; empty if it passes simple checks for speech."""
    import numpy as np

    if not len(wave) or not np.isfinite(wave).all():
        return "the result is empty or not finite"
    seconds = len(wave) / sample_rate
    if not source_seconds / 3 < seconds < source_seconds * 3:
        return f"{source_seconds:.1f} s became {seconds:.1f} s"
    level = float(np.sqrt(np.mean(np.square(wave))))
    return "" if level > 1e-3 else "the result is silent"


# --- caches ---------------------------------------------------------------------------------------------------------


def find_caches(home: Home) -> Cleaning:
    """What can be freed: what is made again when it is needed, and what killed commands and downloads left behind."""
    features, scores = tuple(_files_below(home.features)), tuple(_files_below(home.cache))
    made = tuple(path for folder in made_again(home) for path in _files_below(folder))
    others = (path for part in PARTS if part not in CACHES for path in _files_below(home.root / part))
    left_over = tuple(path for path in others if _is_left_over(path) and _is_old(path))
    caches = (
        Cache("features", features, _sum(features), "prepare, stats and train compute them again when they need them"),
        Cache("cache", scores, _sum(scores), "prepare and evaluate compute it again when they need it"),
        Cache("imported", made, _sum(made), "made again from models that are still there"),
        Cache("left over", left_over, _sum(left_over), "of commands that were killed and downloads that broke off"),
    )
    return Cleaning(tuple(cache for cache in caches if cache.files))


def remove_caches(home: Home, caches: Cleaning) -> None:
    """Remove the files, and the folders that become empty by that.

    Raises:
        TrainingError: something is training, which needs its features.
        StorageError: a file cannot be removed; those before it are gone.
    """
    with _nobody_trains(home):
        for cache in caches.caches:
            for path in cache.files:
                remove_file(path)
        for root in (home.features, home.cache, home.imported):
            for base, _, _ in os.walk(root, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(base)


@contextlib.contextmanager
def _nobody_trains(home: Home) -> Iterator[None]:
    """Hold the lock of every voice, vocoder and encoder, or raise if another process does."""

    def refuse(path: Path) -> NoReturn:
        name = path.name.removeprefix(".").removesuffix(".lock")
        raise TrainingError(
            f"{name}: is being trained or fetched and needs its features; stop it first, or clean later"
        )

    with contextlib.ExitStack() as stack:
        for path in sorted(path for root in (home.exp, home.vocoders, home.encoders) for path in root.glob(".*.lock")):
            stack.enter_context(lock(path, functools.partial(refuse, path)))
        yield


def _is_left_over(path: Path) -> bool:
    """Temporary files of atomic writes are called .NAME.xxxxxxxx; downloads in progress end in .part, as do folders."""
    partial = path.suffix == ".part" or path.parent.suffix == ".part"
    return partial or re.fullmatch(r"\..+\.[a-z0-9_]{8}", path.name) is not None


def _is_old(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime > OLD_SECONDS
    return False


# --- small things ---------------------------------------------------------------------------------------------------


def private(text: str) -> str:
    """A text without the user's home folder and name."""
    home = os.path.expanduser("~")
    if len(home) > 1:
        text = text.replace(home, "~")
    name = Path(home).name
    return re.sub(rf"(?<=[/\\]){re.escape(name)}(?=[/\\]|$)", "<user>", text) if name else text


def _private_tree(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _private_tree(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_private_tree(value) for value in tree]
    return private(tree) if isinstance(tree, str) else tree


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _folders(root: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return []


def _files_below(root: Path) -> Iterator[Path]:
    for base, _, names in os.walk(root):
        yield from (Path(base) / name for name in sorted(names))


def _bytes_below(root: Path) -> tuple[int, int]:
    files = list(_files_below(root))
    return _sum(files), len(files)


def _sum(files: Sequence[Path]) -> int:
    total = 0
    for path in files:
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total
