"""Operations with gradients written by hand, which need less memory and time on a CPU than what autograd records.

Attention remembers its weights once instead of four times, feed-forward layers compute their activation again, and
dropout draws a byte for each element. What each of them computes stands in its docstring; ``tests/model/test_lean.py``
compares values and gradients with the plain operations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def dropout(x: Tensor, p: float) -> Tensor:
    """Dropout whose probability is rounded to a multiple of 1/256."""
    result: Tensor = _Dropout.apply(x, p)
    return result


def relative_shift(scores: Tensor) -> Tensor:
    """Pick, for query i and key j, the score of offset i - j: (…, T, 2T - 1) -> (…, T, T); spoils ``scores``."""
    if torch.compiler.is_exporting():  # graphs have no strided views
        *outer, length, width = scores.shape
        padded = F.pad(scores, (1, 0)).reshape(*outer, width + 1, length)
        return padded[..., 1:, :].reshape(*outer, length, width)[..., :length]
    result: Tensor = _RelativeShift.apply(scores)
    return result


def relative_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    offset: Tensor,
    content_bias: Tensor,
    position_bias: Tensor,
    padding: Tensor | None,
    p: float,
) -> Tensor:
    """Multi-head attention with relative positions and dropout ``p`` of its weights.

    Args:
        query, key, value: (B, T, H, D/H)
        offset: (2T - 1, H, D/H), the offsets from T - 1 down to -(T - 1)
        content_bias, position_bias: (H, D/H)
        padding: (B, T), keys to leave out

    Returns:
        (B, T, H, D/H)
    """
    result: Tensor = _Attention.apply(query, key, value, offset, content_bias, position_bias, padding, p)
    return result


def swish_linear(x: Tensor, weight: Tensor, bias: Tensor, p: float) -> Tensor:
    """``linear(dropout(swish(x)))``, which remembers only ``x`` and what the dropout kept."""
    result: Tensor = _SwishLinear.apply(x, weight, bias, p)
    return result


def _draw_kept(shape: Sequence[int], p: float) -> Tensor | None:
    """Which elements a dropout keeps; None for all. Drawing costs most of it, so a random byte decides for each."""
    dropped = round(p * 256)
    if not dropped:
        return None
    count = math.prod(shape)
    words = torch.empty((count + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    return (words.view(torch.uint8)[:count] >= dropped).view(shape)


def _drop(x: Tensor, kept: Tensor | None, p: float) -> Tensor:
    """Keep some elements, scaled up for those that are lost; this is its own gradient."""
    return x if kept is None else x.mul(kept).mul_(256 / (256 - round(p * 256)))


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        kept = _draw_kept(x.shape, p)
        ctx.save_for_backward(kept)
        ctx.p = p
        return _drop(x, kept, p)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _drop(grads[0], ctx.saved_tensors[0], ctx.p), None


def _shifted(scores: Tensor) -> Tensor:
    """Elements ``[i, T - 1 - i + j]`` of (…, T, 2T - 1), as a strided view instead of the usual pad and slice.

    What is written to the view is in ``scores``, which must be contiguous.
    """
    length = scores.shape[-2]
    *outer, _, last = scores.stride()
    shape, start = (*scores.shape[:-1], length), scores.storage_offset() + length - 1
    return scores.as_strided(shape, (*outer, 2 * length - 2, last), start)


class _RelativeShift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        return _shifted(scores.contiguous())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _unshifted(grads[0])


def _unshifted(grad: Tensor) -> Tensor:
    """The gradient of :func:`_shifted`: (…, T, T) -> (…, T, 2T - 1), 0 where nothing was picked."""
    full = grad.new_zeros(*grad.shape[:-1], 2 * grad.shape[-1] - 1)
    _shifted(full).copy_(grad)
    return full


class _Attention(torch.autograd.Function):
    """Computed head by head, so that nothing else of the size of the weights is needed for all heads at once."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        offset: Tensor,
        content_bias: Tensor,
        position_bias: Tensor,
        padding: Tensor | None,
        p: float,
    ) -> Tensor:
        batch, length, heads, head = query.shape
        kept = _draw_kept((heads, batch, length, length), p)
        weights = query.new_empty((heads, batch, length, length), dtype=torch.promote_types(query.dtype, torch.float32))
        mixed = torch.empty_like(query)
        for h in range(heads):
            relative = _biased(query, position_bias, h)
            scores = torch.mm(relative.view(-1, head), offset[:, h].t()).view(batch, length, -1)
            content = _biased(query, content_bias, h)
            scores = torch.baddbmm(_shifted(scores), content, key[:, :, h].transpose(1, 2))
            if padding is not None:
                scores.masked_fill_(padding[:, None, :], torch.finfo(scores.dtype).min)
            weights[h] = torch.softmax(scores, dim=-1, dtype=weights.dtype)
            dropped = _drop(weights[h], None if kept is None else kept[h], p).to(query.dtype)
            mixed[:, :, h] = torch.bmm(dropped, value[:, :, h])
        ctx.p = p
        ctx.save_for_backward(query, key, value, offset, content_bias, position_bias, weights, kept)
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, offset, content_bias, position_bias, weights, kept = ctx.saved_tensors
        heads, head = query.shape[2:]
        grad = grads[0]
        of_query, of_key, of_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        of_offset = torch.empty_like(offset)
        of_content_bias, of_position_bias = torch.empty_like(content_bias), torch.empty_like(position_bias)
        scale = 1.0 / math.sqrt(head)
        for h in range(heads):
            chosen = None if kept is None else kept[h]
            dropped = _drop(weights[h], chosen, ctx.p).to(query.dtype)
            of_value[:, :, h] = torch.bmm(dropped.transpose(1, 2), grad[:, :, h])
            del dropped
            of_weights = torch.bmm(grad[:, :, h], value[:, :, h].transpose(1, 2)).to(weights.dtype)
            of_weights = _drop(of_weights, chosen, ctx.p)
            # of the softmax: w * (g - sum(g * w)); 0 where keys are padding, as the weights are
            of_weights.mul_(weights[h])
            of_weights.addcmul_(weights[h], of_weights.sum(-1, keepdim=True), value=-1.0)
            of_scores = of_weights.to(query.dtype)
            of_content = torch.bmm(of_scores, key[:, :, h]).mul_(scale)
            of_key[:, :, h] = torch.bmm(of_scores.transpose(1, 2), _biased(query, content_bias, h))
            of_offsets = _unshifted(of_scores).view(-1, offset.shape[0])
            of_relative = torch.mm(of_offsets, offset[:, h]).mul_(scale)
            of_offset[:, h] = torch.mm(of_offsets.t(), _biased(query, position_bias, h).view(-1, head))
            of_content_bias[h] = of_content.sum((0, 1))
            of_position_bias[h] = of_relative.sum(0)
            of_query[:, :, h] = of_content + of_relative.view_as(of_content)
        return of_query, of_key, of_value, of_offset, of_content_bias, of_position_bias, None, None


def _biased(query: Tensor, bias: Tensor, h: int) -> Tensor:
    """(B, T, D/H) of one head, with its bias and the scale of scores."""
    return ((query[:, :, h] + bias[h]) / math.sqrt(query.shape[-1])).to(query.dtype)


class _SwishLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, p: float) -> Tensor:
        kept = _draw_kept(x.shape, p)
        ctx.p = p
        ctx.save_for_backward(x, kept, weight)
        return F.linear(_drop(F.silu(x), kept, p), weight.to(x.dtype), bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, kept, weight = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        active = _drop(F.silu(x), kept, ctx.p).view(-1, x.shape[-1])
        of_weight = torch.mm(grad.t(), active).to(weight.dtype)
        del active
        of_active = _drop(torch.mm(grad, weight.to(grad.dtype)).view_as(x), kept, ctx.p)
        of_x = torch.ops.aten.silu_backward(of_active, x)  # torch has no public name for the derivative of swish
        return of_x, of_weight, grad.sum(0).to(weight.dtype), None
