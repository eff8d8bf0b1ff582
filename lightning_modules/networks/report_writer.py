"""Writing reports from keywords and checking them: whole texts first, then sentence by sentence.

1. Up to `candidates` texts are written one after another until the mention extractor finds one without fault.
2. What still fails is written sentence by sentence (`guided.py`), each chosen among `rescue`; where none says what is
   missing, among excerpts that the same model writes for each missing keyword alone. Every sentence is the model's.
3. What fails after that is flagged.

As often as training reports do not repeat one another, a text is to copy no eight words in a row from any of them.
"""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from datamodules.reports.keywords import Keywords, parse, verify
from lightning_modules.networks.copying import CopiedNgrams
from lightning_modules.networks.generation import Continuation, generate, log_likelihoods
from lightning_modules.networks.guided import FULL_STOPS, Place, write_guided
from lightning_modules.networks.language_model import Codec
from lightning_modules.networks.text_checks import BLANKS, imprecise, restated, split_sentences
from lightning_modules.networks.written import Request, Written, read_back

ROWS = 128  # texts written at a time: bounds the memory of the key-value cache
SENTENCE = 64  # longest sentence in sub-words


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How reports are sampled.

    Attributes:
        candidates: texts written one by one for one set of keywords, until one is verified.
        rescue: for what is not: tries a sentence, and excerpts for a missing keyword; 0 leaves it flagged.
        max_new_tokens: longest report in sub-words.
        temperature, top_p: of nucleus sampling; temperature 0 takes the most probable token.
    """

    candidates: int = 4
    rescue: int = 32
    max_new_tokens: int = 200
    temperature: float = 1.0
    top_p: float = 0.95

    def __post_init__(self) -> None:
        if (
            min(self.candidates, self.max_new_tokens) < 1
            or min(self.rescue, self.temperature) < 0
            or not 0 < self.top_p <= 1
        ):
            raise ValueError(
                f"candidates {self.candidates} and max_new_tokens {self.max_new_tokens} must be at least 1, rescue "
                f"{self.rescue} and temperature {self.temperature} at least 0, top_p {self.top_p} in (0, 1]"
            )


class Job(NamedTuple):
    """One text to write: what it is to say, the prompt for it as ids, what tells it apart, whether it may copy."""

    request: Request
    prompt: list[int]
    key: str
    may_copy: bool

    def settled(self, text: Written) -> bool:
        """Whether no other text is to be tried."""
        return text.verified and (self.may_copy or not text.copied)

    def rank(self, text: Written) -> tuple[int, ...]:
        """The lower the better."""
        return (*text.severity, 0 if self.may_copy else text.copied)


@dataclasses.dataclass(frozen=True)
class Writer:
    """A model and how it is asked.

    Attributes:
        model: causal LM.
        codec: its texts to ids and back.
        ask: requests to prompts, as ids.
        ask_excerpt: the same for an excerpt; None where the model was not trained to write any.
        clean: from what was written to the report.
        sampling: how.
        max_length: positions of the model.
        known: the words that it may write, None for all.
        training: the runs of words of the reports that it was trained on; None where there are none.
    """

    model: nn.Module
    codec: Codec
    ask: Callable[[Sequence[Request]], list[list[int]]]
    ask_excerpt: Callable[[Sequence[Request]], list[list[int]]] | None
    clean: Callable[[str], str]
    sampling: Sampling
    max_length: int
    known: frozenset[str] | None = None
    training: CopiedNgrams | None = None

    def write(self, requests: Sequence[Request], *, seed: int, keys: Sequence[str]) -> list[Written]:
        """Write one report for each request; see `ReportPrompter.write`. The model is left in its own mode."""
        prompts = self.ask(requests)
        longest = max((len(row) for row in prompts), default=0)
        if longest >= self.max_length:
            raise ValueError(
                f"{longest} sub-words of keywords leave no room in the model's {self.max_length}; ask for fewer "
                "keywords or train with a larger network.max_length"
            )
        was_training = self.model.training
        self.model.eval()
        try:
            may_copy = self.training.may_copy(keys, seed=seed) if self.training else [True] * len(requests)
            return self._write([Job(*one) for one in zip(requests, prompts, keys, may_copy, strict=True)], seed=seed)
        finally:
            self.model.train(was_training)

    def _write(self, jobs: Sequence[Job], *, seed: int) -> list[Written]:
        count, rescue, heat = self.sampling.candidates, self.sampling.rescue, self.sampling.temperature
        banned = self.codec.containing(BLANKS)
        best: dict[int, Written] = {}

        def settled(i: int) -> bool:
            return i in best and jobs[i].settled(best[i])

        def failing() -> list[int]:
            return [i for i in range(len(jobs)) if not settled(i)]

        def attempt(todo: list[int], numbers: Sequence[int], heats: Sequence[float]) -> None:
            tries = [(i, number, heat) for i in todo for number, heat in zip(numbers, heats, strict=True)]
            new = self._sample(
                [jobs[i].prompt for i, _, _ in tries],
                [[seed, zlib.crc32(jobs[i].key.encode()), number] for i, number, _ in tries],
                [heat for _, _, heat in tries],
                banned,
            )
            for (i, number, _), text in zip(tries, new, strict=True):
                if not settled(i):
                    read = read_back(text, jobs[i].request, known=self.known, training=self.training)
                    kept = read if i not in best or jobs[i].rank(read) < jobs[i].rank(best[i]) else best[i]
                    best[i] = dataclasses.replace(kept, attempts=number + 1)

        for number in range(count):
            if todo := failing():
                attempt(todo, [number], [heat])
        if rescue and self.ask_excerpt is None and (todo := failing()):
            # An instruct model answers as a whole: from surer to bolder, since what was added needs a lower
            # temperature, what was left out a higher one.
            attempt(todo, range(count, count + rescue), np.linspace(0.7 * heat, 1.4 * heat, rescue).tolist())
        if rescue and (todo := failing()):
            for i, read in zip(todo, self._guided([jobs[i] for i in todo], seed=seed, banned=banned), strict=True):
                if jobs[i].rank(read) < jobs[i].rank(best[i]):
                    best[i] = dataclasses.replace(read, attempts=best[i].attempts + 1, guided=True)
        return [best[i] for i in range(len(jobs))]

    def _guided(self, jobs: Sequence[Job], *, seed: int, banned: Sequence[int]) -> list[Written]:
        """Each text written sentence by sentence."""
        copies, stops = self.sampling.rescue, self.codec.ending(FULL_STOPS)

        def read(number: int, ids: list[int], strict: bool) -> Written:
            text = self.clean(self.codec.decode([ids])[0])
            found = read_back(text, jobs[number].request, known=self.known, training=self.training)
            if not strict:
                return found
            # Reports do say a thing twice, but a text that is being steered must not go in circles.
            asked = jobs[number].request.keywords.pathology
            again = [*restated(text), *imprecise(text, asked=asked, missing=found.check.missing)]
            return dataclasses.replace(found, faults=(*found.faults, *(f"again: {word}" for word in again)))

        def sample(places: Sequence[Place]) -> list[list[Continuation]]:
            found = self._continue(
                [jobs[place.text].prompt + place.ids for place in places for _ in range(copies)],
                [
                    [seed, zlib.crc32(jobs[p.text].key.encode()), p.sentence, copy, 0]
                    for p in places
                    for copy in range(copies)
                ],
                [self.sampling.temperature] * (len(places) * copies),
                banned,
                stops=stops,
            )
            return [found[start : start + copies] for start in range(0, len(found), copies)]

        def excerpts(places: Sequence[Place], texts: Sequence[Written]) -> list[list[Continuation]]:
            sentences = self._excerpts(
                texts, [jobs[p.text].key for p in places], [p.sentence for p in places], seed=seed, banned=banned
            )
            return [
                self._placed(found, jobs[place.text].prompt + place.ids, begins=not place.ids)
                for place, found in zip(places, sentences, strict=True)
            ]

        return write_guided(
            [read_back("", job.request, known=self.known) for job in jobs],
            sample=sample,
            excerpts=excerpts if self.ask_excerpt is not None else None,
            read=read,
            may_copy=[job.may_copy for job in jobs],
            rooms=[min(self.sampling.max_new_tokens, self.max_length - len(job.prompt)) for job in jobs],
        )

    def _placed(self, sentences: Sequence[str], context: list[int], *, begins: bool) -> list[Continuation]:
        """Sentences as continuations of a text, as probable as the model finds them there; too long ones left out."""
        rows = self.codec.encode([sentence if begins else f" {sentence}" for sentence in sentences])
        rows = [row for row in rows if len(context) + len(row) < self.max_length]
        if not rows:
            return []
        found = log_likelihoods(self.model, context, rows, pad=self.codec.pad)
        return [Continuation(row, False, value) for row, value in zip(rows, found, strict=True)]

    def _excerpts(
        self, texts: Sequence[Written], keys: Sequence[str], turns: Sequence[int], *, seed: int, banned: Sequence[int]
    ) -> list[list[str]]:
        """For each text, sentences that say something of what is missing, from excerpts written for it alone."""
        assert self.ask_excerpt is not None
        jobs = [(number, word) for number, one in enumerate(texts) for word in one.check.missing]
        single = [
            dataclasses.replace(
                texts[n].request,
                keywords=Keywords((), (word,)) if parse(word).kind == "pathology" else Keywords((word,), ()),
            )
            for n, word in jobs
        ]
        copies = 2 * self.sampling.rescue
        written = self._sample(
            [row for row in self.ask_excerpt(single) for _ in range(copies)],
            [
                [seed, zlib.crc32(keys[n].encode()), turns[n], copy, zlib.crc32(word.encode())]
                for n, word in jobs
                for copy in range(copies)
            ],
            (np.linspace(0.7, 1.3, copies) * self.sampling.temperature).tolist() * len(jobs),
            banned,
        )
        found: list[dict[str, None]] = [{} for _ in texts]
        for (number, _), start in zip(jobs, range(0, len(written), copies), strict=True):
            for text in written[start : start + copies]:
                found[number] |= dict.fromkeys(split_sentences(text))

        def helps(sentence: str, text: Written) -> bool:
            return bool(set(text.check.missing) - set(verify(sentence, text.request.keywords).missing))

        return [[s for s in found[number] if helps(s, text)] for number, text in enumerate(texts)]

    def _sample(
        self,
        prompts: Sequence[list[int]],
        seeds: Sequence[list[int]],
        heats: Sequence[float],
        banned: Sequence[int],
    ) -> list[str]:
        """One text a prompt."""
        found = self._continue(prompts, seeds, heats, banned)
        texts = self.codec.decode([one.ids for one in found])
        return [self.clean(text if one.ended else _whole(text)) for text, one in zip(texts, found, strict=True)]

    def _continue(
        self,
        prompts: Sequence[list[int]],
        seeds: Sequence[list[int]],
        heats: Sequence[float],
        banned: Sequence[int],
        *,
        stops: Sequence[int] = (),
    ) -> list[Continuation]:
        """One continuation a prompt. Each has its own room, so that a long prompt beside it does not shorten it."""
        most = SENTENCE if stops else self.sampling.max_new_tokens
        rooms = [min(most, self.max_length - len(prompt)) for prompt in prompts]
        found: list[Continuation] = []
        for start in range(0, len(prompts), ROWS):
            part = slice(start, start + ROWS)
            room = max(rooms[part])
            draws = np.stack([np.random.default_rng(seed).random(room) for seed in seeds[part]])
            written = generate(
                self.model,
                prompts[part],
                torch.from_numpy(draws),
                codec=self.codec,
                temperature=torch.tensor(heats[part], dtype=torch.float32),
                top_p=self.sampling.top_p,
                max_length=self.max_length,
                banned=banned,
                stops=stops,
            )
            found += [
                one if len(one.ids) < room else one._replace(ids=one.ids[:room], ended=False)
                for one, room in zip(written, rooms[part], strict=True)
            ]
        return found


def _whole(text: str) -> str:
    """A text that ran out of room, without its last, unfinished sentence; all of it if it has no other."""
    end = max(text.rfind(mark) for mark in (". ", ".\n", "\n"))
    return text if end < 0 or text.endswith(".") else text[: end + 1].rstrip()


def one_line(text: str) -> str:
    """A text with single blanks."""
    return " ".join(text.split())
