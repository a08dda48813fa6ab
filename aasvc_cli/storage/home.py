"""The one door to the user's data folder and to the files bundled with the package."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

HOME_VARIABLE = "AASVC_HOME"


@dataclass(frozen=True)
class Home:
    """The data folder.

    ::

        corpora/<name>/                      recordings that `download` laid out
        prepared/<name>/manifest.json        pairs and splits found by `prepare`
        features/<kind>-<key>/...            a file per recording, and packs of many
        stats/<prepared name>/<norm>.json    mean and scale found by `stats`
        models/<name>/                       downloaded voices
        vocoders/<name>/                     downloaded vocoders
        encoders/<tag>/                      trained content encoders
        cache/<kind>/...                     results that `evaluate` need not compute again; safe to delete
        exp/<source>_<target>_<tag>/         one training run: a model folder, with what was converted with it
        results/<model>_<prepared name>/     sets that a model was not trained on, converted, and their scores
        imported/<name>-<key>/               our form of published models and vocoders, and voices as graphs
    """

    root: Path

    @property
    def corpora(self) -> Path:
        """Recordings laid out by ``download``."""
        return self.root / "corpora"

    @property
    def prepared(self) -> Path:
        """Manifests written by ``prepare``."""
        return self.root / "prepared"

    @property
    def features(self) -> Path:
        """Feature files, one folder per feature configuration."""
        return self.root / "features"

    @property
    def stats(self) -> Path:
        """Statistics, one folder per prepared set."""
        return self.root / "stats"

    @property
    def models(self) -> Path:
        """Downloaded voices, one folder each."""
        return self.root / "models"

    @property
    def vocoders(self) -> Path:
        """Vocoders, one folder each."""
        return self.root / "vocoders"

    @property
    def encoders(self) -> Path:
        """Training runs of content encoders, one folder each."""
        return self.root / "encoders"

    @property
    def cache(self) -> Path:
        """Results by the content of what they were computed from."""
        return self.root / "cache"

    @property
    def exp(self) -> Path:
        """Training runs, one folder each."""
        return self.root / "exp"

    @property
    def results(self) -> Path:
        """Conversions and scores of models that are no runs of this data folder, by model and prepared set."""
        return self.root / "results"

    @property
    def imported(self) -> Path:
        """Published models and vocoders in our form, and voices as graphs; safe to delete."""
        return self.root / "imported"

    def results_of(self, model: Path, prepared: str, *, trained_on: str | None) -> Path:
        """Where conversions of a prepared set and their scores go: to a run, else to a folder of their own.

        Model folders from elsewhere may be read-only, installed, or shared; two of the same name stay apart.

        Args:
            trained_on: the prepared set of the model, if it is a run: only results of that one go into its folder
        """
        place = model.absolute()
        run = place.parent in (self.exp, self.exp.resolve())
        if run and prepared == trained_on:
            return model
        name = place.name
        if run or place.parent == self.models:
            pass
        elif place == bundled("voice"):
            name = BUNDLED
        else:
            import hashlib  # takes longer to load than help and completion should wait

            name += f"-{hashlib.sha256(os.fsencode(place)).hexdigest()[:8]}"
        return self.results / f"{name}_{prepared}"

    def kept(self, path: Path) -> str:
        """A path to store: relative to the data folder if inside it, so that the folder can be moved."""
        text = os.fspath(path)
        for root in self._roots:
            if f"{text}{os.sep}".startswith(root) and ".." not in path.parts:
                return text[len(root) :].replace(os.sep, "/") or "."
        return text

    @cached_property
    def _roots(self) -> tuple[str, ...]:
        """How the paths of what lies in the data folder begin; found out once, as a set has many of them."""
        return tuple(os.path.join(root, "") for root in dict.fromkeys((self.root, self.root.resolve())))

    def found(self, text: str) -> Path:
        """The path that :meth:`kept` stored."""
        return self.root / text


def find_home(root: Path | None = None) -> Home:
    """The data folder: an explicit one, else ``$AASVC_HOME``, else the platform's user data folder."""
    if root is None:
        variable = os.environ.get(HOME_VARIABLE)
        if variable:
            root = Path(variable)
        else:
            from platformdirs import user_data_path

            root = user_data_path("aasvc", appauthor=False)
    return Home(Path(os.path.expanduser(root)).absolute())


BUNDLED = "bundled"
"""Name of the voice, and of the vocoder, that ship with the package."""
UNIVERSAL = "universal"
"""Name of the vocoder for any voice that ships with the package."""


def bundled(name: str) -> Path:
    """A file or folder inside the package's ``assets``."""
    from importlib import resources

    return Path(str(resources.files("aasvc_cli") / "assets" / name))
