"""Prompts, flipped twins and their figures, on networks whose answers are known."""

import dataclasses

import pytest
import torch

from lightning_modules.networks.alignment import AlignerConfig, AlignmentNetwork, Queries, Words
from lightning_modules.networks.tokenizer import Tokens, WordTokenizer, train_tokenizer
from lightning_modules.networks.zero_shot import (
    ShownFindings,
    Tokenize,
    Twins,
    finding_scores,
    prompt_words,
    twin_scores,
    twin_texts,
    twins,
    zero_shot,
    zero_shot_auroc,
)

REPORT = "Small left pleural effusion and right consolidation. No pneumothorax. Possible pneumonia."
CONFIG = AlignerConfig(resolution=16, patch=4, channels=(8, 16), width=16, dim=8, dropout=0.0, text_width=16)


@pytest.fixture(scope="module")
def tokenizer() -> WordTokenizer:
    texts = [REPORT, "There is a right pleural effusion.", "No consolidation."]
    return WordTokenizer(train_tokenizer(texts * 3, kind="words", vocabulary=200))


@pytest.fixture
def tokenize(tokenizer: WordTokenizer) -> Tokenize:
    return lambda texts: tokenizer(texts, max_length=40)


@pytest.fixture
def network(tokenizer: WordTokenizer) -> AlignmentNetwork:
    torch.manual_seed(0)
    return AlignmentNetwork(CONFIG, vocabulary=len(tokenizer)).eval()


def test_prompts_are_the_words_that_are_stated() -> None:
    assert prompt_words([REPORT, "There is a left pneumothorax."]) == {
        "Pleural Effusion": ["pleural effusion"],
        "Consolidation": ["consolidation"],
        "Pneumothorax": ["pneumothorax"],
    }


def test_twins_of_a_report() -> None:
    sentence = "Small left pleural effusion and right consolidation."
    turned = "Small right pleural effusion and left consolidation."
    assert twin_texts(REPORT) == [
        ("stated", ("There is pleural effusion.", 0), ("No pleural effusion.", 0)),
        ("side", (sentence, 0), (turned, 0)),
        ("stated", ("There is consolidation.", 0), ("No consolidation.", 0)),
        ("side", (sentence, 1), (turned, 1)),
        ("denied", ("No pneumothorax.", 0), ("There is pneumothorax.", 0)),
    ]


def test_what_a_report_leaves_open_has_no_twin() -> None:
    assert twin_texts("No left pleural effusion. Right pleural effusion.") == [
        ("stated", ("There is pleural effusion.", 0), ("No pleural effusion.", 0)),
        ("side", ("Right pleural effusion.", 0), ("Left pleural effusion.", 0)),
    ]
    assert [kind for kind, *_ in twin_texts("Left pleural effusion. Right pleural effusion.")] == ["stated"]
    assert twin_texts("No pneumonia. Possible pneumonia.") == []


def test_scores_are_the_difference_of_what_fits(tokenize: Tokenize, network: AlignmentNetwork) -> None:
    patches = network.patches(torch.rand(3, 1, 16, 16) * 2 - 1)
    words = {"Pleural Effusion": ["pleural effusion", "consolidation"]}
    scores = torch.tensor(finding_scores(zero_shot(network, tokenize, patches, words)))
    assert scores.shape == (3, 14)
    assert int((~scores.isnan()).sum()) == 3
    wanted = []
    for word in words["Pleural Effusion"]:
        fits = []
        for text in (f"There is {word}.", f"No {word}."):
            vectors, denials, thresholds = network.words(tokenize([text]))
            inside = [i for i, one in enumerate(tokenize([text]).words[0]) if one in word.split()]
            query = torch.nn.functional.normalize(vectors[0, inside].mean(dim=0), dim=0)
            asked = Queries(query[None], torch.zeros(1), thresholds[0, inside].mean()[None])
            evidence = network.evidence(asked, patches)[:, 0]
            fits.append(evidence * torch.tanh(-denials[0, inside].mean() / 2))
        wanted.append(fits[0] - fits[1])
    torch.testing.assert_close(scores[:, 10], torch.stack(wanted).amax(dim=0), rtol=1e-4, atol=1e-4)
    assert torch.tensor(finding_scores(zero_shot(network, tokenize, patches, {}))).isnan().all()


def test_a_network_that_hears_denials_tells_the_status(tokenize: Tokenize, network: AlignmentNetwork) -> None:
    def hears(tokens: Tokens) -> Words:
        logits = torch.tensor([[9.0 if words[0] == "no" else -9.0] for words in tokens.words])
        vectors = torch.zeros(*tokens.word_mask.shape, 8)
        vectors[..., 0] = 1.0
        return Words(vectors, logits.expand(tokens.word_mask.shape), torch.full(tokens.word_mask.shape, -3.0))

    network.words = hears  # type: ignore[method-assign]
    patches = torch.zeros(1, 16, 8)
    patches[..., 0] = 1.0  # everything is shown
    found = twins(network, tokenize, patches, ["a"], [REPORT])
    # What is stated is right, what is denied is not; twins of a side score alike, and a tie is no hit.
    assert [(one.kind, one.right) for one in found] == [
        ("stated", True),
        ("side", False),
        ("stated", True),
        ("side", False),
        ("denied", False),
    ]
    assert twins(network, tokenize, patches, ["a"], ["Clear."]) == []


def test_figures_by_hand() -> None:
    nan = float("nan")
    cases = [
        ShownFindings("a", "a", (0.9, nan, 0.1), (1.0, 1.0, 1.0)),
        ShownFindings("b", "b", (0.4, nan, 0.2), (0.0, 0.0, 1.0)),
        ShownFindings("c", "c", (0.6, nan, 0.3), (nan, 1.0, 1.0)),
        ShownFindings("d", "d", (0.95, nan, 0.3), (0.0, 1.0, 1.0)),
    ]
    # The first name is "No Finding", which has no word; the third has one label only.
    assert zero_shot_auroc(cases, names=("none", "second", "third")) == {}
    moved = [ShownFindings(c.image_id, c.image_id, (nan, *c.scores[:1]), (nan, *c.labels[:1])) for c in cases]
    assert zero_shot_auroc(moved, names=("none", "second")) == {
        "zero_shot_auroc/second": 0.5,
        "zero_shot_auroc": 0.5,
        "zero_shot_findings": 1.0,
    }
    assert zero_shot_auroc([], names=()) == {}
    # Large scores keep their order.
    large = [dataclasses.replace(one, scores=tuple(100 + s for s in one.scores)) for one in moved]
    assert zero_shot_auroc(large, names=("none", "second"))["zero_shot_auroc"] == 0.5
    assert zero_shot_auroc(moved, names=("none", "second"), least=2) == {}
    told = [
        Twins("a", "stated", True),
        Twins("b", "stated", False),
        Twins("a", "denied", True),
        Twins("a", "side", True),
    ]
    assert twin_scores(told) == {
        "stated_flipped": 0.5,
        "stated_flipped_cases": 2.0,
        "denied_flipped": 1.0,
        "denied_flipped_cases": 1.0,
        "status_flipped": 0.75,
        "side_flipped": 1.0,
        "side_flipped_cases": 1.0,
    }
