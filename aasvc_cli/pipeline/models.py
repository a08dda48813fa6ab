"""The voices that are known here, with one line about each: bundled, trained, downloaded.

A model folder may hold a model card, ``card.json``, a mapping of which every entry is optional:

``name``, ``converts``
    what to call the voice, and from whom to whom it converts, in one line
``data``, ``licence``
    what it was trained on, and what may be done with it
``training``
    the command that trains it, or a list of them
``scores``
    a mapping: ``set``, what they were taken on, and ``mean``, the measures by name
``measured``
    what else was measured, a line or a list of them
``limits``
    what it is not good at
``vocoder``
    the vocoder that goes with it: a folder inside the model's, or a name

Without a card, the first sentence of a ``README.md`` serves as the line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aasvc_cli.config.reading import parse_config
from aasvc_cli.config.yaml_files import read_config_file
from aasvc_cli.conversion.voice import CARD_FILE, CONFIG_FILE, WEIGHT_FILES, is_exported
from aasvc_cli.errors import AasvcError
from aasvc_cli.published.voices import is_published_folder
from aasvc_cli.storage.files import read_json
from aasvc_cli.storage.home import BUNDLED, Home, bundled


@dataclass(frozen=True)
class KnownModel:
    """A voice that ``--model`` finds by name.

    Attributes:
        name: what ``--model`` takes
        kind: ``bundled``, ``run`` or ``downloaded``
        about: one line
        card: the model card, empty if there is none
    """

    name: str
    kind: str
    folder: Path
    about: str
    card: dict[str, Any]

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "name": self.name, "kind": self.kind, "folder": str(self.folder), "about": self.about, "card": self.card
        }  # fmt: skip


@dataclass(frozen=True)
class KnownModels:
    """All of them, the bundled one first."""

    models: tuple[KnownModel, ...]

    def lines(self, *, cards: bool = False) -> list[str]:
        """The result for people: a line for each voice, and below it what its card says."""
        widths = [max(len(getattr(model, part)) for model in self.models) for part in ("name", "kind")]
        lines: list[str] = []
        for model in self.models:
            lines.append(f"{model.name:<{widths[0]}}  {model.kind:<{widths[1]}}  {model.about}".rstrip())
            if cards:
                lines += [f"  {line}" for line in _card_lines(model.card)]
        return lines

    def to_tree(self) -> dict[str, Any]:
        """JSON-able."""
        return {"models": [model.to_tree() for model in self.models]}


def known_models(home: Home) -> KnownModels:
    """Every voice that is here; a damaged folder is listed, and its line says so."""
    models = [(BUNDLED, "bundled", bundled("voice"))]
    for root, kind in ((home.exp, "run"), (home.models, "downloaded")):
        if root.is_dir():
            models += [
                (folder.name, kind, folder)
                for folder in sorted(root.iterdir())
                if folder.is_dir() and not folder.name.startswith(".")
            ]
    return KnownModels(tuple(_known(*entry) for entry in models if entry[2].is_dir()))


def _known(name: str, kind: str, folder: Path) -> KnownModel:
    card: dict[str, Any] = {}
    try:
        if (folder / CARD_FILE).is_file():
            tree = read_json(folder / CARD_FILE, "a model card")
            card = tree if isinstance(tree, dict) else {}
        about = _one_line(card.get("converts")) or _readme_line(folder) or _facts(folder)
    except AasvcError as error:
        return KnownModel(name, kind, folder, f"damaged: {error}", card)
    return KnownModel(name, kind, folder, about, card)


def _card_lines(card: Mapping[str, Any]) -> Iterator[str]:
    """What a card tells people, line by line; entries of another kind than expected are left out."""
    for key in ("data", "licence", "training", "measured", "limits"):
        value = card.get(key)
        for entry in value if isinstance(value, list) else [value]:
            if text := _one_line(entry):
                yield f"{key}: {text}"
    scores = card.get("scores")
    if isinstance(scores, dict):
        means = scores.get("mean")
        figures = {name: _mean(value) for name, value in means.items()} if isinstance(means, dict) else {}
        shown = ", ".join(f"{name} {figure:.3g}" for name, figure in figures.items() if figure is not None)
        if shown:
            measured_on = _one_line(scores.get("set"))
            yield f"scores ({measured_on}): {shown}" if measured_on else f"scores: {shown}"


def _mean(value: Any) -> float | None:
    """A figure, or that of a summary with its interval."""
    figure = value.get("mean") if isinstance(value, dict) else value
    return float(figure) if isinstance(figure, int | float) else None


def _one_line(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


def _readme_line(folder: Path) -> str:
    """The first line of text of a README that is no heading."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in (folder / "README.md").read_text(encoding="utf-8").splitlines():
            text = line.strip()
            if text and text[0] not in "#-*|<!`[":
                return text
    return ""


def _facts(folder: Path) -> str:
    """What the files themselves show."""
    if is_published_folder(folder) and not (folder / CONFIG_FILE).is_file():
        return "published model"
    if is_exported(folder):
        return "exported model"
    if not (folder / CONFIG_FILE).is_file():
        return f"no model: {CONFIG_FILE} is missing"
    path = folder / CONFIG_FILE
    mel = parse_config(read_config_file(path), str(path)).features.mel
    rate = f"{mel.sample_rate / 1000:g} kHz"
    if not any((folder / name).is_file() for name in WEIGHT_FILES):
        return f"{rate}, no checkpoint yet"
    data = folder / "data.json"
    tree = read_json(data, "what a run was trained on") if data.is_file() else {}
    return f"trained on {tree['prepared']}, {rate}" if isinstance(tree, dict) and tree.get("prepared") else rate
