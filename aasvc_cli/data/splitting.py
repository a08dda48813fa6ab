"""Which pairs are for training, which for watching it, and which for the final scores."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from aasvc_cli.audio.files import AUDIO_SUFFIXES
from aasvc_cli.data.corpus import SHOWN
from aasvc_cli.errors import DataError
from aasvc_cli.storage.files import as_bytes, storage_error

_DEFAULT_SHARE = 0.1
_DEFAULT_MOST = 20


def split(
    utterance_ids: Sequence[str], draw: Mapping[str, str | None], *, seed: int, known: Collection[str] = ()
) -> list[str | None]:
    """Draw dev and evaluation sets; what is left is for training, or so many of it as are asked for.

    The draw depends on the seed and the names only, so a pair that is added or removed moves hardly any other one.

    Args:
        draw: for ``train``, ``dev`` and ``eval`` a count (``"20"``), a fraction (``"0.1"``), a file with one utterance
            id per line, or None for a tenth, 20 at most, but leaving two to train on.
        known: further names that a list may hold, as these pairs exist but cannot be used

    Returns:
        the set of each utterance, in order; None for what is left beside a ``train`` that was asked for

    Raises:
        DataError: a size that is impossible, or a list with unknown names.
    """
    chosen = [""] * len(utterance_ids)
    sizes: dict[str, str | None] = {}
    for name, wanted in draw.items():
        path = Path(os.path.expanduser(wanted)) if wanted is not None and not _is_number(wanted) else None
        if path is None:
            sizes[name] = wanted
            continue
        listed = read_names(path, name)
        unknown = sorted(listed - set(utterance_ids) - set(known))
        if unknown:
            examples = ", ".join(unknown[:SHOWN])
            raise DataError(
                f"{path}: {len(unknown)} of {len(listed)} names are not among the pairs (first: {examples})"
            )
        for index, utterance_id in enumerate(utterance_ids):
            if utterance_id in listed:
                if chosen[index]:
                    raise DataError(
                        f"{path}: {utterance_id} is listed for both {chosen[index]} and {name}; list it once"
                    )
                chosen[index] = name
    free = [index for index, name in enumerate(chosen) if not name]
    free.sort(key=lambda index: hashlib.sha256(as_bytes(f"{seed}:{utterance_ids[index]}")).digest())
    n_all, start = len(free), 0
    for name in (each for each in ("dev", "eval", "train") if each in sizes):
        count = _size(name, sizes[name], n_all, n_all - start)
        for index in free[start : start + count]:
            chosen[index] = name
        start += count
    rest = None if "train" in draw else "train"
    return [name or rest for name in chosen]


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text.strip(), re.IGNORECASE) is not None


def _size(name: str, wanted: str | None, n_all: int, n_left: int) -> int:
    if wanted is None:
        usual = max(1, min(_DEFAULT_MOST, round(n_all * _DEFAULT_SHARE)))
        return max(0, min(usual, n_left - 2))
    text = wanted.strip()
    if text.isdigit():
        count = int(text)
    else:
        share = float(text)
        if not 0.0 < share < 1.0:
            raise DataError(
                f"--{name} {wanted}: expected a count, a fraction between 0 and 1, or a file of utterance ids"
            )
        count = max(1, round(n_all * share))
    if count > n_left:
        raise DataError(
            f"--{name} {wanted}: asks for {count} pairs, but only {n_left} of {n_all} are left to draw from"
        )
    return count


def read_names(path: Path, option: str) -> set[str]:
    """Names of utterances, one a line, that were given with an option; raises DataError."""
    if path.is_fifo():
        raise DataError(f"--{option} {path}: is a pipe, and the names are read more than once; give a file")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"--{option} {path}: not a number, and no such file of utterance ids") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: expected a text file with one utterance id per line") from None
    except OSError as error:
        raise storage_error("read", path, error) from None
    names = {line.strip() for line in lines if line.strip() and not line.strip().startswith("#")}
    names = {
        entry[: -len(Path(entry).suffix)] if Path(entry).suffix.lower() in AUDIO_SUFFIXES else entry for entry in names
    }
    return {unicodedata.normalize("NFC", entry) for entry in names}
