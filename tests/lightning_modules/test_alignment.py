"""Late interaction, targets, word selection, sentences and the loss over ranks."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional

from lightning_modules.networks.alignment import (
    AlignerConfig,
    AlignmentNetwork,
    compact,
    content_mask,
    contrastive_loss,
    late_interaction,
    sentence_rows,
    soft_cross_entropy,
    soft_targets,
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


def test_soft_targets_by_hand() -> None:
    nan = float("nan")
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, nan], [nan, nan], [nan, nan]])
    texts = torch.tensor([7, 8, 7, 9, 10])
    targets = soft_targets(labels, labels, texts, texts, same_labels=0.25)
    expected = torch.tensor(
        [
            [1 / 2.25, 0.25 / 2.25, 1 / 2.25, 0, 0],  # same labels as 1, same text as 2
            [0.2, 0.8, 0, 0, 0],
            [0.5, 0, 0.5, 0, 0],
            [0, 0, 0, 1, 0],  # two rows without any known label do not agree on anything
            [0, 0, 0, 0, 1],
        ]
    )
    torch.testing.assert_close(targets, expected)
    # With two equal logits for two equal targets the loss is log 2, the least there is.
    assert soft_cross_entropy(torch.tensor([[30.0, 30.0, 0.0]]), torch.tensor([[0.5, 0.5, 0.0]])).item() == (
        pytest.approx(0.6931, abs=1e-3)
    )


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


def _inputs() -> tuple[torch.Tensor, ...]:
    labels = torch.tensor([[1.0], [0.0], [1.0], [float("nan")]])
    mask = torch.tensor([[True, True, True], [True, True, True], [True, False, False], [True, True, False]])
    return unit(4, 5, 6, seed=2), unit(4, 3, 6, seed=3), mask, labels, torch.tensor([1, 2, 3, 1])


def _loss_and_gradients(rows: list[int], width: int) -> tuple[float, torch.Tensor, torch.Tensor, torch.Tensor]:
    patches, words, mask, labels, texts = (part[rows] for part in _inputs())
    patches, words = patches.requires_grad_(), words[:, :width].clone().requires_grad_()
    scale = torch.tensor(5.0, requires_grad=True)
    loss = contrastive_loss(patches, words, mask[:, :width], labels, texts, scale=scale, same_labels=0.5)
    loss.backward()
    assert patches.grad is not None
    assert words.grad is not None
    assert scale.grad is not None
    return loss.item(), patches.grad, words.grad, scale.grad


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    # Rank 1's longest report has two words, rank 0's three.
    torch.save(_loss_and_gradients([[0, 1], [2, 3]][rank], [3, 2][rank]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_are_one_rank_with_the_union_batch(tmp_path) -> None:
    mp.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    loss, patches, words, scale = _loss_and_gradients([0, 1, 2, 3], 3)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert (ranks[0][0] + ranks[1][0]) / 2 == pytest.approx(loss, abs=1e-6)
    # DDP averages what each rank's backward pass leaves: half of each rank's gradient is the union's.
    torch.testing.assert_close(torch.cat([r[1] for r in ranks]) / 2, patches)
    padded = [functional.pad(r[2], (0, 0, 0, 3 - r[2].shape[1])) for r in ranks]
    torch.testing.assert_close(torch.cat(padded) / 2, words)
    torch.testing.assert_close((ranks[0][3] + ranks[1][3]) / 2, scale)
