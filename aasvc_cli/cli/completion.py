"""Names that a shell completes: models, presets, corpora, prepared sets, vocoders, what can be downloaded.

Only names of files and folders are read, so that the answer comes at once.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import typer

from aasvc_cli.features.kinds import model_kinds
from aasvc_cli.storage.home import BUNDLED, UNIVERSAL, Home, find_home

CATALOGUE = {
    "male_female_aas_vc_mel_pretrained": "the published model",
    "pwg_jp_female": "its vocoder",
    "hificaptain-ja": "Japanese corpus, 20 GB",
    "hificaptain-en": "English corpus",
    "demo": "ships with the program",
}
"""What `download` knows, which takes longer to load than a shell should wait."""

ENCODERS = ("encoder.safetensors", "melody.safetensors")
"""What a training of encoders leaves when it has ended, by the names of :mod:`aasvc_cli.features.content`."""


def models(ctx: typer.Context) -> list[tuple[str, str]]:
    """Training runs by tag and by full name, and downloaded voices."""
    home = _home(ctx)
    runs = _folders(home.exp)
    tags = [run.rsplit("_", 1)[-1] for run in runs]
    names = [(tag, f"training run {run}") for tag, run in zip(tags, runs, strict=True) if tags.count(tag) == 1]
    names += [(run, "training run") for run in runs]
    names.append((BUNDLED, "the bundled voice"))
    return names + [(name, "downloaded voice") for name in _folders(home.models)]


def runs(ctx: typer.Context) -> list[tuple[str, str]]:
    """Training runs only."""
    return [entry for entry in models(ctx) if entry[1].startswith("training run")]


def presets() -> list[tuple[str, str]]:
    """Presets, and configuration files here."""
    folder = Path(__file__).parent.parent / "presets"  # the modules that know more about it take longer to load
    return [(path.stem, "preset") for path in sorted(folder.glob("*.yaml"))] + [
        (path.name, "file") for suffix in ("yaml", "yml") for path in sorted(Path().glob(f"*.{suffix}"))
    ]


def corpora(ctx: typer.Context) -> list[tuple[str, str]]:
    """Downloaded corpora."""
    return [(name, "corpus") for name in _folders(_home(ctx).corpora)]


def speakers(ctx: typer.Context) -> list[tuple[str, str]]:
    """Speakers of the corpus that is named, or of the only one."""
    home = _home(ctx)
    named = ctx.params.get("corpus")
    corpora = _folders(home.corpora)
    if named is None and len(corpora) == 1:
        named = corpora[0]
    root = home.corpora / named if named in corpora else Path(str(named))
    folders = [folder.parent for folder in sorted(root.glob("**/wav")) if folder.is_dir()] if named else []
    return [(folder.name, "speaker") for folder in folders]


def prepared(ctx: typer.Context) -> list[tuple[str, str]]:
    """Prepared sets."""
    home = _home(ctx)
    return [
        (name, "prepared set") for name in _folders(home.prepared) if (home.prepared / name / "manifest.json").is_file()
    ]


def statistics(ctx: typer.Context) -> list[tuple[str, str]]:
    """What ``--norm-name`` takes."""
    return [("self", "statistics of the training set itself"), *models(ctx)]


def features() -> list[tuple[str, str]]:
    """Kinds of feature that a model can be trained on."""
    return [(name, "feature") for name in model_kinds()]


def vocoders(ctx: typer.Context) -> list[tuple[str, str]]:
    """Vocoders: the one without weights, the bundled one, and downloaded or trained ones."""
    return [
        ("griffin-lim", "needs no weights"),
        (BUNDLED, "of the bundled voice"),
        (UNIVERSAL, "of any voice"),
        *((name, "vocoder") for name in _folders(_home(ctx).vocoders)),
    ]


def beginnings(ctx: typer.Context) -> list[tuple[str, str]]:
    """What training can begin with: vocoders for a vocoder, encoders for an encoder, else voices."""
    if str(ctx.params.get("kind")) == "content":
        encoders = _home(ctx).encoders
        ended = [name for name in _folders(encoders) if all((encoders / name / file).is_file() for file in ENCODERS)]
        own = [(name, "encoder") for name in ended]
        return [("none", "random weights"), (BUNDLED, "of the preset small"), *own]
    if str(ctx.params.get("kind")) == "vocoder":
        return [("none", "random weights"), *(entry for entry in vocoders(ctx) if entry[0] != "griffin-lim")]
    return models(ctx)


def catalogue() -> list[tuple[str, str]]:
    """What can be downloaded."""
    return list(CATALOGUE.items())


def devices() -> list[tuple[str, str]]:
    """Names of devices, whether they are here or not: looking would take seconds."""
    return [("auto", "a GPU if there is one"), ("cpu", "the processor"), ("cuda", "the first NVIDIA GPU")]


def _home(ctx: Any) -> Home:
    given = ctx.params.get("home") or ctx.find_root().params.get("home")
    return find_home(Path(given) if given else None)


def _folders(root: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return []
