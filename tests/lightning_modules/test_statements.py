"""Single statements: which speak, what they ask for, what they hold of."""

import pytest
import torch
from torch.nn import functional

from datamodules.reports.entailment import Fact
from lightning_modules.networks.alignment import Words
from lightning_modules.networks.statements import answers, prompts, queries, stated, statements
from lightning_modules.networks.tokenizer import Tokens, WordTokenizer, train_tokenizer

REPORTS = [
    "There is a small left pleural effusion. No pneumothorax.",
    "Large left pleural effusion. Possible pneumonia.",
    "Right pleural effusion.",
    "Clear lungs. No pneumothorax.",
]
LEFT, RIGHT = (Fact("pleural effusion", "present", side) for side in ("left", "right"))
NO_AIR = Fact("pneumothorax", "absent")


@pytest.fixture(scope="module")
def tokenizer() -> WordTokenizer:
    return WordTokenizer(train_tokenizer(REPORTS * 3, kind="words", vocabulary=200))


def tokens_of(tokenizer: WordTokenizer, texts: list[str]) -> Tokens:
    return tokenizer(texts, max_length=40)


def test_each_fact_speaks_once_whatever_its_degree(tokenizer: WordTokenizer) -> None:
    tokens = tokens_of(tokenizer, REPORTS)
    spoken = [{one.fact: one.text for one in statements(REPORTS, tokens, step=step)} for step in range(12)]
    assert all(found.keys() == {LEFT, RIGHT, NO_AIR} for found in spoken)
    assert {found[LEFT] for found in spoken} == {0, 1}  # both texts have their turns
    assert {found[NO_AIR] for found in spoken} == {0, 3}
    again = {one.fact: one.text for one in statements(REPORTS, tokens, step=3)}
    assert again == spoken[3]
    one = next(one for one in statements(REPORTS, tokens, step=0) if one.fact == RIGHT)
    assert [tokens.words[2][i] for i in one.words] == ["pleural", "effusion"]


def test_prompts_ask_for_each_word_that_is_named() -> None:
    assert prompts(REPORTS[:2]) == [
        *("There is pleural effusion.", "No pleural effusion.", "There is pneumonia.", "No pneumonia."),
        *("There is pneumothorax.", "No pneumothorax."),
    ]


def test_queries_are_the_means_of_the_words() -> None:
    vectors = functional.normalize(torch.randn(2, 4, 3), dim=-1)
    words = Words(vectors, torch.arange(8.0).view(2, 4), -torch.arange(8.0).view(2, 4))
    found = queries([(1, (1, 2)), (0, (3,))], words)
    assert torch.allclose(found.vectors[0], functional.normalize(vectors[1, 1:3].mean(dim=0), dim=0))
    assert torch.allclose(found.vectors[1], vectors[0, 3])
    assert found.denials.tolist() == [5.5, 3.0]
    assert found.thresholds.tolist() == [-5.5, -3.0]
    assert queries([], words).vectors.shape == (0, 3)


def test_suspicions_and_what_is_cut_off_are_not_stated(tokenizer: WordTokenizer) -> None:
    text = "Large left pleural effusion. Possible pneumonia. No pneumothorax."
    whole, cut = tokenizer([text], max_length=40), tokenizer([text], max_length=5)
    assert [mention.word for mention, _ in stated(text, whole.spans[0])] == ["pleural effusion", "pneumothorax"]
    assert [mention.word for mention, _ in stated(text, cut.spans[0])] == ["pleural effusion"]


def test_the_other_side_is_the_hard_negative() -> None:
    found = answers([LEFT, RIGHT, NO_AIR], REPORTS, device=torch.device("cpu"))
    assert found.true.tolist() == [[True, False, True], [True, False, True], [False, True, True], [False, False, True]]
    assert found.hard.tolist() == [[False, True, False], [False, True, False], [True, False, False], [False] * 3]
    assert found.false.tolist() == [[False] * 3, [False] * 3, [False] * 3, [True, True, False]]
