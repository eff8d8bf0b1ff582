"""What a report says of its findings beyond their presence: on which side, and of which degree.

Two questions with two answers each, so that a probe can be asked the same of an image. F = 14 findings.
"""

import math
from collections.abc import Set

import torch
from torch import Tensor

from datamodules.reports.contradictions import GRADES
from datamodules.reports.labels import FINDINGS
from datamodules.reports.mentions import Mention, extract

QUESTIONS = ("side", "severity")
MEANING = {
    "side": "1 left, 0 right; where a report names both, or bilateral, the finding is left out",
    # Readers disagree most about neighbouring degrees, and three classes have no AUROC.
    "severity": "1 large or severe, 0 small or mild; moderate is left out",
}


def stated(report: str) -> Tensor:
    """Float32 [2,F]: the answers to QUESTIONS for each of FINDINGS, 1 or 0; NaN where the report gives none.

    A finding answers if it is present and all its mentions that are not denied agree: one side only, degrees of one
    grade. Mentions without side or degree say nothing against it.
    """
    answers = torch.full((len(QUESTIONS), len(FINDINGS)), torch.nan)
    by_finding: dict[str, list[Mention]] = {}
    for mention in extract(report):
        if mention.label is not None and mention.status != "absent":
            by_finding.setdefault(mention.label, []).append(mention)
    for finding, mentions in by_finding.items():
        if any(mention.status == "present" for mention in mentions):
            sides = {mention.side for mention in mentions if mention.side is not None}
            grades = {GRADES[mention.severity] for mention in mentions if mention.severity is not None}
            both = _answer(sides, one="left", zero="right"), _answer(grades, one=3, zero=1)
            answers[:, FINDINGS.index(finding)] = torch.tensor(both)
    return answers


def _answer(named: Set[object], *, one: object, zero: object) -> float:
    return 1.0 if named == {one} else 0.0 if named == {zero} else math.nan
