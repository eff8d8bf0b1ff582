"""Writing reports from keywords and checking them: candidates, more of them for what fails, then by sentences.

1. Up to `candidates` texts are written one after another until the mention extractor finds one without fault.
2. What still fails gets `rescue` texts at once, at temperatures around the given one.
3. What still fails is put together (`assembly.py`) from sentences of its own texts, and of excerpts that the same model
   writes for each missing keyword alone. Every sentence is the model's; what fails after that is flagged.
"""

import dataclasses
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from datamodules.reports.keywords import Keywords, Verification, parse, verify
from lightning_modules.networks.assembly import Pool, assemble
from lightning_modules.networks.generation import generate
from lightning_modules.networks.language_model import Codec
from lightning_modules.networks.text_checks import BLANKS, faults

TURNS = 3  # times that excerpts are written for what is still missing
ROWS = 128  # texts written at a time: bounds the memory of the key-value cache


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How reports are sampled.

    Attributes:
        candidates: texts written one by one for one set of keywords, until one is verified.
        rescue: texts written at once for what is not; 0 leaves it flagged.
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


@dataclasses.dataclass(frozen=True)
class Request:
    """What one text is to say.

    Attributes:
        keywords: the words asked for.
        view: of the picture: "PA", "AP", "LATERAL", "unknown".
        drawable: whether comparisons, hedges, history and advice are faults.
        source: the report that is rewritten, "" where none is.
    """

    keywords: Keywords
    view: str = "unknown"
    drawable: bool = False
    source: str = ""


@dataclasses.dataclass(frozen=True)
class Written:
    """One written report and what was found in it.

    Attributes:
        report: the text.
        request: what was asked.
        check: what is missing, contradicting or unasked, as the mention extractor sees it.
        faults: words of another view, blanks, repetitions, and what cannot be drawn where that counts.
        attempts: how many texts were written for it, excerpts included.
        assembled: whether it was put together from sentences.
    """

    report: str
    request: Request
    check: Verification
    faults: tuple[str, ...]
    attempts: int = 1
    assembled: bool = False

    @property
    def verified(self) -> bool:
        """Whether everything asked is stated, no pathology is denied or added, and there is no other fault."""
        return bool(self.report) and self.check.verified and not self.faults

    @property
    def severity(self) -> tuple[int, int]:
        """Contradictions and additions weigh more than omissions: a wrong text misleads, a short one says less."""
        wrong = len(self.check.contradicting) + len(self.check.unasked) + len(self.faults)
        return (2 * wrong + len(self.check.missing) + (0 if self.report else 100), len(self.check.missing))


def read_back(report: str, request: Request, *, known: frozenset[str] | None = None) -> Written:
    """Check a text against what was asked; `known` are the words that may be written, None allows all."""
    return Written(
        report,
        request,
        verify(report, request.keywords),
        faults(report, view=request.view, drawable=request.drawable, known=known),
    )


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
    """

    model: nn.Module
    codec: Codec
    ask: Callable[[Sequence[Request]], list[list[int]]]
    ask_excerpt: Callable[[Sequence[Request]], list[list[int]]] | None
    clean: Callable[[str], str]
    sampling: Sampling
    max_length: int
    known: frozenset[str] | None = None

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
            return self._write(requests, prompts, seed=seed, keys=keys)
        finally:
            self.model.train(was_training)

    def _write(
        self, requests: Sequence[Request], prompts: list[list[int]], *, seed: int, keys: Sequence[str]
    ) -> list[Written]:
        count, rescue, heat = self.sampling.candidates, self.sampling.rescue, self.sampling.temperature
        banned = self.codec.containing(BLANKS)
        texts: list[list[str]] = [[] for _ in requests]
        best: dict[int, Written] = {}

        def failing() -> list[int]:
            return [i for i in range(len(requests)) if i not in best or not best[i].verified]

        def attempt(todo: list[int], numbers: Sequence[int], heats: Sequence[float]) -> None:
            jobs = [(i, number, heat) for i in todo for number, heat in zip(numbers, heats, strict=True)]
            new = self._sample(
                [prompts[i] for i, _, _ in jobs],
                [[seed, zlib.crc32(keys[i].encode()), number] for i, number, _ in jobs],
                [heat for _, _, heat in jobs],
                banned,
            )
            for (i, number, _), text in zip(jobs, new, strict=True):
                texts[i].append(text)
                if i not in best or not best[i].verified:
                    read = read_back(text, requests[i], known=self.known)
                    kept = read if i not in best or read.severity < best[i].severity else best[i]
                    best[i] = dataclasses.replace(kept, attempts=number + 1)

        for number in range(count):
            if todo := failing():
                attempt(todo, [number], [heat])
        if rescue and (todo := failing()):
            # From surer to bolder: what was added needs a lower temperature, what was left out a higher one.
            attempt(todo, range(count, count + rescue), np.linspace(0.7 * heat, 1.4 * heat, rescue).tolist())
            for i in (todo := failing()):
                best[i] = self._assembled(best[i], texts[i], [])
            for turn in range(TURNS if self.ask_excerpt is not None else 0):
                if not (todo := failing()):
                    break
                pieces = self._excerpts(
                    [best[i] for i in todo], [keys[i] for i in todo], seed=seed, turn=turn, banned=banned
                )
                for i, piece in zip(todo, pieces, strict=True):
                    best[i] = self._assembled(best[i], texts[i], piece)
        return [best[i] for i in range(len(requests))]

    def _assembled(self, best: Written, texts: Sequence[str], excerpts: Sequence[str]) -> Written:
        pool = Pool(texts, excerpts)
        found = assemble(best, pool, read=lambda text: read_back(text, best.request, known=self.known))
        return dataclasses.replace(
            found,
            attempts=best.attempts + len(excerpts),
            assembled=best.assembled or found.report != best.report,
        )

    def _excerpts(
        self, failing: Sequence[Written], keys: Sequence[str], *, seed: int, turn: int, banned: Sequence[int]
    ) -> list[list[str]]:
        """For each failing text, excerpts written for each of its missing keywords alone."""
        assert self.ask_excerpt is not None
        jobs = [(number, word) for number, one in enumerate(failing) for word in one.check.missing]
        single = [
            dataclasses.replace(
                failing[n].request,
                keywords=Keywords((), (word,)) if parse(word).kind == "pathology" else Keywords((word,), ()),
            )
            for n, word in jobs
        ]
        copies = self.sampling.rescue
        prompts = self.ask_excerpt(single)
        heats = np.linspace(0.7, 1.4, copies) * self.sampling.temperature
        written = self._sample(
            [row for row in prompts for _ in range(copies)],
            [
                [seed, zlib.crc32(keys[n].encode()), zlib.crc32(word.encode()), copy]
                for n, word in jobs
                for copy in range(turn * copies, (turn + 1) * copies)
            ],
            heats.tolist() * len(jobs),
            banned,
        )
        pieces: list[list[str]] = [[] for _ in failing]
        for (number, _), start in zip(jobs, range(0, len(written), copies), strict=True):
            pieces[number] += written[start : start + copies]
        return pieces

    def _sample(
        self,
        prompts: Sequence[list[int]],
        seeds: Sequence[list[int]],
        heats: Sequence[float],
        banned: Sequence[int],
    ) -> list[str]:
        """One text a prompt. Each has its own room, so that a long prompt beside it does not shorten it."""
        rooms = [min(self.sampling.max_new_tokens, self.max_length - len(prompt)) for prompt in prompts]
        texts: list[str] = []
        for start in range(0, len(prompts), ROWS):
            part = slice(start, start + ROWS)
            room = max(rooms[part])
            draws = np.stack([np.random.default_rng(seed).random(room) for seed in seeds[part]])
            ids = generate(
                self.model,
                prompts[part],
                torch.from_numpy(draws),
                codec=self.codec,
                temperature=torch.tensor(heats[part], dtype=torch.float32),
                top_p=self.sampling.top_p,
                max_length=self.max_length,
                banned=banned,
            )
            cut = [row[:room] for row, room in zip(ids, rooms[part], strict=True)]
            for text, row, room in zip(self.codec.decode(cut), cut, rooms[part], strict=True):
                texts.append(self.clean(_whole(text) if len(row) == room else text))
        return texts


def _whole(text: str) -> str:
    """A text that ran out of room, without its last, unfinished sentence; all of it if it has no other."""
    end = max(text.rfind(mark) for mark in (". ", ".\n", "\n"))
    return text if end < 0 or text.endswith(".") else text[: end + 1].rstrip()


def one_line(text: str) -> str:
    """A text with single blanks."""
    return " ".join(text.split())
