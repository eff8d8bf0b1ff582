"""Report sections: headers, blanks, fall-backs and the recorded rule."""

import pytest

from datamodules.reports.sections import choose, split_sections

REPORT = """EXAMINATION: CHEST (PA)
INDICATION: ___ year old with cough.
COMPARISON: None.
FINDINGS:
The lungs are
clear.  Heart size XXXX.

IMPRESSION: Old.
IMPRESSION:
No acute process."""


def test_sections_by_header_and_blanks() -> None:
    sections = split_sections(REPORT)
    assert sections.findings == "The lungs are clear. Heart size ___."
    assert sections.other["indication"] == "___ year old with cough."
    assert sections.other["comparison"] == "None."


def test_last_section_of_a_name_wins() -> None:
    assert split_sections(REPORT).impression == "No acute process."


def test_combined_section_is_an_impression() -> None:
    sections = split_sections("FINDINGS AND IMPRESSION: Clear lungs.")
    assert (sections.findings, sections.impression) == ("", "Clear lungs.")


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("findings", ("The lungs are clear. Heart size ___.", "findings")),
        ("impression", ("No acute process.", "impression")),
        ("both", ("The lungs are clear. Heart size ___. No acute process.", "findings+impression")),
        ("first", ("The lungs are clear. Heart size ___.", "findings")),
    ],
)
def test_choice_and_rule(section: str, expected: tuple[str, str]) -> None:
    assert choose(split_sections(REPORT), section) == expected  # type: ignore[arg-type]


def test_without_header_the_last_paragraph_is_taken() -> None:
    sections = split_sections("PORTABLE CHEST\n\nHistory.\n\nNo effusion.\nHeart is normal.")
    assert choose(sections, "findings") == ("No effusion. Heart is normal.", "last_paragraph")


def test_missing_section_is_empty_with_rule_none() -> None:
    assert choose(split_sections("IMPRESSION: Clear."), "findings") == ("", "none")
    assert choose(split_sections(""), "first") == ("", "none")
    assert choose(split_sections("IMPRESSION: Clear."), "first") == ("Clear.", "impression")


def test_unknown_choice_names_the_choices() -> None:
    with pytest.raises(ValueError, match="'summary' does not exist; expected one of"):
        choose(split_sections(REPORT), "summary")  # type: ignore[arg-type]
