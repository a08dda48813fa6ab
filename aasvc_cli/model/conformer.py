"""The conformer block with relative-position attention, and the stack that serves as encoder and as decoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from aasvc_cli.config.settings import StackConfig
from aasvc_cli.model import lean
from aasvc_cli.model.layers import (
    NORM_EPS,
    Dropout,
    FrameBatchNorm,
    Recomputation,
    ScaledRelativePositions,
    TimeConv,
)


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
            mixed = lean.relative_attention(query, key, value, offset, *biases, padding, self.dropout.p)
            return self.output(mixed.reshape(batch, length, width))
        content = (query + self.content_bias).transpose(1, 2)  # (B, H, T, D/H)
        relative = (query + self.position_bias).transpose(1, 2) / math.sqrt(head)
        bias = lean.relative_shift(torch.matmul(relative, offset.permute(1, 2, 0)))  # (B, H, T, T)
        if padding is not None:
            bias = bias.masked_fill(padding[:, None, None, :], torch.finfo(bias.dtype).min)
        dropout = self.dropout.p if self.training else 0.0
        key, value = key.transpose(1, 2), value.transpose(1, 2)
        mixed = F.scaled_dot_product_attention(content, key, value, attn_mask=bias, dropout_p=dropout)
        return self.output(mixed.transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    """Two position-wise linear layers with swish between."""

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        x = self.expand(x)
        if self.training and x.device.type == "cpu":
            return lean.swish_linear(x, self.contract.weight, self.contract.bias, self.dropout.p)
        return self.contract(self.dropout(F.silu(x)))


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
    """Half feed-forward, attention, convolution, half feed-forward, each behind a norm and with a residual."""

    def __init__(self, sizes: StackConfig):
        super().__init__()
        width = sizes.width
        self.attention = RelativeAttention(width, sizes.n_heads, sizes.attention_dropout)
        self.norm_attention = nn.LayerNorm(width, eps=NORM_EPS)
        self.feed_forward = FeedForward(width, sizes.hidden, sizes.dropout)
        self.norm_feed_forward = nn.LayerNorm(width, eps=NORM_EPS)
        self.feed_forward_macaron = FeedForward(width, sizes.hidden, sizes.dropout)
        self.norm_feed_forward_macaron = nn.LayerNorm(width, eps=NORM_EPS)
        self.convolution = ConvolutionModule(width, sizes.kernel)
        self.norm_convolution = nn.LayerNorm(width, eps=NORM_EPS)
        self.norm_output = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = Dropout(sizes.dropout)

    def forward(self, x: Tensor, positions: Tensor, keys_padding: Tensor | None, conv_padding: Tensor | None) -> Tensor:
        """(B, T, D) to (B, T, D); the two masks say what attention and what convolutions leave out."""
        x = self._add(x, self.feed_forward_macaron(self.norm_feed_forward_macaron(x)), 0.5)
        x = self._add(x, self.attention(self.norm_attention(x), positions, keys_padding))
        x = self._add(x, self.convolution(self.norm_convolution(x), conv_padding))
        x = self._add(x, self.feed_forward(self.norm_feed_forward(x)), 0.5)
        return self.norm_output(x)

    def _add(self, x: Tensor, branch: Tensor, factor: float = 1.0) -> Tensor:
        return torch.add(x, self.dropout(branch), alpha=factor)


def _recomputation_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), Recomputation()


class Conformer(nn.Module):
    """A stack of blocks behind the positional module, with a final norm.

    Args:
        mask_padding: whether convolutions leave padding out
        gradient_comes_first: whether nothing large follows this stack. Checkpointing then spares its last block, whose
            gradient needs as much memory at once as that of any other block later on
    """

    def __init__(self, sizes: StackConfig, *, mask_padding: bool, gradient_comes_first: bool = False):
        super().__init__()
        self.width = sizes.width
        self.mask_padding = mask_padding
        self.checkpointing = False
        """In training, keep only the input of each block and compute the rest again for the gradient."""
        self.gradient_comes_first = gradient_comes_first
        self.between_blocks: Callable[[], None] | None = None
        """Called between blocks, forward and backward, when most of the memory that a block needs is free again."""
        self.positions = ScaledRelativePositions(sizes.width, sizes.positional_dropout)
        self.blocks = nn.ModuleList(ConformerBlock(sizes) for _ in range(sizes.layers))
        self.norm_output = nn.LayerNorm(sizes.width, eps=NORM_EPS)

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
        return self.norm_output(x)

    def _pause(self, x: Tensor) -> None:
        pause = self.between_blocks
        if pause is not None and x.requires_grad:
            pause()
            x.register_hook(lambda _: pause())  # called as soon as the gradient at this place is known
