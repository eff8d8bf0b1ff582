"""The texts that the prompter learns from."""

import numpy as np
import pytest

from datamodules.reports.keywords import Keywords, keywords_of
from datamodules.reports.vocabulary import mine
from lightning_modules.networks.examples import Examples, Variation, prompt, vocabulary_keywords

REPORT = "The heart is normal. Small hiatal hernia. The lungs are clear. The spine is straight."
OTHERS = ["The heart is normal. The lungs are clear. Left rib fracture."] * 15
PLAIN = Variation(without_keywords=0, shuffle=0, without_view=0, excerpt=0)


def drawn(variation: Variation, times: int = 200) -> list[list[tuple[str, str]]]:
    examples = Examples(mine([REPORT, *OTHERS], min_count=1), variation)
    return [examples.draw(REPORT, view="AP", rng=np.random.default_rng(i)) for i in range(times)]


def test_prompts() -> None:
    keywords = Keywords(("heart",), ("small left pleural effusion",))
    assert prompt(keywords, view="PA") == "report PA: small left pleural effusion ; heart"
    assert prompt(Keywords(), form="excerpt") == "excerpt unknown: no acute findings"
    assert prompt(None, view="AP") == "report AP"


def test_without_variation_each_report_stands_under_its_keywords() -> None:
    assert drawn(PLAIN, 2) == [[("report AP: small hernia ; heart ; lung ; spine", REPORT)]] * 2


@pytest.mark.parametrize(
    ("variation", "wanted"),
    [
        (Variation(1, 0, 0, 0), "report AP"),
        (Variation(0, 0, 1, 0), "report unknown: small hernia ; heart ; lung ; spine"),
    ],
)
def test_keywords_and_view_are_left_out(variation: Variation, wanted: str) -> None:
    assert {texts[0] for texts in drawn(variation, 5)} == {(wanted, REPORT)}


def test_shares_are_kept() -> None:
    texts = [one[0][0] for one in drawn(Variation(0.3, 0, 0, 0), 1000)]
    assert np.mean([text == "report AP" for text in texts]) == pytest.approx(0.3, abs=0.05)


def test_shuffled_keywords_are_the_same_words() -> None:
    prompts = {one[0][0] for one in drawn(Variation(0, 1, 0, 0), 50)}
    assert len(prompts) == 6
    assert {tuple(sorted(p.removeprefix("report AP: ").split(" ; "))) for p in prompts} == {
        ("heart", "lung", "small hernia", "spine")
    }


def test_excerpts_prefer_rare_words() -> None:
    excerpts = [one[1] for one in drawn(Variation(0, 0, 0, 1)) if len(one) > 1]
    assert len(excerpts) == 200
    for head, text in excerpts:
        assert head.startswith("excerpt AP: ")
        assert text in REPORT
    # One report of 16 names the hernia and the spine, all name the heart and the lungs: weights 4, 4, 1, 1.
    assert np.mean([text.startswith("Small hiatal hernia.") for _, text in excerpts]) == pytest.approx(0.4, abs=0.1)
    assert ("excerpt AP: small hernia", "Small hiatal hernia.") in excerpts


def test_a_share_beyond_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"variation\.shuffle is 2; expected a share between 0 and 1"):
        Variation(shuffle=2)


def test_what_the_vocabulary_draws_without_severity_is_learnt_without_it() -> None:
    report = "Large right chest tube. Small left pleural effusion."
    vocabulary = mine([report], min_count=1)
    assert keywords_of(report).pathology == ("large right chest tube", "small left pleural effusion")
    learnt = Examples(vocabulary, PLAIN).draw(report, view="AP", rng=np.random.default_rng(0))
    assert learnt == [("report AP: right chest tube ; small left pleural effusion", report)]
    forms = {form for entry in vocabulary.entries.values() for form in entry.forms}
    assert set(vocabulary_keywords(report, vocabulary).pathology) == forms
