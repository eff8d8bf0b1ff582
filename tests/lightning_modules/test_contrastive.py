"""Contrast of whole reports: targets and scores by hand, and the losses over ranks."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional

from lightning_modules.networks.alignment import BAD
from lightning_modules.networks.contrastive import (
    Scores,
    batch_targets,
    contrastive_loss,
    pooled_scores,
    soft_cross_entropy,
    soft_targets,
    spoken_by,
    statement_scores,
    told,
    word_scores,
)

# What four texts state of four statements; the last states nothing.
SPOKEN = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=torch.bool)


def unit(*shape: int, seed: int) -> torch.Tensor:
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


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


def test_the_score_of_a_report_is_its_statements_mean_log_likelihood() -> None:
    fits = torch.tensor([[2.0, -1.0], [0.0, 3.0]])
    spoken = spoken_by([[0], [0, 1], []], count=2, device=torch.device("cpu"))
    scores = statement_scores(fits, spoken)
    log = [[-math.log1p(math.exp(-x)) for x in row] for row in fits.tolist()]
    for i in range(2):
        assert scores.to_text[i].tolist() == pytest.approx([log[i][0], sum(log[i]) / 2, BAD])
    assert torch.equal(scores.to_text, scores.to_image)


def test_who_states_nothing_is_no_target() -> None:
    spoken = spoken_by([[0], [], [1]], count=2, device=torch.device("cpu"))
    targets = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.0, 0.0, 1.0]])
    expected = torch.tensor([[2 / 3, 0.0, 1 / 3], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    of_images, of_texts = told(targets, spoken)
    torch.testing.assert_close(of_images, expected)
    # The image of the silent report may still be the first text's.
    torch.testing.assert_close(of_texts, torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))


def test_pooled_scores_are_cosines_of_the_means() -> None:
    patches, words = unit(2, 3, 4, seed=0), unit(2, 3, 4, seed=1)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    scores = pooled_scores(patches, words, mask)
    text = functional.cosine_similarity(patches[1].mean(dim=0), words[0, :2].mean(dim=0), dim=0)
    assert scores.to_text[1, 0].item() == pytest.approx(text.item(), abs=1e-6)
    assert torch.equal(scores.to_text, scores.to_image)


def test_the_loss_is_the_mean_of_both_directions() -> None:
    to_text = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    loss = contrastive_loss(Scores(to_text, to_text), torch.eye(2), scale=torch.tensor(2.0))
    forward = (math.log(1 + math.exp(-4)) + math.log(2)) / 2
    backward = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-2))) / 2
    assert loss.item() == pytest.approx((forward + backward) / 2, abs=1e-6)


def _inputs() -> tuple[torch.Tensor, ...]:
    labels = torch.tensor([[1.0], [0.0], [1.0], [float("nan")]])
    mask = torch.tensor([[True, True, True], [True, True, True], [True, False, False], [True, True, False]])
    return unit(4, 5, 6, seed=2), unit(4, 3, 6, seed=3), mask, labels, torch.tensor([1, 2, 3, 1])


def _loss_and_gradients(rows: list[int], width: int) -> tuple[float, torch.Tensor, torch.Tensor, torch.Tensor]:
    patches, words, mask, labels, texts = (part[rows] for part in _inputs())
    patches, words = patches.requires_grad_(), words[:, :width].clone().requires_grad_()
    scale = torch.tensor(5.0, requires_grad=True)
    targets = batch_targets(labels, texts, same_labels=0.5)
    kept = mask[:, :width]
    statements = SPOKEN[rows]
    loss = contrastive_loss(word_scores(patches, words, kept), targets, scale=scale)
    loss = loss + contrastive_loss(pooled_scores(patches, words, kept), targets, scale=scale)
    # What an image shows of the four statements: the first four of its patches' numbers.
    fits = patches[:, 0, :4]
    of_images, of_texts = told(targets, statements)
    loss = loss + contrastive_loss(statement_scores(fits, statements), of_images, scale=scale, image_targets=of_texts)
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
def test_two_ranks_are_one_rank_with_the_union_batch(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    loss, patches, words, scale = _loss_and_gradients([0, 1, 2, 3], 3)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert (ranks[0][0] + ranks[1][0]) / 2 == pytest.approx(loss, abs=1e-6)
    # DDP averages what each rank's backward pass leaves: half of each rank's gradient is the union's.
    torch.testing.assert_close(torch.cat([r[1] for r in ranks]) / 2, patches)
    padded = [functional.pad(r[2], (0, 0, 0, 3 - r[2].shape[1])) for r in ranks]
    torch.testing.assert_close(torch.cat(padded) / 2, words)
    torch.testing.assert_close((ranks[0][3] + ranks[1][3]) / 2, scale)
