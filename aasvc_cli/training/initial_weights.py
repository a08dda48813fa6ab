"""Training that begins with the weights of another model: which of them fit, and what a run began with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aasvc_cli.errors import ConfigError, ModelError
from aasvc_cli.storage.files import read_json, reading

INIT_FILE = "init.json"
"""What a run began with, if not with random weights."""
NO_INIT = "none"
"""What asks for random weights."""
SHOWN_TENSORS = 8
"""Names of tensors that a message lists; ``init.json`` has all."""


@dataclass(frozen=True, eq=False)
class Beginning:
    """The model that a training begins with.

    Attributes:
        weights: by name
        readable_keys: of the features that it reads, by side
        origin: names the weights in messages
    """

    folder: Path
    weights: Mapping[str, Tensor]
    readable_keys: Mapping[str, str]
    card: Mapping[str, Any]
    origin: str


@dataclass(frozen=True)
class Fit:
    """How the weights of one model fit another.

    Attributes:
        taken: the tensors that fit, by name
        new: those of the new model that stay random, with both shapes where only the shape differs
        left_over: those of the other model that are not used
    """

    taken: dict[str, Tensor]
    new: list[str]
    left_over: list[str]

    def messages(self, voice: Path) -> list[str]:
        """What to tell about it, a line each."""
        lines = [f"begins with the weights of {voice}: {len(self.taken)} of {len(self.taken) + len(self.new)} tensors"]
        for what, names in (("new, random", self.new), ("left over, not used", self.left_over)):
            if names:
                more = f", and {len(names) - SHOWN_TENSORS} more" if len(names) > SHOWN_TENSORS else ""
                lines.append(f"{what}: {', '.join(names[:SHOWN_TENSORS])}{more}")
        return lines

    def note(self, init: str | Path, voice: Path, card: Mapping[str, Any]) -> dict[str, Any]:
        """JSON-able, for :data:`INIT_FILE`."""
        note = {"model": str(init), "name": voice.absolute().name, "card": dict(card), "taken": len(self.taken)}
        return note | {"new": self.new, "left_over": self.left_over}


def fit_weights(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], origin: str, init: str | Path) -> Fit:
    """Which weights of another model have the name and the shape that this one expects.

    Args:
        origin: of the weights, for messages
        init: the other model as it was asked for

    Raises:
        ModelError: weights that are not finite, or less than half of this model.
    """
    taken = {
        name: tensor for name, tensor in weights.items() if name in expected and tensor.shape == expected[name].shape
    }
    broken = [name for name, tensor in taken.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise ModelError(f"{origin}: {len(broken)} tensors hold NaN or infinity (first: {broken[0]})")
    reshaped = {
        name: f"{name} {tuple(weights[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and name not in taken
    }
    new = [reshaped.get(name, name) for name in expected if name not in taken]
    n_taken, n_expected = (sum(tensor.numel() for tensor in tensors.values()) for tensors in (taken, expected))
    if n_taken < n_expected / 2:
        raise ModelError(
            f"--init {init}: only {len(taken)} of {len(expected)} tensors fit this model (first that does not: "
            f"{new[0]}); leave --conf out to take its sizes, or choose another model"
        )
    return Fit(taken, new, [name for name in weights if name not in expected])


def check_init(folder: Path, init: str | Path | None, *, begun: bool) -> None:
    """Raise ConfigError if ``init`` is not what the run in this folder began with; ``begun`` if it has a checkpoint."""
    known = begun_with(folder) or NO_INIT
    if init is not None and known != str(init):
        what = "random weights" if known == NO_INIT else known
        fault = f"the run in this folder began with {what}, not with {init}; use another --tag, or --overwrite"
        raise ConfigError(str(folder), [fault])
    if init is None and known != NO_INIT and not begun:
        fault = f"the run was begun with --init {known} and has no checkpoint yet; give that again, or --overwrite"
        raise ConfigError(str(folder), [fault])


def begun_with(folder: Path) -> str | None:
    """The model that the run in this folder began with; None for random weights, or for no run."""
    path = folder / INIT_FILE
    if not path.exists():
        return None
    with reading(path, "what the run began with"):
        return str(read_json(path, "what the run began with")["model"])
