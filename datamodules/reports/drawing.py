"""Drawing a study for a set of pathology words: side and severity of each, where it sits, what else is described.

Sides agree between pathologies as often as in the reports: a left consolidation comes with a left pneumonia.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from datamodules.reports.contradictions import NORMAL_DENIES, overlap
from datamodules.reports.keywords import Keyword, Keywords, parse
from datamodules.reports.labels import FRONTAL_VIEWS
from datamodules.reports.phrases import lexicon

if TYPE_CHECKING:
    from datamodules.reports.vocabulary import Vocabulary

NOWHERE = ""  # a pathology sentence that names no place
# Along this line the sides of two pathologies are compared: both take the same point of it, so that they agree where
# they can, and never lie on opposite sides unless one of them hardly occurs on the other's.
SIDE_ORDER = ("left", "bilateral", None, "right")
# An anatomy word in fewer of a pathology's sentences stands beside it by chance: "heart" with "atherosclerosis".
RARE_PLACE = 0.02
# Reports that are added as if their sides agreed by chance: one report in which two findings agree proves little.
FEW = 2
# A degree in fewer of a word's reports is a slip of the pen or of the extractor: "large emphysema", "small free air".
RARE_SEVERITY = 0.015
FEW_SEVERITY = 3  # reports; fewer where the vocabulary's words need fewer
# A sign and what it is the sign of lie on one side: never a left pneumonia with a right opacity.
ONE_PLACE = frozenset(["opacity", "consolidation", "pneumonia"])
OPPOSITE = {"left": "right", "right": "left"}
# Anatomy that is described with the whole it belongs to: of both only one is asked.
PART_OF = {
    "heart": "cardiomediastinal silhouette",
    "mediastinum": "cardiomediastinal silhouette",
    "hemidiaphragm": "diaphragm",
    "rib": "bony thorax",
    "clavicle": "bony thorax",
    "scapula": "bony thorax",
}
LATERAL_ONLY = frozenset(["sternum"])  # a frontal view does not show it
T = TypeVar("T")
Forms = Mapping[str, Mapping[Keyword, float]]


@dataclasses.dataclass(frozen=True)
class Study:
    """Keywords with what belongs together.

    Attributes:
        pathology: the pathology keywords.
        places: the anatomy word of each pathology, "" for none.
        background: anatomy words that are described without a pathology.
    """

    pathology: tuple[Keyword, ...] = ()
    places: tuple[str, ...] = ()
    background: tuple[str, ...] = ()

    @property
    def keywords(self) -> Keywords:
        """What the prompter is asked; each anatomy word once."""
        anatomy = dict.fromkeys((*self.places, *self.background))
        anatomy.pop(NOWHERE, None)
        return Keywords(tuple(anatomy), tuple(str(keyword) for keyword in self.pathology))


class Drawer:
    """Draws studies as a vocabulary's reports have them.

    Args:
        vocabulary: what is counted.
        forms: pathology word → keyword → weight, in place of the vocabulary's counts.
    """

    def __init__(self, vocabulary: "Vocabulary", *, forms: Forms | None = None) -> None:
        self.vocabulary = vocabulary
        self.forms = forms_of(vocabulary) if forms is None else forms
        self.agreement = _agreement(vocabulary, self.forms)

    def study(
        self,
        words: tuple[str, ...],
        *,
        rng: np.random.Generator,
        variate: Callable[[str], float] | None = None,
        possible: Mapping[str, bool] | None = None,
        view: str | None = None,
        beside: Sequence[Keyword] = (),
    ) -> Study:
        """Draw what is open about a study of these pathologies.

        Args:
            words: pathology words.
            rng: draws all that `variate` does not.
            variate: name of a choice → a number in [0, 1) that decides it; from `rng` by default.
            possible: pathology word → whether it is only possible; by default as often as in the reports.
            view: see `Vocabulary.from_labels`.
            beside: pathologies that the study has already; not drawn, but what is drawn goes with them.
        """
        pick = variate or (lambda _: float(rng.random()))
        lots: dict[str, float] = {}
        keywords: list[Keyword] = []
        places: dict[str, str] = {}
        for word in words:
            partner, strength = max(
                ((other, self.agreement.get((other, word), 0.0)) for other in lots),
                key=lambda pair: pair[1],
                default=("", 0.0),
            )
            shared = strength > 0 and float(rng.random()) < strength
            lots[word] = lots[partner] if shared else pick(f"side of {word}")
            maybe = None if possible is None else possible[word]
            barred = barred_side(word, (*beside, *keywords))
            keyword = self.keyword(word, lot=lots[word], pick=pick, possible=maybe, view=view, barred=barred)
            keywords.append(keyword)
            open_to = self.places(keyword, view=view)
            there = places.get(partner, NOWHERE)
            places[word] = there if shared and there in open_to and there != NOWHERE else choose(open_to, rng)
        background = self._background(keywords, tuple(places.values()), rng, view)
        return Study(tuple(keywords), tuple(places.values()), background)

    def complete(self, asked: Keywords, *, rng: np.random.Generator, view: str | None = None) -> Study:
        """A study that says what is asked, with anatomy drawn for what is open.

        A pathology is placed in the first asked anatomy where the reports have it, else in a drawn one. Asked anatomy
        that no pathology takes is described besides.
        """
        pathology = tuple(parse(text) for text in asked.pathology)
        places = []
        for keyword in pathology:
            known = self.places(keyword, view=view)
            fitting = [word for word in asked.anatomy if word in known or f"{keyword.side} {word}" in known]
            places.append(fitting[0] if fitting else choose(known, rng))
        rest = [word for word in asked.anatomy if word not in places]
        drawn = self._background(pathology, (*rest, *places), rng, view)
        return Study(pathology, tuple(places), (*rest, *drawn))

    def keyword(
        self,
        word: str,
        *,
        lot: float,
        pick: Callable[[str], float],
        possible: bool | None,
        view: str | None,
        barred: str | None = None,
    ) -> Keyword:
        """A pathology word with its modifiers: the side at point `lot` of SIDE_ORDER, the rest picked for that side.

        It is on no side that is barred; where the reports have it on no other, it has none.
        """
        options: dict[Keyword, float] = {}
        for keyword, weight in self.forms.get(word, {}).items():
            bare = dataclasses.replace(keyword, side=None) if view == "LATERAL" else keyword
            options[bare] = options.get(bare, 0) + weight
        if barred is not None and options:
            free = {k: w for k, w in options.items() if k.side != barred}
            options = free or {dataclasses.replace(k, side=None): w for k, w in options.items()}
        if possible is not None:
            # Where the reports know it only as sure, or only as possible, its other modifiers are taken from there.
            fitting = {k: w for k, w in options.items() if k.possible == possible} or options
            options = {dataclasses.replace(k, possible=possible): w for k, w in fitting.items()}
        if not options:
            return Keyword(word, "pathology", possible=bool(possible))
        sides = {side: sum(w for k, w in options.items() if k.side == side) for side in SIDE_ORDER}
        side = _at(sides, lot)
        same = {k: w for k, w in sorted(options.items(), key=lambda kw: str(kw[0])) if k.side == side}
        return _at(same, pick(f"form of {side} {word}")) if len(same) > 1 else next(iter(same))

    def places(self, keyword: Keyword, *, view: str | None = None) -> dict[str, int]:
        """Anatomy words for a keyword → weight: those on its side or without one; all if the word has no sides.

        "Lung apex" becomes "right lung apex" for a finding on the right, if the vocabulary has that.
        """
        counts = self.vocabulary.places.get(keyword.word, {})
        least = RARE_PLACE * sum(counts.values())
        entity = lexicon().entities[keyword.word]
        found: dict[str, int] = {}
        for place, count in counts.items():
            side = parse(place).side if place else None
            fits = not entity.lateral or side in (None, keyword.side) or view == "LATERAL"
            if count >= least and fits and _visible(place, view):
                sided = f"{keyword.side} {place}"
                if keyword.side is None or side is not None or sided not in self.vocabulary.entries:
                    sided = place
                name = _in_view(sided, view)
                found[name] = found.get(name, 0) + count
        return found

    def _background(
        self, keywords: Sequence[Keyword], named: Sequence[str], rng: np.random.Generator, view: str | None
    ) -> tuple[str, ...]:
        """Anatomy to describe as normal, beside anatomy that is named already."""
        rest: dict[str, int] = {}
        for word, count in self.vocabulary.background.items():
            if _visible(word, view) and not denies(word, keywords):
                name = _in_view(word, view)
                if not any(redundant(name, other) for other in named if other != NOWHERE):
                    rest[name] = rest.get(name, 0) + count
        size = int(choose({str(k): v for k, v in self.vocabulary.background_sizes.items()}, rng) or 0)
        drawn: list[str] = []
        while rest and len(drawn) < size:
            word = choose(rest, rng)
            drawn.append(word)
            rest = {other: count for other, count in rest.items() if not redundant(other, word)}
        return tuple(drawn)


def denies(word: str, keywords: Sequence[Keyword]) -> bool:
    """Whether anatomy that is described as normal denies one of the pathologies: clear lungs an opacity."""
    bare, side = _bare(word), parse(word).side
    labels = NORMAL_DENIES.get(bare, frozenset())
    subjects = {rule.word for rule in lexicon().composed if bare in rule.anatomy}
    return any(
        k.word in subjects or (lexicon().entities[k.word].label in labels and overlap(side, k.side)) for k in keywords
    )


def redundant(a: str, b: str) -> bool:
    """Whether two anatomy words are one, or one is part of the other: a lung and both lungs, but not left and right."""
    one, other = _bare(a), _bare(b)
    if one == other:
        return overlap(parse(a).side, parse(b).side)
    return PART_OF.get(one) == other or PART_OF.get(other) == one


def barred_side(word: str, beside: Sequence[Keyword]) -> str | None:
    """The side where a pathology would lie apart from that which it is the sign of, or the other way round."""
    sides = {k.side for k in beside if k.side in OPPOSITE and {word, k.word} <= ONE_PLACE and k.word != word}
    # Where the others are on both sides it may be on either.
    return OPPOSITE[sides.pop() or ""] if len(sides) == 1 else None


def forms_of(vocabulary: "Vocabulary", *, possible: bool = True) -> dict[str, dict[Keyword, float]]:
    """Pathology word → keyword → reports that state it so.

    Degrees that are rare for the word are left out, their reports counted without a degree.

    Args:
        vocabulary: what is counted.
        possible: if not, what is possible is counted as sure.
    """
    forms: dict[str, dict[Keyword, float]] = {}
    for word, entry in vocabulary.entries.items():
        keywords = {parse(text): count for text, count in entry.forms.items()}
        least = max(RARE_SEVERITY * sum(keywords.values()), min(FEW_SEVERITY, vocabulary.min_count))
        degrees: dict[str | None, int] = {}
        for keyword, count in keywords.items():
            degrees[keyword.severity] = degrees.get(keyword.severity, 0) + count
        for keyword, count in keywords.items():
            severity = keyword.severity if degrees[keyword.severity] >= least else None
            kept = dataclasses.replace(keyword, severity=severity, possible=possible and keyword.possible)
            mine = forms.setdefault(word, {})
            mine[kept] = mine.get(kept, 0.0) + count
    return forms


def shows(keyword: Keyword, view: str | None) -> bool:
    """Whether a view can show it: no side in a lateral one, and not what only a lateral one shows in another."""
    return keyword.side is None if view == "LATERAL" else _visible(keyword.word, view)


def choose(counts: Mapping[str, int], rng: np.random.Generator) -> str:
    """One of the words, as often as it is counted; "" of none."""
    if not counts:
        return NOWHERE
    share = np.array(list(counts.values()), dtype=np.float64)
    return list(counts)[int(rng.choice(len(share), p=share / share.sum()))]


def _at(weights: Mapping[T, float], point: float) -> T:
    """The option in whose part of [0, 1) the point lies."""
    kept = [(option, weight) for option, weight in weights.items() if weight > 0]
    ends = np.cumsum([weight for _, weight in kept])
    return kept[min(int(np.searchsorted(ends, point * ends[-1], side="right")), len(kept) - 1)][0]


def _agreement(vocabulary: "Vocabulary", forms: Forms) -> dict[tuple[str, str], float]:
    """(word, word), both ways → how often their sides agree beyond chance, in (0, 1]."""
    found: dict[tuple[str, str], float] = {}
    for pair, counts in vocabulary.agreement.items():
        a, b = pair.split(" ; ")
        shares = []
        for word in (a, b):
            sided = {s: sum(w for k, w in forms.get(word, {}).items() if k.side == s) for s in SIDE_ORDER if s}
            total = sum(sided.values())
            shares.append({s: w / total for s, w in sided.items()} if total else {})
        chance = sum(share * shares[1].get(side, 0.0) for side, share in shares[0].items())
        beyond = counts["same"] - chance * counts["sided"]
        strength = beyond / ((1 - chance) * (counts["sided"] + FEW)) if chance < 1 else 0.0
        if strength > 0:
            found[a, b] = found[b, a] = strength
    return found


def _visible(word: str, view: str | None) -> bool:
    return view not in FRONTAL_VIEWS or word not in LATERAL_ONLY


def _in_view(word: str, view: str | None) -> str:
    """The anatomy word as that view can show it: left and right lie over each other in a lateral one."""
    return _bare(word) if word and view == "LATERAL" else word


def _bare(word: str) -> str:
    """An anatomy word without its side."""
    side = parse(word).side
    return word.removeprefix(f"{side} ") if side else word
