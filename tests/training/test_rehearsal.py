"""What a training will take, against closed forms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from aasvc_cli.config.reading import parse_config
from aasvc_cli.data.dataset import Batch
from aasvc_cli.data.manifest import ParallelPair
from aasvc_cli.features.kinds import with_widths
from aasvc_cli.training.rehearsal import rehearse
from aasvc_cli.training.voice_trainer import Trainer

MODEL = {"width": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_hidden": 8, "decoder_hidden": 8,
         "encoder_kernel": 3, "decoder_kernel": 3, "postnet_layers": 1, "flow_count": 2, "flow_layers": 1,
         "duration_input": "tokens"}  # fmt: skip


def trainer(**train: object) -> Trainer:
    settings = {"batch_size": 2, "accum": 3, "max_steps": 100, "eval_every": 30, "dropout_start_step": 50, **train}
    tree = {"features": {"mel": {"n_mels": 6}}, "model": MODEL, "train": settings}
    return Trainer(with_widths(parse_config(tree, "test")), torch.device("cpu"))


def pairs(*frames: int) -> list[ParallelPair]:
    return [
        ParallelPair(f"u{number}", Path("s"), Path("t"), source_frames=length, target_frames=length - 4)
        for number, length in enumerate(frames)
    ]


def collated(frames: Sequence[int]):
    def batch(indices: Sequence[int]) -> Batch:
        longest, n = max(frames[i] for i in indices), len(indices)
        source, target = torch.randn(n, longest, 6), torch.randn(n, longest - 4, 6)
        lengths = torch.tensor([frames[i] for i in indices])
        return Batch(tuple(f"u{i}" for i in indices), source, lengths, target, lengths - 4, source)

    return batch


def test_the_time_left_is_that_of_all_steps_and_measurements_at_the_speed_that_was_measured(monkeypatch):
    frames = [40] * 8 + [100] * 2
    taken = trainer(bucket=True)
    # seconds that a batch of so many padded frames takes
    monkeypatch.setattr(Trainer, "rehearse", lambda self, batch: 1.0 + 0.01 * batch.source.shape[:2].numel())
    plan = rehearse(taken, collated(frames), pairs(*frames), pairs(50, 30))
    per_batch = (4 * (1.0 + 0.01 * 80) + 1.0 + 0.01 * 200) / 5
    dev_pass = (1.0 + 0.01 * 80) * 80 / 80 / 3
    assert (plan.n_utterances, plan.n_frames, plan.batch_seconds) == (2, 200, 3.0)
    assert plan.seconds == pytest.approx(100 * 3 * per_batch + 4 * dev_pass), "after 30, 60, 90 and 100 steps"
    taken.step = 60
    assert rehearse(taken, collated(frames), pairs(*frames), pairs(50, 30)).seconds == pytest.approx(
        40 * 3 * per_batch + 2 * dev_pass
    )


def test_nothing_of_the_trainer_changes():
    frames = [24, 32, 40, 28]
    taken = trainer(ema_decay=0.9)
    before, numbers = taken.state()
    before = {name: tensor.clone() for name, tensor in before.items()}
    batch = collated(frames)
    batches = {indices: batch(indices) for indices in [(0, 1), (2, 1)]}
    state = torch.get_rng_state()
    for each in batches.values():
        assert taken.rehearse(each) > 0
    after, numbers_after = taken.state()
    assert torch.equal(torch.get_rng_state(), state)
    assert numbers_after == numbers and taken.step == 0
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before if name != "rng.cpu")
    assert all(parameter.grad is None for parameter in taken.model.parameters())


def test_all_losses_and_dropouts_take_part(monkeypatch):
    taken = trainer()
    steps: list[int] = []
    backward = taken._backward
    monkeypatch.setattr(taken, "_backward", lambda *rest: steps.append(taken.step) or backward(*rest))
    taken.rehearse(collated([24])([0]))
    assert steps == [50]


def test_memory_that_does_not_suffice_for_the_longest_batch_is_told(monkeypatch):
    frames = [24, 24, 24, 24, 60, 60]

    def tight(self: Trainer, batch: Batch) -> float:
        if batch.source.shape[1] > 30:
            raise MemoryError
        return 1.0

    monkeypatch.setattr(Trainer, "rehearse", tight)
    plan = rehearse(trainer(bucket=True), collated(frames), pairs(*frames), pairs(24))
    assert (plan.batch_seconds, plan.memory) == (None, None)
    assert plan.seconds > 0


def test_batches_that_the_bound_makes_much_smaller_are_told():
    frames = [100] * 12
    taken = trainer(batch_size=4, max_frames=200)
    plan = rehearse(taken, collated(frames), pairs(*frames), pairs(50))
    assert (plan.n_utterances, plan.n_frames) == (2, 200)
    assert (plan.usual_utterances, plan.unbounded_utterances) == (2.0, 4.0)
