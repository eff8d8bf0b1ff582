"""The statements of reports: which text speaks for each, what its words ask for, and of which images it holds.

What holds of which image is decided by `datamodules.reports.entailment`, so equal findings of two studies do not repel
each other, and the same finding on the other side is the hardest negative there is.
Legend: B images or texts, W words, D dimensions, M statements.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from datamodules.reports.entailment import Fact, fact_of, facts, holds, pathologies, silent
from datamodules.reports.mentions import Mention
from lightning_modules.networks.alignment import Queries, Words
from lightning_modules.networks.key_patches import mention_words
from lightning_modules.networks.ranks import gather_items
from lightning_modules.networks.tokenizer import Tokens


class Statement(NamedTuple):
    """A pathology that a text states or denies.

    Attributes:
        fact: what it says.
        text: row of the text.
        words: the words of the phrase.
    """

    fact: Fact
    text: int
    words: tuple[int, ...]


class Answers(NamedTuple):
    """Which statements hold of which images; bool [B,M]. A pair that is in none of them is not decided."""

    true: Tensor
    false: Tensor
    hard: Tensor  # false, and the image shows the same finding elsewhere


def prompts(reports: Sequence[str]) -> list[str]:
    """A sentence that states and one that denies it, for every pathology that the reports name; sorted by word.

    Reports give nearly every finding a side or a degree: what it looks like anywhere is asked by these alone.
    """
    words = sorted({fact.word for report in reports for fact in facts(report)})
    return [text for word in words for text in prompt_pair(word)]


def prompt_pair(word: str) -> tuple[str, str]:
    """The sentence that states a pathology anywhere, and the one that denies it."""
    return f"There is {word}.", f"No {word}."


def stated(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[Mention, list[int]]]:
    """The pathologies that a text states or denies, and their words; suspicions and what is cut off are left out.

    Args:
        text: a report.
        spans: (start, end) of its words.
    """
    found = [(mention, mention_words(mention, spans)) for mention in pathologies(text)]
    return [(mention, inside) for mention, inside in found if mention.status != "uncertain" and inside]


def statements(texts: Sequence[str], tokens: Tokens, *, step: int) -> list[Statement]:
    """One statement of each fact but its degree, among all ranks' texts; suspicions are left out.

    Which text speaks for a fact that several state changes with `step`, and does not depend on the ranks.
    """
    best: dict[Fact, tuple[bytes, Statement]] = {}
    for row, text in enumerate(texts):
        for mention, inside in stated(text, tokens.spans[row]):
            fact = fact_of(mention)._replace(severity=None)
            order = hashlib.blake2b(f"{step}/{mention.start}/{text}".encode(), digest_size=8).digest()
            if fact not in best or order < best[fact][0]:
                best[fact] = order, Statement(fact, row, tuple(inside))
    everyone = gather_items([{fact: order for fact, (order, _) in best.items()}])  # one dictionary a rank
    if len(everyone) == 1:
        return [one for _, one in best.values()]
    mine = torch.distributed.get_rank()
    least = {fact: min((orders[fact], rank) for rank, orders in enumerate(everyone) if fact in orders) for fact in best}
    return [one for fact, (_, one) in best.items() if least[fact][1] == mine]


def queries(found: Sequence[tuple[int, Sequence[int]]], words: Words) -> Queries:
    """What M statements ask for: the means over their words.

    Args:
        found: for each the row of its text, and its words; at least one.
        words: of all texts.
    """
    length, device = words.vectors.shape[1], words.vectors.device
    place = torch.tensor([row * length + i for row, inside in found for i in inside], dtype=torch.long, device=device)
    owner = torch.tensor([m for m, (_, inside) in enumerate(found) for _ in inside], dtype=torch.long, device=device)
    every = torch.cat([words.vectors, words.denials[..., None], words.thresholds[..., None]], dim=-1).flatten(0, 1)
    of_words = every.index_select(0, place)
    summed = of_words.new_zeros(len(found), of_words.shape[-1]).index_add(0, owner, of_words)
    counts = torch.tensor([len(inside) for _, inside in found], device=device)
    return Queries(functional.normalize(summed[:, :-2], dim=-1), summed[:, -2] / counts, summed[:, -1] / counts)


def answers(asked: Sequence[Fact], reports: Sequence[str], *, device: torch.device) -> Answers:
    """What each of B images answers to M statements; an image whose report tells nothing answers none."""
    stated = [facts(report) for report in reports]
    held = torch.tensor([[holds(fact, of, severity=False) for fact in asked] for of in stated], device=device)
    held = held.reshape(len(reports), len(asked))
    held[torch.tensor([silent(report) for report in reports], device=device)] = torch.nan
    shown = [{fact.word for fact in of if fact.status == "present"} for of in stated]
    elsewhere = torch.tensor(
        [[fact.status == "present" and fact.word in words for fact in asked] for words in shown],
        dtype=torch.bool,
        device=device,
    )
    return Answers(held == 1, (held == 0) & ~elsewhere, (held == 0) & elsewhere)
