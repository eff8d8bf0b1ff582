"""What the mention extractor does not see in a text: another view, blanks, repetitions, fragments, the undrawable."""

import functools
import re
from collections.abc import Container, Sequence

from datamodules.reports.keywords import keywords_of, parse
from datamodules.reports.phrases import lexicon, tokenize

BLANKS = ("XX", "__")  # de-identification blanks of OpenI (XXXX) and MIMIC-CXR (___)

AP = re.compile(r"\b(AP|a\.p\.|antero-?posterior|portable|bedside|supine|semi-?(?:erect|upright|supine))\b", re.I)
PA = re.compile(r"\b(PA|p\.a\.|postero-?anterior)\b", re.I)
LATERAL = re.compile(
    r"\b(lateral (?:view|radiograph|projection|film|image|chest|examination)s?|(?:frontal|PA|AP) and lateral)\b", re.I
)

# What compares with another examination, hedges, tells the history or advises: nothing of it can be drawn.
UNDRAWABLE = {
    "comparison": (
        r"unchanged|(?:in)?stable|stably|interval(?:ly)?|compar(?:ed|ison|ing|able)|prior|previous(?:ly)?|"
        r"again|persist(?:s|ent|ently|ing)?|remain(?:s|ed|ing)?|resol(?:ved|ving|ution)|redemonstrat\w+|"
        r"(?:un|re)changed|no (?:significant )?change|since|"
        r"(?:increas|decreas|improv|worsen)(?:ed|ing|es|e|ement)\b(?! (?:in )?(?:density|opacity|lucency|ap diameter))|"
        r"new(?:ly)?|(?:short|long)(?:er)? (?:term|interval)|evolving|progress(?:ed|ion|ive)"
    ),
    "hedge": (
        r"possibl[ey]|probabl[ey]|likely|may|might|could|cannot (?:be )?exclude(?:d)?|suspect(?:ed)?|suspicious|"
        r"questionable|suggest(?:s|ed|ing|ive)?|equivocal|presum\w+|versus|vs|differential|appears? to be"
    ),
    "history": r"histor(?:y|ical)|indication|presents? with|complain(?:s|ing)?|year[- ]old|clinical(?:ly)?|patient'?s?",
    "advice": (
        r"recommend\w*|follow[- ]?up|correlat\w+|advis\w+|further (?:evaluation|imaging|assessment)|ct|mri|"
        r"computed tomography|consider(?:ed|ation)?|discussed|notified|communicated|dr"
    ),
}
# With these alone, names of places say nothing.
BETWEEN = re.compile(r"an?|and|as|at|by|for|from|in|of|on|or|over|since|the|to|with(?:in)?|[,.:/()]")
# With these as well, nothing is said at all: "There is noted.".
STATING = re.compile(r"there|is|are|was|were|been|noted|present|seen|identified|visualized|demonstrated|has|have")
CUES = {kind: re.compile(rf"\b(?:{words})\b", re.I) for kind, words in UNDRAWABLE.items()}


def split_sentences(text: str) -> list[str]:
    """Sentences with their full stops; a number such as "1." stays with what it numbers."""
    parts = re.split(r"(?<=[.?!])\s+(?=[A-Z0-9_])", text.strip())
    out: list[str] = []
    for part in parts:
        if out and re.fullmatch(r"(?:\d+|Dr|[A-Z])\.", out[-1].split(" ")[-1]):
            out[-1] += " " + part
        elif part:
            out.append(part)
    return out


def without_blanks(text: str) -> str:
    """The sentences of a report that have no de-identification blank; the whole text where each has one.

    What stands around a blank, "have ___ ___ in the interval", is no sentence to learn from.
    """
    kept = [s for s in split_sentences(text) if not any(blank in s for blank in BLANKS)]
    return " ".join(kept) if kept else text


def view_conflicts(text: str, view: str) -> list[str]:
    """Words of a text that name another view than the picture's.

    A portable or AP picture is not "PA", a PA picture not "portable", a lateral neither. "PA and lateral" fits both of
    its pictures, "AP and lateral" likewise; a lateral view named beside an AP picture otherwise does not fit.

    Args:
        text: a report.
        view: "PA", "AP", "LATERAL", or "unknown", which anything fits.
    """
    ap, pa, lateral = (
        [m.group(0) for m in pattern.finditer(text) if not (m.group(0).islower() and len(m.group(0)) == 2)]
        for pattern in (AP, PA, LATERAL)
    )
    # "AP diameter" measures the chest and "AP window" is a place between the great vessels.
    ap = [w for w in ap if w.upper() != "AP" or re.search(r"\bAP\b(?! (?:diameter|dimension|window))", text)]
    if view == "AP":
        return [*pa, *([] if any(w.upper() == "AP" for w in ap) else lateral)]
    if view == "PA":
        return ap
    if view == "LATERAL":
        return [w for w in ap if w.upper() != "AP" or not lateral]
    return []


def undrawable(text: str) -> list[str]:
    """The words that compare, hedge, tell a history or advise, each as "kind: word"."""
    return [f"{kind}: {m.group(0).lower()}" for kind, pattern in CUES.items() for m in pattern.finditer(text)]


def repeats(sentences: Sequence[str]) -> list[str]:
    """Sentences that were said before, in any case and punctuation."""
    seen: set[str] = set()
    again = []
    for sentence in sentences:
        plain = " ".join(re.findall(r"[a-z0-9]+", sentence.lower()))
        if plain in seen:
            again.append(sentence)
        seen.add(plain)
    return again


def stutters(text: str) -> list[str]:
    """Words that stand twice in a row."""
    return [m.group(1) for m in re.finditer(r"\b([A-Za-z]{2,}) \1\b", text)]


@functools.lru_cache(maxsize=100_000)
def is_fragment(sentence: str) -> bool:
    """Whether a sentence names places and says nothing of them, "Left lung base.", or nothing, "There is noted."."""
    tokens = tokenize(sentence)
    found = list(lexicon().matches(tokens))
    places = {i for m in found if m.value("anatomy") or m.value("side") for i in range(m.first, m.last)}
    words = [token.text for i, token in enumerate(tokens) if i not in places and not BETWEEN.fullmatch(token.text)]
    return bool(tokens) and (not words if places else all(STATING.fullmatch(word) for word in words))


def restated(text: str) -> list[str]:
    """Pathologies that a text states in more than one of its sentences."""
    stated: dict[str, None] = {}
    again: dict[str, None] = {}
    for sentence in split_sentences(text):
        words = dict.fromkeys(parse(keyword).word for keyword in _pathologies(sentence))
        again |= {word: None for word in words if word in stated}
        stated |= words
    return list(again)


def imprecise(text: str, *, asked: Sequence[str], missing: Sequence[str]) -> list[str]:
    """Pathologies stated with another side or severity than asked, so that they would have to be said again.

    Args:
        text: a report or the beginning of one.
        asked: pathology keywords.
        missing: those that the text does not state.
    """
    words = {parse(keyword).word for keyword in missing}
    return [keyword for keyword in _pathologies(text) if keyword not in asked and parse(keyword).word in words]


@functools.lru_cache(maxsize=100_000)
def _pathologies(sentence: str) -> tuple[str, ...]:
    return keywords_of(sentence).pathology


def words_of(text: str) -> set[str]:
    """The lower-cased words of at least three letters."""
    return {word.lower() for word in re.findall(r"[A-Za-z]{3,}", text)}


def misspelt(text: str, known: Container[str]) -> list[str]:
    """What a model that spells with sub-words gets wrong: words nobody wrote, sentences run together or begun small."""
    wrong = sorted(word for word in words_of(text) if word not in known)
    wrong += re.findall(r"[a-z]{3,}\.[A-Za-z]\w+|[a-z]{3,}\.\d+|\w*\.\.+", text)
    return (
        wrong
        + [sentence.split(" ")[0] for sentence in split_sentences(text) if sentence[:1].islower()]
        + [m.group(1) for m in re.finditer(r"[.?!]\s+([a-z]+)", text)]
    )


def faults(text: str, *, view: str, drawable: bool, known: Container[str] | None = None) -> tuple[str, ...]:
    """All of the above, each as "kind: what", in the order of the kinds; nothing for a text without fault.

    Args:
        text: a report.
        view: of its picture.
        drawable: whether comparisons, hedges, history and advice are faults.
        known: the words that may be written; None allows all.
    """
    sentences = split_sentences(text)
    found = [f"blank: {blank}" for blank in BLANKS if blank in text]
    found += [f"view: {word}" for word in view_conflicts(text, view)]
    found += [f"repeated: {sentence}" for sentence in [*repeats(sentences), *stutters(text)]]
    found += [f"fragment: {sentence}" for sentence in sentences if is_fragment(sentence)]
    found += [f"spelling: {word}" for word in (misspelt(text, known) if known is not None else ())]
    return (*found, *(undrawable(text) if drawable else ()))
