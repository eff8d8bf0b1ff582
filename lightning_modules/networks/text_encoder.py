"""A small bidirectional transformer over report sub-words, trained from scratch; for the aligner and the generator."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_modules.networks.transformer import Block, init_weights


@dataclass(frozen=True)
class TextEncoderConfig:
    """Sizes of the text encoder.

    Attributes:
        vocabulary: number of sub-words; set from the tokenizer, 0 until then.
        max_length: longest report in sub-words; what is longer is cut.
        width, depth, heads: of the transformer.
        dropout: on each residual branch.
    """

    vocabulary: int = 0
    max_length: int = 96
    width: int = 192
    depth: int = 2
    heads: int = 4
    dropout: float = 0.1


class TextEncoder(nn.Module):
    """Sub-word ids to contextual features."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        if config.vocabulary < 1:
            raise ValueError("the text encoder's vocabulary is 0: build it after the tokenizer is known")
        self.config = config
        self.token = nn.Embedding(config.vocabulary, config.width)
        self.position = nn.Embedding(config.max_length, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, dropout=config.dropout) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.apply(init_weights)

    @property
    def width(self) -> int:
        """C."""
        return self.config.width

    @property
    def max_length(self) -> int:
        """Longest text in sub-words."""
        return self.config.max_length

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """int64 [B,T], bool [B,T] → float [B,T,C]."""
        if ids.shape[1] > self.config.max_length:
            raise ValueError(f"text of {ids.shape[1]} sub-words is longer than max_length {self.config.max_length}")
        x = self.token(ids) + self.position(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)
