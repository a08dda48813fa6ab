"""One optimiser step, the learning-rate schedule, weight averaging, and the loss on held-out pairs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aasvc_cli.config.settings import Config
from aasvc_cli.data.dataset import Batch
from aasvc_cli.errors import AasvcError, ConfigError, TrainingError
from aasvc_cli.model.aasvc import AASVC, TeacherForced
from aasvc_cli.model.conformer import Conformer
from aasvc_cli.model.layers import Dropout
from aasvc_cli.training.distributed import ALONE, World
from aasvc_cli.training.losses import WHOLE, Losses, Share, alignment_loss, content_log_prior, total_loss
from aasvc_cli.training.memory import is_out_of_memory, release_memory, return_free_memory
from aasvc_cli.training.optimisation import (
    Averaged,
    DivergenceGuard,
    below,
    learning_rate,
    load_optimizer_state,
    optimizer_state,
)

LOSS_NAMES = ("l1", "forward_sum", "binarisation", "duration", "pitch", "variance", "total")
PitchOf = Callable[[Tensor], tuple[Tensor, Tensor]]
"""F0 in Hz and whether voiced, (B, T) each, of normalised target mels (B, T, M)."""
FREE_TO_CHANGE = frozenset(
    {
        "name",
        "train.max_steps",
        "train.patience",
        "train.device",
        "train.threads",
        "train.n_workers",
        "train.precision",
        "train.checkpointing",
        "train.auto_batch",
        "train.memory",
        "train.time_limit",
        "train.keep",
        "train.log_every",
        "train.eval_every",
        "train.save_every",
        "train.preview_every",
        "train.n_previews",
        "vocoder.final_scores",
    }
)
"""Settings that may differ between a run and its continuation."""
_DEV_NOISE_SEED = 20230914
_RANK_SEEDS = 1_000_003
"""Distance between the seeds of processes that train together."""
_HALF_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}
WIDTH_TO_TIDY = 1024
"""From this width on, blocks take so much time and memory that giving free memory back after each of them pays: at the
published size it halves what activations take, for a twentieth of the time."""


class Trainer:
    """Model, optimiser and average of one run; knows nothing of files.

    Args:
        world: the processes that train together, each with a trainer
        on_message: called when the trainer changes how it computes, not what
        pitch_of: what a pitch predictor learns; without, it learns nothing
    """

    def __init__(
        self,
        config: Config,
        device: torch.device,
        *,
        world: World = ALONE,
        on_message: Callable[[str], None] | None = None,
        pitch_of: PitchOf | None = None,
    ):
        torch.manual_seed(config.train.seed)
        self.config = config
        self.device = device
        self.world = world
        self.pitch_of = pitch_of
        self._say = on_message or (lambda _: None)
        self.model = AASVC(config.model).to(device)
        self._frozen = freeze(self.model, config.train.freeze)
        if world.rank:  # the same weights everywhere, but other dropouts
            torch.manual_seed(config.train.seed + world.rank * _RANK_SEEDS)
        self.checkpointing = config.train.checkpointing
        if device.type == "cpu":
            for part in self.model.modules():
                if isinstance(part, Conformer) and part.width >= WIDTH_TO_TIDY:
                    part.between_blocks = return_free_memory
        self.micro: int | None = None
        """Utterances that fit into memory at once, once that was found to be less than a batch."""
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
        self.scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "fp16")
        self._statistics = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        self._dropouts = [(part, part.p) for part in self.model.modules() if isinstance(part, Dropout)]

    @property
    def checkpointing(self) -> bool:
        """Whether the network keeps only the input of each block and computes the rest again for the gradient."""
        return self._checkpointing

    @checkpointing.setter
    def checkpointing(self, wanted: bool) -> None:
        self._checkpointing = wanted
        for part in self.model.modules():
            if isinstance(part, Conformer):
                part.checkpointing = wanted

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the random weights of a new training; names that are not among ``weights`` keep theirs."""
        state = self.model.state_dict()
        self.model.load_state_dict(
            {name: weights[name].to(tensor.dtype) if name in weights else tensor for name, tensor in state.items()}
        )
        self.average = Averaged(self.model, self.config.train.ema_decay)

    def forward(
        self, batch: Batch, generator: torch.Generator | None = None, noise: Tensor | None = None
    ) -> TeacherForced:
        """Pass one batch through the network.

        Args:
            generator: CPU generator of the duration noise; None draws from the training's random numbers
            noise: the duration noise itself, (B, at least K, 2)
        """
        batch = batch.to(self.device)
        n_tokens = self._n_tokens(batch)
        if generator is not None:
            noise = torch.randn(len(batch.utterance_ids), n_tokens, 2, generator=generator).to(self.device)
        elif noise is not None:
            noise = noise[:, :n_tokens]
        half = _HALF_PRECISION.get(self.config.train.precision)
        with torch.autocast(self.device.type, dtype=half, enabled=half is not None):
            result: TeacherForced = self.model(
                batch.source,
                batch.source_lengths,
                batch.target,
                batch.target_lengths,
                batch.duration_feature,
                noise=noise,
                log_prior=self._log_prior(batch, n_tokens),
                pitch=self._pitch(batch),
            )
        return result

    def _pitch(self, batch: Batch) -> Tensor | None:
        """(B, T, 2) of the targets, as a pitch predictor has it."""
        if self.pitch_of is None or self.model.pitch_predictor is None:
            return None
        return self.model.pitch_predictor.normalise(*self.pitch_of(batch.target))

    def _log_prior(self, batch: Batch, n_tokens: int) -> Tensor | None:
        """(B, T, K) of a batch whose pairs are known to say the same at the same places."""
        if batch.guide is None:
            return None
        per_token = self.config.model.frames_per_token
        tokens = (batch.guide + 0.5) / per_token - 0.5
        lengths = batch.target_lengths, batch.source_lengths // per_token
        return content_log_prior(tokens, *lengths, n_tokens, self.config.loss, self.step)

    def _n_tokens(self, batch: Batch) -> int:
        return self.config.model.n_tokens(batch.source.shape[1])

    def losses(
        self,
        batch: Batch,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
        share: Share = WHOLE,
    ) -> Losses:
        """The losses of one batch, or of a part of one; see :meth:`forward`."""
        return total_loss(self.forward(batch, generator, noise), self.config.loss, self.step, share)

    def update(self, batches: Sequence[Batch]) -> tuple[Tensor, float, float]:
        """One optimiser step over several micro-batches.

        If memory runs out, the gradient is computed again in smaller pieces, which add up to the same (apart from
        batch norms, whose statistics are those of a piece); later steps begin with pieces of that size.

        Returns:
            losses in the order of ``LOSS_NAMES`` (7,), mean over the micro-batches of all processes; the global
            gradient norm before clipping; the learning rate

        Raises:
            TrainingError: the loss or its gradient is not finite, or the loss diverges, or one utterance alone does
                not fit into memory. The weights stay as they were.
        """
        self._set_dropouts()
        shares, before = self._shares_of(batches), self._moment()
        losses = self._within_memory(batches, before, lambda: self._backward(batches, shares))
        self._add_up_processes(losses)
        self.scaler.unscale_(self.optimizer)
        gradient = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.grad_norm or math.inf)
        # the one time in a step that the device is waited for
        *values, norm = torch.cat([losses, gradient.reshape(1).to(losses)]).tolist()
        if self._overflowed(values, norm):  # the scale of the loss is too large: the same step with a smaller one
            self.scaler.update()
            self._return_to(before)
            return self.update(batches)
        if not math.isfinite(sum(values) + norm):
            raise self._not_finite(batches)
        rate = learning_rate(self.step, self.config.train)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.average.update(self.step)
        self._check_divergence(values[LOSS_NAMES.index("total")])
        return losses, norm, rate

    def _backward(self, batches: Sequence[Batch], shares: Sequence[Share]) -> Tensor:
        """Add up the gradients of the micro-batches of this process, and their losses (7,)."""
        collected = torch.zeros(len(LOSS_NAMES), device=self.device)
        for batch, share in zip(batches, shares, strict=True):
            for piece, noise, part in self._pieces(batch):
                self._piece = piece
                losses = self.losses(piece, noise=noise, share=share * part)
                self.scaler.scale(losses.total / len(batches)).backward()
                collected += torch.stack([losses.named()[name].detach() for name in LOSS_NAMES]) / len(batches)
        return collected

    def _overflowed(self, losses: Sequence[float], norm: float) -> bool:
        """Whether it is only the scaling for half precision that made the gradient too large."""
        only_norm = math.isfinite(sum(losses)) and not math.isfinite(norm)
        return only_norm and self.scaler.is_enabled() and self.scaler.get_scale() >= 1.0

    def _set_dropouts(self) -> None:
        """Training mode, with the dropouts of this step; frozen parts keep their running statistics, too."""
        self.model.train()
        for part in self._frozen:
            part.eval()
        for part, p in self._dropouts:
            part.p = p if self.step >= self.config.train.dropout_start_step else 0.0

    def rehearse(self, batch: Batch) -> float:
        """Seconds that the gradient of a batch takes once all losses and dropouts take part; changes nothing.

        Raises what torch raises if memory runs out.
        """
        before, step = self._moment(), self.step
        self.step = max(step, self.config.loss.duration_start_step + 1, self.config.train.dropout_start_step)
        began = time.perf_counter()
        try:
            self._set_dropouts()
            self._backward([batch], [WHOLE]).tolist()  # waits for the device
            return time.perf_counter() - began
        finally:
            self.step = step
            self._return_to(before)

    def bytes_to_come(self) -> int:
        """What the optimiser will remember after its first step: two moments of each weight that learns."""
        if self.optimizer.state:
            return 0
        learning = (parameter for parameter in self.model.parameters() if parameter.requires_grad)
        return sum(2 * parameter.numel() * parameter.element_size() for parameter in learning)

    def _add_up_processes(self, losses: Tensor) -> None:
        """Gradients and losses become those of all processes, and running statistics their means."""
        if self.world.size == 1:
            return
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        self.world.add_up([*gradients, *self._statistics, losses])
        for statistic in self._statistics:
            statistic.div_(self.world.size)

    def _not_finite(self, batches: Sequence[Batch]) -> AasvcError:
        self.optimizer.zero_grad(set_to_none=True)
        names = ", ".join(batches[0].utterance_ids[:3])
        return self.world.common(
            TrainingError(
                f"the loss is not a finite number at step {self.step + 1} (utterances {names}, …); the checkpoints "
                "from before are kept - lower --lr, or look at these recordings with: aasvc prepare --json -"
            )
        )

    def _check_divergence(self, loss: float) -> None:
        try:
            self.guard.check(loss, self.step)
        except TrainingError as error:
            raise self.world.common(error) from None

    # --- pieces of a batch, and what is tried again ------------------------------------------------------------------

    def _within_memory(self, batches: Sequence[Batch], before: _Moment, compute: Callable[[], Tensor]) -> Tensor:
        """What ``compute`` gives, in pieces that get smaller until they fit into memory.

        Only this process tries again; the others wait for its gradient.
        """
        at_first = (self.micro, self.checkpointing)
        while True:
            try:
                result = compute()
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self._take_smaller_pieces(batches)
            self._return_to(before)
            release_memory(self.device)
        if at_first != (self.micro, self.checkpointing):
            self._tell_of_pieces(batches)
        return result

    def _shares_of(self, batches: Sequence[Batch]) -> list[Share]:
        """What part each micro-batch of this process is of those of all processes."""
        amounts = torch.tensor([self._amounts(batch) for batch in batches], dtype=torch.float64)
        return _shares(amounts, self.world.add(amounts.clone()))

    def _pieces(self, batch: Batch) -> Iterator[tuple[Batch, Tensor | None, Share]]:
        """A batch in pieces that fit into memory, with their noise and their shares of it."""
        rows = len(batch.utterance_ids)
        if self.micro is None or self.micro >= rows:
            yield batch, None, WHOLE
            return
        noise = None
        if self.config.model.duration_predictor == "stochastic":  # as the whole batch would draw it
            noise = torch.randn(rows, self._n_tokens(batch), 2, device=self.device)
        whole = torch.tensor([self._amounts(batch)], dtype=torch.float64)
        for start in range(0, rows, self.micro):
            stop = start + self.micro
            # Padding leaks into the result of the published network: it must stay as it is.
            piece = batch.rows(start, stop, trim=self.config.model.mask_padding)
            (share,) = _shares(torch.tensor([self._amounts(piece)], dtype=torch.float64), whole)
            yield piece, None if noise is None else noise[start:stop], share

    def _amounts(self, batch: Batch) -> tuple[int, int, int]:
        """Utterances, target frames and tokens that the losses of a batch are means over."""
        if batch.spare:
            return 0, 0, 0
        source, target = batch.source_lengths.cpu().numpy(), batch.target_lengths.cpu().numpy()
        tokens = source // self.config.model.frames_per_token
        return len(batch.utterance_ids), int(target.sum()), int(tokens.sum())

    def _take_smaller_pieces(self, batches: Sequence[Batch]) -> None:
        largest = max(len(batch.utterance_ids) for batch in batches)
        largest = min(largest, self.micro or largest)
        if largest > 1:
            self.micro = (largest + 1) // 2
        elif not self.checkpointing:
            self.checkpointing = True
        else:
            self.optimizer.zero_grad(set_to_none=True)
            name = self._piece.utterance_ids[0]
            source, target = int(self._piece.source_lengths[0]), int(self._piece.target_lengths[0])
            raise TrainingError(
                f"out of memory at step {self.step + 1}: utterance {name} ({source} source and {target} target frames) "
                "does not fit even alone and with activation checkpointing; cut or leave out such long recordings, or "
                "train a smaller model"
            )

    def _tell_of_pieces(self, batches: Sequence[Batch]) -> None:
        rows = max(len(batch.utterance_ids) for batch in batches)
        pieces = -(-rows // self.micro) if self.micro else 1
        message = (
            f"out of memory at step {self.step + 1}: from now on {self.micro or rows} of {rows} utterances at once"
        )
        if pieces > 1:
            message += f", and {pieces} times as many batches per step, so that the effective batch stays"
        if self.checkpointing:
            message += "; with activation checkpointing, which is slower"
        self._say(message)

    def _moment(self) -> _Moment:
        """What computing a gradient changes, apart from the gradient."""
        random = [torch.get_rng_state()]
        if self.device.type == "cuda":
            random.append(torch.cuda.get_rng_state(self.device))
        return random, [buffer.clone() for buffer in self.model.buffers()]

    def _return_to(self, moment: _Moment) -> None:
        """Discard gradients, and be where :meth:`_moment` was."""
        random, buffers = moment
        self.optimizer.zero_grad(set_to_none=True)
        torch.set_rng_state(random[0])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(random[1], self.device)
        with torch.no_grad():
            for buffer, value in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(value)

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

    def alignment_losses(self, pairs: Iterable[Batch]) -> Generator[float, None, None]:
        """The forward-sum loss of one pair after the other with the averaged weights, as :meth:`evaluate` has it.

        Nothing else is computed: decoder and durations have no part in it.
        """
        half = _HALF_PRECISION.get(self.config.train.precision)
        self.model.eval()
        with self.average.swapped(), torch.inference_mode():
            for pair in pairs:
                batch = pair.to(self.device)
                with torch.autocast(self.device.type, dtype=half, enabled=half is not None):
                    scores = self.model.alignment_scores(batch.source, batch.target)
                prior = self._log_prior(batch, scores.shape[2])
                lengths = batch.target_lengths, torch.tensor([scores.shape[2]], device=self.device)
                yield float(alignment_loss(scores, *lengths, prior, self.config.loss))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All tensors and numbers that an exact continuation needs; with several processes, all must ask for it.

        ``model.*`` are the weights to convert with (averaged if averaging is on), ``live.*`` the ones in training.
        """
        tensors = {f"model.{name}": tensor for name, tensor in self.weights().items()}
        tensors |= {f"live.{name}": tensor for name, tensor in self.average.live().items()}
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        remembered = optimizer_state(self.optimizer, names)
        tensors |= {f"optimizer.{name}": value for name, value in remembered.items()}
        for rank, state in enumerate(self.world.gathered(torch.get_rng_state())):
            tensors[_of_rank("rng.cpu", rank)] = state
        if self.device.type == "cuda":
            for rank, state in enumerate(self.world.gathered(torch.cuda.get_rng_state(self.device))):
                tensors[_of_rank("rng.cuda", rank)] = state
        numbers: dict[str, Any] = {"step": self.step, "guard": self.guard.state()}
        numbers["pieces"] = [int(piece) for piece in self.world.gathered(torch.tensor(self.micro or 0))]
        numbers["checkpointing"] = any(self.world.any(self.checkpointing and not self.config.train.checkpointing))
        numbers["scaler"] = self.scaler.state_dict()
        return tensors, numbers

    def weights(self) -> dict[str, Tensor]:
        """The weights to convert with."""
        return {**self.model.state_dict(), **self.average.state()}

    def load_state(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Go on from :meth:`state`; raises KeyError or RuntimeError if it is of another model."""
        live = below(tensors, "model.")
        if self.average.decay:
            self.average.load_state(live)
            live |= below(tensors, "live.")
        self.model.load_state_dict(live)
        load_optimizer_state(self.optimizer, dict(self.model.named_parameters()), below(tensors, "optimizer."))
        self.step = int(numbers["step"])
        rank = self.world.rank
        if _of_rank("rng.cpu", rank) in tensors:
            torch.set_rng_state(tensors[_of_rank("rng.cpu", rank)])
        else:  # there were fewer processes
            torch.manual_seed(self.config.train.seed + rank * _RANK_SEEDS + self.step)
        if self.device.type == "cuda" and _of_rank("rng.cuda", rank) in tensors:
            torch.cuda.set_rng_state(tensors[_of_rank("rng.cuda", rank)], self.device)
        pieces = numbers.get("pieces", [])
        self.micro = (pieces[rank] if rank < len(pieces) else min(filter(None, pieces), default=0)) or None
        self.checkpointing = self.checkpointing or bool(numbers.get("checkpointing"))
        if numbers.get("scaler"):
            self.scaler.load_state_dict(numbers["scaler"])
        self.guard.load_state(numbers["guard"])


def freeze(model: nn.Module, names: str | None) -> list[nn.Module]:
    """Keep the weights of some parts of a network from learning.

    Args:
        names: of the parts, with commas between them, and dots inside them for parts of parts

    Returns:
        the parts

    Raises:
        ConfigError: there is no such part, or nothing is left to train.
    """
    parts = dict(model.named_modules())
    wanted = [name.strip() for name in (names or "").split(",") if name.strip()]
    unknown = [name for name in wanted if name not in parts]
    if unknown:
        top = ", ".join(name for name, _ in model.named_children())
        raise ConfigError("train.freeze", [f"{', '.join(unknown):.100}: the network has no such part; it has: {top}"])
    for name in wanted:
        parts[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("train.freeze", [f"{names}: that leaves nothing to train"])
    return [parts[name] for name in wanted]


_Moment = tuple[list[Tensor], list[Tensor]]
"""States of the random number generators, and values of the model's buffers."""


def _shares(amounts: Tensor, totals: Tensor) -> list[Share]:
    """The shares of batches (N, 3) in their totals (N, 3)."""
    return [
        Share(*(amount / total if total else 0.0 for amount, total in zip(row, whole, strict=True)))
        for row, whole in zip(amounts.tolist(), totals.tolist(), strict=True)
    ]


def _of_rank(name: str, rank: int) -> str:
    return f"{name}.{rank}" if rank else name
