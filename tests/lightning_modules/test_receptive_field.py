"""Where patches look: convolutions whose taps are set by hand, and the patch encoder's boxes."""

import copy

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.networks.boxes import centres, grid_boxes, inside
from lightning_modules.networks.classifier import place_boxes
from lightning_modules.networks.patch_encoder import PatchEncoder
from lightning_modules.networks.receptive_field import mean_offset

SIZE = 32


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def halving(taps: Tensor) -> nn.Conv2d:
    """A convolution 3 × 3 of stride 2 with the same taps for each of its 8 channels."""
    conv = nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(taps.expand(8, 1, 3, 3))
    return conv


def located(network: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    vectors = network(image).flatten(2).transpose(1, 2)
    return vectors, grid_boxes(int(vectors.shape[1] ** 0.5)).expand(len(image), -1, -1)


def offset_of(*taps: Tensor) -> list[float]:
    """In pixels of the image; all but the first halving take the mean of the channels."""
    layers: list[nn.Module] = [halving(taps[0])]
    for tap in taps[1:]:
        layers += [MeanOfChannels(), halving(tap)]
    network = nn.Sequential(*layers)
    return (mean_offset(lambda x: located(network, x), images(), seeds=range(4)) * SIZE).tolist()


class MeanOfChannels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1, keepdim=True)


def test_a_stride_of_two_looks_half_a_pixel_to_the_top_left() -> None:
    assert offset_of(torch.ones(3, 3)) == pytest.approx([-0.5, -0.5], abs=1e-6)
    assert offset_of(torch.ones(3, 3), torch.ones(3, 3)) == pytest.approx([-1.5, -1.5], abs=1e-6)


def test_places_of_a_classifier_lie_where_they_look() -> None:
    for level, pixels in ((0, 0.0), (1, -0.5), (2, -1.5), (4, -7.5)):
        boxes, grid = place_boxes(level, resolution=SIZE), grid_boxes(SIZE // 2**level)
        torch.testing.assert_close(boxes, grid + pixels / SIZE)


def test_what_is_learnt_counts_too() -> None:
    left = torch.zeros(3, 3)
    left[1, 0] = -2.0  # the pixel to the left of the middle one; the sign does not matter
    assert offset_of(left) == pytest.approx([-1.5, -0.5], abs=1e-6)


def test_a_network_that_sees_nothing_looks_at_its_cell() -> None:
    assert offset_of(torch.zeros(3, 3)) == [0.0, 0.0]


def test_the_draws_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.Tanh(), nn.Conv2d(8, 4, 3, padding=1))
    state = torch.get_rng_state()
    first, again, other = (
        mean_offset(lambda x: located(network, x), images(), seeds=range(s, s + 4)) for s in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_every_image_has_its_own_draws() -> None:
    """So ranks that share the images out find what one finds."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.Tanh(), nn.Conv2d(8, 4, 3, padding=1))
    whole = mean_offset(lambda x: located(network, x), images(), seeds=[5, 6, 7, 8])
    halves = [
        mean_offset(lambda x: located(network, x), images()[rows], seeds=seeds)
        for rows, seeds in (([3, 0], [8, 5]), ([1, 2], [6, 7]))
    ]
    torch.testing.assert_close(sum(halves) / 2, whole)


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_encoder_moves_its_boxes_and_nothing_else(adaptive: bool) -> None:
    torch.manual_seed(0)
    encoder = PatchEncoder(side=16, channels=(8,), width=8, depth=1, dim=4, dropout=0.5, adaptive=adaptive).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    vectors, boxes = copy.deepcopy(encoder).eval().located(images())
    encoder.locate(images(), seeds=range(3, 7))
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items() if name != "offset")
    now, moved = encoder.eval().located(images())
    assert torch.equal(now, vectors)
    torch.testing.assert_close(centres(moved) - centres(boxes), encoder.offset.expand_as(centres(boxes)))
    assert 0.1 < encoder.offset.abs().max() * SIZE < 4
    # Measured again where it now lies, nothing is left; the same if it is asked for twice.
    left = mean_offset(encoder.located, images(), seeds=range(3, 7))
    torch.testing.assert_close(left, torch.zeros(2), atol=1e-6, rtol=0)
    first = encoder.offset.clone()
    encoder.locate(images(), seeds=range(3, 7))
    assert torch.equal(encoder.offset, first)
    encoder.locate(images(), seeds=range(4, 8))
    assert not torch.equal(encoder.offset, first)


def test_boxes_that_reach_out_are_moved_back_whole() -> None:
    boxes = torch.tensor([[-0.1, 0.2, 0.15, 0.45], [0.9, 0.9, 1.15, 1.15], [0.25, 0.5, 0.5, 0.75]])
    expected = torch.tensor([[0.0, 0.2, 0.25, 0.45], [0.75, 0.75, 1.0, 1.0], [0.25, 0.5, 0.5, 0.75]])
    torch.testing.assert_close(inside(boxes), expected)
