"""The folder of one training run, whatever is trained: one process at a time, a log, settings that must not change."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from aasvc_cli.config.layers import flatten
from aasvc_cli.config.settings import Config
from aasvc_cli.data.corpus import clean_name
from aasvc_cli.data.manifest import Manifest
from aasvc_cli.errors import ConfigError, ModelError, TrainingError
from aasvc_cli.storage.files import (
    lock,
    make_folder,
    read_json,
    reading,
    remove_file,
    storage_error,
    write_json,
    write_text,
)
from aasvc_cli.storage.home import Home

DATA_FILE = "data.json"
"""What a run is trained on."""
LAST = "last.safetensors"
"""The state that training goes on from."""
_KEPT = re.compile(r"step-(\d+)\.safetensors")


def run_name(tag: str | None, config: Config) -> str:
    """The last part of a run's folder: the tag, else the configuration's name.

    Raises:
        ConfigError: it cannot be part of a folder's name.
    """
    name = tag or clean_name(config.name)
    if clean_name(name) != name:
        raise ConfigError("--tag", [f"{name!r} cannot be part of a folder's name; use {clean_name(name)!r}"])
    return name


def voice_folder(home: Home, manifest: Manifest, config: Config, tag: str | None) -> Path:
    """Where the run of a voice lives; raises ConfigError for a tag that cannot be part of a name."""
    return home.exp / f"{manifest.source_speaker}_{manifest.target_speaker}_{run_name(tag, config)}"


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        dev: the last measurement on what was not trained on
        stopped: whether it was stopped before ``max_steps``
    """

    folder: Path
    step: int
    dev: dict[str, float]
    stopped: bool
    seconds: float

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return {**dataclasses.asdict(self), "folder": str(self.folder)}


class RunFolder:
    """One run on disk.

    Attributes:
        path: the folder
        settings_name: the file with the run's configuration; a folder without it is no run
    """

    def __init__(self, path: Path, settings_name: str = "config.yaml") -> None:
        self.path = path
        self.settings_name = settings_name

    @property
    def last(self) -> Path:
        """The checkpoint that training goes on from, whether it is there or not."""
        return self.path / LAST

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from training here; the lock vanishes with the process, however it ends."""

        def refuse() -> NoReturn:
            raise TrainingError(f"{self.path}: another process is training here; wait for it, or use another --tag")

        with lock(self.path.parent / f".{self.path.name}.lock", refuse):
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    self.path.rmdir()  # only if it is empty: what could not begin leaves no run behind

    def clear(self) -> None:
        """Remove what an earlier run left, results included; raises ConfigError if the folder is no run."""
        if self.path.exists() and not (self.path / self.settings_name).exists() and self._holds_others(()):
            raise ConfigError(str(self.path), ["not a training run; --overwrite would delete unknown files"])
        try:
            shutil.rmtree(self.path, ignore_errors=False)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise storage_error("remove", self.path, error) from None

    def open(
        self,
        settings: Mapping[str, Any],
        data: Mapping[str, Any],
        free: Collection[str],
        *,
        other_files: Collection[str] = (),
    ) -> None:
        """Refuse to go on in a folder of something else; remove what killed writes left.

        Args:
            settings: configuration of the run that wants to start
            data: what it will be trained on, with a ``digest``
            free: dotted keys of settings that may differ between a run and its continuation
            other_files: names that a run may leave before it has written its settings

        Raises:
            ConfigError: other settings, other data, or not a run at all.
        """
        for leftover in self.path.glob(".*.safetensors.*"):
            remove_file(leftover)
        if (self.path / self.settings_name).exists():
            self._check_same(settings, data, free)
        elif not self.last.exists() and self.path.exists() and self._holds_others(other_files):
            raise ConfigError(str(self.path), ["the folder is not empty and not a training run; use another --tag"])

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """While the state of :attr:`last` is taken over: what does not fit is not of this run (ModelError)."""
        advice = "use another --tag, or --overwrite"
        with reading(self.last, "a checkpoint of this run", ModelError, advice=advice):
            yield

    def _holds_others(self, known: Collection[str]) -> bool:
        return any(path.name not in known for path in self.path.iterdir())

    def describe(self, settings_text: str, data: Mapping[str, Any]) -> None:
        """Write down what the run is."""
        write_text(self.path / self.settings_name, settings_text)
        write_json(self.path / DATA_FILE, data)

    def keep_last(self, step: int, count: int) -> None:
        """Keep :attr:`last` under its step, and as many before it as asked for; raises StorageError."""
        folder = self.path / "checkpoints"
        if count:
            kept = make_folder(folder) / f"step-{step}.safetensors"
            try:
                kept.unlink(missing_ok=True)
                try:
                    os.link(self.last, kept)  # takes no space, as the next checkpoint is a file of its own
                except OSError:  # a file system without links
                    shutil.copyfile(self.last, kept)
            except OSError as error:
                raise storage_error("write", kept, error) from None
        by_step = {int(match[1]): path for path in folder.glob("*") if (match := _KEPT.fullmatch(path.name))}
        for old in sorted(by_step)[: max(0, len(by_step) - count)] if count else []:
            remove_file(by_step[old])

    def cut_log(self, step: int) -> None:
        """Drop log lines from behind the step that training goes on from."""
        path = self.path / "log.jsonl"
        if not path.exists():
            return
        kept = [json.dumps(entry) for entry in log_entries(path) if entry["step"] <= step]
        write_text(path, "".join(line + "\n" for line in kept))

    def log(self, entry: Mapping[str, Any]) -> None:
        """Add a line to the log; raises StorageError."""
        path = self.path / "log.jsonl"
        try:
            with path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise storage_error("write", path, error) from None

    def _check_same(self, settings: Mapping[str, Any], data: Mapping[str, Any], free: Collection[str]) -> None:
        from aasvc_cli.config.reading import parse_config, to_tree
        from aasvc_cli.config.yaml_files import read_config_file

        path = self.path / self.settings_name
        old = dict(flatten(to_tree(parse_config(read_config_file(path), str(path)))))
        new = dict(flatten(settings))
        changed = [
            f"{key}: {old[key]} there, {new[key]} now" for key in new if old[key] != new[key] and key not in free
        ]
        data_file = self.path / DATA_FILE
        if not changed and data_file.exists():
            with reading(data_file, "the data of the run", advice="use another --tag, or --overwrite"):
                if read_json(data_file, "the data of the run")["digest"] != data["digest"]:
                    changed = ["its training data or statistics differ"]
        if changed:
            fault = (
                f"this folder has a run with other settings ({', '.join(changed)}); use another --tag, or --overwrite"
            )
            raise ConfigError(str(self.path), [fault])


def log_entries(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a training log that are whole; raises StorageError if it cannot be read."""
    with reading(path, "a training log"):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict) and type(entry.get("step")) is int:
            yield entry
