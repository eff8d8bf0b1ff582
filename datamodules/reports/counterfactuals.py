"""Counterfactual studies: the same keywords with one finding removed, added, on another side or of another severity."""

import dataclasses
from collections.abc import Container
from typing import Literal, get_args

import numpy as np

from datamodules.reports.contradictions import exclusive
from datamodules.reports.drawing import NOWHERE, Drawer, Study, barred_side, choose, denies
from datamodules.reports.keywords import SIDES, Keyword, of_mentions, parse
from datamodules.reports.mentions import extract
from datamodules.reports.phrases import lexicon

Change = Literal["removed", "added", "side", "severity"]
CHANGES: tuple[Change, ...] = get_args(Change)


@dataclasses.dataclass(frozen=True)
class Counterfactual:
    """A changed study.

    Attributes:
        study: after the change.
        change: what was done.
        before: the pathology keyword that was there, None if one was added.
        after: the keyword in its place, None if it was removed.
    """

    study: Study
    change: Change
    before: str | None
    after: str | None


def counterfactual(
    study: Study, change: Change, *, drawer: Drawer, rng: np.random.Generator, view: str | None = None
) -> Counterfactual | None:
    """Change one finding and what belongs to it; all else stays, in its order.

    The finding that changes is one that no other keyword of the study states too, so that its CheXpert label changes
    with it when it is removed or added. Its place goes with it, unless reports describe that anatomy without the
    finding at least as often ("heart" stays where cardiomegaly goes); a place on a side changes sides with it.

    Args:
        study: e.g. drawn by a `KeywordSampler`, or `study_of` a report.
        change: "removed"; "added": one that the reports state together with those of the study; "side" and "severity":
            another one that the reports know for that word.
        drawer: of the vocabulary.
        rng: draws which finding and what it becomes.
        view: see `Vocabulary.from_labels`.

    Returns:
        None if this study cannot be changed so: it has no finding, no side or no severity to change.

    Raises:
        ValueError: for an unknown change.
    """
    if change not in CHANGES:
        raise ValueError(f"change is {change!r}; expected one of {list(CHANGES)}")
    if change == "added":
        return _added(study, drawer, rng, view)
    alone = [k for k in range(len(study.pathology)) if _alone(study, k)]
    if change == "removed":
        return _removed(study, int(rng.choice(alone)), drawer) if alone else None
    options = [(k, new) for k in alone for new in _others(study, k, change, drawer)]
    if view == "LATERAL" and change == "side":
        options = []
    if not options:
        return None
    k, new = options[int(rng.choice(len(options)))]
    place = study.places[k]
    if change == "side":
        place = _moved(place, new, drawer, rng, view)
    return Counterfactual(_with(study, k, new, place), change, str(study.pathology[k]), str(new))


def study_of(report: str, *, words: Container[str] | None = None) -> Study:
    """The keywords of a report with what belongs together: a pathology's place is one that its sentence names.

    Args:
        report: its text.
        words: canonical words to keep, None for all.
    """
    mentions = [m for m in extract(report) if words is None or m.word in words]
    keywords = of_mentions(mentions)
    pathology = tuple(map(parse, keywords.pathology))
    places = []
    for keyword in pathology:
        stated = [
            m.sentence
            for m in mentions
            if m.word == keyword.word and m.status != "absent" and keyword.side in (m.side, "bilateral")
        ]
        near = [m for m in mentions if m.kind == "anatomy" and m.sentence in stated[:1]]
        fitting = [m.word for m in near if m.side in (None, keyword.side) or keyword.side is None]
        places.append(fitting[0] if fitting else NOWHERE)
    return Study(pathology, tuple(places), tuple(word for word in keywords.anatomy if word not in places))


def _finding(keyword: Keyword) -> str:
    return lexicon().entities[keyword.word].label or keyword.word


def _alone(study: Study, k: int) -> bool:
    finding = _finding(study.pathology[k])
    return sum(_finding(other) == finding for other in study.pathology) == 1


def _removed(study: Study, k: int, drawer: Drawer) -> Counterfactual:
    gone, place = study.pathology[k], study.places[k]
    counts = drawer.vocabulary
    usual = counts.background.get(place, 0) >= counts.places.get(gone.word, {}).get(place, 0) > 0
    keep = (place,) if place != NOWHERE and usual and place not in study.background else ()
    left = Study(
        study.pathology[:k] + study.pathology[k + 1 :],
        study.places[:k] + study.places[k + 1 :],
        keep + study.background,
    )
    return Counterfactual(left, "removed", str(gone), None)


def _added(study: Study, drawer: Drawer, rng: np.random.Generator, view: str | None) -> Counterfactual | None:
    present = {k.word for k in study.pathology}
    findings = {_finding(k) for k in study.pathology}
    together: dict[str, int] = {}
    beside: dict[str, int] = {}
    for name, count in drawer.vocabulary.sets.items():
        words = set(name.split(" ; ")) if name else set()
        if exclusive(words | present):
            continue
        for word in words - present:
            if present <= words and len(words) == len(present) + 1:
                together[word] = together.get(word, 0) + count
            if present & words or not present:
                beside[word] = beside.get(word, 0) + count
    for weights in (together, beside):
        weights = {
            word: count
            for word, count in weights.items()
            if (lexicon().entities[word].label or word) not in findings and drawer.forms.get(word)
        }
        if weights:
            break
    else:
        return None
    drawn = drawer.study((choose(dict(sorted(weights.items())), rng),), rng=rng, view=view, beside=study.pathology)
    new, place = drawn.pathology[0], drawn.places[0]
    # The heart that was described as normal is where the cardiomegaly is now.
    subjects = {part for rule in lexicon().composed if rule.word == new.word for part in rule.anatomy}
    taken = [word for word in study.background if word in subjects]
    changed = Study(
        (*study.pathology, new),
        (*study.places, taken[0] if taken else place),
        tuple(word for word in study.background if not denies(word, (new,))),
    )
    return Counterfactual(changed, "added", None, str(new))


def _others(study: Study, k: int, change: Change, drawer: Drawer) -> list[Keyword]:
    """Keyword k with each other side, or severity, that the reports give this word."""
    keyword, rest = study.pathology[k], study.pathology[:k] + study.pathology[k + 1 :]
    own = keyword.side if change == "side" else keyword.severity
    if own is None:
        return []
    forms = [form for form, weight in drawer.forms.get(keyword.word, {}).items() if weight > 0]
    if change == "side":
        sides = sorted({form.side for form in forms if form.side} - {own, barred_side(keyword.word, rest)})
        return [dataclasses.replace(keyword, side=side) for side in sides]
    severities = sorted({form.severity for form in forms if form.severity} - {own})
    return [dataclasses.replace(keyword, severity=severity) for severity in severities]


def _moved(place: str, keyword: Keyword, drawer: Drawer, rng: np.random.Generator, view: str | None) -> str:
    """Where the finding is on its new side."""
    side = parse(place).side if place != NOWHERE else None
    if side not in SIDES or side == keyword.side:
        return place
    mirrored = f"{keyword.side} {place.removeprefix(f'{side} ')}"
    return mirrored if mirrored in drawer.vocabulary.entries else choose(drawer.places(keyword, view=view), rng)


def _with(study: Study, k: int, keyword: Keyword, place: str) -> Study:
    return Study(
        (*study.pathology[:k], keyword, *study.pathology[k + 1 :]),
        (*study.places[:k], place, *study.places[k + 1 :]),
        # The right lung is not clear any more where the opacity has moved there.
        tuple(word for word in study.background if word == place or not denies(word, (keyword,))),
    )
