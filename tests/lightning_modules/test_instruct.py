"""Asking an instruct model: the messages, and the report that is taken out of the answer."""

import pytest

from datamodules.reports.keywords import Keywords
from lightning_modules.networks.instruct import Instruction, report_of
from lightning_modules.networks.written import Request

REPORT = "Small left pleural effusion. The heart is normal."


@pytest.mark.parametrize(
    "answer",
    [
        REPORT,
        f"Sure! Here is the report:\n\n{REPORT}",
        f"Certainly. Here's a radiology report based on the keywords:\n{REPORT}",
        f"**Report:**\n{REPORT}",
        f"## Chest X-ray Report\n\nFINDINGS: {REPORT}\n",
        "Findings:\n- Small left pleural effusion\n- The heart is normal\n",
        "1. Small left pleural effusion.\n2. The heart is normal.\n\nPlease let me know if you need anything else.",
        f"```text\n{REPORT}\n```",
        f'"{REPORT}"',
        f"<think>The user wants a report.\nEffusion.</think>\n{REPORT}",
        "**Findings:** Small *left* pleural effusion.\n\n---\n\nThe heart is normal.\n\nNote: this is synthetic.",
        f"IMPRESSION: {REPORT}\n\nKeywords used: heart",
        f"Here is the rewritten report: {REPORT}",
    ],
)
def test_only_the_report_is_left_of_an_answer(answer: str) -> None:
    assert report_of(answer) == REPORT


@pytest.mark.parametrize("answer", ["", "  \n", "Sure! Here is the report:", "<think>no end", "Report:\n\n---"])
def test_an_answer_without_a_report_is_empty(answer: str) -> None:
    assert report_of(answer) == ""


def test_sentences_of_a_report_are_not_taken_for_preambles() -> None:
    text = "There is a small effusion: it is on the left. This is a portable film."
    assert report_of(text) == text


def test_the_messages_hold_keywords_view_and_source() -> None:
    instruction = Instruction("You report.", "View {view}: {pathology} | {anatomy} | {report}")
    request = Request(Keywords(("heart", "lung"), ("small nodule",)), view="AP", source="Old text.")
    assert instruction.chat(request) == [
        {"role": "system", "content": "You report."},
        {"role": "user", "content": "View AP portable: small nodule | heart, lung | Old text."},
    ]
    assert Instruction("", "{pathology}").chat(Request(Keywords())) == [{"role": "user", "content": "none"}]


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(ValueError, match=r"has the fields \['findings'\]; expected of \['pathology', 'anatomy'"):
        Instruction("", "{findings}")
