"""The aligner's losses by hand, what weighs nothing, and the whole over ranks."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_modules.networks.alignment import AlignerConfig, AlignmentNetwork
from lightning_modules.networks.alignment_losses import LossWeights, alignment_losses, denial_loss, statement_loss
from lightning_modules.networks.statements import Answers, prompts
from lightning_modules.networks.tokenizer import WordTokenizer, train_tokenizer

REPORTS = [
    "There is a small left pleural effusion. No pneumothorax.",
    "Large left pleural effusion. Possible pneumonia.",
    "Right pleural effusion.",
    "Clear lungs. No pneumothorax.",
]
SILENT = ["Clear lungs.", "Lungs."]
TINY = AlignerConfig(
    resolution=16, patch=4, channels=(8, 16), width=16, depth=1, heads=2, dim=8, dropout=0.0, text_width=16
)
EVERY = LossWeights(statements=1.0, reports=0.5, words=0.25, pooled=0.125)


def minus_log(x: float) -> float:
    """Of the logistic function."""
    return math.log1p(math.exp(-x))


def test_each_statement_balances_its_own_images() -> None:
    """Statement 0 holds of the first of three images, is hard at the second; 1 has no hard ones; 2 denies."""
    evidence = torch.tensor([[2.0, -1.0, 0.5], [0.3, 1.0, -2.0], [-0.7, 0.2, 0.4]])
    yes, no, every = (torch.zeros(3, 3, dtype=torch.bool) for _ in range(3))
    found = Answers(yes, no, every)
    found.true[[0, 1, 1, 2], [0, 1, 2, 2]] = True
    found.hard[1, 0] = True
    found.false[[2, 0, 2, 0], [0, 1, 1, 2]] = True
    first = 0.5 * minus_log(2.0) + 0.5 * (0.7 * minus_log(0.7) + 0.3 * minus_log(-0.3))
    second = 0.5 * minus_log(1.0) + 0.5 * (minus_log(1.0) + minus_log(-0.2)) / 2
    third = 0.5 * (minus_log(2.0) + minus_log(-0.4)) / 2 + 0.5 * minus_log(0.5)
    loss = statement_loss(evidence, found, torch.tensor([False, False, True]), hard=0.3)
    assert loss.item() == pytest.approx((first + second) / 2 + 0.5 * third, abs=1e-6)


def test_only_hard_images_count_whole_and_none_count_nothing() -> None:
    evidence = torch.tensor([[1.0], [2.0]])
    true, none = torch.tensor([[True], [False]]), torch.zeros(2, 1, dtype=torch.bool)
    stated = torch.tensor([False])
    only_hard = statement_loss(evidence, Answers(true, none, ~true), stated, hard=0.3)
    assert only_hard.item() == pytest.approx(0.5 * minus_log(1.0) + 0.5 * minus_log(-2.0), abs=1e-6)
    nothing_else = statement_loss(evidence, Answers(true, none, none), stated, hard=0.3)
    assert nothing_else.item() == pytest.approx(0.5 * minus_log(1.0), abs=1e-6)


def test_denials_by_hand() -> None:
    loss = denial_loss(torch.tensor([1.0, -2.0]), torch.tensor([True, False]))
    assert loss.item() == pytest.approx((minus_log(1.0) + minus_log(2.0)) / 2, abs=1e-6)
    assert denial_loss(torch.zeros(0), torch.zeros(0, dtype=torch.bool)).item() == 0.0


def losses_of(
    weights: LossWeights, rows: list[int], reports: list[str] = REPORTS
) -> tuple[dict[str, torch.Tensor], AlignmentNetwork]:
    torch.manual_seed(0)
    tokenizer = WordTokenizer(train_tokenizer(REPORTS * 3, kind="words", vocabulary=200))
    network = AlignmentNetwork(TINY, vocabulary=len(tokenizer))
    images = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, float("nan")], [0.0, 1.0]])
    own = [reports[row] for row in rows]
    texts = [*own, *prompts(own)]
    tokens = tokenizer(texts, max_length=40)
    losses = alignment_losses(
        network,
        weights,
        texts=texts,
        tokens=tokens,
        words=network.words(tokens),
        patches=network.patches(images[rows]),
        labels=labels[rows],
        step=1,
    )
    return losses, network


def test_what_weighs_nothing_is_not_computed() -> None:
    found = {
        name: set(losses_of(LossWeights(**{"statements": 0.0, "reports": 0.0, name: 1.0}), [0, 1])[0])
        for name in ("statements", "reports", "words", "pooled")
    }
    assert found.pop("statements") == {"statements", "denials"}
    assert found == {name: {name} for name in found}
    with pytest.raises(ValueError, match="all losses of the aligner weigh 0"):
        LossWeights(statements=0.0, reports=0.0)


def test_weights_scale_the_parts() -> None:
    once, twice = losses_of(EVERY, [0, 1, 2])[0], losses_of(LossWeights(2.0, 0.5, 1.0, 0.5, 0.25), [0, 1, 2])[0]
    assert set(once) == {"statements", "denials", "reports", "words", "pooled"}
    for name in once:
        assert twice[name].item() == pytest.approx(2 * once[name].item(), rel=1e-5)


@pytest.mark.parametrize("name", ["statements", "pooled"])
def test_each_parameter_gets_a_gradient_whichever_parts_there_are(name: str) -> None:
    """DDP would wait for those without."""
    losses, network = losses_of(LossWeights(**{"statements": 0.0, "reports": 0.0, name: 1.0}), [0, 1])
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_a_batch_that_states_nothing_teaches_nothing() -> None:
    losses, network = losses_of(LossWeights(), [0, 1], SILENT)
    loss = torch.stack(list(losses.values())).sum()
    loss.backward()
    assert loss.item() == 0.0
    for parameter in network.parameters():
        assert parameter.grad is not None  # each rank must go backward through the same collectives
        assert parameter.grad.abs().max() == 0


def _gradients(rows: list[int]) -> tuple[float, dict[str, torch.Tensor]]:
    losses, network = losses_of(EVERY, rows)
    loss = torch.stack(list(losses.values())).sum()
    loss.backward()
    return loss.item(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(_gradients([[0, 3, 2], [1]][rank]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_are_one_rank_with_the_union_batch(tmp_path: Path) -> None:
    """All parts at once, with three images and one: DDP's mean of the ranks' gradients is that of all four."""
    mp.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    loss, gradients = _gradients([0, 3, 2, 1])
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert (ranks[0][0] + ranks[1][0]) / 2 == pytest.approx(loss, abs=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close((ranks[0][1][name] + ranks[1][1][name]) / 2, gradient, rtol=1e-4, atol=1e-5)
