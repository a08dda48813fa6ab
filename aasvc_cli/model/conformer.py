"""The conformer block with relative-position attention, and the stack that serves as encoder and as decoder."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from aasvc_cli.model.layers import NORM_EPS, Dropout, FrameBatchNorm, Recomputation, ScaledRelativePositions, TimeConv


class _RelativeShift(torch.autograd.Function):
    """Pick, for query i and key j, the score of offset i - j: element ``[i, T - 1 - i + j]`` of (T, 2T - 1).

    In memory that is one strided view, forward and backward, instead of the usual pad, reshape and slice copies.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        length = scores.shape[-2]
        scores = scores.contiguous()
        batch, heads, _, offsets = scores.shape
        strides = (heads * length * offsets, length * offsets, offsets - 1, 1)
        return scores.as_strided((batch, heads, length, length), strides, scores.storage_offset() + length - 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0]
        batch, heads, length, _ = grad.shape
        offsets = 2 * length - 1
        full = grad.new_zeros(batch, heads, length, offsets)
        strides = (heads * length * offsets, length * offsets, offsets - 1, 1)
        full.as_strided(grad.shape, strides, length - 1).copy_(grad)
        return full


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
        query = self.query(x).view(batch, length, self.n_heads, head)
        key = self.key(x).view(batch, length, self.n_heads, head).transpose(1, 2)  # (B, H, T, D/H)
        value = self.value(x).view(batch, length, self.n_heads, head).transpose(1, 2)
        offset = self.position(positions).view(-1, self.n_heads, head).permute(1, 2, 0)  # (H, D/H, 2T - 1)
        content = (query + self.content_bias).transpose(1, 2)  # (B, H, T, D/H)
        relative = (query + self.position_bias).transpose(1, 2) / math.sqrt(head)
        bias: Tensor = _RelativeShift.apply(torch.matmul(relative, offset))  # (B, H, T, T)
        if padding is not None:
            bias = bias.masked_fill(padding[:, None, None, :], torch.finfo(bias.dtype).min)
        if self.training and x.device.type == "cpu":
            # the fused kernel's fallback on a CPU draws its dropout an element at a time
            scores = torch.matmul(content / math.sqrt(head), key.transpose(2, 3)) + bias
            mixed = torch.matmul(self.dropout(torch.softmax(scores, dim=-1)), value)
        else:
            dropout = self.dropout.p if self.training else 0.0
            mixed = F.scaled_dot_product_attention(content, key, value, attn_mask=bias, dropout_p=dropout)
        return self.output(mixed.transpose(1, 2).reshape(batch, length, width))


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
        x = self.dropout(self.activation(_apply(self.expand, x, padding)))
        return _apply(self.contract, x, padding)


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
    """A stack of blocks behind the positional module, with a final norm in the pre-norm form."""

    def __init__(
        self,
        *,
        layers: int,
        width: int,
        positional_dropout: float,
        norm_first: bool,
        mask_padding: bool,
        **block: Any,
    ):
        super().__init__()
        self.mask_padding = mask_padding
        self.checkpointing = False
        """In training, keep only the input of each block and compute the rest again for the gradient."""
        self.positions = ScaledRelativePositions(width, positional_dropout)
        self.blocks = nn.ModuleList(ConformerBlock(width=width, norm_first=norm_first, **block) for _ in range(layers))
        self.norm_output: nn.LayerNorm | None = nn.LayerNorm(width, eps=NORM_EPS) if norm_first else None

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D); ``padding`` (B, T) or None where nothing is padded."""
        conv_padding = padding if self.mask_padding else None
        x, positions = self.positions(x)
        recompute = self.checkpointing and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            if recompute:
                arguments = (x, positions, padding, conv_padding)
                x = checkpoint(block, *arguments, use_reentrant=False, context_fn=_recomputation_contexts)
            else:
                x = block(x, positions, padding, conv_padding)
        return x if self.norm_output is None else self.norm_output(x)
