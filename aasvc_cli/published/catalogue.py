"""What can be downloaded by name: published models and vocoders, the Hi-Fi-CAPTAIN corpora, and the demo corpus."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from aasvc_cli.audio.files import AUDIO_SUFFIXES
from aasvc_cli.errors import DataError
from aasvc_cli.storage.home import Home

HUB = "https://huggingface.co"
_MODELS = f"{HUB}/unilight/hificaptain-vc/resolve/main"
_CAPTAIN = "https://ast-astrec.nict.go.jp/release/hi-fi-captain"
_CAPTAIN_PAGE = "https://ast-astrec.nict.go.jp/en/release/hi-fi-captain/"


@dataclass(frozen=True)
class Licence:
    """Conditions of use.

    Attributes:
        name: short, as SPDX has it
        terms: the conditions in a sentence
        url: of the whole text; empty if there is none
        must_accept: the user has to agree before the download
    """

    name: str
    terms: str
    url: str = ""
    must_accept: bool = False


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server.

    Attributes:
        name: under which it is kept
        url: where it was published
        speaker: whose recordings are in it, if it is an archive of a corpus
        about_bytes: approximate size
        sha256: if published; otherwise that of the first download is remembered
    """

    name: str
    url: str
    speaker: str = ""
    about_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class CatalogueItem:
    """Something that can be downloaded by name.

    Attributes:
        kind: ``corpus``, ``model`` or ``vocoder``
        page: where its authors describe it
        files: to fetch; none if it ships with the package
        asset: where it lies in the package
        seconds: of speech, both speakers together; 0 if unknown
    """

    name: str
    kind: str
    description: str
    licence: Licence
    page: str = ""
    files: tuple[RemoteFile, ...] = ()
    asset: str = ""
    seconds: float = 0.0

    def folder(self, home: Home) -> Path:
        """Its place in the data folder."""
        return {"corpus": home.corpora, "model": home.models, "vocoder": home.vocoders}[self.kind] / self.name


_BY_NC_SA = Licence(
    name="CC-BY-NC-SA-4.0",
    terms=(
        "Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International: name the authors, no commercial use, "
        "share what you make of it under the same licence"
    ),
    url="https://creativecommons.org/licenses/by-nc-sa/4.0/",
    must_accept=True,
)
_TRAINED_ON_CAPTAIN = Licence(
    name="CC-BY-NC-SA-4.0 (of its training data)",
    terms=(
        "no licence of its own is known; it was trained on Hi-Fi-CAPTAIN, which is CC BY-NC-SA 4.0: not for commercial "
        "use"
    ),
    url=_BY_NC_SA.url,
)


def _captain(language: str, name: str, what: str) -> CatalogueItem:
    return CatalogueItem(
        name=name,
        kind="corpus",
        description=f"Hi-Fi-CAPTAIN, {what}: parallel recordings of a male and a female speaker, 48 kHz",
        licence=_BY_NC_SA,
        page=_CAPTAIN_PAGE,
        files=tuple(
            RemoteFile(
                name=f"hfc_{language}_{letter}.zip",
                url=f"{_CAPTAIN}/hfc_{language}_{letter}.zip",
                speaker=speaker,
                about_bytes=10_000_000_000,
            )
            for letter, speaker in (("M", "male"), ("F", "female"))
        ),
    )


def _published(kind: str, name: str, checkpoint: str, description: str) -> CatalogueItem:
    return CatalogueItem(
        name=name,
        kind=kind,
        description=description,
        licence=_TRAINED_ON_CAPTAIN,
        page=f"{HUB}/unilight/hificaptain-vc",
        files=tuple(RemoteFile(each, f"{_MODELS}/{name}/{each}") for each in (checkpoint, "config.yml", "stats.h5")),
    )


CATALOGUE = {
    item.name: item
    for item in (
        _published(
            "model",
            "male_female_aas_vc_mel_pretrained",
            "checkpoint-50000steps.pkl",
            "the published AAS-VC model: Japanese, male to female, 48 kHz",
        ),
        _published(
            "vocoder",
            "pwg_jp_female",
            "checkpoint-400000steps.pkl",
            "its vocoder: Parallel WaveGAN for the female speaker, 48 kHz",
        ),
        _captain("ja-JP", "hificaptain-ja", "Japanese"),
        _captain("en-US", "hificaptain-en", "English"),
        CatalogueItem(
            name="demo",
            kind="corpus",
            description="100 Japanese sentences by a male and a female synthetic voice, ships with the package",
            licence=Licence("Apache-2.0", "free for any use", "https://www.apache.org/licenses/LICENSE-2.0"),
            asset="demo",
            seconds=708.0,
        ),
    )
}
"""Everything that ``aasvc download`` knows, by name."""

PUBLISHED = ("male_female_aas_vc_mel_pretrained", "pwg_jp_female")
"""What is fetched if nothing is named."""


def choose(names: Sequence[str]) -> list[CatalogueItem]:
    """The items of these names, or the published model and its vocoder if there are none.

    Raises:
        DataError: there is no such item; says which one may be meant.
    """
    for name in names:
        if name not in CATALOGUE:
            near = difflib.get_close_matches(name.lower(), CATALOGUE, n=1, cutoff=0.5)
            near += [each for each in CATALOGUE if name and name.lower() in each]
            advice = f"did you mean {near[0]}?" if near else f"there is: {', '.join(CATALOGUE)}"
            raise DataError(f"nothing named {name} can be downloaded; {advice}")
    return [CATALOGUE[name] for name in dict.fromkeys(names or PUBLISHED)]


def corpus_place(path: PurePosixPath, speaker: str) -> PurePosixPath | None:
    """Where a file of a Hi-Fi-CAPTAIN archive goes: ``<speaker>/wav/<set>/...`` or ``<speaker>/text/...``.

    Args:
        path: in the archive, such as ``hi-fi-captain/ja-JP/female/wav/dev/x.wav``
        speaker: whose archive it is, in case its folders do not say

    Returns:
        None for whatever is neither a recording nor a text
    """
    parts = path.parts
    if any(part.startswith((".", "__")) for part in parts):
        return None
    wanted = {"wav": AUDIO_SUFFIXES, "text": frozenset({".txt"})}
    for number, part in enumerate(parts[:-1]):
        if part in wanted and path.suffix.lower() in wanted[part]:
            owner = parts[number - 1] if number and parts[number - 1] in ("male", "female") else speaker
            return PurePosixPath(owner, *parts[number:])
    return None
