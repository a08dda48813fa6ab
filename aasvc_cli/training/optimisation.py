"""Learning rate, precision, moving average of the weights, and a guard against divergence."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from aasvc_cli.config.settings import Config, TrainConfig
from aasvc_cli.errors import TrainingError


def with_precision(config: Config, device: torch.device) -> Config:
    """Replace ``auto`` precision by what the device multiplies natively."""
    if config.train.precision != "auto":
        return config
    if device.type == "cuda":
        best = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    else:
        able = torch.cpu.get_capabilities()
        best = "bf16" if able.get("avx512_bf16") or able.get("amx_tile") else "fp32"
    chosen = dataclasses.replace(config.train, precision=cast(Any, best))
    return dataclasses.replace(config, train=chosen)


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of the update that follows ``step`` finished ones.

    ``inverse-sqrt`` is the published schedule: ``lr * sqrt(W) * min(u ** -0.5, u * W ** -1.5)`` for update u = 1, 2, …
    and W warm-up steps. ``cosine`` rises linearly over the warm-up and then falls to 0 at ``max_steps``.
    """
    update, warmup = step + 1, config.warmup_steps
    if config.schedule == "inverse-sqrt":
        return config.lr * math.sqrt(warmup) * min(update**-0.5, update * warmup**-1.5)
    if update <= warmup:
        return config.lr * update / warmup
    progress = min(1.0, (update - warmup) / max(1, config.max_steps - warmup))
    return config.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


class Averaged:
    """Exponential moving average of the weights, and a way to use it in their place.

    The running statistics of batch norms are averaged, too: those of the moment do not belong to averaged weights.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        state = model.state_dict(keep_vars=True)
        self._live = {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
        self._average = {name: tensor.detach().clone() for name, tensor in self._live.items()} if decay else {}

    def update(self, step: int) -> None:
        """Take in the weights after optimiser step number ``step``; early on the average forgets faster."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            live = [tensor.detach() for tensor in self._live.values()]
            torch._foreach_lerp_(list(self._average.values()), live, 1.0 - decay)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the context the model has the averaged weights."""
        if not self.decay:
            yield
            return
        live = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        self._load(self._average)
        try:
            yield
        finally:
            self._load(live)

    def _load(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            torch._foreach_copy_([tensor.detach() for tensor in self._live.values()], list(values.values()))

    def state(self) -> dict[str, Tensor]:
        """The averages by name."""
        return dict(self._average)

    def live(self) -> dict[str, Tensor]:
        """The tensors that are averaged, as training has them; empty if averaging is off."""
        return dict(self._live) if self.decay else {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from saved averages."""
        for name, average in self._average.items():
            average.copy_(state[name])


def optimizer_state(optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
    """What an optimiser remembers, as ``<name of the parameter>.<entry>``."""
    return {
        f"{names[cast(nn.Parameter, parameter)]}.{entry}": value
        for parameter, entries in optimizer.state.items()
        for entry, value in entries.items()
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Go on from :func:`optimizer_state`; raises KeyError if it is of other parameters."""
    for path, value in tensors.items():
        name, _, entry = path.rpartition(".")
        parameter = parameters[name]
        on_host = entry == "step" and parameter.device.type == "cpu"
        optimizer.state[parameter][entry] = value if on_host else value.to(parameter.device)


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


class DivergenceGuard:
    """Notices a loss that has left its best level for good."""

    FACTOR, MARGIN, MEMORY = 3.0, 2.0, 0.98

    def __init__(self) -> None:
        self.smooth: float | None = None
        self.best = math.inf

    def state(self) -> list[float | None]:
        """JSON-able."""
        return [self.smooth, self.best]

    def load_state(self, state: Sequence[Any]) -> None:
        """Go on from :meth:`state`."""
        self.smooth, self.best = state[0], float(state[1])

    def check(self, loss: float, step: int) -> None:
        """Take in the loss of a step; raises TrainingError."""
        self.smooth = loss if self.smooth is None else self.MEMORY * self.smooth + (1 - self.MEMORY) * loss
        self.best = min(self.best, self.smooth)
        if self.smooth > self.FACTOR * abs(self.best) + self.MARGIN:
            raise TrainingError(
                f"the loss diverged at step {step}: its running mean is {self.smooth:.3g} after a best of "
                f"{self.best:.3g}; the checkpoints from before are kept - lower --lr, or raise the warm-up"
            )
