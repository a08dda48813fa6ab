"""Flows invert, and their log-determinants are those of their Jacobians."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aasvc_cli.model.duration import DurationBranch, StochasticDurationPredictor
from aasvc_cli.model.flows import N_BINS, TAIL, FlowChain, spline, spline_inverse
from tests.examples import examples


def _random(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.double().eval()


@given(st.floats(-8, 8), st.integers(0, 1000))
@examples(100)
def test_spline_is_monotone_and_inverts(value, seed):
    generator = torch.Generator().manual_seed(seed)
    widths, heights = torch.randn(2, N_BINS, generator=generator, dtype=torch.float64) * 2
    slopes = torch.randn(N_BINS - 1, generator=generator, dtype=torch.float64) * 2
    x = torch.tensor([value, value + 0.01], dtype=torch.float64)
    shape = [part.expand(2, -1) for part in (widths, heights, slopes)]
    y, _ = spline(x, *shape)
    assert y[1] > y[0]
    assert torch.allclose(spline_inverse(y, *shape), x, atol=1e-6)


def test_spline_slope_is_its_derivative_and_outside_it_is_the_identity():
    generator = torch.Generator().manual_seed(1)
    x = torch.linspace(-TAIL - 1, TAIL + 1, 41, dtype=torch.float64, requires_grad=True)
    shape = [torch.randn(41, n, generator=generator, dtype=torch.float64) for n in (N_BINS, N_BINS, N_BINS - 1)]
    y, log_slope = spline(x, *shape)
    (derivative,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(derivative.log(), log_slope, atol=1e-9)
    outside = x.abs() > TAIL
    assert torch.equal(y[outside], x[outside])


def test_flow_chain_inverts_and_its_log_determinant_is_the_jacobians():
    chain = _random(FlowChain(channels=6, kernel=3, layers=2, count=3))
    assert isinstance(chain, FlowChain)
    z = torch.randn(1, 4, 2, dtype=torch.float64)
    condition = torch.randn(1, 4, 6, dtype=torch.float64)
    valid = torch.ones(1, 4, 1, dtype=torch.float64)
    y, log_det = chain(z, valid, condition)
    assert torch.allclose(chain.inverse(y, valid, condition), z, atol=1e-8)
    jacobian = torch.autograd.functional.jacobian(
        lambda flat: chain(flat.view(1, 4, 2), valid, condition)[0].flatten(), z.flatten()
    )
    assert float(log_det.detach()) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), rel=1e-9)


def test_skipping_the_first_coupling_leaves_the_first_channel_as_it_is():
    chain = _random(FlowChain(channels=6, kernel=3, layers=2, count=3))
    assert isinstance(chain, FlowChain)
    z, condition = torch.randn(2, 5, 2, dtype=torch.float64), torch.randn(2, 5, 6, dtype=torch.float64)
    valid = torch.ones(2, 5, 1, dtype=torch.float64)
    whole = chain.inverse(z, valid, condition)
    short = chain.inverse(z, valid, condition, skip_first=True)
    assert torch.allclose(whole[..., 0], short[..., 0])


def test_duration_likelihood_of_an_utterance_does_not_depend_on_its_padding():
    predictor = _random(StochasticDurationPredictor(n_inputs=5, channels=6, kernel=3, layers=2, count=2, dropout=0.0))
    assert isinstance(predictor, StochasticDurationPredictor)
    inputs, noise = torch.randn(1, 9, 5, dtype=torch.float64), torch.randn(1, 9, 2, dtype=torch.float64)
    durations = torch.randint(1, 8, (1, 9)).double()
    padding = torch.arange(9)[None] >= 6
    durations = durations.masked_fill(padding, 0.0)
    padded = predictor.nll(inputs, durations, padding, noise)
    alone = predictor.nll(inputs[:, :6], durations[:, :6], padding[:, :6], noise[:, :6])
    assert torch.allclose(padded, alone)


@pytest.mark.parametrize("n_frames", [7, 15, 16, 17, 18, 60])
def test_duration_branch_gives_one_vector_per_token_whatever_the_padding(n_frames):
    branch = DurationBranch(20, 6).eval()
    feature = torch.randn(1, n_frames, 20)
    n_tokens = n_frames // 4
    lengths, tokens = torch.tensor([n_frames]), torch.tensor([n_tokens])
    alone = branch(feature, lengths, n_tokens, tokens)
    padded = branch(torch.nn.functional.pad(feature, (0, 0, 0, 13)), lengths, n_tokens + 3, tokens)
    assert alone.shape == (1, n_tokens, 6)
    assert torch.allclose(padded[:, :n_tokens], alone, atol=1e-6)
