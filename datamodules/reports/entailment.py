"""Whether a statement of one report holds of the image that another report describes: yes, no, or not known.

Reports are short and repeat themselves, so a sentence of one is true of many images. To treat these as wrong pairs
would teach that equal findings differ; to treat "small left effusion" as true of a right one would teach nothing of
sides. The rules follow the labelers: what a report does not name is not there, what it hedges on is not known.
"""

import functools
from collections.abc import Iterable
from typing import NamedTuple

from datamodules.reports.contradictions import GRADES
from datamodules.reports.mentions import NORMALITY, Mention, extract
from datamodules.reports.modifiers import Side, Status

NAN = float("nan")
SIDES: tuple[Side, Side] = ("left", "right")
# Zones that radiologists name for one another.
NEAR = frozenset([frozenset(["apex", "upper"]), frozenset(["base", "lower"])])


class Fact(NamedTuple):
    """What one mention says of a pathology; fields as of `Mention`."""

    word: str
    status: Status
    side: Side | None = None
    severity: str | None = None
    zone: str | None = None


def fact_of(mention: Mention) -> Fact:
    """The fact that a pathology's mention states."""
    return Fact(mention.word, mention.status, mention.side, mention.severity, mention.zone)


@functools.lru_cache(maxsize=100_000)
def pathologies(report: str) -> tuple[Mention, ...]:
    """The pathologies that a report names; remembered, since training reads each report once an epoch."""
    return tuple(mention for mention in extract(report) if mention.kind == "pathology")


@functools.lru_cache(maxsize=100_000)
def facts(report: str) -> frozenset[Fact]:
    """All that a report says of pathologies."""
    return frozenset(fact_of(mention) for mention in pathologies(report))


def silent(report: str) -> bool:
    """Whether a report tells nothing of pathologies, not even that all is normal: "Unchanged.", or no text at all."""
    return not facts(report) and NORMALITY.search(report) is None


@functools.lru_cache(maxsize=1_000_000)
def holds(fact: Fact, stated: frozenset[Fact], *, severity: bool = True) -> float:
    """Whether a fact is true of an image.

    Args:
        fact: in question.
        stated: what the image's own report says, from `facts`.
        severity: whether a degree that differs makes it false: a small effusion is no large one.

    Returns:
        1.0 or 0.0; NaN where the image's report does not decide it. A pathology that is not named is absent. One that
        is present on the left is so for "left" and for no side, not known for one without a side in `stated`, absent
        for "right" and for "bilateral". A suspicion is true where it was suspected, and decides nothing else.
    """
    if fact.status == "absent" and fact.side == "bilateral":
        fact = fact._replace(side=None)  # to deny both sides is to deny either
    same = [other for other in stated if other.word == fact.word]
    present = [_matches(fact, other, severity=severity) for other in same if other.status == "present"]
    suspected = [_on_side(fact, other) for other in same if other.status == "uncertain"]
    match fact.status:
        case "absent":
            # A denial speaks of all degrees and zones of its side.
            there = _any(_on_side(fact, other) for other in same if other.status == "present")
            return NAN if there == 0.0 and _any(suspected) != 0.0 else 1.0 - there
        case "uncertain":
            return _any(suspected) if suspected else (NAN if present else 0.0)
        case _ if fact.side == "bilateral":
            # Both sides may be stated one by one.
            one, two = (holds(fact._replace(side=side), stated, severity=severity) for side in SIDES)
            return 0.0 if 0.0 in (one, two) else one + two - 1.0
        case _:
            there = _any(present)
            return NAN if there == 0.0 and _any(suspected) != 0.0 else there


def _any(values: Iterable[float]) -> float:
    found = list(values)
    if 1.0 in found:
        return 1.0
    return NAN if any(value != value for value in found) else 0.0


def _on_side(fact: Fact, other: Fact) -> float:
    """Whether what is said of `other`'s side is so for that of `fact`."""
    if fact.side is None or fact.side == other.side or other.side == "bilateral":
        return 1.0
    return NAN if other.side is None else 0.0


def _matches(fact: Fact, other: Fact, *, severity: bool) -> float:
    on_side = _on_side(fact, other)
    if on_side == 0.0:
        return 0.0
    if severity and fact.severity and other.severity and GRADES[fact.severity] != GRADES[other.severity]:
        return 0.0
    if fact.zone and other.zone and fact.zone != other.zone:
        return NAN if frozenset([fact.zone, other.zone]) in NEAR else 0.0
    return on_side
