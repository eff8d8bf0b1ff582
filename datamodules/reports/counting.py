"""The tables of the vocabulary, counted from the facts of its reports."""

import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Set
from typing import Any

from datamodules.reports.drawing import NOWHERE
from datamodules.reports.keywords import Kind, parse
from datamodules.reports.report_facts import Facts
from datamodules.reports.stop_words import StopList

ANY = ""  # counts reports whatever they find


@dataclasses.dataclass(frozen=True)
class Tables:
    """What `Vocabulary` and its entries hold of the same names; words that were not kept appear in none."""

    stated: dict[str, int]
    forms: dict[str, dict[str, int]]
    findings: dict[str, dict[str, int]]
    places: dict[str, dict[str, int]]
    cooccurrence: dict[str, dict[str, dict[str, int]]]
    agreement: dict[str, dict[str, int]]
    background: dict[str, int]
    background_sizes: dict[int, int]
    sets: dict[str, int]


def left_out(
    counts: Mapping[str, int], kinds: Mapping[str, Kind], stop: StopList, *, min_count: int, max_words: int
) -> dict[str, dict[str, Any]]:
    """The words that are not kept: {"reports": how many mention it, "reason": ...} of each."""
    out: dict[str, dict[str, Any]] = {}
    for kind in ("anatomy", "pathology"):
        rank = 0
        for word in sorted((w for w in counts if kinds[w] == kind), key=lambda w: (-counts[w], w)):
            reason = stop.reason(word)
            if reason is None and counts[word] < min_count:
                reason = f"in fewer than {min_count} reports"
            elif reason is None:
                rank += 1
                reason = f"not among the {max_words} most frequent" if rank > max_words else None
            if reason is not None:
                out[word] = {"reports": counts[word], "reason": reason}
    return out


def count(facts: Mapping[Facts, int], keep: Set[str], stop: StopList) -> Tables:
    """Count what stands together.

    Args:
        facts: of the reports → how many reports have these.
        keep: the words to count.
        stop: says which words keep no severity.
    """
    stated: Counter[str] = Counter()
    forms: dict[str, Counter[str]] = defaultdict(Counter)
    findings: dict[str, Counter[str]] = defaultdict(Counter)
    places: dict[str, Counter[str]] = defaultdict(Counter)
    together: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    agreement: dict[str, Counter[str]] = defaultdict(Counter)
    background: Counter[str] = Counter()
    sizes: Counter[int] = Counter()
    sets: Counter[str] = Counter()
    for one, times in facts.items():
        keywords = [k for k in map(parse, one.stated) if k.word in keep]
        sides: dict[str, set[str]] = defaultdict(set)
        for keyword in keywords:
            severity = None if keyword.word in stop.without_severity else keyword.severity
            forms[keyword.word][str(dataclasses.replace(keyword, severity=severity))] += times
            sides[keyword.word] |= {keyword.side} if keyword.side else set()
        words = sorted({k.word for k in keywords})
        anatomy = [word for word in one.anatomy if word in keep]
        stated.update(dict.fromkeys(words, times))
        sets[" ; ".join(words)] += times
        for word in (*words, *anatomy):
            findings[word].update(dict.fromkeys(one.findings, times))
        for a, b in itertools.combinations(words, 2):
            if sides[a] and sides[b]:
                agreement[f"{a} ; {b}"]["sided"] += times
                agreement[f"{a} ; {b}"]["same"] += times * (_one(sides[a]) == _one(sides[b]))
        plain = [word for word in one.plain if word in keep]
        background.update(dict.fromkeys(plain, times))
        sizes[len(plain)] += times
        pairs = set()
        for pathologies, named in one.links:
            here = [word for word in named if word in keep]
            for word in keep & set(pathologies):
                places[word].update(dict.fromkeys(here or [NOWHERE], times))
                pairs |= {(place, word) for place in here}
        for place, word in pairs:
            together[place][word].update(dict.fromkeys((ANY, *one.findings), times))
    return Tables(
        stated=dict(stated),
        forms=_plain(forms),
        findings=_plain(findings),
        places=_plain(places),
        cooccurrence={word: _plain(table) for word, table in together.items()},
        agreement=_plain(agreement),
        background=dict(background),
        background_sizes=dict(sizes),
        sets=dict(sets),
    )


def _one(sides: set[str]) -> str:
    """Left and right of one word are both sides."""
    return next(iter(sides)) if len(sides) == 1 else "bilateral"


def _plain(table: Mapping[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {word: dict(counts) for word, counts in table.items()}
