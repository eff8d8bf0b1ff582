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

SCHEMA = 1
# A number with its decimals is one token, so that "1.5 cm" does not end a sentence; an empty line does.
TOKEN = re.compile(r"\d+\.\d+|[a-z0-9]+|[.;?!,:/()]|\n[ \t]*\n")
SENTENCE_ENDS = frozenset(".;?!")
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


class Match(NamedTuple):
    """A phrase found at tokens first..last-1 of a sentence."""

    first: int
    last: int
    roles: tuple[Role, ...]

    def value(self, kind: str) -> str | None:
        """The canonical word of that kind, None if the phrase has no such meaning."""
        for role in self.roles:
            if role.kind == kind:
                return role.value
        return None


@dataclass(frozen=True)
class Entity:
    """A canonical word: its CheXpert label if any, and whether it has a side."""

    word: str
    kind: str
    label: str | None
    lateral: bool


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
        functions: single words that steer scopes, by what they do: verbs, articles, links, fillers.
        trie: nested dictionaries of words; the roles of a phrase that ends at a node stand under "".
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
                roles = node.get("")
                if roles:
                    found, end = roles, j
                if j == n:
                    break
                node = node.get(tokens[j].text)
                j += 1
            if found:
                yield Match(i, end, found)
            i = end


def sentences(text: str) -> Iterator[list[Token]]:
    """The tokens of each sentence; ends are full stops, semicolons, question and exclamation marks, empty lines."""
    sentence: list[Token] = []
    for match in TOKEN.finditer(text.lower()):
        token = match.group()
        if token in SENTENCE_ENDS or token[0] == "\n":
            if sentence:
                yield sentence
            sentence = []
        else:
            sentence.append(Token(token, match.start(), match.end()))
    if sentence:
        yield sentence


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

    def add(phrase: str, role: Role) -> None:
        node = trie
        for word in phrase.split():
            node = node.setdefault(word, {})
        if role not in node.get("", ()):
            node[""] = (*node.get("", ()), role)

    for word, entry in data["pathology"].items():
        entities[word] = Entity(word, "pathology", entry["label"], not entry.get("midline", False))
    for word, entry in data["anatomy"].items():
        entities[word] = Entity(word, "anatomy", None, entry.get("lateral", False))
    for kind in ("pathology", "anatomy"):
        for word, entry in data[kind].items():
            for phrase in entry["phrases"]:
                for form in plural(phrase):
                    add(form, Role(kind, word))
    for name, phrases in data["quality"].items():
        for phrase in phrases:
            for form in plural(phrase) if name == "normal" else (phrase,):
                add(form, Role("quality", name))
    for kind in ("side", "severity"):
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
