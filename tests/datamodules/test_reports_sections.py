"""Report sections: headers, blanks, fall-backs and the recorded rule."""

import hashlib

import pytest

from datamodules.phantom.report import report
from datamodules.phantom.study import study
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


# The habits of MIMIC-CXR: a centred title, lines that begin with a blank and are wrapped, blank lines of one blank.
FINAL = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  History: ___F with cough  // ?pneumonia

 COMPARISON:  ___ at 5:20

 FINDINGS:

 The lungs are clear at 10:30.  Compared to the prior
 study: no change.

 IMPRESSION:

 No acute process.

 NOTIFICATION:  Dr. ___ was paged at 3:45 PM.
""".replace("\n\n", "\n \n")


def test_a_final_report_of_mimic() -> None:
    sections = split_sections(FINAL)
    assert sections.findings == "The lungs are clear at 10:30. Compared to the prior study: no change."
    assert sections.impression == "No acute process."
    assert sections.other == {
        "examination": "CHEST (PA AND LAT)",
        "indication": "History: ___F with cough // ?pneumonia",
        "comparison": "___ at 5:20",
        "notification": "Dr. ___ was paged at 3:45 PM.",
    }


@pytest.mark.parametrize(
    ("text", "findings", "impression"),
    [
        ("COMPARISON:  None.  FINDINGS:  Clear lungs.  IMPRESSION:  Normal.", "Clear lungs.", "Normal."),
        ("COMPARISON:  ___ FINDINGS:  Clear lungs.", "Clear lungs.", ""),
        ("Findings: Clear.\n\nImpression: Normal.", "Clear.", "Normal."),
        ("history: cough.\nfindings: Clear.\n\nimpression: Normal.", "Clear.", "Normal."),
        (
            " FINDINGS:\n Stable since the other\n findings: none new.\n",
            "Stable since the other findings: none new.",
            "",
        ),
        (" FINDINGS \n \n Clear.\n \n IMPRESSION\n \n Normal.", "Clear.", "Normal."),
        (" CHEST, PA AND LATERAL:  Clear.\n \n IMPRESSION: Normal.", "Clear.", "Normal."),
        (" PORTABLE AP CHEST RADIOGRAPH, ___ AT 5:20 A.M.:\n Clear.\n", "Clear.", ""),
        (" CHEST, TWO VIEWS:\n \n INDICATION:  Cough.\n \n FINDINGS: Clear.", "Clear.", ""),
        (" FINDINGS:  PORTABLE CHEST:  Clear.", "Clear.", ""),
        (" FINDINGS:\n LUNGS: Clear.\n HEART: Normal.", "LUNGS: Clear. HEART: Normal.", ""),
        (" FINDINGS:\n CONSOLIDATION: none.", "CONSOLIDATION: none.", ""),
        (" FINDINGS/ IMPRESSION:  Clear.", "", "Clear."),
        (" FINDINGS AND IMPRESSON:  Clear.", "", "Clear."),
        (" FINIDNGS: Clear.\n IMPRSSION: Normal.", "Clear.", "Normal."),
        (" IMPRESSION AND RECOMMENDATION: Normal.", "", "Normal."),
        (" IMPRESSION: Old.\n \n IMPRESSION: New.\n \n IMPRESSION:\n", "", "New."),
        (" FINDINGS: Clear.\n ______________________________\n Electronically signed", "Clear.", ""),
        ("\n \n FINDINGS:Clear.\r\n", "Clear.", ""),
    ],
)
def test_headers_as_they_are_met(text: str, findings: str, impression: str) -> None:
    sections = split_sections(text)
    assert (sections.findings, sections.impression) == (findings, impression)


def test_a_wet_read_and_an_addendum_before_the_report_are_not_the_report() -> None:
    text = (
        " WET READ: ___ ___ ___ 10:51 PM\n  No pneumonia. \n IMPRESSION: Preliminary.\n"
        "  WET READ VERSION #1 ___ ___ 10:40 PM\n                  FINAL ADDENDUM\n ADDENDUM:  Dr. ___ was told.\n \n "
        "______________________________\n                 FINAL REPORT\n AP CHEST, 10:21 P.M., ___\n \n "
        "HISTORY:  Dyspnea. \n \n The heart is large.\n \n Small left effusion.\n"
    )
    sections = split_sections(text)
    assert choose(sections, "impression") == ("The heart is large. Small left effusion.", "last_paragraph")
    assert sections.other["wet read"] == "___ ___ ___ 10:51 PM No pneumonia."
    assert sections.other["addendum"] == "Dr. ___ was told."


def test_what_an_addendum_behind_the_report_says_is_not_its_last_paragraph() -> None:
    text = " FINAL REPORT\n CHEST\n \n COMPARISON: None.\n \n Clear lungs.\n \n ADDENDUM: Left.\n \n Dr. ___ told.\n"
    assert split_sections(text).last_paragraph == "Clear lungs."


def test_the_paragraph_that_another_header_opens_is_no_statement() -> None:
    assert split_sections("CHEST\n\nINDICATION: Cough.\n\nCOMPARISON: None.").last_paragraph == ""
    assert split_sections("INDICATION: Cough. Clear lungs.").last_paragraph == "Cough. Clear lungs."


def test_phantom_reports_keep_their_text() -> None:
    """The data sets that stages were trained on: the digest was taken before MIMIC's habits were learnt."""
    digest = hashlib.sha256()
    for index in range(200):
        sections = split_sections(report(study(0, index)))
        for section in ("findings", "impression", "both", "first"):
            digest.update(repr(choose(sections, section)).encode())  # type: ignore[arg-type]
        digest.update(repr(sorted(sections.other.items())).encode())
    assert digest.hexdigest() == "acda1df899b75788779bf4cb1f0ae395b78eb9669f48f83646b91930bd1e613b"
