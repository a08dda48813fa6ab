"""Training the encoders of content and melody: the projection, crops of varied recordings, and one optimiser step.

A recogniser's encoder is the teacher. Of its channels only those directions are asked for in which places of a sentence
differ more than the people who say it (linear discriminant analysis, whose classes are the moments of sentences that
several people have read), so the network spends nothing on what would be left out later. It is given a recording that
was changed (another pitch, another vocal tract, another room, a telephone) and has to write what the teacher wrote for
the recording as it was, so it learns to leave aside what was changed.

A second, smaller network learns the melody, of which the teacher says little: F0 as estimated where there was no noise
yet.

Whatever is random in a step follows from the seed and the number of the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from aasvc_cli.config.settings import Config
from aasvc_cli.data.augmentation import NOISE_TILT_DB, Change, changed
from aasvc_cli.data.content_path import content_path
from aasvc_cli.errors import DataError, TrainingError
from aasvc_cli.features.content import CONTENT_MEL, SILENCE
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
"""Larger differences from a goal count as this."""
MASK_SHARE, MASKED_BANDS, MASKED_FRAMES = 0.3, 13, 15
"""How often a crop loses bands, and how many bands and frames it loses at most."""
FLOOR_SHARE, LOWEST_FLOOR = 0.3, 0.6
"""How often everything quieter than some level is made equal, and the highest such level."""
CHANGED_SHARE, WIDEST_PITCH, WIDEST_FORMANT = 0.5, 7.0, 1.18
"""How often pitch and formants of a crop are moved, and by how many semitones and by which factor at most."""
NOISE_SHARE, SNR_DB = 0.3, (8.0, 40.0)
"""How often noise is added to such a crop, and how far it lies below the speech."""
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
        goal: (N, C), the teacher's channels for the unchanged recording, or what a projection makes of them
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
        heard = [each[2 * start : 2 * stop].astype(np.float32) for each in (version.levels, version.fine_levels)]
        if chooser.random() < CHANGED_SHARE:
            heard[0] = _changed(heard[0], chooser)  # the finer ones belong to the pitch that the recording has
        levels, fine_levels = (_filled(_masked(each, chooser), 2 * self.n_frames) for each in heard)
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


def _changed(levels: Array, chooser: np.random.Generator) -> Array:
    """Levels of another pitch and throat, and now and then of noise: (T, n_mels) -> (T, n_mels)."""
    pitch, formant, tilt = chooser.uniform(-1.0, 1.0, 3)
    change = Change(
        pitch=2.0 ** (WIDEST_PITCH / 12.0 * pitch),
        formant=WIDEST_FORMANT**formant,
        snr_db=chooser.uniform(*SNR_DB) if chooser.random() < NOISE_SHARE else None,
        tilt_db=NOISE_TILT_DB * tilt,
    )
    silence = np.float32(SILENCE)
    return np.clip(changed((levels - 1.0) * silence, change, CONTENT_MEL, chooser) / silence + 1.0, 0.0, 1.0)


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


@dataclass(frozen=True, eq=False)
class Projection:
    """What of the teacher's channels the network has to write.

    Attributes:
        centre: (C,), the mean of everything
        directions: (C, D)
        offset: (D,), added to the result
    """

    centre: Array
    directions: Array
    offset: Array

    def __call__(self, feature: Array | Halves) -> Array:
        """(T, C) -> (T, D)."""
        return np.asarray((feature - self.centre) @ self.directions + self.offset, dtype=np.float32)

    def turned(self, pairs: Iterable[tuple[Array | Halves, Array]]) -> Projection:
        """The same channels, turned towards those that an encoder writes, so that whoever reads those can read these.

        They have the mean and, on the whole, the variance of those, and the angles between them stay (the orthogonal
        Procrustes problem, Schoenemann, 1966).

        Args:
            pairs: what the teacher and what the encoder write for some recordings, (T, C) and (T, D) each
        """
        ours, theirs = _Moments(), _Moments()
        products: Matrix = np.zeros((1, 1))
        for one, other in pairs:
            left, right = self(one)[: len(other)].astype(np.float64), other[: len(one)].astype(np.float64)
            ours.add(left)
            theirs.add(right)
            products = products + left.T @ right
        u, _, v = np.linalg.svd(products - ours.count * np.outer(ours.mean, theirs.mean))
        turn = u @ v * math.sqrt(float(np.trace(theirs.covariance)) / float(np.trace(ours.covariance)))
        offset = theirs.mean + (self.offset - ours.mean) @ turn
        return Projection(self.centre, (self.directions @ turn).astype(np.float32), offset.astype(np.float32))


class _Moments:
    """Mean and covariance of frames, without keeping them."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Matrix = np.zeros(1)
        self._products: Matrix = np.zeros((1, 1))

    def add(self, frames: Matrix) -> None:
        """Take in (T, C) more."""
        self.count += len(frames)
        self._sum = self._sum + frames.sum(axis=0)
        self._products = self._products + frames.T @ frames

    @property
    def mean(self) -> Matrix:
        """(C,)"""
        return np.asarray(self._sum / self.count)

    @property
    def covariance(self) -> Matrix:
        """(C, C)"""
        return np.asarray((self._products - self.count * np.outer(self.mean, self.mean)) / max(1, self.count - 1))


class _Networks(nn.Module):
    """Both encoders, for one optimiser."""

    def __init__(self, content: ContentSizes, melody: ContentSizes) -> None:
        super().__init__()
        self.content = ContentEncoder(content)
        self.melody = MelodyEncoder(melody)


def network_sizes(config: Config, *, n_fine: int, n_out: int) -> tuple[ContentSizes, ContentSizes]:
    """Sizes of the encoders of content and melody that a configuration asks for."""
    settings = config.content
    content = ContentSizes(
        stem=settings.stem, width=settings.width, hidden=settings.hidden, n_blocks=settings.n_blocks,
        kernel=settings.kernel, n_out=n_out,
    )  # fmt: skip
    melody = ContentSizes(
        n_mels=n_fine, stem=settings.melody_width, width=settings.melody_width, hidden=3 * settings.melody_width,
        n_blocks=settings.melody_blocks, kernel=settings.kernel, n_out=F0_BINS + 1,
    )  # fmt: skip
    return content, melody


class ContentTrainer:
    """Networks, optimiser and average of one run; knows nothing of files.

    Args:
        n_fine: bands of the fine levels
        n_out: channels that the content encoder writes
    """

    def __init__(self, config: Config, device: torch.device, *, n_fine: int, n_out: int) -> None:
        torch.manual_seed(config.train.seed)
        self.config = config
        self.device = device
        self.networks = _Networks(*network_sizes(config, n_fine=n_fine, n_out=n_out)).to(device)
        train = config.train
        self.optimizer = torch.optim.AdamW(
            self.networks.parameters(), lr=train.lr, betas=(train.adam_beta1, train.adam_beta2),
            weight_decay=train.weight_decay, fused=True,
        )  # fmt: skip
        self.average = Averaged(self.networks, train.ema_decay)
        self.guard = DivergenceGuard()
        self.step = 0

    def begin_with(self, content: ContentEncoder, melody: MelodyEncoder) -> None:
        """Take the weights of encoders of the same sizes."""
        self.networks.content.load_state_dict(content.state_dict())
        self.networks.melody.load_state_dict(melody.state_dict())
        self.average = Averaged(self.networks, self.config.train.ema_decay)

    def losses(self, crops: Crops) -> Tensor:
        """In the order of ``CONTENT_LOSSES``.

        That of the content is the mean squared difference from the goals.
        """
        levels, fine_levels, goals, f0, real = (each.to(self.device) for each in crops)
        half = self.config.train.precision == "bf16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            written = self.networks.content(levels)
            melody = self.networks.melody.loss(fine_levels, f0, real)
        error = (written.float() - goals).clamp(-FURTHEST, FURTHEST).square().mean(-1)
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


def discriminant(sentences: Sequence[Sequence[Array]], n_out: int) -> Projection:
    """The directions in which moments of sentences differ most, compared with the people who say them.

    Args:
        sentences: for each sentence, the features (T, C) of everybody who says it, at least two

    Returns:
        to ``n_out`` channels, the best first, in which the variance of everything is 1

    Raises:
        DataError: hardly any speech, or speakers who do not differ.
    """
    from scipy.linalg import eigh

    everything = _Moments()
    for feature in (feature for readings in sentences for feature in readings):
        everything.add(feature.astype(np.float64))
    centre, total = everything.mean, everything.covariance
    within, count = np.zeros_like(total), 0.0
    for readings in sentences:
        middle = sorted(readings, key=len)[len(readings) // 2]
        aligned = np.stack([_at_moments_of(middle, feature, centre) for feature in readings])  # (people, T, C)
        difference = (aligned - aligned.mean(axis=0)).reshape(-1, aligned.shape[2])
        within += difference.T @ difference
        count += len(middle) * (len(readings) - 1)
    if everything.count <= 2 * n_out or not np.trace(within) > 0.0:
        raise DataError(
            f"the sentences that several speakers read hold {everything.count} frames in all; expected many more than "
            f"the {n_out} channels that are to be found, from speakers who differ"
        )
    within /= count
    within += RIDGE * np.trace(within) / len(within) * np.eye(len(within))
    # the variance among people is 1 along each of the vectors, and that of everything their value
    values, vectors = eigh(total, within, subset_by_index=(len(total) - n_out, len(total) - 1))
    directions = np.ascontiguousarray((vectors / np.sqrt(values))[:, ::-1])
    return Projection(centre.astype(np.float32), directions.astype(np.float32), np.zeros(n_out, dtype=np.float32))


def _at_moments_of(middle: Array, feature: Array, centre: Matrix) -> Matrix:
    """Means of the frames that belong to each frame of another reading: (T, C)."""
    frames = content_path((middle - centre).astype(np.float32), (feature - centre).astype(np.float32)).frames
    sums = np.zeros(middle.shape, dtype=np.float64)
    np.add.at(sums, frames[:, 0], feature[frames[:, 1]])
    return sums / np.bincount(frames[:, 0])[:, None]
