"""The conformer block with relative-position attention, and the stack that serves as encoder and as decoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from aasvc_cli.model.layers import (
    NORM_EPS,
    Dropout,
    FrameBatchNorm,
    Recomputation,
    ScaledRelativePositions,
    TimeConv,
    draw_kept,
    drop,
)


def _relative_shift(scores: Tensor) -> Tensor:
    """Pick, for query i and key j, the score of offset i - j: element ``[i, T - 1 - i + j]`` of (…, T, 2T - 1).

    In memory that is one strided view, (…, T, T), instead of the usual pad, reshape and slice copies; what is written
    to the view is in ``scores``, which must be contiguous.
    """
    length = scores.shape[-2]
    *outer, _, last = scores.stride()
    shape, start = (*scores.shape[:-1], length), scores.storage_offset() + length - 1
    return scores.as_strided(shape, (*outer, 2 * length - 2, last), start)


class _RelativeShift(torch.autograd.Function):
    """:func:`_relative_shift` of a tensor that is not needed any more, forward and backward."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        return _relative_shift(scores.contiguous())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0]
        full = grad.new_zeros(*grad.shape[:-1], 2 * grad.shape[-1] - 1)
        _relative_shift(full).copy_(grad)
        return full


class _Attention(torch.autograd.Function):
    """Relative attention with dropout, head by head, that remembers the weights of attention and nothing else of their
    size: as separate operations it would keep them four times, and copies of what it multiplies."""

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
        dropout: float,
    ) -> Tensor:
        """Mix values.

        Args:
            query, key, value: (B, T, H, D/H)
            offset: (2T - 1, H, D/H)
            content_bias, position_bias: (H, D/H)
            padding: (B, T), keys to leave out

        Returns:
            (B, T, H, D/H)
        """
        batch, length, heads, head = query.shape
        kept = draw_kept((heads, batch, length, length), dropout)
        weights = query.new_empty((heads, batch, length, length), dtype=torch.promote_types(query.dtype, torch.float32))
        mixed = torch.empty_like(query)
        for h in range(heads):
            relative = _biased(query, position_bias, h)
            scores = torch.mm(relative.view(-1, head), offset[:, h].t()).view(batch, length, -1)
            content = _biased(query, content_bias, h)
            scores = torch.baddbmm(_relative_shift(scores), content, key[:, :, h].transpose(1, 2))
            if padding is not None:
                scores.masked_fill_(padding[:, None, :], torch.finfo(scores.dtype).min)
            weights[h] = torch.softmax(scores, dim=-1, dtype=weights.dtype)
            dropped = drop(weights[h], None if kept is None else kept[h], dropout).to(query.dtype)
            mixed[:, :, h] = torch.bmm(dropped, value[:, :, h])
        ctx.dropout = dropout
        ctx.save_for_backward(query, key, value, offset, content_bias, position_bias, weights, kept)
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, offset, content_bias, position_bias, weights, kept = ctx.saved_tensors
        batch, length, heads, head = query.shape
        grad = grads[0]
        of_query, of_key, of_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        of_offset = torch.empty_like(offset)
        of_content_bias, of_position_bias = torch.empty_like(content_bias), torch.empty_like(position_bias)
        scale = 1.0 / math.sqrt(head)
        for h in range(heads):
            chosen = None if kept is None else kept[h]
            dropped = drop(weights[h], chosen, ctx.dropout).to(query.dtype)
            of_value[:, :, h] = torch.bmm(dropped.transpose(1, 2), grad[:, :, h])
            of_weights = torch.bmm(grad[:, :, h], value[:, :, h].transpose(1, 2)).to(weights.dtype)
            of_weights = drop(of_weights, chosen, ctx.dropout)
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights[h], -1, weights.dtype)
            of_scores = of_scores.to(query.dtype)  # 0 where keys are padding, as the weights are
            of_content = torch.bmm(of_scores, key[:, :, h]).mul_(scale)
            of_key[:, :, h] = torch.bmm(of_scores.transpose(1, 2), _biased(query, content_bias, h))
            full = of_scores.new_zeros(batch, length, 2 * length - 1)
            _relative_shift(full).copy_(of_scores)
            full = full.view(-1, 2 * length - 1)
            of_relative = torch.mm(full, offset[:, h]).mul_(scale)
            of_offset[:, h] = torch.mm(full.t(), _biased(query, position_bias, h).view(-1, head))
            of_content_bias[h] = of_content.sum((0, 1))
            of_position_bias[h] = of_relative.sum(0)
            of_query[:, :, h] = of_content + of_relative.view_as(of_content)
        return of_query, of_key, of_value, of_offset, of_content_bias, of_position_bias, None, None


def _biased(query: Tensor, bias: Tensor, h: int) -> Tensor:
    """(B, T, D/H) of one head, with its bias and the scale of scores."""
    return ((query[:, :, h] + bias[h]) / math.sqrt(query.shape[-1])).to(query.dtype)


class RelativeAttention(nn.Module):
    """Multi-head self-attention with learnt relative positions in both directions (Transformer-XL scores)."""

    def __init__(self, width: int, n_heads: int, dropout: float):
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.position = nn.Linear(width, width, bias=False)
        self.content_bias = nn.Parameter(torch.empty(n_heads, width // n_heads))
        self.position_bias = nn.Parameter(torch.empty(n_heads, width // n_heads))
        nn.init.xavier_uniform_(self.content_bias)
        nn.init.xavier_uniform_(self.position_bias)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor | None) -> Tensor:
        """Attend within each utterance.

        Args:
            x: (B, T, D)
            positions: (2T - 1, D), offsets from T - 1 down to -(T - 1)
            padding: (B, T), keys to leave out

        Returns:
            (B, T, D)
        """
        batch, length, width = x.shape
        head = width // self.n_heads
        query, key, value = (layer(x).view(batch, length, -1, head) for layer in (self.query, self.key, self.value))
        offset = self.position(positions).view(-1, self.n_heads, head)
        if self.training and x.device.type == "cpu":
            # the fused kernel's fallback on a CPU draws its dropout an element at a time
            biases = self.content_bias, self.position_bias
            mixed = _Attention.apply(query, key, value, offset, *biases, padding, self.dropout.p)
            return self.output(mixed.reshape(batch, length, width))
        content = (query + self.content_bias).transpose(1, 2)  # (B, H, T, D/H)
        relative = (query + self.position_bias).transpose(1, 2) / math.sqrt(head)
        bias: Tensor = _RelativeShift.apply(torch.matmul(relative, offset.permute(1, 2, 0)))  # (B, H, T, T)
        if padding is not None:
            bias = bias.masked_fill(padding[:, None, None, :], torch.finfo(bias.dtype).min)
        dropout = self.dropout.p if self.training else 0.0
        key, value = key.transpose(1, 2), value.transpose(1, 2)
        mixed = F.scaled_dot_product_attention(content, key, value, attn_mask=bias, dropout_p=dropout)
        return self.output(mixed.transpose(1, 2).reshape(batch, length, width))


class _SwishContract(torch.autograd.Function):
    """Swish, dropout and a linear layer that remember what they are given, and compute what lies between anew."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dropout: float) -> Tensor:
        kept = draw_kept(x.shape, dropout)
        ctx.dropout = dropout
        ctx.save_for_backward(x, kept, weight)
        return F.linear(drop(F.silu(x), kept, dropout), weight.to(x.dtype), bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, kept, weight = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        active = drop(F.silu(x), kept, ctx.dropout).view(-1, x.shape[-1])
        of_weight = torch.mm(grad.t(), active).to(weight.dtype)
        del active
        of_active = drop(torch.mm(grad, weight.to(grad.dtype)).view_as(x), kept, ctx.dropout)
        return torch.ops.aten.silu_backward(of_active, x), of_weight, grad.sum(0).to(weight.dtype), None


class FeedForward(nn.Module):
    """Two position-wise layers: ``linear`` (swish between) or convolutions (ReLU between)."""

    def __init__(self, width: int, hidden: int, dropout: float, kind: str, kernel: int):
        super().__init__()
        self.expand: nn.Module = nn.Linear(width, hidden) if kind == "linear" else TimeConv(width, hidden, kernel)
        self.contract: nn.Module = TimeConv(hidden, width, kernel) if kind == "conv1d" else nn.Linear(hidden, width)
        self.activation = F.silu if kind == "linear" else F.relu
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        x = _apply(self.expand, x, padding)
        if self.training and x.device.type == "cpu" and self.activation is F.silu:
            result: Tensor = _SwishContract.apply(x, self.contract.weight, self.contract.bias, self.dropout.p)
            return result
        return _apply(self.contract, self.dropout(self.activation(x)), padding)


def _apply(layer: nn.Module, x: Tensor, padding: Tensor | None) -> Tensor:
    result: Tensor = layer(x, padding) if isinstance(layer, TimeConv) else layer(x)
    return result


class ConvolutionModule(nn.Module):
    """Gated depth-wise convolution with batch norm."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.expand = nn.Linear(width, 2 * width)
        self.depthwise = TimeConv(width, width, kernel, groups=width)
        self.norm = FrameBatchNorm(width)
        self.contract = nn.Linear(width, width)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        x = self.depthwise(F.glu(self.expand(x), dim=-1), padding)
        return self.contract(F.silu(self.norm(x, padding)))


class ConformerBlock(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, each with a residual."""

    def __init__(
        self,
        *,
        width: int,
        hidden: int,
        n_heads: int,
        kernel: int,
        dropout: float,
        attention_dropout: float,
        feed_forward: str,
        feed_forward_kernel: int,
        macaron: bool,
        conv_module: bool,
        norm_first: bool,
    ):
        super().__init__()
        self.norm_first = norm_first
        self.attention = RelativeAttention(width, n_heads, attention_dropout)
        self.norm_attention = nn.LayerNorm(width, eps=NORM_EPS)
        self.feed_forward = FeedForward(width, hidden, dropout, feed_forward, feed_forward_kernel)
        self.norm_feed_forward = nn.LayerNorm(width, eps=NORM_EPS)
        self.feed_forward_factor = 0.5 if macaron else 1.0
        self.feed_forward_macaron: FeedForward | None = None
        if macaron:
            self.feed_forward_macaron = FeedForward(width, hidden, dropout, feed_forward, feed_forward_kernel)
            self.norm_feed_forward_macaron = nn.LayerNorm(width, eps=NORM_EPS)
        self.convolution: ConvolutionModule | None = None
        if conv_module:
            self.convolution = ConvolutionModule(width, kernel)
            self.norm_convolution = nn.LayerNorm(width, eps=NORM_EPS)
            self.norm_output = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, keys_padding: Tensor | None, conv_padding: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D); the two masks say what attention and what convolutions leave out."""
        if self.feed_forward_macaron is not None:
            norm = self.norm_feed_forward_macaron
            branch = self.feed_forward_macaron(norm(x) if self.norm_first else x, conv_padding)
            x = self._join(x, branch, self.feed_forward_factor, norm)
        branch = self.attention(self.norm_attention(x) if self.norm_first else x, positions, keys_padding)
        x = self._join(x, branch, 1.0, self.norm_attention)
        if self.convolution is not None:
            branch = self.convolution(self.norm_convolution(x) if self.norm_first else x, conv_padding)
            x = self._join(x, branch, 1.0, self.norm_convolution)
        branch = self.feed_forward(self.norm_feed_forward(x) if self.norm_first else x, conv_padding)
        x = self._join(x, branch, self.feed_forward_factor, self.norm_feed_forward)
        return x if self.convolution is None else self.norm_output(x)

    def _join(self, x: Tensor, branch: Tensor, factor: float, norm: nn.Module) -> Tensor:
        x = torch.add(x, self.dropout(branch), alpha=factor)
        return x if self.norm_first else norm(x)


def _recomputation_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), Recomputation()


class Conformer(nn.Module):
    """A stack of blocks behind the positional module, with a final norm in the pre-norm form.

    Args:
        gradient_comes_first: whether nothing large follows this stack. Checkpointing then spares its last block, whose
            gradient needs as much memory at once as that of any other block later on
    """

    def __init__(
        self,
        *,
        layers: int,
        width: int,
        positional_dropout: float,
        norm_first: bool,
        mask_padding: bool,
        gradient_comes_first: bool = False,
        **block: Any,
    ):
        super().__init__()
        self.width = width
        self.mask_padding = mask_padding
        self.checkpointing = False
        """In training, keep only the input of each block and compute the rest again for the gradient."""
        self.gradient_comes_first = gradient_comes_first
        self.between_blocks: Callable[[], None] | None = None
        """Called between blocks, forward and backward, when most of the memory that a block needs is free again."""
        self.positions = ScaledRelativePositions(width, positional_dropout)
        self.blocks = nn.ModuleList(ConformerBlock(width=width, norm_first=norm_first, **block) for _ in range(layers))
        self.norm_output: nn.LayerNorm | None = nn.LayerNorm(width, eps=NORM_EPS) if norm_first else None

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D); ``padding`` (B, T) or None where nothing is padded."""
        conv_padding = padding if self.mask_padding else None
        x, positions = self.positions(x)
        recompute = self.checkpointing and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            self._pause(x)
            if recompute and not (self.gradient_comes_first and block is self.blocks[-1]):
                arguments = (x, positions, padding, conv_padding)
                x = checkpoint(block, *arguments, use_reentrant=False, context_fn=_recomputation_contexts)
            else:
                x = block(x, positions, padding, conv_padding)
        self._pause(x)
        return x if self.norm_output is None else self.norm_output(x)

    def _pause(self, x: Tensor) -> None:
        pause = self.between_blocks
        if pause is not None and x.requires_grad:
            pause()
            x.register_hook(lambda _: pause())  # called as soon as the gradient at this place is known
