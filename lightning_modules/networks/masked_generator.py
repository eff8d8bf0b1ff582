"""The masked-token transformer: image codes from report words and key-patch clues.

Training predicts randomly masked codes (MaskGIT, arXiv 2202.04200 section 3.1); sampling lives in `sampling.py`.
Shapes: B batch, N = grid² image tokens, T report sub-words, K clue tokens, C width, V codes.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.networks.pretrained_text import PretrainedTextEncoder
from lightning_modules.networks.text_encoder import TextEncoder
from lightning_modules.networks.transformer import Block, init_weights


@dataclass(frozen=True)
class GeneratorConfig:
    """Sizes of the masked transformer.

    Attributes:
        width, depth, heads: of the transformer over image tokens.
        dropout: on each residual branch.
        codes: size V of the image codebook; read from the codebook's checkpoint, 0 until then.
        grid: image tokens along one side; read from the codebook's checkpoint, 0 until then.
        views: number of views (PA, AP, LATERAL, unknown).
    """

    width: int = 256
    depth: int = 6
    heads: int = 4
    dropout: float = 0.1
    codes: int = 0
    grid: int = 0
    views: int = 4


@dataclass(frozen=True)
class Condition:
    """What an image is made from.

    Attributes:
        ids: int64 [B,T] report sub-words; mask: bool [B,T], all False where the text is dropped.
        view: int64 [B].
        clues: int64 [B,K,2] of (code, grid position), -1 where there is none or where they are dropped.
    """

    ids: Tensor
    mask: Tensor
    view: Tensor
    clues: Tensor

    def drop(self, *, text: Tensor, clues: Tensor) -> "Condition":
        """Leave out the text and the clues of the rows where bool [B] is True (classifier-free guidance)."""
        return Condition(
            self.ids,
            self.mask & ~text[:, None],
            self.view,
            torch.where(clues[:, None, None], torch.full_like(self.clues, -1), self.clues),
        )


class MaskedGenerator(nn.Module):
    """Codes with holes + condition → logits of every code; `text` reads the condition's words."""

    def __init__(self, config: GeneratorConfig, text: TextEncoder | PretrainedTextEncoder) -> None:
        super().__init__()
        if config.codes < 1 or config.grid < 1:
            raise ValueError(f"codes {config.codes} and grid {config.grid} must be positive: read them from a codebook")
        self.config = config
        width = config.width
        self.text = text
        self.from_text = nn.Linear(text.width, width)
        self.code = nn.Embedding(config.codes + 1, width)  # the last one is the mask
        self.row, self.column = nn.Embedding(config.grid, width), nn.Embedding(config.grid, width)
        self.view = nn.Embedding(config.views, width)
        self.clue_kind = nn.Parameter(torch.zeros(width))
        # Always in the context, so that a row without text and clues still has something to attend to.
        self.nothing = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(
            Block(width, config.heads, cross=True, dropout=config.dropout) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.to_codes = nn.Linear(width, config.codes)
        self.norm_context = nn.LayerNorm(width)
        self.apply(init_weights)
        for embedding in (self.code, self.row, self.column, self.view):
            nn.init.normal_(embedding.weight, std=0.06)

    @torch.no_grad()
    def start_from(self, vectors: Tensor) -> None:
        """Begin with embeddings and output weights that are a random projection of the codes' vectors [V,D].

        Codes that decode to similar patches then begin as neighbours instead of being 512 unrelated words: on the
        phantom the loss of AdamW fell from 3.97 to 3.64 nats in the same three minutes.
        """
        centred = (vectors - vectors.mean(dim=0)).float()
        projection = torch.randn(vectors.shape[1], self.config.width, generator=torch.Generator().manual_seed(0))
        rows = centred / centred.std() @ projection.to(vectors.device) * vectors.shape[1] ** -0.5
        self.code.weight[: self.mask_code].copy_(0.1 * rows)
        self.to_codes.weight.copy_(0.06 * rows)

    @property
    def mask_code(self) -> int:
        """The id that stands for a hole."""
        return self.config.codes

    def place(self, position: Tensor) -> Tensor:
        """Embedding of int64 grid positions (row · grid + column): [...] → [...,C]."""
        return self.row(position // self.config.grid) + self.column(position % self.config.grid)

    def context(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """What the image tokens attend to: float [B,1+T+K,C] and bool [B,1+T+K].

        Raises:
            ValueError: if a clue's code or position is outside the codebook or the grid.
        """
        clues, present = condition.clues, condition.clues[..., 0] >= 0
        limits = (self.config.codes, self.config.grid**2)
        highest = clues.amax(dim=(0, 1)).tolist() if clues.numel() else [-1, -1]
        if highest[0] >= limits[0] or highest[1] >= limits[1]:
            raise ValueError(
                f"a clue has (code, position) up to {tuple(highest)}, but the codebook has {limits[0]} codes and "
                f"{limits[1]} positions: the key patches were made with another codebook; make them again"
            )
        text = self.from_text(self.text(condition.ids, condition.mask))
        safe = clues.clamp(min=0)
        clue = self.code(safe[..., 0]) + self.place(safe[..., 1]) + self.clue_kind
        nothing = self.nothing.expand(len(text), 1, -1).to(text.dtype)
        mask = torch.cat([present.new_ones(len(text), 1), condition.mask, present], dim=1)
        # Words and clues differ in size by ten: without a norm the clues are not heard.
        return self.norm_context(torch.cat([nothing, text, clue.to(text.dtype)], dim=1)), mask

    def forward(self, codes: Tensor, condition: Condition) -> Tensor:
        """int64 [B,N] with `mask_code` for holes → float [B,N,V]."""
        positions = torch.arange(codes.shape[1], device=codes.device)
        context, context_mask = self.context(condition)
        x = self.code(codes) + self.place(positions) + self.view(condition.view)[:, None]
        for block in self.blocks:
            x = block(x, None, context, context_mask)
        return self.to_codes(self.norm(x))

    def loss(self, codes: Tensor, condition: Condition, noise: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of the masked codes; each hole counts the same, whichever image it is in.

        Args:
            codes: int64 [B,N], the true codes.
            condition: what they are predicted from.
            noise: float [B,N+1] in [0,1): the first column gives each image's share of holes by the cosine schedule
                (MaskGIT eq. 3), the others their places.
            label_smoothing: of the cross-entropy.
        """
        holes = self.holes(noise)
        logits = self(torch.where(holes, self.mask_code, codes), condition).float()
        losses = functional.cross_entropy(
            logits.flatten(0, 1), codes.flatten(), reduction="none", label_smoothing=label_smoothing
        ).view_as(codes)
        # By the number of holes to be expected: a constant, so that ranks and batches of unequal holes add up.
        return (losses * holes).sum() / (len(codes) * self.expected_holes(codes.shape[1]))

    @staticmethod
    def expected_holes(tokens: int) -> float:
        """Mean of ceil(cos(πu/2) · tokens) over u in [0,1): about tokens · 2/π."""
        return sum(2 / math.pi * math.acos(k / tokens) for k in range(tokens))

    def holes(self, noise: Tensor) -> Tensor:
        """Which codes are masked: float [B,N+1] in [0,1) → bool [B,N], at least one a row."""
        tokens = noise.shape[1] - 1
        count = (torch.cos(noise[:, 0] * torch.pi / 2) * tokens).ceil().clamp(min=1)
        return noise[:, 1:].argsort(dim=1).argsort(dim=1) < count[:, None]
