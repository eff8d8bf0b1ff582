"""Report sections by header, and the choice of the text that trains: findings, impression or both, with the rule used.

Layouts of de-identified reports differ ("FINDINGS:", "FINDINGS AND IMPRESSION:", "CHEST, PA AND LATERAL:", no header at
all). The last section of a name wins, a combined section counts as impression, a report with neither keeps the
statement at its end.
"""

import difflib
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

Section = Literal["findings", "impression", "both", "first"]

NAMES = {
    "findings": ("findings", "finding", "report", "observations", "chest findings", "portable chest findings"),
    "impression": (
        "impression",
        "impressions",
        "conclusion",
        "conclusions",
        "opinion",
        "summary",
        "findings and impression",
        "findings/impression",
        "findings impression",
        "impression and findings",
    ),
    "indication": (
        "indication",
        "indications",
        "reason for exam",
        "reason for examination",
        "reason for study",
        "clinical indication",
    ),
    "history": ("history", "clinical history", "patient history", "clinical information"),
    "comparison": ("comparison", "comparisons", "comparison study", "reference exam"),
    "technique": ("technique", "procedure", "views"),
    "examination": ("examination", "exam", "study", "type of exam", "type of examination", "procedure name"),
    "recommendation": ("recommendation", "recommendations", "recommendation(s)"),
    "notification": ("notification", "notifications"),
    "addendum": ("addendum",),
    "note": ("note", "comment"),
    "wet read": ("wet read", "wetread"),
}
BY_HEADER = {header: name for name, headers in NAMES.items() for header in headers}
# A header in capitals that is not among these is named by the first of these words that it holds.
HOLDS = ("impression", "recommendation", "notification", "findings", "indication", "history", "comparison", "addendum")
# A header in capitals of these words alone says how the picture was taken, and what follows says what is on it.
POSITION = (
    "decubitus erect upright supine left right lordotic semi semi-erect semi-upright semierect semiupright lat pa ap "
    "portable bedside single two-view one two three standard non-grid exam examination film films x-ray x-rays xray "
    "a an the and with or of on in at for to hours am pm a.m p.m cm"
)
# One of these must be among them.
PICTURED = "chest portable frontal lateral view views radiograph radiographs radiography ribs bone windows"
_pictured = frozenset(PICTURED.split())
_words = _pictured.union(POSITION.split())

_names = "|".join(re.escape(header) for header in sorted(BY_HEADER, key=len, reverse=True))
_main = "|".join(re.escape(h.upper()) for h in sorted(NAMES["findings"] + NAMES["impression"], key=len, reverse=True))
# Within a line a header follows a sentence's end, or stands in capitals behind something that is not.
AFTER_SENTENCE = re.compile(rf"[.?!][ \t]+({_names})\Z", re.IGNORECASE)
IN_CAPITALS = re.compile(rf"(?:[^A-Z\s][ \t]+|[ \t]{{2,}})({_main})\Z")
LAST_WORDS = frozenset(re.split(r"[ /]", header)[-1] for header in BY_HEADER)
COLON = re.compile(r":(?!\d)")  # not that of a time
LONGEST = 70  # characters of a header
# Lines that part a report without a colon: a bare header, or a rule between an addendum or a wet read and the report.
DIVIDER = re.compile(
    r"^[ \t]*(?:(?:FINAL )?(ADDENDUM)|(FINAL REPORT|FINDINGS|IMPRESSION)|(WET READ) VERSION\b.*|_{10,})[ \t]*$",
    re.MULTILINE,
)
PARAGRAPH = re.compile(r"\n[ \t]*\n")
BLANK = re.compile(r"_{2,}|\bX{4,}\b")
SPACE = re.compile(r"\s+")
NOTHING = ""  # the name of what stands before the first header, or under a divider


@dataclass(frozen=True)
class Sections:
    """A report's text by section; "" where there is none. De-identification blanks are "___" throughout.

    Attributes:
        findings: what the picture shows; also what follows a header such as "CHEST, PA AND LATERAL:".
        impression: the conclusion; also a combined "FINDINGS AND IMPRESSION".
        last_paragraph: of a report that has neither, the statement at its end, else "". After other headers these are
            the paragraphs behind the one that the last of them opens; without any header it is the last paragraph.
        other: the remaining sections by name: the other keys of NAMES.
    """

    findings: str = ""
    impression: str = ""
    last_paragraph: str = ""
    other: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    name: str  # key of NAMES, or NOTHING
    text: str  # as written, without its header
    final: bool  # False for what stands before the line "FINAL REPORT": a wet read, an addendum


def clean(text: str) -> str:
    """One line of text: white space collapsed, blanks of both archives ("___", "XXXX") written as "___"."""
    return SPACE.sub(" ", BLANK.sub("___", text)).strip()


def split_sections(text: str) -> Sections:
    """Split a report at its headers; the last section of a name that is not empty wins."""
    parts = _parts(text)
    found: dict[str, str] = {}
    for part in parts:
        # What a preliminary reading concludes is not what the report does.
        body = clean(part.text) if part.name and (part.final or part.name not in ("findings", "impression")) else ""
        if body:
            found[part.name] = body
    findings, impression = found.pop("findings", ""), found.pop("impression", "")
    last = _last_paragraph(parts, whole=text) if not findings and not impression else ""
    return Sections(findings, impression, last, found)


def choose(sections: Sections, section: Section) -> tuple[str, str]:
    """The text to train on and the rule that gave it.

    Args:
        sections: from `split_sections`.
        section: "findings" or "impression" take that section only; "both" joins them; "first" takes findings, else
            impression. A report with neither header gives its last paragraph, whatever was asked.

    Returns:
        (text, rule), the rule being "findings", "impression", "findings+impression", "last_paragraph", or "none"
        with an empty text.
    """
    wanted = {
        "findings": (("findings", sections.findings),),
        "impression": (("impression", sections.impression),),
        "both": (("findings", sections.findings), ("impression", sections.impression)),
        "first": (("findings", sections.findings), ("impression", sections.impression)),
    }
    if section not in wanted:
        raise ValueError(f"section {section!r} does not exist; expected one of {list(wanted)}")
    have = [(name, text) for name, text in wanted[section] if text]
    if section == "first":
        have = have[:1]
    if have:
        return " ".join(text for _, text in have), "+".join(name for name, _ in have)
    return (sections.last_paragraph, "last_paragraph") if sections.last_paragraph else ("", "none")


def _parts(text: str) -> list[_Part]:
    marks = sorted([*_headers(text), *_dividers(text)])
    begins = next((start for start, _, name in reversed(marks) if name == "final report"), 0)
    marks = [(0, 0, NOTHING), *marks]
    ends = [*(start for start, _, _ in marks[1:]), len(text)]
    return [
        _Part(NOTHING if name == "final report" else name, text[stop:end], final=start >= begins)
        for (start, stop, name), end in zip(marks, ends, strict=True)
        # A divider may lie within what another mark already cut off.
        if stop <= end
    ]


def _dividers(text: str) -> Iterator[tuple[int, int, str]]:
    for match in DIVIDER.finditer(text):
        yield match.start(), match.end(), next(filter(None, match.groups()), NOTHING).lower()


def _headers(text: str) -> Iterator[tuple[int, int, str]]:
    """Where each header starts, where its section's text starts, and the section's name, in order."""
    floor, before = 0, NOTHING
    for colon in COLON.finditer(text):
        line = text.rfind("\n", 0, colon.start()) + 1
        start = max(line, floor)
        segment = text[start : colon.start()].rstrip()
        words = segment.lstrip()
        if not words:
            continue
        name = None
        if len(words) <= LONGEST:
            if floor <= line:
                name = _of_line(words, above=text[text.rfind("\n", 0, max(line - 1, 0)) + 1 : line])
            elif before == "findings" and words.isupper():
                # "FINDINGS:  PORTABLE CHEST:  ..."
                name = "findings" if _of_capitals(words.lower()) == "findings" else None
        if name is not None:
            start += len(segment) - len(words)
        elif re.split(r"[ /]", words[-20:].lower())[-1] in LAST_WORDS:
            within = AFTER_SENTENCE.search(segment) or IN_CAPITALS.search(segment)
            if within is not None:
                name = BY_HEADER[within.group(1).lower()]
                start += within.start(1)
        if name is not None:
            floor, before = colon.end(), name
            yield start, floor, name


def _of_line(words: str, *, above: str) -> str | None:
    """The section that a line's first words open, given the line above; None where they are no header."""
    if words.isupper():
        return _of_capitals(SPACE.sub(" ", words.lower()))
    # In small letters it may be a sentence that was wrapped: "... as on the prior↵ study: ..."
    if words[0].islower() and above.strip() and not above.rstrip().endswith((".", "?", "!", ":")):
        return None
    return BY_HEADER.get(SPACE.sub(" ", words.lower()))


@functools.lru_cache(maxsize=65536)
def _of_capitals(words: str) -> str | None:
    """The section of a header that was written in capitals, given in small letters."""
    if words in BY_HEADER:
        return BY_HEADER[words]
    # Misspelled; the shortest names are too near to other words.
    close = difflib.get_close_matches(words, [header for header in BY_HEADER if len(header) > 6], n=1, cutoff=0.87)
    if close:
        return BY_HEADER[close[0]]
    for name in HOLDS:
        if name in words:
            return name
    if words.startswith("reason for"):
        return "indication"
    if words.startswith("wet read"):
        return "wet read"
    tokens = [t.strip(".") for t in re.split(r"[\s,()/&]+", re.sub(r"___|\d[\d:]*", " ", words)) if t.strip(".")]
    return "findings" if _words.issuperset(tokens) and _pictured.intersection(tokens) else None


def _last_paragraph(parts: list[_Part], *, whole: str) -> str:
    """What a report without findings and impression says at its end."""
    if len(_paragraphs(whole)) <= 1:
        # One paragraph alone: what a header in it opened cannot be told from the statement.
        return clean(" ".join(part.text for part in parts))
    parts = [part for part in parts if part.final and part.name not in ("addendum", "wet read")]
    if not any(part.name for part in parts):
        paragraphs = [p for part in parts for p in _paragraphs(part.text)]
        return clean(paragraphs[-1]) if paragraphs else ""
    # The paragraph that a header opens is that section's own ("INDICATION: ..."); what stands behind it is not.
    for part in reversed(parts):
        behind = _paragraphs(part.text)[1:]
        if behind:
            return clean(" ".join(behind))
    return ""


def _paragraphs(text: str) -> list[str]:
    return [p for p in PARAGRAPH.split(text) if p.strip()]
