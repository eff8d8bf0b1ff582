"""The VQ autoencoder: sizes, codes, overfitting, bf16."""

import dataclasses

import pytest
import torch

from lightning_modules import stages
from lightning_modules.networks.vqgan import SIZES, VQGAN, VQGANConfig

MICRO = VQGANConfig(resolution=16, channels=(8, 16, 16), code_dim=8, codes=16)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return VQGAN(MICRO)


@pytest.mark.parametrize(
    ("channels", "factor", "grid"), [((8,), 1, 16), ((8, 8), 2, 8), ((8, 8, 8), 4, 4), ((8, 8, 8, 8), 8, 2)]
)
def test_the_reduction_follows_from_the_number_of_widths(channels, factor, grid):
    config = dataclasses.replace(MICRO, channels=channels)
    assert (config.factor, config.grid) == (factor, grid)
    network = VQGAN(config).eval()
    codes = network.encode(torch.zeros(1, 1, 16, 16))
    assert codes.shape == (1, grid, grid)
    assert network.decode(codes).shape == (1, 1, 16, 16)


def test_named_sizes_have_the_grids_they_promise():
    assert {name: (c.resolution, c.grid, c.codes) for name, c in SIZES.items()} == {
        "tiny": (64, 16, 512),
        "small": (128, 16, 1024),
        "base": (256, 16, 1024),
    }


def test_decoding_codes_equals_the_clamped_reconstruction(network):
    network.eval()
    image = torch.rand(3, 1, 16, 16) * 2 - 1
    out = network(image)
    assert torch.equal(network.encode(image), out.codes)
    assert torch.allclose(network.decode(out.codes), out.reconstruction.clamp(-1, 1), atol=1e-5)
    assert out.codes.dtype == torch.int64
    assert out.codes.min() >= 0
    assert out.codes.max() < 16


def test_images_do_not_influence_one_another(network):
    network.eval()
    images = torch.rand(4, 1, 16, 16) * 2 - 1
    assert torch.allclose(network(images).reconstruction[2:3], network(images[2:3]).reconstruction, atol=1e-5)


def test_a_wrong_image_size_and_wrong_configs_are_refused_with_both_numbers(network):
    with pytest.raises(ValueError, match=r"\[B,1,16,16\], got \[1, 1, 32, 32\]"):
        network.encode(torch.zeros(1, 1, 32, 32))
    with pytest.raises(ValueError, match="resolution 20 is not a multiple of 8"):
        VQGANConfig(resolution=20, channels=(8, 8, 8, 8))
    with pytest.raises(ValueError, match=r"multiples of 8, got \[12\]"):
        VQGANConfig(channels=(8, 12))


def test_a_config_survives_the_trip_through_plain_data():
    plain = dataclasses.asdict(MICRO) | {"channels": list(MICRO.channels)}
    assert stages.as_config(VQGANConfig, plain) == MICRO


@pytest.mark.parametrize("attention", [False, True])
def test_bf16_autocast_and_constant_images_stay_finite(attention):
    torch.manual_seed(0)
    network = VQGAN(dataclasses.replace(MICRO, attention=attention)).train()
    for value in (-1.0, 0.0, 1.0):
        with torch.autocast("cpu", torch.bfloat16):
            out = network(torch.full((2, 1, 16, 16), value))
            loss = out.reconstruction.square().mean() + out.commitment
        loss.backward()
        assert out.reconstruction.dtype == torch.float32
        assert torch.isfinite(out.reconstruction).all()
        assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_gradients_reach_every_weight_of_encoder_and_decoder(network):
    out = network.train()(torch.rand(2, 1, 16, 16))
    (out.reconstruction.square().mean() + out.commitment).backward()
    # Without the commitment loss the encoder still learns: the gradient passes the quantiser.
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_it_learns_sixteen_images_by_heart():
    torch.manual_seed(0)
    network = VQGAN(dataclasses.replace(MICRO, channels=(8, 16), codes=128, code_dim=16)).train()
    coarse = torch.randn(16, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    images = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear").clamp(-1, 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(80):
        out = network(images)
        loss = (out.reconstruction - images).abs().mean() + 0.25 * out.commitment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    error = (network.decode(network.encode(images)) - images).square().mean()
    assert 10 * torch.log10(4 / error) > 22
