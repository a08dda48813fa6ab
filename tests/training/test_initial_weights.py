"""Which weights of another model fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aasvc_cli.errors import ConfigError, ModelError
from aasvc_cli.storage.files import write_json
from aasvc_cli.training.initial_weights import INIT_FILE, SHOWN_TENSORS, check_init, fit_weights

EXPECTED = {"encoder": torch.zeros(6, 2), "head": torch.zeros(3), "bias": torch.zeros(1)}


def test_weights_of_the_same_name_and_shape_are_taken_and_the_rest_is_named():
    weights = {"encoder": torch.ones(6, 2), "head": torch.ones(4), "old": torch.ones(2)}
    fit = fit_weights(weights, EXPECTED, "there", "voice")
    assert list(fit.taken) == ["encoder"]
    assert torch.equal(fit.taken["encoder"], torch.ones(6, 2))
    assert fit.new == ["head (4,) instead of (3,)", "bias"]
    assert fit.left_over == ["old"]


def test_a_model_of_which_less_than_half_fits_is_refused():
    with pytest.raises(ModelError, match="only 2 of 3 tensors fit this model .*encoder"):
        fit_weights({"head": torch.ones(3), "bias": torch.ones(1)}, EXPECTED, "there", "voice")


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(ModelError, match="there: 1 tensors hold NaN"):
        fit_weights({**EXPECTED, "head": torch.full((3,), float("nan"))}, EXPECTED, "there", "voice")


def test_a_message_lists_only_the_first_names():
    left_over = {f"old{number}": torch.ones(1) for number in range(SHOWN_TENSORS + 3)}
    first, second = fit_weights(EXPECTED | left_over, EXPECTED, "there", "voice").messages(Path("voice"))
    assert first == "begins with the weights of voice: 3 of 3 tensors"
    assert second.endswith(f"old{SHOWN_TENSORS - 1}, and 3 more")


def test_a_run_goes_on_only_from_the_model_that_it_began_with(tmp_path: Path):
    with pytest.raises(ConfigError, match="began with random weights, not with other"):
        check_init(tmp_path, "other", begun=True)
    write_json(tmp_path / INIT_FILE, {"model": "voice"})
    check_init(tmp_path, "voice", begun=False)
    check_init(tmp_path, None, begun=True)
    with pytest.raises(ConfigError, match="began with voice, not with other"):
        check_init(tmp_path, "other", begun=True)
    with pytest.raises(ConfigError, match="begun with --init voice and has no checkpoint yet"):
        check_init(tmp_path, None, begun=False)
