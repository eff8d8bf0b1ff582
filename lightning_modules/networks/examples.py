"""What the prompter learns from: a report under its keywords, at times without them, and excerpts under their own.

Drawn anew each epoch. The keywords may stand in any order, since a user's do; they may be missing, so that the same
weights also tell how probable a report is without them. A few sentences under the keywords of these alone teach which
word calls for which sentence, and the rarer its words, the more often a sentence is drawn. The first word of the prompt
says which of both is asked for.
"""

from dataclasses import dataclass, replace

import numpy as np

from datamodules.reports.keywords import Keywords, keywords_of, parse
from datamodules.reports.vocabulary import Vocabulary
from lightning_modules.networks.text_checks import split_sentences

REPORT, EXCERPT = "report", "excerpt"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Variation:
    """How often a training text is varied, each a share of the reports in [0,1].

    Attributes:
        without_keywords: the keywords are left out.
        shuffle: the keywords stand in another order than the report's.
        without_view: the view is left out.
        excerpt: an excerpt is learnt beside the report.
    """

    without_keywords: float = 0.1
    shuffle: float = 0.25
    without_view: float = 0.1
    excerpt: float = 0.5

    def __post_init__(self) -> None:
        for name, share in vars(self).items():
            if not 0 <= share <= 1:
                raise ValueError(f"variation.{name} is {share}; expected a share between 0 and 1")


def prompt(keywords: Keywords | None, *, view: str = UNKNOWN, form: str = REPORT) -> str:
    """The language model's input, e.g. "report PA: mild cardiomegaly ; heart"; without keywords "report PA"."""
    head = f"{form} {view}"
    return head if keywords is None else f"{head}: {keywords.prompt()}"


def vocabulary_keywords(report: str, vocabulary: Vocabulary) -> Keywords:
    """The keywords of a report that are in the vocabulary, as it draws them.

    A word that has no severity in any of its forms, as no device has, keeps none: it would never be drawn with one.
    """
    found = keywords_of(report, words=vocabulary.words)
    return Keywords(found.anatomy, tuple(_graded_as_drawn(text, vocabulary) for text in found.pathology))


def _graded_as_drawn(text: str, vocabulary: Vocabulary) -> str:
    keyword = parse(text)
    if keyword.severity is None or any(parse(form).severity for form in vocabulary.entries[keyword.word].forms):
        return text
    return str(replace(keyword, severity=None))


class Examples:
    """Draws training texts, and remembers the keywords of what it saw, since each report comes every epoch.

    Args:
        vocabulary: the words that keywords are taken from, and how rare they are.
        variation: how often what is varied.
    """

    def __init__(self, vocabulary: Vocabulary, variation: Variation) -> None:
        self.vocabulary, self.variation = vocabulary, variation
        self._keywords: dict[str, Keywords] = {}
        self._sentences: dict[str, tuple[list[str], np.ndarray]] = {}

    def keywords_of(self, text: str) -> Keywords:
        """The keywords of a report or sentence that are in the vocabulary."""
        if text not in self._keywords:
            self._keywords[text] = vocabulary_keywords(text, self.vocabulary)
        return self._keywords[text]

    def draw(self, report: str, *, view: str, rng: np.random.Generator) -> list[tuple[str, str]]:
        """The training texts of one report: prompts, and what is to be written.

        Args:
            report: of the training split, not empty; `without_blanks`.
            view: of its picture.
            rng: decides.
        """
        variation = self.variation
        bare, shuffled, unseen, excerpted = (
            rng.random(4) < (variation.without_keywords, variation.shuffle, variation.without_view, variation.excerpt)
        ).tolist()
        view = UNKNOWN if unseen else view
        keywords = self.keywords_of(report)
        if shuffled:
            keywords = Keywords(
                tuple(keywords.anatomy[i] for i in rng.permutation(len(keywords.anatomy))),
                tuple(keywords.pathology[i] for i in rng.permutation(len(keywords.pathology))),
            )
        drawn = [(prompt(None if bare else keywords, view=view), report)]
        if excerpted:
            excerpt = self._excerpt(report, rng)
            drawn.append((prompt(self.keywords_of(excerpt), view=view, form=EXCERPT), excerpt))
        return drawn

    def _excerpt(self, report: str, rng: np.random.Generator) -> str:
        """One or two sentences, the rarer their words the likelier."""
        if report not in self._sentences:
            sentences = split_sentences(report)
            self._sentences[report] = sentences, np.array([self._rarity(s) for s in sentences])
        sentences, rarity = self._sentences[report]
        first = int(rng.choice(len(sentences), p=rarity / rarity.sum()))
        return " ".join(sentences[first : first + int(rng.integers(1, 3))])

    def _rarity(self, sentence: str) -> float:
        """Between 1, for what every report says, and the square root of the number of reports."""
        keywords = self.keywords_of(sentence)
        words = [*keywords.anatomy, *(parse(text).word for text in keywords.pathology)]
        counts = [entry.count for word in words if (entry := self.vocabulary.entries.get(word)) is not None]
        return float((self.vocabulary.reports / max(1, min(counts, default=self.vocabulary.reports))) ** 0.5)
