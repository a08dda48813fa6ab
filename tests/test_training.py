"""Steps, schedules and averages."""

from __future__ import annotations

import math

import pytest
import torch

from aasvc_cli.config import Config, TrainConfig, override, parse_config
from aasvc_cli.dataset import Batch
from aasvc_cli.errors import TrainingError
from aasvc_cli.training import Averaged, DivergenceGuard, Trainer, learning_rate

CPU = torch.device("cpu")


def _config(**train: object) -> Config:
    model = {"width": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_hidden": 8, "decoder_hidden": 8}
    model |= {"encoder_kernel": 3, "decoder_kernel": 3, "postnet_layers": 1, "flow_count": 2, "flow_layers": 1}
    model |= {"duration_input": "tokens", "mask_padding": True}
    tree = {"features": {"mel": {"n_mels": 6}}, "model": model, "train": {"lr": 1e-3, "warmup_steps": 1, **train}}
    return parse_config(tree, "test").resolved()


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
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
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
        config = override(_config(), {"model.mask_padding": mask_padding, "train.checkpointing": checkpointing})
        trainer = Trainer(config, CPU)
        for step in range(3):
            trainer.update([_batch(seed=step)])
        states.append(trainer.state()[0])
    plain, checkpointed = states
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)
