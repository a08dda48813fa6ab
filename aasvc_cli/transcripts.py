"""Word and character errors of a recognised text against what was to be said.

Texts are normalised for their language first, so that only differences that one can hear count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aasvc_cli.scores import ErrorCounts

EditKind = Literal["equal", "substitute", "delete", "insert"]


@dataclass(frozen=True)
class Edit:
    """One run of tokens in the alignment of two texts.

    Attributes:
        reference: tokens of the reference, joined; empty for an insertion.
        recognised: tokens of the recognised text, joined; empty for a deletion.
    """

    kind: EditKind
    reference: str
    recognised: str

    def to_tree(self) -> list[str]:
        """JSON-able: [kind, reference, recognised]."""
        return [self.kind, self.reference, self.recognised]


@dataclass(frozen=True)
class Transcript:
    """What speech recognition heard in one recording, against the reference.

    Attributes:
        text: as recognised.
        reference, recognised: both sides after normalisation.
        counts: edits by the name of the measure (CER, KANA_CER, WER).
        edits: the alignment of the normalised texts, in characters (Japanese and the like) or words.
    """

    text: str
    reference: str
    recognised: str
    counts: dict[str, ErrorCounts]
    edits: tuple[Edit, ...]

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "text": self.text,
            "reference": self.reference,
            "recognised": self.recognised,
            "counts": {name: counts.to_tree() for name, counts in self.counts.items()},
            "edits": [edit.to_tree() for edit in self.edits],
        }


def align(reference: Sequence[str], recognised: Sequence[str]) -> list[tuple[EditKind, str, str]]:
    """The alignment with the fewest edits; among equally good ones substitutions come before insertions and deletions.

    Returns:
        (kind, token of the reference or "", recognised token or "") in order.
    """
    n, m = len(reference), len(recognised)
    rows = [list(range(m + 1))]
    for i in range(1, n + 1):
        above, row = rows[-1], [i]
        for j in range(1, m + 1):
            diagonal = above[j - 1] + (reference[i - 1] != recognised[j - 1])
            row.append(min(diagonal, above[j] + 1, row[j - 1] + 1))
        rows.append(row)
    found: list[tuple[EditKind, str, str]] = []
    i, j = n, m
    while i or j:
        same = i > 0 and j > 0 and reference[i - 1] == recognised[j - 1]
        if i and j and rows[i][j] == rows[i - 1][j - 1] + (not same):
            i, j = i - 1, j - 1
            found.append(("equal" if same else "substitute", reference[i], recognised[j]))
        elif i and rows[i][j] == rows[i - 1][j] + 1:
            i -= 1
            found.append(("delete", reference[i], ""))
        else:
            j -= 1
            found.append(("insert", "", recognised[j]))
    return found[::-1]


def count_edits(alignment: Sequence[tuple[EditKind, str, str]]) -> ErrorCounts:
    """Substitutions, deletions and insertions of an alignment."""
    kinds = [kind for kind, _, _ in alignment]
    return ErrorCounts(
        kinds.count("substitute"), kinds.count("delete"), kinds.count("insert"), len(kinds) - kinds.count("insert")
    )


def group_edits(alignment: Sequence[tuple[EditKind, str, str]], joint: str = "") -> tuple[Edit, ...]:
    """Neighbouring edits of one kind put together; ``joint`` stands between tokens."""
    runs: list[tuple[EditKind, list[str], list[str]]] = []
    for kind, reference, recognised in alignment:
        if not runs or runs[-1][0] != kind:
            runs.append((kind, [], []))
        runs[-1][1].append(reference)
        runs[-1][2].append(recognised)
    return tuple(Edit(kind, joint.join(left), joint.join(right)) for kind, left, right in runs)
