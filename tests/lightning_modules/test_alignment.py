"""Late interaction, word selection, sentences, evidence."""

import math

import pytest
import torch
from torch.nn import functional

from lightning_modules.networks import alignment
from lightning_modules.networks.alignment import (
    AlignerConfig,
    AlignmentNetwork,
    Queries,
    compact,
    content_mask,
    late_interaction,
    sentence_rows,
)
from lightning_modules.networks.tokenizer import WordTokenizer, train_tokenizer

TEXTS = ["Large left pleural effusion. No pneumothorax.", "The heart is enlarged.", "Lungs are clear."] * 4
TINY = AlignerConfig(
    resolution=16, patch=4, channels=(8, 16), width=16, depth=1, heads=2, dim=8, dropout=0.0, text_width=16
)


def unit(*shape: int, seed: int) -> torch.Tensor:
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture(scope="module")
def tokenizer() -> WordTokenizer:
    return WordTokenizer(train_tokenizer(TEXTS, kind="words", vocabulary=120))


@pytest.mark.parametrize("budget", [1, 70, 1 << 20])
def test_late_interaction_is_the_naive_loop(budget: int) -> None:
    patches, words = unit(3, 5, 4, seed=0), unit(2, 6, 4, seed=1)
    mask = torch.tensor([[True] * 6, [True, False, True, False, False, False]])
    to_text, to_image = late_interaction(patches, words, mask, budget=budget)
    for i in range(3):
        for j in range(2):
            kept = [w for w in range(6) if mask[j, w]]
            by_patch = [max(float(patches[i, p] @ words[j, w]) for w in kept) for p in range(5)]
            by_word = [max(float(patches[i, p] @ words[j, w]) for p in range(5)) for w in kept]
            assert to_text[i, j].item() == pytest.approx(sum(by_patch) / len(by_patch), abs=1e-6)
            assert to_image[i, j].item() == pytest.approx(sum(by_word) / len(by_word), abs=1e-6)


def test_late_interaction_has_the_same_gradients_in_chunks() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    grads = []
    for budget in (1, 1 << 20):
        patches, words = unit(3, 4, 4, seed=0).requires_grad_(), unit(2, 3, 4, seed=1).requires_grad_()
        a, b = late_interaction(patches, words, mask, budget=budget)
        (a.square().sum() + b.sum()).backward()
        grads.append((patches.grad, words.grad))
    torch.testing.assert_close(grads[0], grads[1])
    assert grads[0][1] is not None
    assert grads[0][1][1, 1:].abs().max() == 0  # masked words take no part


def test_content_words_leave_out_stop_words_numbers_and_punctuation(tokenizer: WordTokenizer) -> None:
    tokens = tokenizer(["There is a 3 cm effusion.", "it is.", ""], max_length=40)
    kept = [
        [w for w, keep in zip(words, row, strict=False) if keep]
        for words, row in zip(tokens.words, content_mask(tokens).tolist(), strict=True)
    ]
    assert kept == [["cm", "effusion"], ["it", "is", "."], [""]]


def test_compact_moves_kept_words_to_the_front_in_order() -> None:
    words = torch.arange(8.0).view(2, 4, 1)
    mask = torch.tensor([[False, True, False, True], [False, False, True, False]])
    kept, kept_mask = compact(words, mask)
    assert kept_mask.tolist() == [[True, True], [True, False]]
    assert kept[0, :, 0].tolist() == [1.0, 3.0]
    assert kept[1, 0, 0].item() == 6.0


def test_sentences_split_after_full_stops_and_cover_every_subword_once(tokenizer: WordTokenizer) -> None:
    tokens = tokenizer(TEXTS[:2], max_length=40)
    place, mask = sentence_rows(tokens)
    assert len(place) == 3
    assert sorted(place[mask].tolist()) == torch.arange(tokens.ids.numel())[tokens.mask.flatten()].tolist()


def test_a_word_sees_its_sentence_and_nothing_else(tokenizer: WordTokenizer) -> None:
    torch.manual_seed(0)
    network = AlignmentNetwork(TINY, vocabulary=len(tokenizer)).eval()
    words = [
        network.words(tokenizer([text], max_length=40))[0][0]
        for text in ("Heart enlarged. Lungs clear.", "Heart enlarged. No pneumothorax.", "Heart clear. Lungs clear.")
    ]
    torch.testing.assert_close(words[0][0], words[1][0])
    assert (words[0][0] - words[2][0]).abs().max() > 1e-4


def test_shapes_units_and_boxes(tokenizer: WordTokenizer) -> None:
    network = AlignmentNetwork(TINY, vocabulary=len(tokenizer)).eval()
    patches = network.patches(torch.rand(2, 1, 16, 16) * 2 - 1)
    assert patches.shape == (2, 16, 8)
    torch.testing.assert_close(patches.norm(dim=-1), torch.ones(2, 16))
    assert network.scale.item() == pytest.approx(1 / 0.07, rel=1e-5)
    boxes = network.located_patches(torch.zeros(2, 1, 16, 16))[1][1]
    assert boxes[0].tolist() == [0, 0, 0.25, 0.25]
    assert boxes[1].tolist() == [0.25, 0, 0.5, 0.25]  # row-major: the next patch is to the right
    assert boxes[15].tolist() == [0.75, 0.75, 1, 1]
    with pytest.raises(ValueError, match=r"\[B,1,16,16\] and was given \[1, 1, 32, 32\]"):
        network.patches(torch.zeros(1, 1, 32, 32))
    with pytest.raises(ValueError, match="patch 6 must be a power of two"):
        AlignerConfig(patch=6)


def test_evidence_is_the_smooth_maximum_and_a_denial_turns_it_round() -> None:
    network = AlignmentNetwork(TINY, vocabulary=10)
    queries = Queries(unit(2, 8, seed=0), torch.tensor([-20.0, 20.0]), torch.tensor([0.5, -1.0]))
    patches = unit(3, 5, 8, seed=1)
    evidence = network.evidence(queries, patches)
    gain = network.log_gain.exp().item()
    for b in range(3):
        for m in range(2):
            mean = sum(math.exp(gain * float(patches[b, p] @ queries.vectors[m])) for p in range(5)) / 5
            expected = math.log(mean) + float(queries.thresholds[m])
            assert evidence[b, m].item() == pytest.approx(expected, abs=1e-4)
    torch.testing.assert_close(network.fits(queries, patches), evidence * torch.tensor([1.0, -1.0]))


def test_evidence_of_many_statements_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    network = AlignmentNetwork(TINY, vocabulary=20).eval()
    generator = torch.Generator().manual_seed(0)
    vectors = functional.normalize(torch.randn(7, TINY.dim, generator=generator), dim=-1)
    patches = functional.normalize(torch.randn(5, 16, TINY.dim, generator=generator), dim=-1)
    asked = Queries(vectors, torch.zeros(7), torch.randn(7, generator=generator))
    whole = network.evidence(asked, patches)
    monkeypatch.setattr(alignment, "COSINES", 2 * 7 * 16)
    torch.testing.assert_close(network.evidence(asked, patches), whole)
    monkeypatch.setattr(alignment, "COSINES", 1)
    torch.testing.assert_close(network.evidence(asked, patches), whole)
