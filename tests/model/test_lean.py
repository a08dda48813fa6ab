"""What is differentiated by hand, against plain operations and numerical gradients."""

from __future__ import annotations

import math

import pytest
import torch

from aasvc_cli.model.conformer import FeedForward, RelativeAttention
from aasvc_cli.model.layers import Dropout, padding_mask, relative_positions


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
    layers = FeedForward(6, 10, 0.0).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    plain, by_hand = (_results(layers.train(mode), x) for mode in (False, True))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(plain, by_hand, strict=True))


def test_gradients_with_dropout_are_the_numerical_ones():
    attention, layers = RelativeAttention(4, 2, 0.3).double(), FeedForward(4, 6, 0.3).double()
    positions = relative_positions(3, 4, torch.device("cpu")).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)

    def dropped(value: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)  # the same elements each time
        return layers(attention(value, positions, None))

    assert torch.autograd.gradcheck(dropped, (x,))
    assert not torch.allclose(dropped(x), layers.eval()(attention.eval()(x, positions, None)))


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
