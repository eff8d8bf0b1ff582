"""Side and zone of the pathologies of one sentence, from the words around each and from what it is joined with."""

from typing import NamedTuple

from datamodules.reports.modifiers import JOINTS, Finding, Sentence, Side
from datamodules.reports.phrases import Lexicon, Match

# Adjectives that stand before a joint and wait for the noun behind it: "right upper and lower lobe opacities".
DESCRIBING = frozenset(
    [
        *("airspace", "alveolar", "interstitial", "linear", "nodular", "patchy", "reticular", "segment", "streaky"),
        *("anterior", "lateral", "lower", "medial", "mid", "middle", "posterior", "upper"),
    ]
)


# What an effusion does, between its side and itself.
LYING = frozenset(["dependent", "free", "layering", "loculated", "pleural"])
# Phrases between a sign and its explanation that say more of the sign.
PASSED = frozenset(["anatomy", "side", "usual_side", "quality", "not_a_cue", "not_a_side"])
# First words of phrases that end the reach of a cue and yet lead to an explanation: "in the setting of fever".
REASONS = frozenset(["because", "due", "in", "related", "secondary", "superimposed", "which"])
# Likewise of those that say nothing but when.
TIMES = frozenset(["again", "currently", "now", "redemonstrated", "still"])
PREPOSITIONS = frozenset(["at", "in", "on", "of", "over", "overlying", "within"])


class Place(NamedTuple):
    """Where a finding is: its side, as named or as its place implies (lingula), and the zone of the lung."""

    side: Side | None
    zone: str | None


def find_places(sentence: Sentence, found: list[Finding]) -> list[Place]:
    """The place of each finding; what is joined without one of its own shares its neighbour's."""
    places = [_own_place(sentence, found, k) for k in range(len(found))]
    if (
        found
        and places[0].side is None
        and (len(found) == 1 or _concluded(sentence, found[0]) or _with(sentence, found[0]))
    ):
        # "In the right lung there is an opacity.", "Blunting of the left sulcus may be due to effusion or scarring."
        places[0] = Place(_nearest_side(sentence, found[0]), places[0].zone)
    lateral = [sentence.words.entities[f.word].lateral for f in found]
    for k in range(1, len(found)):  # "left effusion and atelectasis", "right opacity, possibly pneumonia"
        if lateral[k] and None in places[k] and _linked(sentence, found[k - 1], found[k]):
            places[k] = _share(places[k], places[k - 1])
    for k in range(len(found) - 2, -1, -1):  # "effusion and atelectasis at the left base"
        if lateral[k] and None in places[k] and _linked(sentence, found[k], found[k + 1], behind=True):
            places[k] = _share(places[k], places[k + 1])
    return [place if ok else Place(None, None) for place, ok in zip(places, lateral, strict=True)]


def _share(place: Place, other: Place) -> Place:
    """A place without a side takes the neighbour's, and its zone where it has none."""
    if place.side is None:
        return Place(other.side, place.zone or other.zone)
    # "Left effusion and right basilar atelectasis": the zone belongs to the other side.
    return Place(place.side, other.zone if place.zone is None and place.side == other.side else place.zone)


def _linked(sentence: Sentence, a: Finding, b: Finding, *, behind: bool = False) -> bool:
    """Whether two findings that follow each other are said of one place, which stands behind both or before both."""
    entities, functions, tokens = sentence.words.entities, sentence.words.functions, sentence.tokens
    # What explains a sign is where the sign is, whatever stands between: "opacity in the left base, likely scarring".
    concluded = entities[a.word].sign and (b.status == "uncertain" or entities[b.word].explains)
    contrast = strange = False
    for i in range(a.last, b.first):
        text, cover = tokens[i].text, sentence.cover[i]
        concluded |= text in functions["conclusions"]
        contrast |= text in ("rather", "instead", "not")
        if behind and text in ("a", "an") and tokens[i - 1].text in JOINTS:  # "pneumonia and a mass in the right hilum"
            return False
        if text == "with":  # "elevation of the right hemidiaphragm with atelectasis"
            strange = False
        elif text in functions["links"] or (cover is not None and cover.value("severity") is not None):
            continue
        elif cover is None or any(role.kind in PASSED or role.kind.startswith("uncertain") for role in cover.roles):
            strange |= cover is None or not any(role.kind.startswith("uncertain") for role in cover.roles)
        elif not (sentence.ends(i) and text in REASONS):
            return False
    return (concluded or not strange) and (contrast or (a.status == "absent") == (b.status == "absent"))


def _concluded(sentence: Sentence, f: Finding) -> bool:
    """Whether a finding is what its clause concludes from something that is no finding itself."""
    i = f.first - 1
    while (
        i >= 0
        and sentence.tokens[i].text in sentence.words.functions["links"] | sentence.words.functions["conclusions"]
    ):
        if sentence.tokens[i].text in sentence.words.functions["conclusions"]:
            return True
        i -= 1
    return False


def _with(sentence: Sentence, f: Finding) -> bool:
    """Whether a finding is what its place comes with: "the left upper lobe with scarring"."""
    i = f.first - 1
    while i >= 0 and ((cover := sentence.cover[i]) is None or cover.value("severity") is not None):
        i -= 1
    return i > 0 and sentence.tokens[i].text == "with" and _place(sentence, i - 1)


def _nearest_side(sentence: Sentence, f: Finding) -> Side | None:
    """The side that stands nearest before the only finding of a sentence, else the sides behind it."""
    i = f.first - 1
    before: list[str | None] = []
    while i >= 0:
        cover = sentence.cover[i]
        if cover is not None:
            before.append(cover.value("side") or (None if any(before) else cover.value("usual_side")))
            i = cover.first - 1
            continue
        if any(before) and (sentence.tokens[i].text in JOINTS or sentence.verb(i)):
            break
        i -= 1
    return _merge(before) or _merge([m.value("side") for m in sentence.matches if m.first >= f.last])


class _Walk:
    """Sides and zones met on the way from a finding."""

    def __init__(self, words: Lexicon) -> None:
        self.entities = words.entities
        self.sides: list[str | None] = []
        self.usual: list[str | None] = []
        self.zones: set[str] = set()
        self.far = False  # whether a preposition was crossed before a side was met

    def meet(self, match: Match) -> None:
        """Take what a phrase says of the place."""
        for role in match.roles:
            if role.kind == "side":
                self.sides.append(role.value)
            elif role.kind == "usual_side":
                self.usual.append(role.value)
            elif role.kind == "anatomy":
                zone = self.entities[role.value].zone
                if zone is not None:
                    self.zones.add(zone)

    def place(self) -> Place:
        """Several zones are none: "mid and lower lung"."""
        return Place(
            _merge(self.sides) or _merge(self.usual), self.zones.copy().pop() if len(self.zones) == 1 else None
        )


def _own_place(sentence: Sentence, found: list[Finding], k: int) -> Place:
    f = found[k]
    low = found[k - 1].last if k else 0
    high = found[k + 1].first if k + 1 < len(found) else len(sentence.tokens)
    walk = _Walk(sentence.words)
    i = f.first
    while i < f.last:
        match = sentence.at.get(i)
        if match is not None:
            walk.meet(match)
        i = match.last if match is not None else i + 1
    if walk.sides:
        return walk.place()
    stopped = _before(sentence, walk, f, k=k, low=low)
    near = _Walk(sentence.words)
    if walk.far and f.last < high and sentence.tokens[f.last].text in PREPOSITIONS:
        # "Nodules of both lungs along with scarring at the left apex": what stands right behind is nearer.
        _behind(sentence, near, f, high=high, crowded=k + 1 < len(found))
    if near.sides:
        return near.place()
    if not walk.sides:
        _behind(sentence, walk, f, high=high, crowded=k + 1 < len(found))
    if not walk.sides and stopped >= low:
        cue = sentence.cover[stopped]
        verb = stopped if cue is None else cue.first - 1  # "the left lung is free of consolidation"
        if cue is not None and sentence.tokens[cue.first].text == "there":  # "on the left there is atelectasis"
            comma = not k and verb >= low and sentence.tokens[verb].text == ","
            _subject(sentence, walk, verb - comma, low=low)
        elif verb >= low and sentence.verb(verb):
            _subject(sentence, walk, verb - 1, low=low)
    return walk.place()


def _before(sentence: Sentence, walk: _Walk, f: Finding, *, k: int, low: int) -> int:
    """Collect the places before a finding; gives the token that ended the walk."""
    i = f.first - 1
    while i >= low:
        cover, text = sentence.cover[i], sentence.tokens[i].text
        if cover is not None and cover.value("side") is not None:
            walk.meet(cover)
        elif sentence.verb(i) or sentence.ends(i) or (cover is not None and cover.value("quality") == "normal"):
            break
        elif cover is not None and any(role.kind == "absent_before" for role in cover.roles):
            break  # "consolidation in the left lobe without effusion"
        elif text in JOINTS:
            # "left apical and basal opacity", "bilateral interstitial and alveolar opacities", but "on the right and
            # pneumothorax on the left"
            if walk.usual and not walk.sides:  # "right base and lingular opacities"
                walk.sides += walk.usual
            if not walk.sides:
                both = _place(sentence, i - 1) and _place(sentence, i + 1)
                if not i or not (both or sentence.tokens[i - 1].text in DESCRIBING):
                    break
            elif k or not _side_before(sentence, i, low):
                break
        elif cover is not None:
            walk.meet(cover)
        elif text in PREPOSITIONS:
            walk.far |= not walk.sides
        i = cover.first - 1 if cover is not None else i - 1
    return i


def _behind(sentence: Sentence, walk: _Walk, f: Finding, *, high: int, crowded: bool) -> None:
    i = f.last
    while i < high:
        match, text = sentence.at.get(i), sentence.tokens[i].text
        if sentence.ends(i) and (crowded or text != "with") and text not in TIMES:
            break
        if crowded and text in JOINTS and not _goes_on(sentence, i + 1, high):
            break
        if match is not None:
            if any(role.kind.startswith("absent") for role in match.roles):
                break
            walk.meet(match)
        i = match.last if match is not None else i + 1


def _goes_on(sentence: Sentence, i: int, high: int) -> bool:
    """Whether behind a joint another place follows, and not the next finding with its place.

    "Opacities in the right apex and the left base with edema", but "opacity in the right lung and left effusion".
    """
    if sentence.tokens[i - 1].text == ",":  # ", the left lung shows ..." is a new subject
        return False
    if i < high and sentence.tokens[i].text == "the":
        i += 1
    begin = i
    while i < high and (cover := sentence.cover[i]) is not None and _place(sentence, i):
        i = cover.last
    return begin < i < high and (sentence.ends(i) or sentence.tokens[i].text in JOINTS)


def _subject(sentence: Sentence, walk: _Walk, i: int, *, low: int) -> None:
    """Collect the places of the subject that ends at token i: "the right lung shows a nodule"."""
    while i >= low and not sentence.ends(i) and not sentence.verb(i) and sentence.tokens[i].text not in (",", "/"):
        cover = sentence.cover[i]
        if cover is not None:
            walk.meet(cover)
        i = cover.first - 1 if cover is not None else i - 1


def _place(sentence: Sentence, i: int) -> bool:
    """Whether token i belongs to a place."""
    cover = sentence.cover[i] if 0 <= i < len(sentence.tokens) else None
    return cover is not None and (cover.value("anatomy") is not None or cover.value("side") is not None)


def _side_before(sentence: Sentence, i: int, low: int) -> bool:
    """Whether [side] [anatomy] stand before the joint at token i too: "left apex and right base opacity"."""
    i -= 1
    while i >= low:
        cover = sentence.cover[i]
        if cover is None:
            if sentence.tokens[i].text not in DESCRIBING:  # "right upper and left lower lobe opacities"
                return False
            i -= 1
            continue
        if cover.value("side") is not None:
            return True
        if cover.value("anatomy") is None:
            return False
        i = cover.first - 1
    return False


def split_sides(sentence: Sentence, f: Finding) -> list[tuple[Side | None, str | None]]:
    """The two (side, severity) of "moderate left and small right effusions", else nothing."""
    behind = f.first
    # "mild left and moderate right basilar atelectasis", "small left and large right layering effusions"
    while behind and (_anatomical(sentence, behind - 1) or sentence.tokens[behind - 1].text in LYING):
        behind -= 1
    told: list[str | None] = []
    for kind in ("side", "severity", "", "side", "severity"):
        cover = sentence.cover[behind - 1] if behind else None
        if kind and cover is not None and cover.value(kind) is not None:
            told.append(cover.value(kind))
            behind = cover.first
        elif not kind and cover is None and behind and sentence.tokens[behind - 1].text in JOINTS:
            behind -= 1
        else:
            return []
    second, one, first, other = told
    if {first, second} != {"left", "right"}:
        return []
    return [(first, other), (second, one)]  # type: ignore[list-item]


def _anatomical(sentence: Sentence, i: int) -> bool:
    """Whether token i belongs to a place that names no side."""
    cover = sentence.cover[i]
    return cover is not None and cover.value("anatomy") is not None and cover.value("side") is None


def _merge(sides: list[str | None]) -> Side | None:
    """One side from several: left and right together are bilateral."""
    named = {s for s in sides if s}
    if not named:
        return None
    if len(named) > 1 or "bilateral" in named:
        return "bilateral"
    return named.pop()  # type: ignore[return-value]
