"""The voices of a server: loaded when they are first asked for, one conversion at a time in each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from aasvc_cli.conversion.converter import Converter, ConvertOptions
from aasvc_cli.conversion.plan import Job
from aasvc_cli.conversion.voice import find_voice
from aasvc_cli.errors import ModelError
from aasvc_cli.pipeline.convert import Outcome, convert_one
from aasvc_cli.serve.refusals import Refusal
from aasvc_cli.storage.home import BUNDLED, UNIVERSAL, Home
from aasvc_cli.vocoder.folder import GRIFFIN_LIM, named_vocoders

MOST_WAITING = 32
"""Requests that wait for a voice; more are told to come again."""
MOST_LOADED = 3
"""Voices in memory; the one that was idle longest goes."""
_VOCODERS = (GRIFFIN_LIM, BUNDLED, UNIVERSAL)


@dataclass
class _Lane:
    """A voice with a vocoder, and those who wait for it."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    n_waiting: int = 0
    converter: Converter | None = None


class Voices:
    """Converters by the names of voice and vocoder.

    Clients name voices and vocoders of the data folder, and what the server was started with; no other folder of the
    machine can be reached by a name, and a refusal doesn't tell whether there is one.
    """

    def __init__(
        self, home: Home, *, model: str | None = None, vocoder: str | None = None, device: str = "auto"
    ) -> None:
        self.home, self.model, self.vocoder, self.device = home, model, vocoder, device
        self._lanes: dict[tuple[Path, str | None], _Lane] = {}

    def folder(self, name: str | None) -> Path:
        """The folder of a voice; raises ModelError."""
        if name in (None, "", self.model):
            return find_voice(self.home, self.model)
        if Path(str(name)).name == name:
            with contextlib.suppress(ModelError):
                folder = find_voice(self.home, name)
                if name == BUNDLED or folder.parent in (self.home.exp, self.home.models):
                    return folder
        raise ModelError(f"{name:.100}: no such voice here; GET /v1/models lists them")

    def _vocoder(self, name: str | None) -> str | None:
        if name in (None, "", self.vocoder):
            return self.vocoder
        if name in _VOCODERS or name in named_vocoders(self.home):
            return name
        raise ModelError(f"{name:.100}: no such vocoder here; use {', '.join(_VOCODERS)} or one of the data folder")

    async def convert(self, model: str | None, vocoder: str | None, job: Job, options: ConvertOptions) -> Outcome:
        """Convert one recording when its turn has come.

        Raises:
            ModelError: no such voice, or it cannot be loaded.
            Refusal: too many wait already.
        """
        folder, vocoder = self.folder(model), self._vocoder(vocoder)
        async with self._turn(folder, vocoder) as lane:
            if lane.converter is None:
                lane.converter = await asyncio.to_thread(self._load, folder, vocoder)
            return await asyncio.to_thread(convert_one, lane.converter, job, options)

    def _load(self, folder: Path, vocoder: str | None) -> Converter:
        return Converter.load(folder, home=self.home, device=self.device, vocoder=vocoder)

    @contextlib.asynccontextmanager
    async def _turn(self, folder: Path, vocoder: str | None) -> AsyncIterator[_Lane]:
        lane = self._lanes.pop((folder, vocoder), None) or _Lane()
        self._lanes[folder, vocoder] = lane  # the last one asked for stands last
        if lane.n_waiting > MOST_WAITING:
            message = f"{MOST_WAITING} recordings are waiting for this voice; try again in a while"
            raise Refusal(503, "busy", message, {"Retry-After": "5"})
        lane.n_waiting += 1
        try:
            async with lane.turn:
                yield lane
        finally:
            lane.n_waiting -= 1
            self._forget()

    def _forget(self) -> None:
        """Keep no more voices than there may be in memory."""
        idle = [key for key, lane in self._lanes.items() if not lane.n_waiting]
        for key in idle[: max(0, len(self._lanes) - MOST_LOADED)]:
            del self._lanes[key]
