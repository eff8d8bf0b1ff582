"""Packing: several short texts in one row, so that no padding is computed, each as if it stood alone.

Positions begin anew with each text, and `transformers` lets tokens attend within a run of consecutive positions only
when it is given positions and no mask. Loss and gradients are therefore those of the texts one by one. This holds for
models whose only way of mixing tokens is attention; recurrent (state-space) models need `packing: false`.
"""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_modules.networks.language_model import IGNORED


class Packed(NamedTuple):
    """R rows of T tokens: ids, positions and targets, each int64 [R,T]; targets are `IGNORED` outside the reports."""

    ids: Tensor
    positions: Tensor
    targets: Tensor


def can_pack(model: nn.Module) -> bool:
    """Whether the model takes positions, which is what keeps packed texts apart."""
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    return "position_ids" in inspect.signature(base.forward).parameters


def pack(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], *, max_length: int, stretch: int = 2
) -> Packed:
    """Pack prompt + answer of each text, first-fit with the longest first.

    Args:
        prompts: ids that carry no loss.
        answers: ids that do.
        max_length: longest text; what is longer is cut at its end.
        stretch: length of a row, in longest texts: more fills rows better and costs more attention.
    """
    texts = [
        ([*p, *a][:max_length], [*([IGNORED] * len(p)), *a][:max_length]) for p, a in zip(prompts, answers, strict=True)
    ]
    length = stretch * max(len(ids) for ids, _ in texts)
    rows: list[list[int]] = []
    free: list[int] = []
    for i in sorted(range(len(texts)), key=lambda i: -len(texts[i][0])):
        size = len(texts[i][0])
        r = next((r for r, left in enumerate(free) if left >= size), len(rows))
        if r == len(rows):
            rows.append([])
            free.append(length)
        rows[r].append(i)
        free[r] -= size
    # What is left of a row is filled with a token that is no padding, which transformers would warn of.
    ids = torch.full((len(rows), length), texts[0][0][0])
    targets = torch.full((len(rows), length), IGNORED)
    positions = torch.zeros((len(rows), length), dtype=torch.int64)
    for r, members in enumerate(rows):
        at = 0
        for i in members:
            words, goals = texts[i]
            ids[r, at : at + len(words)] = torch.tensor(words)
            targets[r, at : at + len(words)] = torch.tensor(goals)
            # The first token of a text follows another text: nothing may predict it.
            targets[r, at] = IGNORED
            positions[r, at : at + len(words)] = torch.arange(len(words))
            at += len(words)
        # The rest is a text of its own; its positions stay within the model's.
        positions[r, at:] = torch.arange(length - at) % max_length
    return Packed(ids, positions, targets)
