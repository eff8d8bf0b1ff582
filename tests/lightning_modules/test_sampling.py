"""The masked generator's schedule, loss and guidance, and iterative decoding."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_modules.networks.masked_generator import Condition, GeneratorConfig, MaskedGenerator
from lightning_modules.networks.sampling import SamplingConfig, guided_logits, sample_codes, seeded_uniform
from lightning_modules.networks.text_encoder import TextEncoder, TextEncoderConfig

TEXT = TextEncoderConfig(vocabulary=11, width=16, heads=2, depth=1, dropout=0.0)


def model(codes: int = 7, grid: int = 3) -> MaskedGenerator:
    torch.manual_seed(0)
    config = GeneratorConfig(width=16, depth=2, heads=2, dropout=0.0, codes=codes, grid=grid)
    network = MaskedGenerator(config, TextEncoder(TEXT)).eval()
    for parameter in network.parameters():  # the small initial weights would hide differences
        nn.init.normal_(parameter, std=0.3)
    return network


def condition(batch: int = 2) -> Condition:
    generator = torch.Generator().manual_seed(1)
    return Condition(
        ids=torch.randint(0, 11, (batch, 5), generator=generator),
        mask=torch.ones(batch, 5, dtype=torch.bool),
        view=torch.zeros(batch, dtype=torch.long),
        clues=torch.tensor([[[1, 4], [2, 8], [-1, -1]]]).repeat(batch, 1, 1),
    )


def test_the_share_of_holes_follows_the_cosine() -> None:
    noise = torch.rand(4, 101)
    noise[:, 0] = torch.tensor([0.0, 0.5, 0.6, 0.9999])
    counts = model().holes(noise).sum(dim=1).tolist()
    assert counts == [100, math.ceil(100 * math.cos(math.pi / 4)), 59, 1]


def test_the_loss_is_the_cross_entropy_of_the_holes_alone() -> None:
    network, given = model(), condition()
    codes = torch.randint(0, 7, (2, 9), generator=torch.Generator().manual_seed(3))
    noise = torch.rand(2, 10, generator=torch.Generator().manual_seed(4))
    holes = network.holes(noise)
    logits = network(codes.masked_fill(holes, network.mask_code), given)
    total = functional.cross_entropy(logits[holes], codes[holes], reduction="sum")
    shares = torch.linspace(0, 1, 100_001)[:-1]
    expected = torch.cos(shares * math.pi / 2).mul(9).ceil().mean()
    assert torch.allclose(network.loss(codes, given, noise), total / (2 * expected), rtol=1e-3)


def test_what_is_dropped_has_no_influence() -> None:
    network, given = model(), condition()
    codes = torch.full((2, 9), network.mask_code)
    everything = torch.tensor([True, True])
    nothing = ~everything
    dropped = network(codes, given.drop(text=everything, clues=everything))
    other = Condition(given.ids.flip(1), given.mask, given.view, given.clues.flip(1).clamp(max=0))
    assert torch.equal(dropped, network(codes, other.drop(text=everything, clues=everything)))
    assert not torch.allclose(dropped, network(codes, given.drop(text=nothing, clues=everything)))
    assert not torch.allclose(network(codes, given), network(codes, given.drop(text=nothing, clues=everything)))


def test_a_clue_is_known_by_its_position() -> None:
    network, given = model(), condition()
    codes = torch.full((2, 9), network.mask_code)
    moved = given.clues.clone()
    moved[:, 0, 1] = 5
    assert not torch.allclose(
        network(codes, given), network(codes, Condition(given.ids, given.mask, given.view, moved))
    )


def test_a_clue_of_another_codebook_is_refused() -> None:
    network, given = model(), condition()
    wrong = Condition(given.ids, given.mask, given.view, torch.tensor([[[7, 0]], [[0, 0]]]))
    with pytest.raises(ValueError, match=r"up to \(7, 0\), but the codebook has 7 codes and 9 positions"):
        network(torch.zeros(2, 9, dtype=torch.long), wrong)


def test_guidance_combines_three_branches() -> None:
    network, given = model(), condition()
    codes = torch.full((2, 9), network.mask_code)
    yes, no = torch.tensor([True, True]), torch.tensor([False, False])
    full, text, nothing = (network(codes, given.drop(text=t, clues=c)) for t, c in ((no, no), (no, yes), (yes, yes)))
    guided = guided_logits(network, codes, given, SamplingConfig(guidance_text=3.0, guidance_clues=1.5))
    assert torch.allclose(guided, nothing + 3.0 * (text - nothing) + 1.5 * (full - text), atol=1e-4)
    plain = guided_logits(network, codes, given, SamplingConfig(guidance_text=1.0, guidance_clues=1.0))
    assert torch.allclose(plain, full, atol=1e-5)
    both = guided_logits(network, codes, given, SamplingConfig(guidance_text=2.0, guidance_clues=2.0))
    assert torch.allclose(both, nothing + 2.0 * (full - nothing), atol=1e-4)


@pytest.mark.parametrize(("text", "clues", "branches"), [(1.0, 1.0, 1), (2.0, 2.0, 2), (2.0, 1.0, 3), (1.0, 2.0, 2)])
def test_branches_without_a_weight_are_not_computed(text: float, clues: float, branches: int) -> None:
    network, sizes = model(), []
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    codes = torch.full((2, 9), network.mask_code)
    guided_logits(network, codes, condition(), SamplingConfig(guidance_text=text, guidance_clues=clues))
    assert sizes == [2 * branches]


def test_codes_that_look_alike_begin_as_neighbours() -> None:
    network = model()
    vectors = torch.randn(7, 16, generator=torch.Generator().manual_seed(0))
    vectors[1] = vectors[0] + 0.01
    network.start_from(vectors)
    for rows in (network.code.weight[:7], network.to_codes.weight):
        distances = torch.cdist(rows, rows)
        assert distances[0, 1] < 0.1 * distances[0, 2:].min()


class Certain(nn.Module):
    """Knows the image: a network whose distribution is a point, to see that decoding ends there."""

    def __init__(self, codes: torch.Tensor) -> None:
        super().__init__()
        self.config = GeneratorConfig(codes=7, grid=3)
        self.mask_code, self.codes, self.calls = 7, codes, 0

    def forward(self, codes: torch.Tensor, condition: Condition) -> torch.Tensor:
        self.calls += 1
        return functional.one_hot(self.codes, 7).float()[: len(codes)] * 50


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_decoding_fills_every_hole_in_the_given_number_of_calls(steps: int) -> None:
    truth = torch.randint(0, 7, (2, 9), generator=torch.Generator().manual_seed(5))
    network = Certain(truth)
    config = SamplingConfig(steps=steps, guidance_text=1.0, guidance_clues=1.0)
    drawn = sample_codes(network, condition(), torch.tensor([1, 2]), config)  # type: ignore[arg-type]
    assert torch.equal(drawn, truth)
    assert network.calls == steps


@pytest.mark.parametrize("steps", [2, 8, 9])
def test_each_step_fills_at_least_one_hole(steps: int) -> None:
    class Counting(Certain):
        def forward(self, codes: torch.Tensor, condition: Condition) -> torch.Tensor:
            holes.append(int((codes[0] == 7).sum()))
            return super().forward(codes, condition)

    holes: list[int] = []
    config = SamplingConfig(steps=steps, guidance_text=1.0, guidance_clues=1.0)
    network = Counting(torch.zeros(2, 9, dtype=torch.long))
    sample_codes(network, condition(), torch.tensor([1, 2]), config)  # type: ignore[arg-type]
    assert holes[0] == 9
    assert len(holes) == steps
    assert all(after < before for before, after in itertools.pairwise(holes))


def test_codes_are_drawn_from_the_distribution() -> None:
    class Even(Certain):
        def forward(self, codes: torch.Tensor, condition: Condition) -> torch.Tensor:
            return torch.tensor([0.5, 0.25, 0.25, 0, 0, 0, 0]).log().expand(len(codes), 9, 7)

    config = SamplingConfig(steps=1, guidance_text=1.0, guidance_clues=1.0)
    drawn = sample_codes(Even(torch.zeros(1)), condition(1000), torch.arange(1000), config)  # type: ignore[arg-type]
    shares = torch.bincount(drawn.flatten(), minlength=7) / drawn.numel()
    assert torch.allclose(shares, torch.tensor([0.5, 0.25, 0.25, 0, 0, 0, 0]), atol=0.02)


def test_an_image_does_not_depend_on_its_batch() -> None:
    network, config = model(), SamplingConfig(steps=3)
    together = sample_codes(network, condition(4), torch.tensor([3, 4, 5, 6]), config)
    given = condition(4)
    alone = Condition(given.ids[2:3], given.mask[2:3], given.view[2:3], given.clues[2:3])
    assert torch.equal(together[2:3], sample_codes(network, alone, torch.tensor([5]), config))
    assert torch.equal(seeded_uniform(torch.tensor([9, 5]), 4)[1], seeded_uniform(torch.tensor([5]), 4)[0])


def test_sampling_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"found 0, 1\.0"):
        SamplingConfig(steps=0)
