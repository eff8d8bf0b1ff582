"""The word-presence term: what counts as stated, its value by hand, and what it teaches."""

import math

import pytest
import torch
from torch.nn import functional

from lightning_modules.networks.presence import findings, mentioned, presence_loss
from lightning_modules.networks.tokenizer import WordTokenizer, train_tokenizer

REPORTS = ["There is a small left pleural effusion. No pneumothorax.", "Possible pneumonia.", "Clear lungs."]


def test_only_what_is_present_is_stated() -> None:
    tokenizer = WordTokenizer(train_tokenizer(REPORTS * 3, kind="words", vocabulary=200))
    tokens = tokenizer(REPORTS, max_length=40)
    vectors = functional.normalize(torch.randn(3, tokens.word_mask.shape[1], 4), dim=-1)
    stated, places, present = mentioned(REPORTS, tokens, vectors)
    assert places.tolist() == [findings()["pleural effusion"]]
    words = [tokens.words[0].index(word) for word in ("pleural", "effusion")]
    assert torch.allclose(stated[0], functional.normalize(vectors[0, words].mean(dim=0), dim=0))
    assert present[0].sum() == 1
    assert present[0, findings()["pneumothorax"]] == 0
    assert present[1, findings()["pneumonia"]].isnan()
    assert present[2].tolist() == [0.0] * len(findings())


def test_the_value_is_that_of_the_formula() -> None:
    patches = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, -1.0]]])
    mentions, words = torch.tensor([[1.0, 0.0]]), torch.tensor([2])
    present = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    loss = presence_loss(patches, mentions, words, present, gain=torch.tensor(2.0), offset=torch.tensor(-1.0))
    first = math.log((math.exp(2) + 1) / 2) - 1
    expected = (math.log1p(math.exp(-first)) + math.log1p(math.exp(-1))) / 2
    assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_uncertain_words_and_batches_without_findings_teach_nothing() -> None:
    patches = functional.normalize(torch.randn(2, 3, 4), dim=-1).requires_grad_()
    one = torch.tensor(1.0)
    unknown = torch.full((2, 5), torch.nan)
    vector = functional.normalize(torch.randn(1, 4), dim=-1)
    presence_loss(patches, vector, torch.tensor([1]), unknown, gain=one, offset=one).backward()
    assert patches.grad is not None
    assert patches.grad.abs().max() == 0
    none = presence_loss(
        patches, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(2, 5), gain=one, offset=one
    )
    assert none.item() == 0


def test_it_pulls_the_best_patch_most() -> None:
    patches = functional.normalize(torch.tensor([[[1.0, 0.2], [0.2, 1.0]]]), dim=-1).requires_grad_()
    present = torch.ones(1, 1)
    loss = presence_loss(
        patches,
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([0]),
        present,
        gain=torch.tensor(10.0),
        offset=torch.tensor(-3.0),
    )
    loss.backward()
    pull = -patches.grad[0, :, 0]
    assert pull[0] > 10 * pull[1] > 0
