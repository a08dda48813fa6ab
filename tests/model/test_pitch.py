"""The pitch that is predicted, and what the decoder makes of it."""

from __future__ import annotations

import math

import pytest
import torch

from aasvc_cli.model.aasvc import AASVC
from aasvc_cli.model.layers import padding_mask
from aasvc_cli.model.pitch import USUAL_MIDDLE, USUAL_SPREAD, PitchPredictor, pitch_range
from tests.voices import tiny_config


def predictor() -> PitchPredictor:
    torch.manual_seed(1)
    return PitchPredictor(6, layers=3, channels=8, kernel=5, dropout=0.5).eval()


SETTINGS = {"mask_padding": True, "duration_predictor": "poisson", "duration_rounding": "cumulative"}


def model(*, told: bool = True) -> AASVC:
    """A small network; one whose decoder makes something of the pitch unless ``told`` is False."""
    torch.manual_seed(2)
    net = AASVC(tiny_config(pitch_predictor=True, **SETTINGS).model).eval()
    assert net.pitch_predictor is not None
    if told:
        torch.nn.init.normal_(net.pitch_predictor.condition.weight)
    return net


def source(n_frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n_frames, 20, generator=torch.Generator().manual_seed(seed))


def test_an_utterance_in_a_batch_has_the_pitch_that_it_has_alone():
    net, lengths = predictor(), [31, 60, 8]
    frames = torch.randn(3, 60, 6)
    together = net(frames, padding_mask(torch.tensor(lengths), 60))
    for row, length in enumerate(lengths):
        torch.testing.assert_close(together[row, :length], net(frames[row : row + 1, :length], None)[0])


def test_the_same_sound_at_the_beginning_and_at_the_end_can_have_another_pitch():
    predicted = predictor()(torch.ones(1, 400, 6), None)[0, :, 0].detach()
    middle = predicted[190:210]
    assert float((predicted[150] - predicted[250]).abs()) > 10 * float((middle[1:] - middle[:-1]).abs().max())


def test_pitch_is_in_octaves_above_the_middle_and_nothing_where_unvoiced():
    net = predictor()
    net.middle.fill_(math.log2(150.0))
    net.spread.fill_(0.5)
    normal = net.normalise(torch.tensor([[150.0, 300.0, 75.0, 90.0]]), torch.tensor([[True, True, True, False]]))
    torch.testing.assert_close(normal, torch.tensor([[[0.0, 1], [2, 1], [-2, 1], [0, 0]]]))


@pytest.mark.parametrize(
    ("f0", "middle", "spread"),
    [([100.0, 400.0], math.log2(200.0), 1.0), ([250.0] * 5, math.log2(250.0), 0.01), ([], USUAL_MIDDLE, USUAL_SPREAD)],
)
def test_the_range_of_a_voice_is_mean_and_deviation_of_its_octaves(f0, middle, spread):
    found = pitch_range(torch.tensor(f0))
    assert [float(value) for value in found] == pytest.approx([middle, spread], rel=1e-6)


def test_a_decoder_that_did_without_begins_with_what_it_knows():
    net = model(told=False)
    without = AASVC(tiny_config(**SETTINGS).model).eval()
    without.load_state_dict({name: value for name, value in net.state_dict().items() if "pitch" not in name})
    torch.testing.assert_close(net.convert(source(40)).mel, without.convert(source(40)).mel)


def test_the_decoder_follows_the_target_in_training_and_the_prediction_at_conversion():
    net = model()
    sides = (source(24).unsqueeze(0), torch.tensor([24]), source(30, 1).unsqueeze(0), torch.tensor([30]))
    predicted = net(*sides)
    assert predicted.pitch is None and predicted.predicted_pitch is not None
    f0, logit = predicted.predicted_pitch.unbind(-1)
    voiced = (logit > 0).float()
    by_hand = net(*sides, pitch=torch.stack([f0 * voiced, voiced], dim=-1))
    torch.testing.assert_close(predicted.after, by_hand.after)
    higher = net(*sides, pitch=torch.stack([f0 * voiced + 1.0, voiced], dim=-1))
    assert voiced.any()
    assert float((higher.after - predicted.after).detach().abs().max()) > 1e-2


def test_a_batch_is_converted_as_each_alone():
    net, sources = model(), [source(n, n) for n in (40, 64)]
    generators = [torch.Generator(), torch.Generator()]
    for together, each in zip(net.convert_batch(sources, generators=generators), sources, strict=True):
        torch.testing.assert_close(together.mel, net.convert(each).mel, rtol=1e-4, atol=1e-5)
