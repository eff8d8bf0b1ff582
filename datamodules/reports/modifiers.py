"""One sentence with its phrases, the pathologies found in it while it is being read, and their severity."""

from dataclasses import dataclass
from typing import Literal

from datamodules.reports.phrases import Lexicon, Match, Token

Status = Literal["present", "absent", "uncertain"]
Side = Literal["left", "right", "bilateral"]

DEGREES = frozenset(["in degree", "in extent", "in severity", "in size"])
JOINTS = frozenset(["and", "or", "nor", ",", "/"])


@dataclass
class Finding:
    """A pathology while its sentence is being read: tokens first..last-1.

    Attributes:
        at: the token that cues act on; in "heart is enlarged" that of the quality.
        fixed: a status that no cue changes ("the heart is normal").
        history: named only as history or as the question asked.
    """

    first: int
    last: int
    at: int
    word: str
    status: Status
    fixed: bool = False
    history: bool = False


class Sentence:
    """One sentence: its tokens, its phrases, and which phrase covers each token."""

    def __init__(self, tokens: list[Token], words: Lexicon) -> None:
        self.tokens, self.words = tokens, words
        self.matches = list(words.matches(tokens))
        self.at: dict[int, Match] = {}
        # For walks that go backwards.
        self.cover: list[Match | None] = [None] * len(tokens)
        for match in self.matches:
            self.at[match.first] = match
            for i in range(match.first, match.last):
                self.cover[i] = match

    def ends(self, i: int) -> bool:
        """Whether token i belongs to a phrase that ends every scope ("but", "there is")."""
        cover = self.cover[i]
        return cover is not None and cover.value("terminators") is not None

    def verb(self, i: int) -> bool:
        """Whether token i is a verb, which ends the noun phrase before it."""
        return self.tokens[i].text in self.words.functions["verbs"]


def find_severity(sentence: Sentence, found: list[Finding], k: int) -> str | None:
    """The severity named before finding k, else behind it after a verb."""
    f = found[k]
    low = found[k - 1].last if k else 0
    high = found[k + 1].first if k + 1 < len(found) else len(sentence.tokens)
    for i in range(f.last - 1, low - 1, -1):
        cover, text = sentence.cover[i], sentence.tokens[i].text
        severity = cover.value("severity") if cover is not None else None
        if severity is not None and not (cover is not None and cover.value("quality") and f.at == cover.first):
            return severity
        if i < f.first and (text in JOINTS or sentence.verb(i) or sentence.ends(i)):
            break
    # "Left effusion, small", "cardiac enlargement, moderate in degree", "effusion: small left"
    if f.last + 1 < high and sentence.tokens[f.last].text in (",", ":"):
        cover = sentence.cover[f.last + 1]
        if cover is not None and cover.value("severity") is not None:
            behind = " ".join(token.text for token in sentence.tokens[cover.last : cover.last + 2])
            if behind[:1] in ("", ",") or behind in DEGREES or sentence.tokens[f.last].text == ":":
                return cover.value("severity")
    # "The effusion is small": only behind a verb; "effusion and a small nodule" does not lend its adjective.
    verb = False
    for i in range(f.last, high):
        cover, text = sentence.cover[i], sentence.tokens[i].text
        verb |= sentence.verb(i) or text in ("measuring", "of")
        if sentence.ends(i) and text in ("now", "currently"):
            verb = True
        elif (text in JOINTS and not _renewed(sentence, i + 1)) or sentence.ends(i):
            break
        severity = cover.value("severity") if cover is not None else None
        if verb and severity is not None:
            return severity
    return None


def _renewed(sentence: Sentence, i: int) -> bool:
    """Whether token i goes on with the state of today: "decreased effusion, now small"."""
    return any(token.text in ("now", "currently") for token in sentence.tokens[i : i + 2])
