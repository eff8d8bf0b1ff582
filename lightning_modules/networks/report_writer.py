"""Writing reports from keywords and checking them: the best of a few candidates, read back by the mention extractor."""

import dataclasses
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from datamodules.reports.keywords import Keywords, Verification, verify
from lightning_modules.networks.language_model import Codec, generate


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How reports are sampled.

    Attributes:
        candidates: texts written at most for one set of keywords, until one is verified.
        max_new_tokens: longest report in sub-words.
        temperature, top_p: of nucleus sampling; temperature 0 takes the most probable token.
    """

    candidates: int = 4
    max_new_tokens: int = 200
    temperature: float = 0.7
    top_p: float = 0.95

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"candidates {self.candidates} and max_new_tokens {self.max_new_tokens} must be at least 1, "
                f"temperature {self.temperature} at least 0, top_p {self.top_p} in (0, 1]"
            )


@dataclasses.dataclass(frozen=True)
class Written:
    """One written report and what the extractor found in it.

    Attributes:
        report: the text.
        keywords: what was asked.
        check: what is missing, contradicting or unasked; `check.verified` if nothing is.
        attempts: how many candidates were written.
    """

    report: str
    keywords: Keywords
    check: Verification
    attempts: int

    @property
    def verified(self) -> bool:
        """Whether everything asked is stated and no pathology is denied or added."""
        return self.check.verified


def write_reports(
    model: nn.Module,
    codec: Codec,
    keywords: Sequence[Keywords],
    *,
    sampling: Sampling,
    n: int,
    seed: int,
    keys: Sequence[str] | None,
    max_length: int,
) -> list[Written]:
    """Write n reports for each set of keywords; see `ReportPrompter.write`. The model is left in its own mode."""
    names = [str(i) for i in range(len(keywords))] if keys is None else list(keys)
    jobs = [(k, f"{name}/{copy}") for k, name in zip(keywords, names, strict=True) for copy in range(n)]
    prompts = codec.prompts([asked.prompt() for asked, _ in jobs])
    # Each text has its own room, so that a long prompt beside it does not shorten it.
    rooms = [min(sampling.max_new_tokens, max_length - len(prompt)) for prompt in prompts]
    if min(rooms, default=1) < 1:
        raise ValueError(
            f"{max(len(row) for row in prompts)} sub-words of keywords leave no room in the model's {max_length}; "
            "ask for fewer keywords or train with a larger network.max_length"
        )
    best: dict[int, Written] = {}
    was_training = model.training
    model.eval()
    for attempt in range(sampling.candidates):
        todo = [i for i in range(len(jobs)) if i not in best or not best[i].verified]
        if not todo:
            break
        room = max(rooms[i] for i in todo)
        draws = [np.random.default_rng([seed, zlib.crc32(jobs[i][1].encode()), attempt]).random(room) for i in todo]
        ids = generate(
            model,
            [prompts[i] for i in todo],
            torch.from_numpy(np.stack(draws)),
            codec=codec,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_length=max_length,
        )
        texts = codec.decode([row[: rooms[i]] for i, row in zip(todo, ids, strict=True)])
        for i, text in zip(todo, texts, strict=True):
            new = Written(text, jobs[i][0], verify(text, jobs[i][0]), attempt + 1)
            kept = new if i not in best or _faults(new) < _faults(best[i]) else best[i]
            best[i] = dataclasses.replace(kept, attempts=attempt + 1)
    model.train(was_training)
    return [best[i] for i in range(len(jobs))]


def _faults(written: Written) -> tuple[int, int]:
    """Contradictions and additions weigh more than omissions: a wrong text misleads, a short one only says less."""
    check = written.check
    wrong = len(check.contradicting) + len(check.unasked)
    return (2 * wrong + len(check.missing) + (0 if written.report else 100), len(check.missing))
