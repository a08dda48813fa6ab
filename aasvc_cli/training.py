"""One optimiser step, the learning-rate schedule, weight averaging, and the loss on held-out pairs."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from aasvc_cli.config import Config, TrainConfig
from aasvc_cli.dataset import Batch
from aasvc_cli.errors import TrainingError
from aasvc_cli.losses import Losses, total_loss
from aasvc_cli.model.aasvc import AASVC, TeacherForced

LOSS_NAMES = ("l1", "forward_sum", "binarisation", "duration", "total")
FREE_TO_CHANGE = frozenset(
    {
        "name",
        "train.max_steps",
        "train.device",
        "train.threads",
        "train.n_workers",
        "train.precision",
        "train.checkpointing",
        "train.log_every",
        "train.eval_every",
        "train.save_every",
        "train.preview_every",
        "train.n_previews",
    }
)
"""Settings that may differ between a run and its continuation."""
_DEV_NOISE_SEED = 20230914


def with_precision(config: Config, device: torch.device) -> Config:
    """Replace ``auto`` precision by what the device multiplies natively."""
    if config.train.precision != "auto":
        return config
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    chosen = dataclasses.replace(config.train, precision="bf16" if native else "fp32")
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


class DivergenceGuard:
    """Notices a loss that has left its best level for good."""

    FACTOR, MARGIN, MEMORY = 3.0, 2.0, 0.98

    def __init__(self) -> None:
        self.smooth: float | None = None
        self.best = math.inf

    def check(self, loss: float, step: int) -> None:
        """Take in the loss of a step; raises TrainingError."""
        self.smooth = loss if self.smooth is None else self.MEMORY * self.smooth + (1 - self.MEMORY) * loss
        self.best = min(self.best, self.smooth)
        if self.smooth > self.FACTOR * abs(self.best) + self.MARGIN:
            raise TrainingError(
                f"the loss diverged at step {step}: its running mean is {self.smooth:.3g} after a best of "
                f"{self.best:.3g}; the checkpoints from before are kept - lower --lr, or raise the warm-up"
            )


class Trainer:
    """Model, optimiser and average of one run; knows nothing of files."""

    def __init__(self, config: Config, device: torch.device):
        torch.manual_seed(config.train.seed)
        self.config = config
        self.device = device
        self.model = AASVC(config.model).to(device)
        self.model.encoder.conformer.checkpointing = config.train.checkpointing
        self.model.decoder.checkpointing = config.train.checkpointing
        self.step = 0
        train = config.train
        kind = torch.optim.AdamW if train.weight_decay else torch.optim.Adam
        self.optimizer = kind(
            self.model.parameters(),
            lr=train.lr,
            betas=(train.adam_beta1, train.adam_beta2),
            eps=train.adam_eps,
            weight_decay=train.weight_decay,
            fused=True,
        )
        self.average = Averaged(self.model, train.ema_decay)
        self.guard = DivergenceGuard()
        self.bf16 = train.precision == "bf16"

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the random weights of a new training; names that are not among ``weights`` keep theirs."""
        state = self.model.state_dict()
        self.model.load_state_dict(
            {name: weights[name].to(tensor.dtype) if name in weights else tensor for name, tensor in state.items()}
        )
        self.average = Averaged(self.model, self.config.train.ema_decay)

    def forward(self, batch: Batch, generator: torch.Generator | None = None) -> TeacherForced:
        """Pass one batch through the network.

        Args:
            generator: CPU generator of the duration noise; None draws from the training's random numbers
        """
        batch = batch.to(self.device)
        noise = None
        if generator is not None:
            n_tokens = batch.source.shape[1] // self.config.model.source_frames_per_token
            noise = torch.randn(len(batch.utterance_ids), n_tokens, 2, generator=generator).to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            result: TeacherForced = self.model(
                batch.source,
                batch.source_lengths,
                batch.target,
                batch.target_lengths,
                batch.duration_feature,
                noise=noise,
            )
        return result

    def losses(self, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """The losses of one batch; see :meth:`forward`."""
        return total_loss(self.forward(batch, generator), self.config.loss, self.step)

    def update(self, batches: Sequence[Batch]) -> tuple[Tensor, float, float]:
        """One optimiser step over several micro-batches.

        Returns:
            losses in the order of ``LOSS_NAMES`` (5,), mean over the micro-batches; the global gradient norm before
            clipping; the learning rate

        Raises:
            TrainingError: the loss or its gradient is not finite, or the loss diverges. The weights stay as they were.
        """
        train = self.config.train
        self.model.train()
        collected = torch.zeros(len(LOSS_NAMES), device=self.device)
        for batch in batches:
            losses = self.losses(batch)
            (losses.total / len(batches)).backward()
            collected += torch.stack([losses.named()[name].detach() for name in LOSS_NAMES]) / len(batches)
        limit = train.grad_norm if train.grad_norm > 0 else math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        if not math.isfinite(norm) or not bool(collected.isfinite().all()):
            self.optimizer.zero_grad(set_to_none=True)
            names = ", ".join(batches[0].utterance_ids[:3])
            raise TrainingError(
                f"the loss is not a finite number at step {self.step + 1} (utterances {names}, …); the checkpoints "
                "from before are kept - lower --lr, or look at these recordings with: aasvc prepare --json -"
            )
        rate = learning_rate(self.step, train)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.average.update(self.step)
        self.guard.check(float(collected[-1]), self.step)
        return collected, norm, rate

    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Mean losses over held-out batches with the averaged weights; draws no random numbers of the training."""
        generator = torch.Generator().manual_seed(_DEV_NOISE_SEED)
        sums = dict.fromkeys(LOSS_NAMES, 0.0)
        count = 0
        self.model.eval()
        with self.average.swapped(), torch.no_grad():
            for batch in batches:
                named = self.losses(batch, generator).named()
                for name in LOSS_NAMES:
                    sums[name] += float(named[name]) * len(batch.utterance_ids)
                count += len(batch.utterance_ids)
        return {name: value / max(1, count) for name, value in sums.items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All tensors and numbers that an exact continuation needs.

        ``model.*`` are the weights to convert with (averaged if averaging is on), ``live.*`` the ones in training.
        """
        tensors = {f"model.{name}": tensor for name, tensor in self.weights().items()}
        tensors |= {f"live.{name}": tensor for name, tensor in self.average.live().items()}
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for parameter, entries in self.optimizer.state.items():
            tensors |= {
                f"optimizer.{names[cast(nn.Parameter, parameter)]}.{key}": value for key, value in entries.items()
            }
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        return tensors, {"step": self.step, "guard": [self.guard.smooth, self.guard.best]}

    def weights(self) -> dict[str, Tensor]:
        """The weights to convert with."""
        return {**self.model.state_dict(), **self.average.state()}

    def load_state(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go on from :meth:`state`; raises KeyError or RuntimeError if it is of another model."""
        live = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        if self.average.decay:
            self.average.load_state(live)
            live |= {name.removeprefix("live."): value for name, value in tensors.items() if name.startswith("live.")}
        self.model.load_state_dict(live)
        for name, parameter in self.model.named_parameters():
            prefix = f"optimizer.{name}."
            entries = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
            if entries:
                self.optimizer.state[parameter] = {
                    key: value if key == "step" and self.device.type == "cpu" else value.to(self.device)
                    for key, value in entries.items()
                }
        torch.set_rng_state(tensors["rng.cpu"])
        if self.device.type == "cuda" and "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.device)
        self.step = int(numbers["step"])
        self.guard.smooth, self.guard.best = numbers["guard"][0], float(numbers["guard"][1])
