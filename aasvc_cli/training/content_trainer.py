"""Training the encoders of content and melody: crops of varied recordings, one optimiser step, and the projection.

A recogniser's encoder is the teacher. The network is given a recording that was changed (another pitch, another vocal
tract, another room, a telephone) and has to write what the teacher wrote for the recording as it was, so it learns to
leave aside what was changed. What is left of the speaker goes last: of the teacher's channels only those directions are
kept in which places of a sentence differ more than the people who say it (linear discriminant analysis, whose classes
are the moments of sentences that several people have read).

A second, smaller network learns the melody, of which the teacher says little: F0 as estimated where there was no noise
yet.

Whatever is random in a step follows from the seed and the number of the step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from aasvc_cli.config.settings import Config
from aasvc_cli.data.content_path import content_path
from aasvc_cli.errors import TrainingError
from aasvc_cli.model.content import F0_BINS, ContentEncoder, ContentSizes, MelodyEncoder
from aasvc_cli.training.optimisation import (
    Averaged,
    DivergenceGuard,
    below,
    learning_rate,
    load_optimizer_state,
    optimizer_state,
)

Array = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Matrix = npt.NDArray[np.float64]

CONTENT_LOSSES = ("content", "melody", "total")
FURTHEST = 6.0
"""Differences beyond this many standard deviations of the teacher count as this."""
MASK_SHARE, MASKED_BANDS, MASKED_FRAMES = 0.3, 13, 15
"""How often a crop loses bands, and how many bands and frames it loses at most."""
FLOOR_SHARE, LOWEST_FLOOR = 0.3, 0.6
"""How often everything quieter than some level is made equal, and the highest such level."""
RIDGE = 0.01
"""Of the mean variance among speakers, added to every direction's."""


class Version(NamedTuple):
    """A recording, changed or not, as the networks hear it.

    Attributes:
        levels: (T, n_mels), from 0 for silence to 1, at twice the teacher's frame rate
        fine_levels: (T, M), the same in the bands that tell harmonics apart
        f0: (ceil(T / 2),) in Hz, 0 where unvoiced
    """

    levels: Halves
    fine_levels: Halves
    f0: Halves


@dataclass(frozen=True, eq=False)
class Example:
    """One recording.

    Attributes:
        group: what kind of recordings it belongs to; all groups are drawn equally often
        versions: the first is unchanged
        goal: (N, C), what the teacher writes for the unchanged recording
    """

    group: str
    versions: tuple[Version, ...]
    goal: Halves


class Crops(NamedTuple):
    """Examples of a step.

    Attributes:
        levels: (B, 2 * n_frames, n_mels)
        fine_levels: (B, 2 * n_frames, M)
        goals: (B, n_frames, C)
        f0: (B, n_frames) in Hz, 0 where unvoiced
        real: (B, n_frames), 1 where there is a recording
    """

    levels: Tensor
    fine_levels: Tensor
    goals: Tensor
    f0: Tensor
    real: Tensor


class CropSource:
    """Draws crops of examples; which ones is a function of seed and step."""

    def __init__(self, examples: Sequence[Example], *, n_frames: int, seed: int) -> None:
        self.examples = examples
        self.n_frames = n_frames
        self.seed = seed
        groups: dict[str, list[int]] = {}
        for index, example in enumerate(examples):
            groups.setdefault(example.group, []).append(index)
        self._groups = list(groups.values())

    def draw(self, step: int, batch_size: int) -> Crops:
        """Crops of a step."""
        chooser = np.random.default_rng([self.seed, step])
        crops = []
        for _ in range(batch_size):
            group = self._groups[chooser.integers(len(self._groups))]
            example = self.examples[group[chooser.integers(len(group))]]
            version = example.versions[chooser.integers(len(example.versions))]
            crops.append(self._crop(version, example.goal, chooser))
        return Crops(*(torch.from_numpy(np.stack(column)) for column in zip(*crops, strict=True)))

    def _crop(self, version: Version, goal: Halves, chooser: np.random.Generator) -> tuple[Array, ...]:
        whole = (len(version.levels) + 1) // 2
        start = int(chooser.integers(0, max(1, whole - self.n_frames + 1)))
        stop = min(whole, start + self.n_frames)
        levels, fine_levels = (
            _filled(_masked(each[2 * start : 2 * stop].astype(np.float32), chooser), 2 * self.n_frames)
            for each in (version.levels, version.fine_levels)
        )
        # a changed recording may be slower or faster than the one the teacher encoded
        place = np.linspace(0.0, len(goal) - 1.0, whole)[start:stop]
        low = np.minimum(place.astype(np.int64), max(0, len(goal) - 2))
        share = (place - low).astype(np.float32)[:, None]
        wanted = goal[low] * (1.0 - share) + goal[np.minimum(low + 1, len(goal) - 1)] * share
        f0, real = version.f0[start:stop].astype(np.float32), np.ones(stop - start, dtype=np.float32)
        return levels, fine_levels, *(_filled(each, self.n_frames) for each in (wanted, f0, real))


def _filled(values: Array, count: int) -> Array:
    """Zeros after the values: (n, …) -> (count, …)."""
    result = np.zeros((count, *values.shape[1:]), dtype=np.float32)
    result[: len(values)] = values
    return result


def _masked(levels: Array, chooser: np.random.Generator) -> Array:
    """Levels without some bands and frames, or above some noise floor (Park et al., SpecAugment, 2019)."""
    if chooser.random() < FLOOR_SHARE:
        levels = np.maximum(levels, np.float32(chooser.uniform(0.0, LOWEST_FLOOR)))
    if chooser.random() < MASK_SHARE:
        count = int(chooser.integers(1, MASKED_BANDS + 1))
        start = int(chooser.integers(0, levels.shape[1] - count))
        levels[:, start : start + count] = 0.0
    for _ in range(int(chooser.integers(0, 3))):
        count = int(chooser.integers(1, MASKED_FRAMES + 1))
        start = int(chooser.integers(0, max(1, len(levels) - count)))
        levels[start : start + count] = 0.0
    return levels


class _Networks(nn.Module):
    """Both encoders, for one optimiser."""

    def __init__(self, content: ContentSizes, melody: ContentSizes) -> None:
        super().__init__()
        self.content = ContentEncoder(content)
        self.melody = MelodyEncoder(melody)


class ContentTrainer:
    """Networks, optimiser and average of one run; knows nothing of files.

    Args:
        n_fine: bands of the fine levels
        mean, scale: (C,) of the teacher's channels
    """

    def __init__(self, config: Config, device: torch.device, *, n_fine: int, mean: Array, scale: Array) -> None:
        torch.manual_seed(config.train.seed)
        self.config = config
        self.device = device
        self.mean, self.scale = (torch.from_numpy(values).to(device) for values in (mean, scale))
        settings = config.content
        self.networks = _Networks(
            ContentSizes(
                stem=settings.stem, width=settings.width, hidden=settings.hidden, n_blocks=settings.n_blocks,
                kernel=settings.kernel, n_out=len(mean),
            ),
            ContentSizes(
                n_mels=n_fine, stem=settings.melody_width, width=settings.melody_width,
                hidden=3 * settings.melody_width, n_blocks=settings.melody_blocks, kernel=settings.kernel,
                n_out=F0_BINS + 1,
            ),
        ).to(device)  # fmt: skip
        train = config.train
        self.optimizer = torch.optim.AdamW(
            self.networks.parameters(), lr=train.lr, betas=(train.adam_beta1, train.adam_beta2),
            weight_decay=train.weight_decay, fused=True,
        )  # fmt: skip
        self.average = Averaged(self.networks, train.ema_decay)
        self.guard = DivergenceGuard()
        self.step = 0

    def losses(self, crops: Crops) -> Tensor:
        """In the order of ``CONTENT_LOSSES``.

        That of the content is the mean squared difference from the teacher, in its standard deviations.
        """
        levels, fine_levels, goals, f0, real = (each.to(self.device) for each in crops)
        half = self.config.train.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            written = self.networks.content(levels)
            melody = self.networks.melody.loss(fine_levels, f0, real)
        wanted = (goals - self.mean) / self.scale
        error = (written.float() - wanted).clamp(-FURTHEST, FURTHEST).square().mean(-1)
        content = (error * real).sum() / real.sum()
        return torch.stack([content, melody, content + melody])

    def update(self, crops: Crops) -> tuple[Tensor, float, float]:
        """One optimiser step.

        Returns:
            losses in the order of ``CONTENT_LOSSES``; norm of the gradient before clipping; learning rate

        Raises:
            TrainingError: the loss or its gradient is not finite, or the loss diverges.
        """
        train = self.config.train
        self.networks.train()
        losses = self.losses(crops)
        self.optimizer.zero_grad(set_to_none=True)
        losses[-1].backward()
        # each by itself, as neither says anything about the other
        norms = [
            float(torch.nn.utils.clip_grad_norm_(network.parameters(), train.grad_norm))
            for network in (self.networks.content, self.networks.melody)
        ]
        norm = math.hypot(*norms)
        if not math.isfinite(norm):
            raise TrainingError(f"the loss is not a finite number at step {self.step + 1}; lower --lr")
        rate = learning_rate(self.step, train)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        self.average.update(self.step)
        self.guard.check(float(losses[-1].detach()), self.step)
        return losses.detach(), norm, rate

    def measure(self, crops: Crops) -> dict[str, float]:
        """The losses with the averaged weights."""
        self.networks.eval()
        with self.average.swapped(), torch.no_grad():
            return dict(zip(CONTENT_LOSSES, self.losses(crops).tolist(), strict=True))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All tensors and numbers that an exact continuation needs."""
        tensors = {f"networks.{name}": value for name, value in self.networks.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state().items()}
        names = {parameter: name for name, parameter in self.networks.named_parameters()}
        remembered = optimizer_state(self.optimizer, names)
        tensors |= {f"optimizer.{name}": value for name, value in remembered.items()}
        return tensors, {"step": self.step, "guard": self.guard.state()}

    def load_state(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`; raises KeyError or RuntimeError if it is of another network."""
        self.networks.load_state_dict(below(tensors, "networks."))
        self.average.load_state(below(tensors, "average."))
        load_optimizer_state(self.optimizer, dict(self.networks.named_parameters()), below(tensors, "optimizer."))
        self.step = int(numbers["step"])
        self.guard.load_state(numbers["guard"])


def projected(encoder: ContentEncoder, centre: Matrix, directions: Matrix) -> ContentEncoder:
    """An encoder that writes ``(result - centre) @ directions``: the projection becomes part of its last layer."""
    result = ContentEncoder(dataclasses.replace(encoder.sizes, n_out=directions.shape[1]))
    state = {name: value.detach().cpu() for name, value in encoder.state_dict().items()}
    weight, bias = state["output.weight"].double(), state["output.bias"].double()
    turn = torch.from_numpy(directions)
    state["output.weight"] = (turn.T @ weight).float()
    state["output.bias"] = ((bias - torch.from_numpy(centre)) @ turn).float()
    result.load_state_dict(state)
    return result.eval()


def discriminant(sentences: Sequence[Sequence[Array]], n_out: int) -> tuple[Matrix, Matrix]:
    """The directions in which moments of sentences differ most, compared with the people who say them.

    Args:
        sentences: for each sentence, the features (T, C) of everybody who says it, at least two

    Returns:
        centre (C,), the mean of everything; directions (C, n_out), the best first, scaled so that the variance of
        everything is 1
    """
    from scipy.linalg import eigh

    frames = np.concatenate([feature for readings in sentences for feature in readings]).astype(np.float64)
    centre = frames.mean(axis=0)
    total = np.cov(frames, rowvar=False)
    within, count = np.zeros_like(total), 0.0
    for readings in sentences:
        middle = sorted(readings, key=len)[len(readings) // 2]
        aligned = np.stack([_at_moments_of(middle, feature, centre) for feature in readings])  # (people, T, C)
        difference = (aligned - aligned.mean(axis=0)).reshape(-1, aligned.shape[2])
        within += difference.T @ difference
        count += len(middle) * (len(readings) - 1)
    within /= count
    within += RIDGE * np.trace(within) / len(within) * np.eye(len(within))
    # the variance among people is 1 along each of the vectors, and that of everything their value
    values, vectors = eigh(total, within, subset_by_index=(len(total) - n_out, len(total) - 1))
    return centre, np.ascontiguousarray((vectors / np.sqrt(values))[:, ::-1])


def _at_moments_of(middle: Array, feature: Array, centre: Matrix) -> Matrix:
    """Means of the frames that belong to each frame of another reading: (T, C)."""
    frames = content_path((middle - centre).astype(np.float32), (feature - centre).astype(np.float32)).frames
    sums = np.zeros(middle.shape, dtype=np.float64)
    np.add.at(sums, frames[:, 0], feature[frames[:, 1]])
    return sums / np.bincount(frames[:, 0])[:, None]
