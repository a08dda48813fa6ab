"""The noise of a seed is that of torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aasvc_cli.vocoder import gan_generators
from aasvc_cli.vocoder.noise import noise_between, standard_normal


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**33 + 5])
@pytest.mark.parametrize("count", [1, 2, 7, 15, 16, 17, 31, 32, 100, 16384])
def test_a_seed_draws_what_torch_draws(count: int, seed: int):
    drawn = torch.randn(count, generator=torch.Generator().manual_seed(seed)).numpy()
    assert np.abs(standard_normal(count, seed) - drawn).max() < 1e-5


def test_a_stretch_of_a_vocoders_noise_is_that_of_its_torch_twin():
    expected = gan_generators.noise_between(5, 10_000, 50_000).numpy()
    assert np.abs(noise_between(5, 10_000, 50_000) - expected).max() < 1e-5
