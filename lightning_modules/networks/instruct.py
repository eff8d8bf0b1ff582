"""Asking an untrained instruct model for a report, and taking the report out of its answer."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_modules.networks.written import Request

FIELDS = ("pathology", "anatomy", "view", "report")
VIEW_NAMES = {"PA": "PA", "AP": "AP portable", "LATERAL": "lateral", "unknown": "frontal"}

PREAMBLE = re.compile(
    r"^(?:sure|certainly|of course|okay|ok|absolutely|here (?:is|are|'s)|here’s|below is|the following is|"
    r"i (?:can|will|have)|as requested|this is)\b[^\n]*?(?::\s*|[!.]\s*(?=\n)|\n|$)",
    re.I,
)
HEADER = re.compile(
    r"^(?:(?:chest (?:x-?ray|radiograph)|radiology|rewritten|revised|final|new)\s+)*"
    r"(?:report|findings?|impression|findings and impression|conclusion|technique|output|answer)\s*(?:[:\-]\s*|$)",
    re.I,
)
CLOSING = re.compile(
    r"^(?:please (?:let|note)|let me know|note:|note that|i hope|disclaimer|if you (?:need|have|would)|feel free|"
    r"this report (?:is|was)|keywords?\b)",
    re.I,
)


@dataclass(frozen=True)
class Instruction:
    """What an instruct model is told.

    Attributes:
        system: who it is and what holds for every report; "" for none.
        user: the request, with the fields {pathology}, {anatomy}, {view} and, where a report is rewritten, {report}.
    """

    system: str
    user: str

    def __post_init__(self) -> None:
        found = {name for _, name, _, _ in string.Formatter().parse(self.user) if name is not None}
        wrong = sorted(found - set(FIELDS))
        if wrong or not found & {"pathology", "report"}:
            raise ValueError(
                f"instruction.user has the fields {sorted(found)}; expected of {list(FIELDS)}, and at least pathology "
                "or report; write other braces double"
            )

    def chat(self, request: Request) -> list[dict[str, str]]:
        """The messages for one request."""
        keywords = request.keywords
        content = self.user.format(
            pathology=", ".join(keywords.pathology) or "none",
            anatomy=", ".join(keywords.anatomy) or "none",
            view=VIEW_NAMES[request.view],
            report=request.source,
        )
        system = [{"role": "system", "content": self.system.strip()}] if self.system.strip() else []
        return [*system, {"role": "user", "content": content.strip()}]


def chats(instruction: Instruction, requests: Sequence[Request]) -> list[list[dict[str, str]]]:
    """The messages for each request."""
    return [instruction.chat(request) for request in requests]


def report_of(answer: str) -> str:
    """The report in an answer: without preamble, headers, markdown, list marks, quotes, reasoning and closing words.

    "" where nothing is left, which counts as not verified.
    """
    text = re.sub(r"<think>.*?(?:</think>|$)", " ", answer, flags=re.S)
    fenced = re.search(r"```[a-z]*\n(.*?)(?:```|$)", text, flags=re.S)
    text = (fenced.group(1) if fenced else text).strip()
    # Twice: "Sure! Here is the report:" are two preambles.
    for _ in range(2):
        text = PREAMBLE.sub("", text, count=1).strip()
    lines = []
    for line in text.splitlines():
        line = re.sub(r"[*_`#]{1,3}", "", line)
        line = re.sub(r"^\s*(?:[-•–—+>]|\d{1,2}[.)])\s+", "", line).strip(' \t"“”')
        if CLOSING.match(line):
            break
        while header := HEADER.match(line):
            line = line[header.end() :].strip()
        if re.fullmatch(r"[-=_\s]*", line):
            continue
        lines.append(line if line[-1] in ".?!" else line + ".")
    return " ".join(" ".join(lines).split())
