"""What a training tells at intervals: means of its losses, speed, and how it does on held-out recordings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """What training tells at intervals.

    Attributes:
        loss: mean of the total loss since the report before
        losses: mean of each loss since then
        grad_norm: mean norm of the gradient since then
        seconds: since the run began, without the time in which it was stopped
        steps_per_second: since the report before
        dev: what was measured on the whole dev set, if it was at this step
        epoch: times that all recordings were seen; None where they are drawn at random
        stage: what is being trained, where that changes
    """

    step: int
    max_steps: int
    loss: float
    losses: dict[str, float]
    lr: float
    grad_norm: float
    seconds: float
    steps_per_second: float
    dev: dict[str, float] | None = None
    epoch: int | None = None
    stage: str | None = None

    def entries(self) -> list[dict[str, Any]]:
        """Lines of the run's log."""
        values = {"stage": self.stage, "lr": self.lr, "grad_norm": self.grad_norm, **self.losses}
        values |= {"seconds": self.seconds, "epoch": self.epoch}
        train = {"kind": "train", "step": self.step} | {
            key: value for key, value in values.items() if value is not None
        }
        return [train] if self.dev is None else [train, {"kind": "dev", "step": self.step, **self.dev}]


class Meter:
    """Adds up losses between reports, and knows how long a run has taken.

    Args:
        names: of the losses; one of them is ``total``
        seconds_before: that the run took before it was resumed
    """

    def __init__(self, names: Sequence[str], device: torch.device, *, seconds_before: float) -> None:
        self.names = tuple(names)
        self._sums = torch.zeros(len(self.names), device=device)
        self._norms, self._steps = 0.0, 0
        self._interval = time.monotonic()
        self._started = self._interval - seconds_before

    @property
    def seconds(self) -> float:
        """That the run has taken."""
        return time.monotonic() - self._started

    def add(self, losses: Tensor, grad_norm: float) -> None:
        """Take in a step; losses (n,) stay on their device until a report."""
        self._sums += losses
        self._norms += grad_norm
        self._steps += 1

    def report(
        self,
        step: int,
        max_steps: int,
        *,
        lr: float,
        dev: dict[str, float] | None,
        epoch: int | None = None,
        stage: str | None = None,
    ) -> TrainingReport:
        """The means since the report before; the next one begins here."""
        means = dict(zip(self.names, (self._sums / self._steps).tolist(), strict=True))
        now = time.monotonic()
        report = TrainingReport(
            step=step,
            max_steps=max_steps,
            loss=means["total"],
            losses=means,
            lr=lr,
            grad_norm=self._norms / self._steps,
            seconds=now - self._started,
            steps_per_second=self._steps / max(1e-9, now - self._interval),
            dev=dev,
            epoch=epoch,
            stage=stage,
        )
        self._sums.zero_()
        self._norms, self._steps, self._interval = 0.0, 0, now
        return report
