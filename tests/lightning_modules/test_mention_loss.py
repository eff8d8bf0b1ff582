"""Single statements: which speak, what they hold of, the loss by hand and over ranks."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional

from datamodules.reports.entailment import Fact
from lightning_modules.networks.mention_loss import (
    Answers,
    answers,
    denial_loss,
    mention_loss,
    prompts,
    statement_losses,
    statement_vectors,
    statements,
)
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


def test_vectors_are_the_means_of_the_words() -> None:
    vectors = functional.normalize(torch.randn(2, 4, 3), dim=-1)
    denials = torch.arange(8.0).view(2, 4)
    found, denied = statement_vectors([(1, (1, 2)), (0, (3,))], vectors, denials)
    assert torch.allclose(found[0], functional.normalize(vectors[1, 1:3].mean(dim=0), dim=0))
    assert torch.allclose(found[1], vectors[0, 3])
    assert denied.tolist() == [5.5, 3.0]


def test_the_other_side_is_the_hard_negative() -> None:
    found = answers([LEFT, RIGHT, NO_AIR], REPORTS, device=torch.device("cpu"))
    assert found.true.tolist() == [[True, False, True], [True, False, True], [False, True, True], [False, False, True]]
    assert found.hard.tolist() == [[False, True, False], [False, True, False], [True, False, False], [False] * 3]
    assert found.false.tolist() == [[False] * 3, [False] * 3, [False] * 3, [True, True, False]]


def test_the_value_is_that_of_the_formula() -> None:
    evidence = torch.tensor([[2.0, -1.0, 0.5], [0.3, 1.0, -2.0]])
    found = Answers(
        torch.tensor([[True, False, False], [False, False, True]]),
        torch.tensor([[False, False, True], [False, True, False]]),
        torch.tensor([[False, True, False], [True, False, False]]),
    )
    denied = torch.tensor([False, False, True])
    minus_log = [math.log1p(math.exp(-x)) for x in (2.0, 1.0, -0.3, -1.0, 0.5, 2.0)]
    hold, hard, hard_too, easy, wrong_denial, true_denial = minus_log
    expected = 0.5 * hold + 0.25 * (hard + hard_too) / 2 + 0.25 * easy + 0.25 * true_denial + 0.25 * wrong_denial
    assert mention_loss(evidence, found, denied).item() == pytest.approx(expected, abs=1e-6)
    logits = torch.tensor([1.0, -2.0])
    assert denial_loss(logits, torch.tensor([True, False])).item() == pytest.approx(
        (math.log1p(math.exp(-1)) + math.log1p(math.exp(-2))) / 2, abs=1e-6
    )


def test_a_batch_that_states_nothing_teaches_nothing(tokenizer: WordTokenizer) -> None:
    reports = ["Clear lungs.", "Lungs."]
    patches = torch.randn(2, 4, 3, requires_grad=True)
    words = torch.randn(2, 3, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    losses = statement_losses(
        reports, tokens_of(tokenizer, reports), reports, words=words, patches=patches, evidence=evidence_of, step=0
    )
    (losses[0] + losses[1]).backward()
    assert [loss.item() for loss in losses] == [0.0, 0.0]
    for tensor in (patches, *words):
        assert tensor.grad is not None  # each rank must go backward through the same collectives
        assert tensor.grad.abs().max() == 0


def evidence_of(similarity: torch.Tensor) -> torch.Tensor:
    return torch.logsumexp(5 * similarity, dim=-1) - 2


def _gradients(rows: list[int]) -> tuple[float, torch.Tensor, torch.Tensor]:
    tokenizer = WordTokenizer(train_tokenizer(REPORTS * 3, kind="words", vocabulary=200))
    reports = [REPORTS[row] for row in rows]
    everything = functional.normalize(torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    patches = everything[rows].clone().requires_grad_()
    # A word's vector depends on its text alone, as with the text encoder.
    tokens = tokens_of(tokenizer, reports)
    seeds = [
        [sum(map(ord, f"{text} {word}")) for word in words] for text, words in zip(reports, tokens.words, strict=True)
    ]
    length = tokens.word_mask.shape[1]
    vectors = torch.stack(
        [
            torch.stack(
                [torch.randn(5, generator=torch.Generator().manual_seed(s)) for s in [*row, *[0] * length][:length]]
            )
            for row in seeds
        ]
    )
    vectors = vectors.requires_grad_()
    words = functional.normalize(vectors, dim=-1), vectors[..., 0]
    losses = statement_losses(reports, tokens, reports, words=words, patches=patches, evidence=evidence_of, step=1)
    total = losses[0] + losses[1]
    total.backward()
    assert patches.grad is not None
    assert vectors.grad is not None
    return total.item(), patches.grad, vectors.grad


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(_gradients([[0, 3, 2], [1]][rank]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_are_one_rank_with_the_union_batch(tmp_path: Path) -> None:
    mp.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    loss, gradient, of_words = _gradients([0, 3, 2, 1])
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert (ranks[0][0] + ranks[1][0]) / 2 == pytest.approx(loss, abs=1e-6)
    torch.testing.assert_close(torch.cat([ranks[0][1], ranks[1][1]]) / 2, gradient)
    longest = of_words.shape[1]
    padded = [functional.pad(rank[2], (0, 0, 0, longest - rank[2].shape[1])) for rank in ranks]
    torch.testing.assert_close(torch.cat(padded) / 2, of_words)
