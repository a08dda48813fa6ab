"""The network's own promises: independence of padding, shapes, exact parts against plain formulae."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from aasvc_cli.config.settings import ModelConfig
from aasvc_cli.model.aasvc import AASVC
from aasvc_cli.model.layers import (
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
def test_with_masks_a_padded_batch_equals_its_items_one_by_one(duration_input, predictor):
    model = _model(mask_padding=True, duration_input=duration_input, duration_predictor=predictor)
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


@pytest.mark.parametrize("frames_per_token", [1, 2, 4])
def test_the_reduction_factor_gives_the_documented_shapes(frames_per_token):
    model = _model(frames_per_token=frames_per_token, duration_input="tokens")
    source, target = torch.randn(2, 43, 12), torch.randn(2, 61, 8)
    result = model(source, torch.tensor([43, 35]), target, torch.tensor([61, 60]))
    k = 43 // frames_per_token
    assert result.log_alignment.shape == (2, 61, k)
    assert result.before.shape == result.after.shape == result.target.shape == (2, 61, 8)
    assert result.durations.sum(1).tolist() == [61, 60]
    converted = model.convert(source[0])
    assert converted.durations.shape == (k,)
    assert converted.mel.shape == (int(converted.durations.sum()), 8)


@pytest.mark.parametrize("predictor", ["stochastic", "poisson"])
def test_aligning_one_pair_is_the_pass_on_a_batch_of_one(predictor):
    model = _model(duration_predictor=predictor)
    source, target = torch.randn(30, 12), torch.randn(25, 8)
    aligned = model.align(source, target, source)
    batch = model(source[None], torch.tensor([30]), target[None], torch.tensor([25]), source[None])
    assert torch.allclose(aligned.after, batch.after, atol=1e-5) and torch.equal(aligned.path, batch.path)
    assert not aligned.after.requires_grad
    with pytest.raises(ValueError, match="7 tokens cannot be aligned with 6 frames"):
        model.align(source, target[:6], source)


@pytest.mark.parametrize("heard", [True, False])
def test_a_melody_changes_the_result_only_where_it_is_heard(heard):
    model = _model(source_melody=heard, duration_input="tokens", duration_predictor="poisson", mask_padding=True)
    source, target = torch.randn(30, 12), torch.randn(25, 8)
    lengths, results = (torch.tensor([30]), torch.tensor([25])), []
    for log_f0, voicing in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        changed = torch.cat([source[:, :10], torch.full((30, 1), log_f0), torch.full((30, 1), voicing)], dim=1)
        mel = model.convert(changed, noise_scale=0.0).mel
        results.append((model(changed[None], lengths[0], target[None], lengths[1]).after, mel))
    plain, high, voiced = results
    for number in range(2):
        assert torch.equal(plain[number], high[number]) is not heard
        assert not torch.equal(plain[number], voiced[number])


def test_speed_scales_the_length():
    model = _model(
        duration_input="tokens", duration_predictor="poisson", duration_rounding="cumulative", max_duration=None
    )
    source = torch.randn(400, 12)
    lengths = [len(model.convert(source, noise_scale=0.0, speed=speed).mel) for speed in (0.5, 1.0, 2.0)]
    assert lengths[0] == pytest.approx(2 * lengths[1], abs=2) and lengths[1] == pytest.approx(2 * lengths[2], abs=2)


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


@pytest.mark.parametrize("predictor", ["stochastic", "poisson"])
def test_the_input_of_the_stochastic_predictor_is_not_trained_as_published(predictor):
    model = _model(duration_predictor=predictor).train()
    source = torch.randn(1, 24, 12)
    result = model(source, torch.tensor([24]), torch.randn(1, 20, 8), torch.tensor([20]), source)
    output = result.log_expected if result.duration_nll is None else result.duration_nll
    output.sum().backward()
    assert (model.duration_branch.output.weight.grad is None) == (predictor == "stochastic")


@pytest.mark.parametrize("value", [50.0, math.nan])
def test_a_predictor_gone_wild_does_not_fill_the_memory(value):
    model = _model(duration_input="tokens", duration_predictor="poisson", max_duration=None)
    with torch.no_grad():
        model.duration_predictor.output.bias.fill_(value)
    converted = model.convert(torch.randn(12, 12))
    assert 3 <= len(converted.mel) <= 3 * 1000
