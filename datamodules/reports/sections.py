"""Report sections by header, and the choice of the text that trains: findings, impression or both, with the rule used.

Layouts of de-identified reports differ ("FINDINGS:", "FINDINGS AND IMPRESSION:", no header at all). The last section of
a name wins, a combined section counts as impression, a report with neither keeps its last paragraph.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

Section = Literal["findings", "impression", "both", "first"]

# A header stands at the start of a line, or alone in capitals after a sentence's end, and ends with a colon.
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
    "indication": ("indication", "indications", "reason for exam", "reason for examination", "reason for study"),
    "history": ("history", "clinical history", "clinical information", "clinical indication"),
    "comparison": ("comparison", "comparisons", "comparison study"),
    "technique": ("technique", "procedure", "examination", "exam", "study", "views", "type of exam", "procedure name"),
    "recommendation": ("recommendation", "recommendations", "recommendation(s)", "notification", "addendum"),
}
BY_HEADER = {header: name for name, headers in NAMES.items() for header in headers}
_names = "|".join(re.escape(h) for h in sorted(BY_HEADER, key=len, reverse=True))
HEADER = re.compile(rf"(?:^[ \t]*|(?<=[.\n]\s))({_names})[ \t]*:", re.IGNORECASE | re.MULTILINE)
BLANK = re.compile(r"_{2,}|\bX{4,}\b")
SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Sections:
    """A report's text by section; "" where there is none. De-identification blanks are "___" throughout.

    Attributes:
        findings: what the picture shows.
        impression: the conclusion; also a combined "FINDINGS AND IMPRESSION".
        last_paragraph: the last paragraph of a report that has neither header, else "".
        other: the remaining sections by name (indication, history, comparison, technique, recommendation).
    """

    findings: str = ""
    impression: str = ""
    last_paragraph: str = ""
    other: dict[str, str] = field(default_factory=dict)


def clean(text: str) -> str:
    """One line of text: white space collapsed, blanks of both archives ("___", "XXXX") written as "___"."""
    return SPACE.sub(" ", BLANK.sub("___", text)).strip()


def split_sections(text: str) -> Sections:
    """Split a report at its headers; the last section of a name wins."""
    marks = list(HEADER.finditer(text))
    found: dict[str, str] = {}
    for mark, end in zip(marks, [*(m.start() for m in marks[1:]), len(text)], strict=False):
        body = clean(text[mark.end() : end])
        if body:
            found[BY_HEADER[mark.group(1).lower()]] = body
    findings, impression = found.pop("findings", ""), found.pop("impression", "")
    last = ""
    if not findings and not impression:
        # What a header of another kind opened is not the report's own statement: cut the header off its paragraph.
        paragraphs = [p for p in re.split(r"\n[ \t]*\n", text) if p.strip()]
        last = clean(HEADER.sub(" ", paragraphs[-1])) if paragraphs else ""
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
