"""Steps, schedules and averages."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aasvc_cli.config.reading import override, parse_config
from aasvc_cli.config.settings import Config, TrainConfig
from aasvc_cli.data.dataset import Batch
from aasvc_cli.errors import TrainingError
from aasvc_cli.features.kinds import with_widths
from aasvc_cli.model.aasvc import AASVC
from aasvc_cli.model.conformer import ConformerBlock
from aasvc_cli.training.losses import total_loss
from aasvc_cli.training.optimisation import Averaged, DivergenceGuard, learning_rate
from aasvc_cli.training.voice_trainer import LOSS_NAMES, Trainer

CPU = torch.device("cpu")


def _config(**train: object) -> Config:
    model = {"width": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_hidden": 8, "decoder_hidden": 8}
    model |= {"encoder_kernel": 3, "decoder_kernel": 3, "postnet_layers": 1, "flow_count": 2, "flow_layers": 1}
    model |= {"duration_input": "tokens", "mask_padding": True}
    tree = {"features": {"mel": {"n_mels": 6}}, "model": model, "train": {"lr": 1e-3, "warmup_steps": 1, **train}}
    return with_widths(parse_config(tree, "test"))


def _batch(size: int = 2, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    source, target = torch.randn(size, 24, 6, generator=generator), torch.randn(size, 20, 6, generator=generator)
    lengths = torch.full((size,), 24), torch.full((size,), 20)
    return Batch(tuple(f"u{i}" for i in range(size)), source, lengths[0], target, lengths[1], source)


def test_the_published_schedule_has_its_published_values():
    config = TrainConfig(lr=8e-5, warmup_steps=4000)
    assert learning_rate(0, config) == pytest.approx(2e-8)
    assert learning_rate(3999, config) == pytest.approx(8e-5)
    assert learning_rate(15999, config) == pytest.approx(4e-5)


def test_the_cosine_schedule_rises_to_its_peak_and_falls_to_zero():
    config = TrainConfig(lr=1e-3, warmup_steps=10, max_steps=110, schedule="cosine")
    rates = [learning_rate(step, config) for step in range(110)]
    assert rates[9] == pytest.approx(1e-3) == max(rates)
    assert rates[59] == pytest.approx(5e-4)
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_steps_lower_the_loss_of_a_batch_that_is_seen_again_and_again():
    trainer = Trainer(_config(lr=1e-2), CPU)
    first, *_ = trainer.update([_batch()])
    for _ in range(40):
        last, *_ = trainer.update([_batch()])
    assert float(last[-1]) < 0.9 * float(first[-1])


def test_the_pitch_of_the_targets_is_learnt_where_it_can_be_read():
    def pitch_of(target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        places = torch.arange(target.shape[1]).expand(target.shape[:2])
        return torch.where(places < 6, 300.0, 240.0), places < 12

    config = override(_config(lr=1e-2), {"model.pitch_predictor": True})
    trainer, deaf = Trainer(config, CPU, pitch_of=pitch_of), Trainer(config, CPU)
    index = LOSS_NAMES.index("pitch")
    first, *_ = trainer.update([_batch()])
    for _ in range(60):
        last, *_ = trainer.update([_batch()])
    assert float(last[index]) < 0.5 * float(first[index])
    assert float(deaf.update([_batch()])[0][index]) == 0.0


@pytest.mark.parametrize("settings", [{}, {"loss.prior": "beta-binomial", "train.ema_decay": 0.5}])
def test_alignment_losses_are_those_of_an_evaluation_and_a_stop_gives_the_weights_back(settings: dict[str, Any]):
    trainer = Trainer(override(_config(), settings), CPU)
    for _ in range(3):
        trainer.update([_batch()])
    pairs = [_batch(1, seed) for seed in range(3)]
    live = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    assert list(trainer.alignment_losses(pairs)) == pytest.approx(
        [trainer.evaluate([pair])["forward_sum"] for pair in pairs], rel=1e-5
    )
    with contextlib.closing(trainer.alignment_losses(pairs)) as stopped:
        next(stopped)
    assert all(torch.equal(tensor, live[name]) for name, tensor in trainer.model.state_dict().items())


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("predictor", ["stochastic", "deterministic", "poisson"])
def test_a_gradient_asks_the_device_for_no_value(predictor: str, published: bool, monkeypatch: pytest.MonkeyPatch):
    """On a GPU, the host would wait for it. The device ``meta`` has shapes and no values, so whoever asks fails."""
    meta = torch.device("meta")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # which does not know it
    model = {"duration_predictor": predictor, "mask_padding": not published, "duration_dim": 20}
    model["duration_input"] = "feature" if published else "tokens"
    config = override(_config(), {f"model.{name}": value for name, value in model.items()})
    network = AASVC(config.model).to(meta).train()
    batch = _batch().to(meta)
    forced = network(
        batch.source, batch.source_lengths, batch.target, batch.target_lengths, torch.empty(2, 24, 20, device=meta),
        noise=torch.empty(2, config.model.n_tokens(24), 2, device=meta),
    )  # fmt: skip
    total_loss(forced, config.loss, config.loss.duration_start_step + 1).total.backward()
    assert network.output.weight.grad is not None


def test_accumulated_micro_batches_give_the_gradient_of_their_mean_loss():
    trainer = Trainer(_config(adam_beta1=0.0, adam_beta2=0.0, grad_norm=0.0), CPU)
    trainer.model.eval()
    trainer.model.train = lambda mode=True: trainer.model  # type: ignore[method-assign]  # no dropout, no batch statistics
    torch.manual_seed(1)
    batches = [_batch(seed=1), _batch(seed=2)]
    torch.manual_seed(1)
    expected = torch.autograd.grad(
        sum(trainer.losses(batch).total for batch in batches) / 2, [trainer.model.output.weight]
    )[0]
    torch.manual_seed(1)
    before = trainer.model.output.weight.detach().clone()
    _, norm, rate = trainer.update(batches)
    # Adam without memory moves every weight against the sign of its gradient by the learning rate
    moved = (trainer.model.output.weight.detach() - before) / rate
    large = expected.abs() > 1e-4
    assert torch.allclose(moved[large], -expected[large].sign(), atol=1e-3)
    assert norm > 0


def test_dropout_begins_at_its_step():
    trainer = Trainer(_config(dropout_start_step=2), CPU)
    trainer.model.eval()
    noise = torch.zeros(2, 20, 2)

    def differ() -> bool:
        """Whether two passes in training mode differ."""
        first, second = (trainer.forward(_batch(), noise=noise).before for _ in range(2))
        return not torch.equal(first, second)

    seen = []
    for _ in range(4):
        trainer.update([_batch()])
        seen.append(differ())
    # what the passes show is how the step before them was computed
    assert seen == [False, False, True, True]
    assert trainer.model.training


def test_a_loss_that_is_not_finite_stops_without_touching_the_weights():
    trainer = Trainer(_config(), CPU)
    before = {name: tensor.clone() for name, tensor in trainer.model.named_parameters()}
    bad = _batch()
    bad.target[0, 3, 2] = torch.nan
    with pytest.raises(TrainingError, match=r"not a finite number at step 1 \(utterances u0, u1"):
        trainer.update([bad])
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.model.named_parameters())


def test_a_loss_that_leaves_its_level_for_good_is_noticed_and_a_spike_is_not():
    guard = DivergenceGuard()
    for step in range(100):
        guard.check(1.0, step)
    guard.check(20.0, 100)
    with pytest.raises(TrainingError, match="diverged"):
        for step in range(101, 1000):
            guard.check(20.0, step)


def test_the_average_follows_its_formula_and_lends_itself():
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    average = Averaged(model, 0.9)
    expected = 1.0
    for step in range(1, 30):
        with torch.no_grad():
            model.weight.fill_(float(step))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    with average.swapped():
        assert model.weight.item() == pytest.approx(expected, rel=1e-5)
    assert model.weight.item() == 29.0


def test_measuring_draws_no_random_numbers_and_changes_nothing():
    trainer = Trainer(_config(ema_decay=0.9), CPU)
    trainer.update([_batch()])
    state, _ = trainer.state()
    state = {name: tensor.clone() for name, tensor in state.items()}
    once, again = trainer.evaluate([_batch(), _batch(1)]), trainer.evaluate([_batch(), _batch(1)])
    assert once == again and all(math.isfinite(value) for value in once.values())
    after, _ = trainer.state()
    assert all(torch.equal(state[name], tensor) for name, tensor in after.items())


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_trainer_goes_on_from_its_state_bit_by_bit(ema_decay, precision):
    config = _config(ema_decay=ema_decay, precision=precision)
    whole = Trainer(config, CPU)
    for step in range(4):
        whole.update([_batch(seed=step)])
    first = Trainer(config, CPU)
    for step in range(2):
        first.update([_batch(seed=step)])
    tensors, numbers = first.state()
    second = Trainer(config, CPU)
    second.load_state({name: tensor.clone() for name, tensor in tensors.items()}, numbers)
    for step in range(2, 4):
        second.update([_batch(seed=step)])
    expected, found = whole.state()[0], second.state()[0]
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_running_statistics_of_batch_norms_are_averaged_with_the_weights():
    trainer = Trainer(_config(ema_decay=0.9), CPU)
    for step in range(3):
        trainer.update([_batch(seed=step)])
    name = "decoder.blocks.0.convolution.norm.running_var"
    live = trainer.model.state_dict()[name].clone()
    assert not torch.equal(trainer.weights()[name], live)
    with trainer.average.swapped():
        assert torch.equal(trainer.model.state_dict()[name], trainer.weights()[name])
    assert torch.equal(trainer.model.state_dict()[name], live)


@pytest.mark.parametrize("mask_padding", [False, True])
def test_checkpointing_changes_no_bit_of_the_result(mask_padding):
    states = []
    for checkpointing in (False, True):
        changes = {"model.mask_padding": mask_padding, "train.checkpointing": checkpointing}
        changes |= {"model.encoder_layers": 2, "model.decoder_layers": 3}
        trainer = Trainer(override(_config(), changes), CPU)
        for step in range(3):
            trainer.update([_batch(seed=step)])
        states.append(trainer.state()[0])
    plain, checkpointed = states
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)


def test_checkpointing_computes_all_blocks_but_the_last_twice():
    changes = {"train.checkpointing": True, "model.encoder_layers": 2, "model.decoder_layers": 3}
    trainer = Trainer(override(_config(), changes), CPU)
    calls: list[str] = []
    for name, part in trainer.model.named_modules():
        if isinstance(part, ConformerBlock):
            part.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    trainer.update([_batch()])
    assert {name.rpartition(".blocks")[0] + name[-1]: calls.count(name) for name in calls} == {
        "encoder.conformer0": 2, "encoder.conformer1": 2, "decoder0": 2, "decoder1": 2, "decoder2": 1,
    }  # fmt: skip


class HostReads(TorchDispatchMode):
    """Counts how often a value is waited for, as a GPU would have to be."""

    WAITING = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.equal", "aten.is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func).rpartition(".")[0] in self.WAITING:
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_waits_for_the_device_once(precision, monkeypatch):
    from aasvc_cli.model import alignment

    # as on a GPU, where the search is made of tensor operations
    monkeypatch.setattr("aasvc_cli.model.aasvc.monotonic_search", alignment.tensor_monotonic_search)
    trainer = Trainer(_config(precision=precision, ema_decay=0.9), CPU)
    reads: list[int] = []
    tolist = torch.Tensor.tolist

    def counted(tensor: torch.Tensor) -> Any:
        reads.append(tensor.numel())
        return tolist(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    trainer.update([_batch()])
    reads.clear()
    with HostReads() as reading:
        trainer.update([_batch(seed=1), _batch(seed=2)])
    # on the host, the amounts (2, 3) of this process and of all; on the device, seven losses and the norm
    assert sorted(reads) == [6, 6, 8]
    assert reading.seen == []


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_leaves_alignment_durations_losses_and_weights_alone(precision):
    trainer = Trainer(_config(precision=precision), CPU)
    result = trainer.forward(_batch())
    assert result.before.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert result.duration_nll is not None
    assert result.log_alignment.dtype == result.durations.dtype == result.duration_nll.dtype == torch.float32
    losses, *_ = trainer.update([_batch()])
    assert losses.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in trainer.losses(_batch()).named().values())
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())


def test_a_gradient_that_overflows_is_computed_again_with_a_smaller_scale():
    trainer, calm = Trainer(_config(precision="fp16"), CPU), Trainer(_config(precision="fp16"), CPU)
    trainer.scaler.load_state_dict({**trainer.scaler.state_dict(), "scale": 2.0**40})
    torch.manual_seed(0)
    found, norm, _ = trainer.update([_batch()])
    assert trainer.step == 1 and math.isfinite(norm)
    assert 1.0 <= trainer.scaler.get_scale() < 2.0**40
    torch.manual_seed(0)
    expected, *_ = calm.update([_batch()])
    assert torch.equal(found, expected), "the same random numbers as in the attempts before"


class TestContentPrior:
    """An alignment that is known beforehand."""

    @staticmethod
    def setup() -> tuple[Trainer, Batch, torch.Tensor]:
        """A pair whose target dwells on the first half of the source."""
        config = override(_config(lr=1e-2), {"loss.prior": "content", "loss.prior_band": 0.5, "loss.prior_steps": 30})
        batch = dataclasses.replace(
            _batch(1), guide=torch.cat([torch.arange(15) * 0.8, torch.linspace(12, 23, 5)])[None]
        )
        assert batch.guide is not None
        return Trainer(config, CPU), batch, (batch.guide[0] + 0.5) / 4 - 0.5

    def test_is_followed_from_the_first_step_on(self):
        trainer, batch, places = self.setup()
        with torch.no_grad():
            assert (trainer.forward(batch).path[0] - places).abs().max() < 1.0
            unaware = trainer.forward(dataclasses.replace(batch, guide=None)).path[0]
        assert (unaware - places).abs().max() > 1.0

    def test_has_been_learnt_when_it_has_faded(self):
        trainer, batch, places = self.setup()
        for _ in range(31):
            trainer.update([batch])
        result = trainer.forward(batch)
        assert result.log_prior is None
        assert (result.path[0] - places).abs().max() < 1.5

    def test_is_not_there_when_held_out_pairs_are_measured(self):
        trainer, batch, _ = self.setup()
        blind = dataclasses.replace(batch, guide=None)
        diagonal = Trainer(override(trainer.config, {"loss.prior": "beta-binomial"}), CPU)
        assert trainer.evaluate([blind]) == diagonal.evaluate([blind])
