"""Grad-CAM by hand on a linear network, against another way to its gradients, and its cases of the pointing game."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from datamodules.reports.labels import FINDINGS
from lightning_modules.networks.cam_cases import CamCases
from lightning_modules.networks.classifier import ClassifierConfig, ClassifierOutput, FindingNetwork
from lightning_modules.networks.grad_cam import grad_cam

HEART = FINDINGS.index("Cardiomegaly")
EFFUSION = FINDINGS.index("Pleural Effusion")


class Linear(nn.Module):
    """Two channels, the brighter and the darker pixels; each logit weighs their means."""

    def __init__(self, weight: list[list[float]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, image: Tensor) -> ClassifierOutput:
        maps = torch.cat([image, -image], dim=1)
        features = maps.mean(dim=(2, 3))
        return ClassifierOutput(features, features @ self.weight.T, (image, maps))


def linear(weight: list[list[float]]) -> Any:
    return Linear(weight)


@pytest.fixture
def network() -> FindingNetwork:
    torch.manual_seed(0)
    return FindingNetwork(ClassifierConfig(resolution=16, channels=(8, 16))).eval()


def test_a_linear_network_by_hand() -> None:
    image = torch.tensor([[[[0.8, -0.4], [0.0, 0.2]]]])
    # Weights of the mean over 4 places: α = v / 4, and L = relu(α₀ x - α₁ x) = relu((v₀ - v₁) x / 4).
    found = grad_cam(linear([[2.0, 0.0], [0.0, 4.0], [1.0, 1.0]]), image, [0, 1, 2])
    assert found.shape == (1, 3, 2, 2)
    torch.testing.assert_close(found[0, 0], torch.tensor([[0.4, 0.0], [0.0, 0.1]]))
    torch.testing.assert_close(found[0, 1], torch.tensor([[0.0, 0.4], [0.0, 0.0]]))
    assert not found[0, 2].any()


def test_maps_are_brought_to_the_image_bilinearly() -> None:
    network, image = linear([[2.0, 0.0]]), torch.tensor([[[[0.8, -0.4], [0.0, 0.2]]]])
    found = grad_cam(network, image, [0], size=(4, 4))
    assert found.shape == (1, 1, 4, 4)
    # Between 0.4 and 0 at a quarter and three quarters of the way, and as at the edge outside of the centres.
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([0.4, 0.3, 0.1, 0.0]))


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_every_layer_of_the_network_itself(network: FindingNetwork, layer: int) -> None:
    image = torch.rand(3, 1, 16, 16) * 2 - 1
    found = grad_cam(network, image, [HEART, EFFUSION], layer=layer)
    parameters = list(network.parameters())
    assert all(parameter.grad is None for parameter in parameters)
    output = network(image)
    maps = output.maps[layer]
    maps.retain_grad()
    # One image and one logit at a time, by backward().
    output.logits[1, EFFUSION].backward()
    assert maps.grad is not None
    weight = maps.grad[1].mean(dim=(1, 2))
    expected = torch.einsum("c,chw->hw", weight, maps[1]).clamp_min(0)
    torch.testing.assert_close(found[1, 1], expected, rtol=1e-4, atol=1e-6)
    assert found.dtype == torch.float32
    assert not found.requires_grad


def test_a_layer_that_is_not_there_is_named(network: FindingNetwork) -> None:
    with pytest.raises(ValueError, match="layer 3: the network has 3 maps, -3 to -1"):
        grad_cam(network, torch.zeros(1, 1, 16, 16), [0], layer=3)


def test_in_inference_mode_and_under_autocast_it_is_the_same(network: FindingNetwork) -> None:
    image = torch.rand(2, 1, 16, 16) * 2 - 1
    plain = grad_cam(network, image, [HEART])
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        inside = image.clone()
        assert inside.is_inference()
        assert torch.equal(grad_cam(network, inside, [HEART]), plain)


def batch(image: Tensor, *, ids: list[str], shown: list[tuple[int, int, int]]) -> Any:
    """`shown`: (row, finding, quadrant) of positive labels with a mask."""
    size = image.shape[-1]
    masks = torch.zeros(len(ids), len(FINDINGS), size, size, dtype=torch.bool)
    labels = torch.full((len(ids), len(FINDINGS)), torch.nan)
    for row, finding, place in shown:
        top, left = (part * size // 2 for part in divmod(place, 2))
        masks[row, finding, top : top + size // 2, left : left + size // 2] = True
        labels[row, finding] = 1.0
    return {"image": image, "image_id": ids, "patient_id": ids, "labels": labels, "masks": masks}


def test_cases_are_positive_labels_with_a_mask_and_hits_go_by_the_peak() -> None:
    # The heart is seen at the brightest quadrant, nothing else anywhere.
    weight = [[8.0, 0.0] if index == HEART else [0.0, 0.0] for index in range(len(FINDINGS))]
    grid = torch.zeros(2, 1, 2, 2)
    grid[0, 0, 1, 0] = grid[1, 0, 0, 1] = 1.0  # quadrants 2 and 1
    image = functional.interpolate(grid, scale_factor=4)
    cases = CamCases(limit=10, least=1, layer=-1)
    first = batch(image, ids=["a", "b"], shown=[(0, HEART, 2), (1, HEART, 3)])
    first["labels"][1, EFFUSION] = 1.0  # without a mask
    first["masks"][0, EFFUSION] = True  # without a label
    cases.add(first, network=linear(weight))
    scores = cases.scores()
    assert [(case.image_id, case.finding, case.hit) for case in cases.cases] == [
        ("a", HEART, True),
        ("b", HEART, False),
    ]
    assert scores["pointing/cardiomegaly"] == scores["pointing"] == scores["pointing_micro"] == 0.5
    assert scores["pointing_cases"] == scores["pointing_patients"] == 2
    assert scores["pointing_chance"] == 0.25
    assert scores["pointing_other_image"] == 0.0
    assert (scores["pointing_micro_low"], scores["pointing_micro_high"]) == (0.0, 1.0)
    assert "pointing/pleural_effusion" not in scores


def test_batches_add_up_and_none_gives_nothing(network: FindingNetwork) -> None:
    assert CamCases(limit=10, least=1, layer=-1).scores() == {}
    image = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
    shown = [(n, (HEART, EFFUSION)[n % 2], n) for n in range(4)]
    whole, parts = (CamCases(limit=3, least=1, layer=-1) for _ in range(2))
    whole.add(batch(image, ids=list("abcd"), shown=shown), network=network)
    for n in (3, 1, 0, 2):
        parts.add(batch(image[n : n + 1], ids=["abcd"[n]], shown=[(0, *shown[n][1:])]), network=network)
    assert parts.scores() == pytest.approx(whole.scores(), abs=1e-5)
    assert len(parts.images) == 3
