"""What a patch sees, where it lies, the quarter that training takes, and the classifier's first stages."""

import pytest
import torch

from lightning_modules.networks.classifier import ClassifierConfig, FindingNetwork
from lightning_modules.networks.patch_encoder import WAVES, PatchEncoder, waves


def encoder(side: int = 16, channels: tuple[int, ...] = (8,), depth: int = 1) -> PatchEncoder:
    torch.manual_seed(0)
    return PatchEncoder(side=side, channels=channels, width=16, depth=depth, dim=8, dropout=0.0).eval()


@pytest.mark.parametrize(("channels", "depth", "sees"), [((8,), 0, 13), ((8,), 1, 21), ((8, 16), 0, 33)])
def test_blocks_widen_what_a_patch_sees_and_nothing_else_does(channels: tuple[int, ...], depth: int, sees: int) -> None:
    """GroupNorm of the trunk knows how bright the image is; it is left out here, and its effect is tested below."""
    network = encoder(64 // 2 ** len(channels), channels, depth)
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda x: x  # type: ignore[method-assign,assignment]
    image = torch.randn(1, 1, 64, 64, requires_grad=True)
    middle = network.size // 2
    side = network.size // 2 ** len(channels)
    network(image).unflatten(1, (side, side))[0, side // 2, side // 2].sum().backward()
    assert image.grad is not None
    seen = image.grad[0, 0].abs() > 0
    rows = seen.any(dim=1).nonzero().flatten()
    assert int(rows.max() - rows.min()) + 1 == sees
    # Centred within a pixel: what a patch finds lies at the patch.
    assert abs(float(rows.min() + rows.max()) / 2 - (middle + (2 ** len(channels) - 1) / 2)) <= 2 ** (len(channels) - 1)


def test_a_change_elsewhere_moves_a_patch_little() -> None:
    network = encoder(32)
    image = torch.rand(1, 1, 64, 64) * 2 - 1
    other = image.clone()
    other[..., 40:, 40:] = torch.rand(24, 24) * 2 - 1
    before, after = (network(x).unflatten(1, (32, 32))[0] for x in (image, other))
    moved = (before - after).norm(dim=-1)
    assert moved[:12, :12].max() < 0.1 * moved[24:, 24:].mean()


def test_behind_a_frozen_trunk_a_change_elsewhere_is_not_seen_at_all() -> None:
    network = encoder(32)
    network.freeze_trunk()
    image = torch.rand(2, 1, 64, 64) * 2 - 1
    network.train()(image)
    network.eval()
    other = image.clone()
    other[..., 40:] = 1.0
    before, after = (network(x).unflatten(1, (32, 32)) for x in (image, other))
    assert torch.equal(before[:, :, :14], after[:, :, :14])
    assert (before[:, :, 20:] != after[:, :, 20:]).any()


def test_places_differ_though_the_image_is_flat() -> None:
    found = encoder()(torch.zeros(1, 1, 32, 32))[0]
    assert torch.cdist(found, found).fill_diagonal_(1).min() > 1e-3
    assert waves(4).shape == (1, 4 * WAVES, 4, 4)
    # Left and right are told apart by the sine of half a turn; above and below are alike in it.
    assert torch.equal(waves(4)[0, 2], waves(4)[0, 2].flip(0))
    assert torch.equal(waves(4)[0, 2], -waves(4)[0, 2].flip(1))
    assert waves(2)[0, 2, 0].tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5])


def test_the_phases_together_are_all_patches() -> None:
    network, image = encoder(), torch.rand(2, 1, 32, 32) * 2 - 1
    whole = network(image).unflatten(1, (16, 16))
    for phase, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        part = network(image, phase=phase).unflatten(1, (8, 8))
        torch.testing.assert_close(part, whole[:, row::2, column::2])


def test_the_trunk_is_the_classifiers() -> None:
    classifier = FindingNetwork(ClassifierConfig(resolution=32, channels=(8, 16))).eval()
    network = encoder(channels=(8,))
    network.take_trunk(classifier)
    image = torch.rand(2, 1, 32, 32) * 2 - 1
    x = network.stages[0](network.stem(image))
    torch.testing.assert_close(x, classifier(image).maps[1])
    network.freeze_trunk()
    network(image).sum().backward()
    assert all(p.grad is None for part in (network.stem, network.stages) for p in part.parameters())
    assert network.enter.weight.grad is not None
    with pytest.raises(ValueError, match=r"begins with channels \[24\], the classifier of classifier_ckpt with \[8\]"):
        encoder(channels=(24,)).take_trunk(classifier)
    with pytest.raises(ValueError, match="trained on images of 32 pixels, the aligner's have 64"):
        encoder(side=32, channels=(8,)).take_trunk(classifier)
