"""Sampling from a causal language model with a key-value cache.

Our own loop around the cache of `transformers`: each text has its own stream of random numbers, so what is written for
a study depends neither on the batch nor on the rank it is in, and texts that have ended leave the batch.

Legend: B texts, T tokens, V sub-words.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from lightning_modules.networks.language_model import Codec


class Continuation(NamedTuple):
    """What was written after one prompt.

    Attributes:
        ids: new ids, without the end token.
        ended: whether the end token was drawn; else it paused at a stop or ran out of room.
        log_likelihood: of the drawn tokens, the end token included, under the model as it is: at temperature 1, nothing
            cut off or banned.
    """

    ids: list[int]
    ended: bool
    log_likelihood: float


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    uniforms: Tensor,
    *,
    codec: Codec,
    temperature: float | Tensor,
    top_p: float,
    max_length: int,
    banned: Sequence[int] = (),
    stops: Sequence[int] = (),
) -> list[Continuation]:
    """Continue prompts by nucleus sampling (Holtzman et al., arXiv 1904.09751) until each ends.

    Args:
        model: causal LM with a key-value cache.
        prompts: B lists of ids.
        uniforms: float64 [B,N] in [0,1), one number a new token: row b alone decides text b. N bounds the length.
        codec: gives `pad` and `end`.
        temperature: divides the logits, one number or float [B]; 0 takes the most probable token.
        top_p: probability mass that is sampled from, in (0,1].
        max_length: positions that the model has; a text that reaches it goes on at the last, and is to be cut there.
        banned: ids that are never written.
        stops: ids after which a text pauses, e.g. full stops; they are part of it.

    Returns:
        B continuations.
    """
    device = next(model.parameters()).device
    # Texts that begin alike are read once.
    numbers: dict[tuple[int, ...], int] = {}
    begun = torch.tensor([numbers.setdefault(tuple(row), len(numbers)) for row in prompts], device=device)
    longest = max(len(row) for row in numbers)
    ids = torch.tensor([[codec.pad] * (longest - len(row)) + list(row) for row in numbers], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in numbers], device=device)
    position = (mask.cumsum(dim=1) - 1).clamp(min=0)
    uniforms = uniforms.to(device=device, dtype=torch.float32)
    heat = torch.as_tensor(temperature, dtype=torch.float32, device=device).expand(len(prompts))
    ends = torch.tensor([codec.end, *codec.ends], device=device)
    pauses = torch.tensor(list(stops), dtype=torch.long, device=device)
    cache = DynamicCache()
    written: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    likelihood = torch.zeros(len(prompts), device=device)
    rows = torch.arange(len(prompts), device=device)  # texts that have not ended; the others leave the batch
    for step in range(uniforms.shape[1]):
        out = model(input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True)
        logits = out.logits[:, -1].float()
        if step == 0 and len(numbers) < len(prompts):
            cache.batch_select_indices(begun)
            logits, mask, position = logits[begun], mask[begun], position[begun]
        total = logits.logsumexp(dim=-1)
        if banned:
            logits[:, list(banned)] = float("-inf")
        new = _draw(logits, uniforms[rows, step], temperature=heat[rows], top_p=top_p)
        likelihood[rows] += logits.gather(1, new[:, None])[:, 0] - total
        over = torch.isin(new, ends)
        for row, token, is_end in zip(rows.tolist(), new.tolist(), over.tolist(), strict=True):
            if is_end:
                ended[row] = True
            else:
                written[row].append(token)
        going = ~(over | torch.isin(new, pauses))
        if not going.any():
            break
        if not going.all():
            keep = going.nonzero()[:, 0]
            cache.batch_select_indices(keep)
            rows, new, mask, position = rows[keep], new[keep], mask[keep], position[keep]
        ids = new[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        position = (position[:, -1:] + 1).clamp(max=max_length - 1)
    return [Continuation(*one) for one in zip(written, ended, likelihood.tolist(), strict=True)]


@torch.no_grad()
def log_likelihoods(
    model: nn.Module, context: Sequence[int], continuations: Sequence[Sequence[int]], *, pad: int
) -> list[float]:
    """How probable a model finds each of B continuations of one context, summed over its ids, at temperature 1.

    Args:
        model: causal LM with a key-value cache.
        context: ids, at least one.
        continuations: B lists of ids.
        pad: fills rows up.
    """
    device = next(model.parameters()).device
    cache = DynamicCache()
    first = model(input_ids=torch.tensor([list(context)], device=device), past_key_values=cache, use_cache=True).logits
    cache.batch_repeat_interleave(len(continuations))
    longest = max(len(row) for row in continuations)
    ids = torch.tensor([list(row) + [pad] * (longest - len(row)) for row in continuations], device=device)
    known = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in continuations], device=device)
    mask = torch.cat([known.new_ones(len(ids), len(context)), known], dim=1)
    position = torch.arange(len(context), len(context) + longest, device=device).expand_as(ids)
    out = model(input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True)
    logits = torch.cat([first[:, -1:].expand(len(ids), -1, -1), out.logits[:, :-1]], dim=1).float()
    found = logits.gather(2, ids[:, :, None])[:, :, 0] - logits.logsumexp(dim=-1)
    return (found * known).sum(dim=1).tolist()


def _draw(logits: Tensor, uniform: Tensor, *, temperature: Tensor, top_p: float) -> Tensor:
    """One token a row by inversion of the nucleus' cumulative distribution: [B,V], [B], [B] → int64 [B]."""
    if not temperature.any():
        return logits.argmax(dim=-1)
    # Temperature 0 in a batch with others: so cold that the first token has all the mass.
    ordered, index = (logits / temperature.clamp(min=1e-6)[:, None]).softmax(dim=-1).sort(dim=-1, descending=True)
    cumulative = ordered.cumsum(dim=-1)
    # A token belongs to the nucleus if the mass before it is below top_p, so the first always does.
    kept = torch.where(cumulative - ordered < top_p, ordered, 0.0).cumsum(dim=-1)
    place = (kept <= uniform[:, None] * kept[:, -1:]).sum(dim=-1).clamp(max=logits.shape[-1] - 1)
    return index.gather(1, place[:, None])[:, 0]
