"""Putting a report together from sentences of several candidates, when none of them is without fault as a whole.

Sentences that add or deny what nobody asked are dropped, and a sentence that states a missing keyword is put where it
stood in its own text. Each step is kept only if the mention extractor finds fewer faults in the whole than before, so
the result is never worse than what it began with.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from datamodules.reports.keywords import Verification
from lightning_modules.networks.text_checks import split_sentences

TRIED = 6  # sentences tried for one missing keyword


class Read(Protocol):
    """A text that was read back."""

    @property
    def report(self) -> str:
        """The text."""

    @property
    def check(self) -> Verification:
        """What it lacks, contradicts or adds."""

    @property
    def faults(self) -> tuple[str, ...]:
        """What else is wrong with it."""

    @property
    def verified(self) -> bool:
        """Whether nothing is."""

    @property
    def severity(self) -> tuple[int, int]:
        """How much is; the smaller the better."""


Text = TypeVar("Text", bound=Read)


class Pool:
    """Sentences to choose from: each once, with its place in its text from 0 (first) to 1 (last).

    Args:
        texts: whole reports.
        excerpts: texts for one keyword; their sentences go to the end.
    """

    def __init__(self, texts: Sequence[str], excerpts: Sequence[str]) -> None:
        self.places: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        for text in texts:
            sentences = split_sentences(text)
            for number, sentence in enumerate(sentences):
                self._add(sentence, number / max(1, len(sentences) - 1))
        for text in excerpts:
            for sentence in split_sentences(text):
                self._add(sentence, 1.0)

    def _add(self, sentence: str, place: float) -> None:
        # A sentence that was cut off by the length limit has no full stop.
        if sentence[-1] in ".?!":
            self.places.setdefault(sentence, place)
            self.counts[sentence] = self.counts.get(sentence, 0) + 1


def assemble(best: Text, pool: Pool, *, read: Callable[[str], Text]) -> Text:
    """Improve a text by dropping its faulty sentences and adding sentences for what is missing.

    Args:
        best: the text to begin with.
        pool: sentences that may be added.
        read: reads a text back.
    """
    now = _without_faults(best, read=read)
    alone: dict[str, Text] = {}
    for word in now.check.missing:
        if word not in now.check.missing:
            continue
        for sentence in pool.places:
            if sentence not in alone:
                alone[sentence] = read(sentence)
        fitting = [
            sentence
            for sentence, text in alone.items()
            if word not in text.check.missing and not (text.check.unasked or text.check.contradicting or text.faults)
        ]
        # The sentence that states most of what is missing, then the one that was written most often, then the surest:
        # the pool is in the order of the temperatures.
        missing = set(now.check.missing)
        fitting.sort(key=lambda s: (len(missing & set(alone[s].check.missing)), -pool.counts[s]))
        for sentence in fitting[:TRIED]:
            new = read(_insert(now.report, sentence, pool.places[sentence]))
            if new.severity < now.severity:
                now = new
                break
    return _without_faults(now, read=read)


def _without_faults(text: Text, *, read: Callable[[str], Text]) -> Text:
    """Drop one sentence after another as long as that leaves fewer faults."""
    improved = True
    while improved and not text.verified:
        improved = False
        sentences = split_sentences(text.report)
        for number in range(len(sentences) - 1, -1, -1):
            rest = sentences[:number] + sentences[number + 1 :]
            if not rest:
                continue
            new = read(" ".join(rest))
            if new.severity < text.severity:
                text, improved = new, True
                break
    return text


def _insert(report: str, sentence: str, place: float) -> str:
    sentences = split_sentences(report)
    at = round(place * len(sentences))
    return " ".join([*sentences[:at], sentence, *sentences[at:]])
