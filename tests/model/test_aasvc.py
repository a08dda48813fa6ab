"""The network's own promises: independence of padding, shapes, exact parts against plain formulae."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from aasvc_cli.config.settings import ModelConfig
from aasvc_cli.model.aasvc import AASVC
from aasvc_cli.model.conformer import FeedForward, RelativeAttention
from aasvc_cli.model.layers import (
    Dropout,
    FrameBatchNorm,
    TimeConv,
    padding_mask,
    relative_positions,
    stack_frames,
)

SMALL = {
    "source_dim": 12,
    "target_dim": 8,
    "duration_dim": 12,
    "width": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_hidden": 8,
    "decoder_hidden": 8,
    "encoder_kernel": 5,
    "decoder_kernel": 5,
    "postnet_layers": 2,
    "postnet_channels": 8,
    "flow_count": 2,
    "flow_layers": 2,
    "duration_channels": 8,
}


def _model(**changes: object) -> AASVC:
    torch.manual_seed(0)
    return AASVC(ModelConfig(**{**SMALL, **changes})).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("duration_input", ["feature", "tokens"])
@pytest.mark.parametrize("predictor", ["stochastic", "deterministic", "poisson"])
@pytest.mark.parametrize("feed_forward", ["linear", "conv1d", "conv1d-linear"])
def test_with_masks_a_padded_batch_equals_its_items_one_by_one(duration_input, predictor, feed_forward):
    model = _model(
        mask_padding=True,
        duration_input=duration_input,
        duration_predictor=predictor,
        feed_forward=feed_forward,
        feed_forward_kernel=3,
    )
    source_lengths, target_lengths = torch.tensor([41, 30, 23]), torch.tensor([37, 40, 11])
    source, target = torch.randn(3, 41, 12), torch.randn(3, 40, 8)
    source = source.masked_fill(padding_mask(source_lengths, 41).unsqueeze(-1), 0.0)
    target = target.masked_fill(padding_mask(target_lengths, 40).unsqueeze(-1), 0.0)
    noise = torch.randn(3, 10, 2)
    batch = model(source, source_lengths, target, target_lengths, source, noise=noise)
    for b, (s, t) in enumerate(zip(source_lengths.tolist(), target_lengths.tolist(), strict=True)):
        k = s // 4
        one = source[b : b + 1, :s]
        item = model(one, torch.tensor([s]), target[b : b + 1, :t], torch.tensor([t]), one, noise=noise[b : b + 1, :k])
        assert torch.allclose(batch.after[b, :t], item.after[0], atol=1e-5)
        assert torch.allclose(batch.log_alignment[b, :t, :k], item.log_alignment[0], atol=1e-4)
        assert torch.equal(batch.durations[b, :k], item.durations[0])
        if batch.duration_nll is not None:
            assert batch.duration_nll[b].item() * int(sum(source_lengths // 4)) == pytest.approx(
                item.duration_nll[0].item() * k, rel=1e-4
            )
        else:
            name = "log_durations" if predictor == "deterministic" else "log_expected"
            assert torch.allclose(getattr(batch, name)[b, :k], getattr(item, name)[0], atol=1e-5)


def test_without_masks_padding_leaks_as_in_the_published_code():
    model = _model(mask_padding=False)
    source, target = torch.randn(1, 24, 12), torch.randn(1, 20, 8)
    noise = torch.randn(1, 8, 2)
    lengths = torch.tensor([24]), torch.tensor([20])
    alone = model(source, lengths[0], target, lengths[1], source, noise=noise[:, :6])
    wider = torch.nn.functional.pad(source, (0, 0, 0, 8))
    padded = model(wider, lengths[0], target, lengths[1], wider, noise=noise)
    assert not torch.allclose(alone.after, padded.after, atol=1e-4)


@pytest.mark.parametrize("stacks", [(1, 1, 4), (2, 1, 2), (1, 2, 4), (1, 1, 1)])
def test_stacking_factors_give_the_documented_shapes(stacks):
    source_stack, target_stack, frames_per_token = stacks
    model = _model(
        source_stack=source_stack,
        target_stack=target_stack,
        frames_per_token=frames_per_token,
        duration_input="tokens",
    )
    source, target = torch.randn(2, 43, 12), torch.randn(2, 61, 8)
    result = model(source, torch.tensor([43, 35]), target, torch.tensor([61, 60]))
    k, t = 43 // source_stack // frames_per_token, 61 // target_stack
    assert result.log_alignment.shape == (2, t, k)
    assert result.before.shape == result.after.shape == result.target.shape == (2, t * target_stack, 8)
    assert result.durations.sum(1).tolist() == [t, 60 // target_stack]
    converted = model.convert(source[0])
    assert converted.durations.shape == (k,)
    assert converted.mel.shape == (int(converted.durations.sum()) * target_stack, 8)


def test_speed_scales_the_length():
    model = _model(
        duration_input="tokens", duration_predictor="poisson", duration_rounding="cumulative", max_duration=None
    )
    source = torch.randn(400, 12)
    lengths = [len(model.convert(source, noise_scale=0.0, speed=speed).mel) for speed in (0.5, 1.0, 2.0)]
    assert lengths[0] == pytest.approx(2 * lengths[1], abs=2) and lengths[1] == pytest.approx(2 * lengths[2], abs=2)


def test_post_norm_blocks_without_macaron_and_convolution_work():
    model = _model(encoder_norm_first=False, decoder_norm_first=False, macaron=False, conv_module=False)
    assert model.encoder.conformer.norm_output is None
    result = model(
        torch.randn(1, 20, 12), torch.tensor([20]), torch.randn(1, 18, 8), torch.tensor([18]), torch.randn(1, 20, 12)
    )
    assert bool(result.after.isfinite().all())


def test_attention_equals_the_plain_double_loop():
    torch.manual_seed(1)
    width, heads, length = 8, 2, 6
    attention = RelativeAttention(width, heads, 0.0).double()
    x = torch.randn(1, length, width, dtype=torch.float64)
    positions = relative_positions(length, width, x.device).double()
    padding = padding_mask(torch.tensor([5]), length)
    head = width // heads
    q, k, v = (layer(x)[0].view(length, heads, head) for layer in (attention.query, attention.key, attention.value))
    p = attention.position(positions).view(2 * length - 1, heads, head)
    mixed = torch.zeros(length, heads, head, dtype=torch.float64)
    for h in range(heads):
        for i in range(length):
            scores = torch.stack(
                [
                    (
                        (q[i, h] + attention.content_bias[h]) @ k[j, h]
                        + (q[i, h] + attention.position_bias[h]) @ p[length - 1 - (i - j), h]
                    )
                    / math.sqrt(head)
                    for j in range(5)
                ]
            )
            mixed[i, h] = (torch.softmax(scores, 0).unsqueeze(1) * v[:5, h]).sum(0)
    expected = attention.output(mixed.reshape(length, width))
    assert torch.allclose(attention(x, positions, padding)[0], expected, atol=1e-10)


def test_attention_gradients_are_the_numerical_ones():
    torch.manual_seed(2)
    attention = RelativeAttention(4, 2, 0.0).double()
    positions = relative_positions(3, 4, torch.device("cpu")).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: attention(value, positions, None), (x,))


def _results(part: torch.nn.Module, x: torch.Tensor, *arguments: object) -> list[torch.Tensor]:
    """What a part computes, and the gradients of something of it."""
    y = part(x, *arguments)
    weights = torch.linspace(-1.0, 1.0, y.numel(), dtype=y.dtype).view_as(y)
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *part.parameters()])]


@pytest.mark.parametrize("padded", [False, True])
def test_training_computes_attention_as_conversion_does_but_for_dropout(padded):
    torch.manual_seed(3)
    attention = RelativeAttention(8, 2, 0.0).double()
    x = torch.randn(3, 7, 8, dtype=torch.float64, requires_grad=True)
    positions = relative_positions(7, 8, x.device).double()
    padding = padding_mask(torch.tensor([7, 3, 5]), 7) if padded else None
    fused, by_hand = (_results(attention.train(mode), x, positions, padding) for mode in (False, True))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(fused, by_hand, strict=True))


def test_training_computes_feed_forward_layers_as_conversion_does_but_for_dropout():
    torch.manual_seed(4)
    layers = FeedForward(6, 10, 0.0, "linear", 1).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    plain, by_hand = (_results(layers.train(mode), x, None) for mode in (False, True))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(plain, by_hand, strict=True))


def test_gradients_with_dropout_are_the_numerical_ones():
    attention, layers = RelativeAttention(4, 2, 0.3).double(), FeedForward(4, 6, 0.3, "linear", 1).double()
    positions = relative_positions(3, 4, torch.device("cpu")).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)

    def dropped(value: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)  # the same elements each time
        return layers(attention(value, positions, None), None)

    assert torch.autograd.gradcheck(dropped, (x,))
    assert not torch.allclose(dropped(x), layers.eval()(attention.eval()(x, positions, None), None))


def test_a_block_in_training_remembers_its_weights_of_attention_once():
    attention, length = RelativeAttention(8, 2, 0.2), 40
    kept: dict[int, int] = {}

    def look(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.numel() >= 2 * length * length:
            kept[tensor.untyped_storage().data_ptr()] = tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        attention(torch.randn(1, length, 8), relative_positions(length, 8, torch.device("cpu")), None)
    assert sorted(kept.values()) == [1, 4], "one byte each for what is dropped, and the weights"


def test_relative_positions_are_sinusoids_of_the_offset():
    table = relative_positions(4, 6, torch.device("cpu")).numpy()
    for row, offset in enumerate(range(3, -4, -1)):
        for k in range(3):
            angle = offset * 10000 ** (-2 * k / 6)
            np.testing.assert_allclose(table[row, 2 * k : 2 * k + 2], [math.sin(angle), math.cos(angle)], atol=1e-6)


def test_masked_batch_norm_is_batch_norm_of_the_real_frames():
    torch.manual_seed(3)
    ours, theirs = FrameBatchNorm(4), torch.nn.BatchNorm1d(4)
    x, padding = torch.randn(2, 7, 4), padding_mask(torch.tensor([7, 3]), 7)
    found, expected = ours(x, padding)[~padding], theirs(x[~padding])
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(ours.running_var, theirs.running_var) and torch.allclose(
        ours.running_mean, theirs.running_mean
    )


def test_masked_convolution_sees_zeros_in_padding():
    conv = TimeConv(3, 5, 3)
    x = torch.randn(1, 6, 3)
    padded = torch.cat([x, torch.full((1, 4, 3), 9.0)], dim=1)
    assert torch.allclose(conv(padded, padding_mask(torch.tensor([6]), 10))[:, :6], conv(x), atol=1e-6)


def test_stacking_concatenates_neighbours_and_drops_the_rest():
    x = torch.arange(14.0).view(1, 7, 2)
    assert stack_frames(x, 3).tolist() == [[[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]]


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_keeps_the_expectation_and_drops_the_right_share(p):
    torch.manual_seed(4)
    x = torch.ones(400, 1001, requires_grad=True)
    y = Dropout(p).train()(x)
    share = round(p * 256) / 256
    assert float((y == 0).float().mean()) == pytest.approx(share, abs=0.003)
    assert y.mean().item() == pytest.approx(1.0, abs=0.01)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert torch.equal(Dropout(p).eval()(x), x)


@pytest.mark.parametrize("gradient", [False, True])
def test_the_duration_input_is_trained_only_if_asked_for(gradient):
    model = _model(duration_gradient=gradient).train()
    source = torch.randn(1, 24, 12)
    result = model(source, torch.tensor([24]), torch.randn(1, 20, 8), torch.tensor([20]), source)
    assert result.duration_nll is not None
    result.duration_nll.sum().backward()
    assert model.duration_branch is not None
    assert (model.duration_branch.output.weight.grad is not None) == gradient


@pytest.mark.parametrize("value", [50.0, math.nan])
def test_a_predictor_gone_wild_does_not_fill_the_memory(value):
    model = _model(duration_input="tokens", duration_predictor="poisson", max_duration=None)
    with torch.no_grad():
        model.duration_predictor.output.bias.fill_(value)
    converted = model.convert(torch.randn(12, 12))
    assert 3 <= len(converted.mel) <= 3 * 1000
