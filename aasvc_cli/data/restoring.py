"""Features of a prepared set that are gone, such as after caches were freed, are computed again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aasvc_cli.config.settings import Config
from aasvc_cli.data.analysis import Bench, Job, Spread
from aasvc_cli.data.excerpts import analyse_all, kinds_of
from aasvc_cli.data.manifest import Manifest
from aasvc_cli.errors import DataError
from aasvc_cli.features.kinds import storage_key
from aasvc_cli.features.store import FeatureStore
from aasvc_cli.storage.home import Home
from aasvc_cli.storage.result_cache import ResultCache

TOLERANCE = 1e-3
"""Seconds; excerpts are of whole samples."""


def restore_features(
    home: Home,
    manifest: Manifest,
    config: Config,
    *,
    spread: Spread,
    on_message: Callable[[str], None] | None = None,
) -> int:
    """Compute the features of training and dev pairs that ``config`` asks for and that are not kept any more.

    They are computed of the files that the manifest names, so nothing is matched, cut or drawn anew.

    Args:
        spread: how the work is done
        on_message: told how many there are, if there are any

    Returns:
        of how many files features were computed

    Raises:
        DataError: a recording is gone, cannot be read, or is not as long as it was; names it.
        StorageError: features cannot be written.
        Interrupted: on Ctrl-C; what was computed is kept.
    """
    store = FeatureStore(home.features, config.features, storage_key)
    seconds, missing = dict[Path, float](), dict[Path, list[str]]()
    for pair in [*manifest.sets["train"], *manifest.sets["dev"], *manifest.extra]:
        files = ((pair.source, pair.source_seconds), (pair.target, pair.target_seconds))
        for (path, length), kinds in zip(files, kinds_of(config), strict=True):
            seconds[path] = length
            missing.setdefault(path, []).extend(kind for kind in kinds if not store.has(kind, path))
    jobs = [Job(path, tuple(dict.fromkeys(kinds))) for path, kinds in missing.items() if kinds]
    if not jobs:
        return 0
    if on_message is not None:
        on_message(f"features of {len(jobs)} files of {manifest.name} are gone; computing them again")
    bench = Bench(store, ResultCache(home.cache), home.prepared / manifest.name / "recordings")
    again = f"run: aasvc prepare again, as for {manifest.name}"
    # All are measured first, so that nothing is kept of a recording that is another one now.
    for wanted in ([Job(job.recording, ()) for job in jobs], jobs):
        for job, found in analyse_all(wanted, bench, spread).items():
            if found.code:
                raise DataError(f"{job.recording}: {found.message}; {again}")
            if abs(found.seconds - seconds[job.recording]) > TOLERANCE:
                raise DataError(
                    f"{job.recording}: lasts {found.seconds:.3f} s, expected the {seconds[job.recording]:.3f} s that "
                    f"it had when it was prepared; {again}"
                )
    return len(jobs)
