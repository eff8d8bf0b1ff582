"""What the vocabulary counts in one report: a small, hashable record, so that equal reports are counted as one."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from datamodules.reports.keywords import of_mentions
from datamodules.reports.labels import FINDINGS
from datamodules.reports.mentions import Mention


class Facts(NamedTuple):
    """All that is counted of a report but the words as they were written.

    Attributes:
        mentioned: words of both kinds, whatever the status, sorted.
        anatomy: anatomy words, sorted.
        stated: pathology keywords that are present or possible, sorted: "small left pleural effusion", ...
        findings: CheXpert findings that are present or possible, in their order.
        links: for each sentence that states a pathology the pathology words, and the anatomy words that it names.
        plain: anatomy words of the sentences that state no pathology, sorted.
    """

    mentioned: tuple[str, ...]
    anatomy: tuple[str, ...]
    stated: tuple[str, ...]
    findings: tuple[str, ...]
    links: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    plain: tuple[str, ...]


def facts_of(mentions: Sequence[Mention]) -> Facts:
    """The facts of one report's mentions."""
    named: dict[int, set[str]] = {}
    stated: dict[int, set[str]] = {}
    for mention in mentions:
        if mention.kind == "anatomy":
            named.setdefault(mention.sentence, set()).add(mention.word)
        elif mention.status != "absent":
            stated.setdefault(mention.sentence, set()).add(mention.word)
    findings = {m.label for m in mentions if m.label is not None and m.status != "absent"}
    return Facts(
        mentioned=_sorted(m.word for m in mentions),
        anatomy=_sorted(word for words in named.values() for word in words),
        stated=_sorted(of_mentions(list(mentions)).pathology),
        findings=tuple(finding for finding in FINDINGS if finding in findings),
        links=tuple((_sorted(words), _sorted(named.get(sentence, ()))) for sentence, words in stated.items()),
        plain=_sorted(word for sentence, words in named.items() if sentence not in stated for word in words),
    )


def written(report: str, mentions: Sequence[Mention]) -> list[tuple[str, str]]:
    """(word, how the report writes it in lower case) of each mention that names the word.

    "The heart is normal" denies cardiomegaly without naming it, and is no way to write it: left out.
    """
    named = {(m.start, m.end) for m in mentions if m.kind == "anatomy"}
    return [
        (m.word, report[m.start : m.end].lower())
        for m in mentions
        if m.kind == "anatomy"
        or m.status != "absent"
        or not any(m.start <= start and end <= m.end for start, end in named)
    ]


def counted(report: str, mentions: list[Mention]) -> tuple[Facts, list[tuple[str, str]]]:
    """Both, as a function for `bulk.map_mentions`."""
    return facts_of(mentions), written(report, mentions)


def _sorted(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(words)))
