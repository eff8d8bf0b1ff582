"""The phrase lists of `phrases.json` as a trie over words: which phrases a text contains, longest first.

A trie costs one dictionary look-up a word, whatever the number of phrases; a regular expression of a thousand
alternatives costs a thousand trials at each word.
"""

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

SCHEMA = 2
# A number with its decimals is one token, so that "1.5 cm" does not end a sentence.
TOKEN = re.compile(r"\d+\.\d+|[a-z0-9]+|[.?,:/()]")
SENTENCE_END = re.compile(r"[;!]|(?<=[\w?])\?(?=\s|$)|(?<!\bvs)(?<!\bdr)\.(?!(?<=\d\.)\d)|\n[ \t]*\n", re.IGNORECASE)
ALTERNATIVES = re.compile(r"\{([^{}]*)\}")
CUES = (
    "absent_before",
    "absent_after",
    "uncertain_adjective",
    "uncertain_before",
    "uncertain_after",
    "not_a_cue",
    "history",
    "terminators",
    "not_a_side",
)


class Token(NamedTuple):
    """One lower-cased word or punctuation mark and where it stands in the text."""

    text: str
    start: int
    end: int


class Role(NamedTuple):
    """What a phrase means: `kind` is a section of phrases.json, `value` the canonical word there ("" for cues)."""

    kind: str
    value: str


class Meaning(NamedTuple):
    """All that a phrase may mean: its roles, and the first value of each kind."""

    roles: tuple[Role, ...]
    values: dict[str, str]


class Match(NamedTuple):
    """A phrase found at tokens first..last-1 of a sentence."""

    first: int
    last: int
    meaning: Meaning

    @property
    def roles(self) -> tuple[Role, ...]:
        """All its roles, in the order of phrases.json's sections."""
        return self.meaning.roles

    def value(self, kind: str) -> str | None:
        """The canonical word of that kind, None if the phrase has no such meaning."""
        return self.meaning.values.get(kind)


@dataclass(frozen=True)
class Entity:
    """A canonical word.

    Attributes:
        word: as it is written in vocabularies and keywords.
        kind: "pathology" or "anatomy".
        label: its CheXpert name, if any.
        lateral: whether it has a side.
        zone: of the lung, where an anatomy word names one.
        sign: whether it is what is seen, which other findings explain ("opacity, possibly pneumonia").
        explains: whether it is named to explain a sign of the lung.
    """

    word: str
    kind: str
    label: str | None
    lateral: bool
    zone: str | None = None
    sign: bool = False
    explains: bool = False


@dataclass(frozen=True)
class Composed:
    """An anatomy word and a quality that together are a finding, e.g. heart + enlarged = cardiomegaly."""

    word: str
    anatomy: frozenset[str]
    present: frozenset[str]
    uncertain: frozenset[str]
    absent: frozenset[str]


@dataclass(frozen=True)
class Lexicon:
    """All phrases.

    Attributes:
        entities: canonical word → what it is; pathology and anatomy words do not overlap.
        composed: rules anatomy + quality → finding.
        functions: single words that steer scopes, by what they do: verbs, articles, links, fillers, conclusions.
        trie: nested dictionaries of words; the meaning of a phrase that ends at a node stands under "".
    """

    entities: dict[str, Entity]
    composed: tuple[Composed, ...]
    functions: dict[str, frozenset[str]]
    trie: dict[str, Any]

    def matches(self, tokens: list[Token]) -> Iterator[Match]:
        """Phrases from left to right, the longest at each place, without overlap."""
        i, n = 0, len(tokens)
        while i < n:
            node: Any = self.trie.get(tokens[i].text)
            j, found, end = i + 1, None, i + 1
            while node is not None:
                meaning = node.get("")
                if meaning is not None:
                    found, end = meaning, j
                if j == n:
                    break
                node = node.get(tokens[j].text)
                j += 1
            if found is not None:
                yield Match(i, end, found)
            i = end


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """Where each sentence starts, and the sentence without its end but for a question mark.

    Ends are full stops, semicolons, question and exclamation marks and empty lines, but not the point of a number, nor
    that of "vs.", nor a question mark before what is suspected: "right opacity, ? pneumonia".
    """
    start = 0
    for match in SENTENCE_END.finditer(text):
        sentence = text[start : match.end() if match[0] == "?" else match.start()]
        if sentence.strip():
            yield start, sentence
        start = match.end()
    if text[start:].strip():
        yield start, text[start:]


def tokenize(sentence: str) -> list[Token]:
    """The lower-cased words, numbers and punctuation marks of one sentence."""
    return [Token(match[0], *match.span()) for match in TOKEN.finditer(sentence.lower())]


def expand(phrase: str) -> Iterator[str]:
    """The phrases that one with alternatives stands for: "cannot be {|entirely} {excluded|ruled out}" is four."""
    match = ALTERNATIVES.search(phrase)
    if match is None:
        yield " ".join(phrase.split())
        return
    for alternative in match[1].split("|"):
        yield from expand(phrase[: match.start()] + alternative + phrase[match.end() :])


def plural(phrase: str) -> tuple[str, ...]:
    """The phrase and the regular plural of its last word."""
    if phrase.endswith("y") and phrase[-2] not in "aeiou":
        return phrase, phrase[:-1] + "ies"
    if phrase.endswith(("s", "x", "ch", "sh")):
        return phrase, phrase + "es"
    return phrase, phrase + "s"


@functools.cache
def lexicon() -> Lexicon:
    """The lexicon of `phrases.json`, read once.

    Raises:
        ValueError: if the file has another schema, or a composed rule names a word that does not exist.
    """
    path = Path(__file__).with_name("phrases.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    if data.get("schema") != SCHEMA:
        raise ValueError(f"{path}: schema {data.get('schema')}, expected {SCHEMA}; reinstall the package")
    entities: dict[str, Entity] = {}
    trie: dict[str, Any] = {}

    def add(phrases: str, role: Role, *, plurals: bool = False) -> None:
        for one in expand(phrases):
            for phrase in plural(one) if plurals else (one,):
                node = trie
                for word in phrase.split():
                    node = node.setdefault(word, {})
                roles = node[""].roles if "" in node else ()
                if role not in roles:
                    roles = (*roles, role)
                    node[""] = Meaning(roles, {r.kind: r.value for r in reversed(roles)})

    for word, entry in data["pathology"].items():
        sign, explains = entry.get("sign", False), entry.get("explains", False)
        lateral = not entry.get("midline", False)
        entities[word] = Entity(word, "pathology", entry["label"], lateral, sign=sign, explains=explains)
    for word, entry in data["anatomy"].items():
        entities[word] = Entity(word, "anatomy", None, entry.get("lateral", False), entry.get("zone"))
    for kind in ("pathology", "anatomy"):
        for word, entry in data[kind].items():
            for phrase in entry["phrases"]:
                add(phrase, Role(kind, word), plurals=True)
    for name, phrases in data["quality"].items():
        for phrase in phrases:
            add(phrase, Role("quality", name), plurals=name == "normal")
    for kind in ("side", "usual_side", "severity"):
        for name, phrases in data[kind].items():
            for phrase in phrases:
                add(phrase, Role(kind, name))
    for phrase, word in data["side_with_anatomy"].items():
        add(phrase, Role("anatomy", word))
    for kind in CUES:
        for phrase in data[kind]:
            add(phrase, Role(kind, ""))
    composed = []
    for rule in data["composed"]:
        for word in (rule["word"], *rule["anatomy"]):
            if word not in entities:
                raise ValueError(f"{path}: the composed rule {rule} names {word!r}, which is no entity")
        composed.append(
            Composed(rule["word"], *(frozenset(rule[key]) for key in ("anatomy", "present", "uncertain", "absent")))
        )
    functions = {name: frozenset(words) for name, words in data["functions"].items()}
    return Lexicon(entities, tuple(composed), functions, trie)
