"""What a public phrase list and plain NegEx find, to compare with: radlabels' aliases, cues of Chapman et al. (2001).

radlabels itself cannot be a dependency: it asks for torch < 2.5 and transformers < 5, and fetches WordNet when it is
imported. Its list (MIT) is read from CXR_REAL_DATA/rules. A phrase is negated or hedged if a cue stands before it in
its sentence without a conjunction between, or right behind it.
"""

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datamodules.layouts.openi_report import Report
from tests.benchmarks.mesh import Finding, text_of

ABSENT = (
    "no|without|not|denies|free of|clear of|absence of|negative for|no evidence of|rule out|ruled out|resolved|"
    "no longer|rather than|unlikely"
)
UNCERTAIN = (
    "possible|possibly|probable|probably|may|might|could|cannot exclude|likely|suspicious for|concern for|versus|"
    "question of|questionable|suggest|suggesting|suggestive of|suspected"
)
BEHIND = "is not seen|not seen|not identified|cannot be excluded|not excluded|has resolved|is unlikely|versus"
CONJUNCTIONS = re.compile(r"\b(but|however|although|except|with)\b")
BEFORE = re.compile(rf"\b({ABSENT}|{UNCERTAIN})\b")
AFTER = re.compile(rf"\W*({BEHIND})\b")


@functools.cache
def patterns(rules: Path) -> dict[str, re.Pattern[str]]:
    """One pattern a finding of radlabels, the longest alias first."""
    aliases: dict[str, Any] = json.loads((rules / "radlabels_aliases.json").read_text(encoding="utf-8"))["aliases"]
    return {
        key: re.compile(r"\b(" + "|".join(map(re.escape, sorted(entry["aliases"], key=len, reverse=True))) + r")s?\b")
        for key, entry in aliases.items()
    }


def finder(rules: Path) -> Callable[[Report, Finding], bool]:
    """Whether a report has a finding, by the aliases and NegEx; for `mesh.score`."""

    def found(report: Report, finding: Finding) -> bool:
        for sentence in re.split(r"[.;?!\n]", text_of(report).lower()):
            for key in finding.aliases:
                for match in patterns(rules)[key].finditer(sentence):
                    clause = CONJUNCTIONS.split(sentence[: match.start()])[-1]
                    if not BEFORE.search(clause) and not AFTER.match(sentence, match.end()):
                        return True
        return False

    return found
