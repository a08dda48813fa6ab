"""Memory: what an error says, what fits, and steps that go on after it ran out."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from aasvc_cli.config.reading import override, parse_config
from aasvc_cli.config.settings import Config
from aasvc_cli.data.dataset import Batch
from aasvc_cli.errors import TrainingError
from aasvc_cli.features.kinds import with_widths
from aasvc_cli.model.layers import FrameBatchNorm
from aasvc_cli.training.batch_size import in_batches_of, largest_batch
from aasvc_cli.training.memory import (
    is_out_of_memory,
    largest_that_fits,
    peak,
    reset_peak,
    return_free_memory,
    usable_memory,
)
from aasvc_cli.training.voice_trainer import Trainer

CPU = torch.device("cpu")
WITHOUT_DROPOUT = {
    f"{key}dropout": 0.0
    for key in (
        "encoder_", "encoder_positional_", "encoder_attention_", "decoder_", "decoder_positional_",
        "decoder_attention_", "postnet_", "duration_", "flow_",
    )
}  # fmt: skip


def config(**model: object) -> Config:
    """A small network without dropout."""
    sizes = {"width": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_hidden": 8, "decoder_hidden": 8}
    sizes |= {"encoder_kernel": 3, "decoder_kernel": 3, "postnet_layers": 2, "postnet_channels": 8}
    sizes |= {"flow_count": 2, "flow_layers": 1, "duration_input": "tokens", "duration_channels": 16}
    # Adam divides small gradients by themselves, which would blow up rounding errors
    train = {"lr": 1e-3, "warmup_steps": 1, "adam_eps": 1e-3, "grad_norm": 0.0}
    tree = {
        "features": {"mel": {"n_mels": 6}},
        "model": {**sizes, **WITHOUT_DROPOUT, **model},
        "train": train,
    }
    return with_widths(parse_config(tree, "test"))


def without_batch_norms(trainer: Trainer) -> Trainer:
    """The trainer with a network in which utterances of a batch do not see each other."""
    for part in trainer.model.modules():
        if isinstance(part, FrameBatchNorm):
            part.forward = lambda x, padding=None: x  # type: ignore[method-assign]
    return trainer


def batch(size: int = 8, seed: int = 0) -> Batch:
    """Utterances of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    source_lengths = torch.randint(16, 41, (size,), generator=generator)
    target_lengths = torch.randint(14, 38, (size,), generator=generator)
    source = torch.randn(size, int(source_lengths.max()), 6, generator=generator)
    target = torch.randn(size, int(target_lengths.max()), 6, generator=generator)
    for row in range(size):
        source[row, source_lengths[row] :] = 0.0
        target[row, target_lengths[row] :] = 0.0
    return Batch(tuple(f"u{i}" for i in range(size)), source, source_lengths, target, target_lengths, source)


def weights(trainer: Trainer) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in trainer.model.parameters()])


class SmallMemory:
    """Has room for some utterances at once, and fails in the middle of the backward pass where there are more."""

    def __init__(self, trainer: Trainer, room: Callable[[], float], error: Callable[[], Exception]):
        self.losses, self.room, self.error = trainer.losses, room, error
        self.failures = 0
        trainer.losses = self  # type: ignore[assignment]

    def __call__(self, part: Batch, *arguments: object, **options: object) -> object:
        losses = self.losses(part, *arguments, **options)  # type: ignore[arg-type]
        if len(part.utterance_ids) > self.room():

            def fail(_: Tensor) -> None:
                self.failures += 1
                raise self.error()

            losses.total.register_hook(fail)
        return losses


ERRORS = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "host": MemoryError,
    "allocator": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_errors_of_full_memory_are_known(error: Callable[[], Exception]):
    assert is_out_of_memory(error())


def test_an_allocation_that_really_fails_is_known_and_other_errors_are_not():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2) + torch.zeros(3)
    assert not is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ({}, ERRORS["cuda"]),
        ({"mask_padding": True}, ERRORS["host"]),
        ({"duration_predictor": "poisson", "duration_rounding": "nearest"}, ERRORS["allocator"]),
    ],
    ids=["published", "masked", "poisson"],
)
def test_a_step_that_runs_out_of_memory_ends_with_the_weights_of_an_undisturbed_one(model, error):
    calm, tight = (without_batch_norms(Trainer(config(**model), CPU)) for _ in range(2))
    memory = SmallMemory(tight, lambda: 2, error)
    for trainer in (calm, tight):
        trainer.step = 1  # all losses count
    for step in range(2):
        torch.manual_seed(step)
        expected, expected_norm, _ = calm.update([batch(seed=2 * step), batch(seed=2 * step + 1)])
        state = torch.get_rng_state()
        torch.manual_seed(step)
        found, norm, _ = tight.update([batch(seed=2 * step), batch(seed=2 * step + 1)])
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.allclose(found, expected, atol=1e-5)
        assert norm == pytest.approx(expected_norm, rel=1e-5)
        assert (weights(tight) - weights(calm)).abs().max() < 1e-6
    assert (weights(tight) - weights(Trainer(config(**model), CPU))).abs().max() > 1e-4
    assert memory.failures == 2, "8 and 4 do not fit, and the second step knows"


def test_it_is_reported_once_and_remembered_by_a_resumed_run():
    told: list[str] = []
    first = Trainer(config(), CPU, on_message=told.append)
    SmallMemory(first, lambda: 2, MemoryError)
    for step in range(2):
        first.update([batch(seed=step)])
    assert told == [
        "out of memory at step 1: from now on 2 of 8 utterances at once, and 4 times as many batches per step, so that "
        "the effective batch stays"
    ]
    resumed = Trainer(config(), CPU)
    resumed.load_state(*first.state())
    memory = SmallMemory(resumed, lambda: 2, MemoryError)
    resumed.update([batch()])
    assert memory.failures == 0


def test_when_one_utterance_does_not_fit_blocks_are_computed_twice():
    calm, told = without_batch_norms(Trainer(config(), CPU)), list[str]()
    tight = without_batch_norms(Trainer(config(), CPU, on_message=told.append))
    memory = SmallMemory(tight, lambda: 1 if tight.checkpointing else 0, MemoryError)
    calm.update([batch()])
    tight.update([batch()])
    assert memory.failures == 4, "8, 4, 2 and 1"
    assert told[0].endswith("; with activation checkpointing, which is slower")
    assert (weights(tight) - weights(calm)).abs().max() < 1e-6
    resumed = Trainer(config(), CPU)
    resumed.load_state(*tight.state())
    assert resumed.checkpointing and resumed.micro == 1


def test_an_utterance_that_never_fits_is_named_with_its_length_and_nothing_changes():
    trainer = Trainer(config(), CPU)
    before = weights(trainer).clone()
    trouble = batch()
    lengths = (int(trouble.source_lengths[5]), int(trouble.target_lengths[5]))
    losses = trainer.losses

    def measured(part: Batch, *arguments: object, **options: object) -> object:
        if "u5" in part.utterance_ids:
            raise MemoryError
        return losses(part, *arguments, **options)  # type: ignore[arg-type]

    trainer.losses = measured  # type: ignore[assignment,method-assign]
    with pytest.raises(TrainingError, match=rf"utterance u5 \({lengths[0]} source and {lengths[1]} target frames\)"):
        trainer.update([trouble])
    assert torch.equal(weights(trainer), before)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_running_statistics_are_those_of_the_attempt_that_succeeded():
    tight, small = (Trainer(config(mask_padding=True), CPU) for _ in range(2))
    SmallMemory(tight, lambda: 4, MemoryError)
    small.micro = 4
    for trainer in (tight, small):
        torch.manual_seed(0)
        trainer.update([batch()])
    expected = small.model.state_dict()
    assert all(torch.equal(expected[name], tensor) for name, tensor in tight.model.state_dict().items())


# --- what fits -------------------------------------------------------------------------------------------------------


@given(
    base=st.integers(0, 1000),
    per_item=st.integers(1, 100),
    limit=st.integers(1, 20000),
    most=st.integers(1, 400),
    fails_from=st.integers(1, 500) | st.just(10**9),
)
def test_the_largest_size_that_fits_is_found_with_few_measurements(base, per_item, limit, most, fails_from):
    measured: list[int] = []

    def measure(size: int) -> float:
        measured.append(size)
        return math.inf if size >= fails_from else base + per_item * size

    expected = [size for size in range(1, most + 1) if measure(size) <= limit]
    measured.clear()
    assert largest_that_fits(measure, limit, most) == max(expected, default=0)
    assert len(measured) <= 16
    if fails_from > most:
        # what would not fit is hardly tried: where a machine has no more memory, that ends the program
        assert max(measured) <= max(2, 2 * max(expected, default=0))


@given(effective=st.integers(1, 64), largest=st.integers(1, 64))
def test_accumulation_makes_up_for_a_smaller_batch_exactly(effective, largest):
    batch_size, accum = in_batches_of(effective, largest)
    assert batch_size * accum == effective and batch_size <= largest


def test_the_peak_of_memory_is_seen_and_what_is_free_is_known():
    reset_peak(CPU)
    before = peak(CPU)
    torch.ones(50_000_000).sum()
    assert peak(CPU) - before > 150e6
    assert usable_memory(CPU) > before


@pytest.fixture
def pretended_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Memory in which an utterance takes ten bytes, or four with checkpointing."""
    seen: list[int] = []
    update = Trainer.update

    def observed(trainer: Trainer, batches: list[Batch]) -> object:
        seen.append(len(batches[0].utterance_ids) * (4 if trainer.checkpointing else 10))
        return update(trainer, batches)

    monkeypatch.setattr(Trainer, "update", observed)
    monkeypatch.setattr("aasvc_cli.training.batch_size.peak", lambda device: seen[-1])
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "most", "expected"), [(65, 100, (6, False)), (65, 5, (5, False)), (9, 100, (2, True))]
)
def test_the_longest_utterances_decide_how_many_fit(pretended_memory, limit, most, expected):
    fit = largest_batch(config(), CPU, lambda size: batch(size), limit, most)
    assert (fit.batch_size, fit.checkpointing) == expected
    assert fit.needed <= limit


def test_if_nothing_fits_the_longest_utterance_is_named(pretended_memory):
    with pytest.raises(TrainingError, match="utterance u0, the longest"):
        largest_batch(override(config(), {"train.checkpointing": True}), CPU, lambda size: batch(size), 3, 100)


# --- memory that is free ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None) if os.name == "posix" else None, "malloc_trim"), reason="needs glibc")
def test_holes_between_arrays_go_back_to_the_system():
    arrays = [torch.ones(16_000) for _ in range(4000)]  # small enough to lie side by side
    del arrays[::2]
    reset_peak(CPU)
    before = peak(CPU)
    return_free_memory()
    reset_peak(CPU)
    assert before - peak(CPU) > 90e6
    assert all(bool((array == 1.0).all()) for array in arrays)


@pytest.mark.parametrize(("width", "expected"), [(32, 2 * (2 + 1)), (33, 0)])
def test_free_memory_goes_back_between_wide_blocks_forward_and_backward(width, expected, monkeypatch):
    calls: list[bool] = []
    monkeypatch.setattr("aasvc_cli.training.voice_trainer.WIDTH_TO_TIDY", width)
    monkeypatch.setattr(
        "aasvc_cli.training.voice_trainer.return_free_memory", lambda: calls.append(torch.is_grad_enabled())
    )
    trainer = Trainer(config(decoder_layers=2), CPU)
    trainer.update([batch()])
    assert len(calls) == expected, "the decoder is 32 wide and the encoder 8"
    calls.clear()
    trainer.evaluate([batch()])
    assert not calls
