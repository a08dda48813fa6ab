"""Work in parts (``--shard I/N``): what each one does, and which are done.

Parts need nothing of each other, run in any order and any number of times; the same command without ``--shard`` puts
together what they have made, and does what none of them has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from aasvc_cli.errors import DataError
from aasvc_cli.storage.files import remove_file, write_json

Item = TypeVar("Item")
MOST = 100_000


@dataclass(frozen=True)
class Shard:
    """One part of the work: ``number`` of ``count``, from 1 on."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From ``2/8``; raises DataError."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]) <= MOST:
            raise DataError(f"--shard {text:.40}: expected I/N with I from 1 to N, such as 2/8")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, items: Sequence[Item], what: str) -> list[Item]:
        """This part of some items; raises DataError if there are fewer items than parts."""
        if len(items) < self.count:
            raise DataError(f"--shard {self}: there are only {len(items)} {what}; use no more parts than that")
        return list(items[self.number - 1 :: self.count])


@dataclass(frozen=True)
class Parts:
    """Marks of the parts that are done, in a folder."""

    folder: Path

    def mark(self, shard: Shard) -> None:
        """Note that a part is done; raises StorageError."""
        write_json(self.folder / f"{shard.number}-of-{shard.count}.json", {"part": str(shard)})

    def missing(self) -> list[Shard]:
        """Parts that were never done, where others of as many were."""
        marks = [re.fullmatch(r"(\d+)-of-(\d+)", path.stem) for path in self.folder.glob("*-of-*.json")]
        done = {Shard(int(mark[1]), int(mark[2])) for mark in marks if mark}
        counts = sorted({shard.count for shard in done})
        return [Shard(i, n) for n in counts for i in range(1, n + 1) if Shard(i, n) not in done]

    def note(self) -> str | None:
        """A sentence about the parts that are missing; None if none is."""
        missing = [str(shard) for shard in self.missing()]
        if not missing:
            return None
        named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        return f"--shard {named} was not run to its end; what was left of it is done now"

    def clear(self) -> None:
        """Forget them all; raises StorageError."""
        for path in self.folder.glob("*-of-*.json"):
            remove_file(path)
