"""The VQ autoencoder: sizes, quantisers, codes, overfitting, bf16, memory format, recomputation, compilation."""

import copy
import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from lightning_modules import stages
from lightning_modules.codebook import ImageCodebook
from lightning_modules.networks import vqgan
from lightning_modules.networks.vqgan import VQGAN, VQGANConfig
from main import main

CONFIGS = Path(__file__).parents[2] / "configs"
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


@pytest.mark.parametrize(
    ("name", "resolution", "grid", "codes", "millions"),
    [
        ("tiny", 64, 16, 512, 1.34),
        ("small", 128, 16, 1024, 1.86),
        ("base", 256, 16, 1024, 43.26),
        ("large", 512, 32, 1024, 43.26),
    ],
)
def test_named_sizes_have_the_grids_and_parameters_they_promise(name, resolution, grid, codes, millions):
    config = getattr(vqgan, name)()
    assert (config.resolution, config.grid, config.codes) == (resolution, grid, codes)
    with torch.device("meta"):
        parts = vqgan.encoder(config), vqgan.decoder(config)
    assert sum(p.numel() for part in parts for p in part.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
    with torch.device("meta"):
        latent = parts[0](torch.empty(2, 1, resolution, resolution))
        assert latent.shape == (2, config.code_dim, grid, grid)
        assert parts[1](latent).shape == (2, 1, resolution, resolution)


@pytest.mark.parametrize("name", ["small", "base", "large"])
def test_the_config_of_a_named_size_has_its_values(name, tmp_path):
    files = ("base.yaml", "codebook.yaml", f"experiment/codebook-{name}.yaml")
    cli = main([
        "fit", *(part for file in files for part in ("-c", str(CONFIGS / file))), f"--run_dir={tmp_path}",
        "--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.callbacks=[]", "--trainer.max_epochs=0",
        "--data.init_args.layout_options.studies=20", f"--data.init_args.cache_dir={tmp_path}",
        "--model.init_args.perceptual=0", "--model.init_args.clinical=0", "--model.init_args.classifier_ckpt=null",
    ])  # fmt: skip
    assert cli.model.network.config == getattr(vqgan, name)()
    assert cli.datamodule.size == cli.model.network.config.resolution


@pytest.mark.parametrize(
    "change",
    [{"quantizer": "fsq", "levels": (4, 4)}, {"quantizer": "lfq"}, {"cosine": True}, {"gradient": "straight-through"}],
)
def test_every_quantiser_learns_and_survives_plain_data(change):
    config = dataclasses.replace(MICRO, **change)
    plain = dataclasses.asdict(config) | {"levels": list(config.levels)}
    assert stages.as_config(VQGANConfig, plain) == config
    torch.manual_seed(0)
    network = VQGAN(config).train()
    image = torch.rand(4, 1, 16, 16) * 2 - 1
    out = network(image)
    (out.reconstruction.square().mean() + out.commitment).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    other = VQGAN(config)
    other.load_state_dict(network.state_dict())
    codes = network.eval().encode(image)
    assert torch.equal(other.eval().encode(image), codes)
    assert torch.equal(other.decode(codes), network.decode(codes))


def test_a_checkpoint_from_before_there_was_a_choice_is_the_moving_average_one(network):
    old = {
        k: v for k, v in dataclasses.asdict(MICRO).items() if k not in ("quantizer", "levels", "entropy", "recompute")
    }
    assert stages.as_config(VQGANConfig, old) == MICRO
    assert [k for k in network.state_dict() if k.startswith("quantizer.")] == [
        f"quantizer.{name}" for name in ("codebook", "counts", "sums", "initialised", "updates")
    ]


def test_quantisers_that_do_not_fit_the_other_settings_are_refused():
    with pytest.raises(ValueError, match=r"codes = 16, got \[\].*levels \[4, 4\] fit"):
        dataclasses.replace(MICRO, quantizer="fsq")
    with pytest.raises(ValueError, match="got quantizer ema"):
        dataclasses.replace(MICRO, levels=(4, 4))
    with pytest.raises(ValueError, match="16 and 32 fit"):
        dataclasses.replace(MICRO, quantizer="lfq", codes=20)
    with pytest.raises(ValueError, match="cosine is of quantizer ema"):
        dataclasses.replace(MICRO, quantizer="lfq", cosine=True)


def gradients(network: VQGAN, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The reconstruction, and all gradients as ImageCodebook takes them: the last weight's first, by itself."""
    out = network(image)
    loss = (out.reconstruction - image).square().mean() + out.commitment
    (last,) = torch.autograd.grad(loss, network.last_weight, retain_graph=True)
    loss.backward()
    assert torch.allclose(last, network.last_weight.grad)
    return out.reconstruction.detach(), [p.grad for p in network.parameters()]


def test_recomputation_gives_equal_gradients_and_keeps_fewer_tensors():
    torch.manual_seed(0)
    kept = VQGAN(dataclasses.replace(MICRO, attention=True)).train()
    again = VQGAN(dataclasses.replace(MICRO, attention=True, recompute=True)).train()
    again.load_state_dict(kept.state_dict())
    image = torch.rand(2, 1, 16, 16) * 2 - 1
    saved = {}
    for network in (kept, again):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
            network(image)
        saved[network] = sum(sizes)
        network.load_state_dict(kept.state_dict())
    assert saved[again] < 0.6 * saved[kept]
    again.load_state_dict(kept.state_dict())
    for one, other in zip(gradients(kept, image)[1], gradients(again, image)[1], strict=True):
        assert torch.equal(one, other)


def test_channels_last_gives_equal_output(network):
    network.eval()
    image = torch.rand(2, 1, 16, 16) * 2 - 1
    latent = network.latent(image)
    assert latent.is_contiguous(memory_format=torch.channels_last)
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    assert torch.allclose(plain.encoder(image.contiguous()), latent, atol=1e-5)
    vectors = network.quantizer(latent).vectors
    assert torch.allclose(plain.decoder(vectors.contiguous()), network.decode_latent(vectors), atol=1e-5)


def test_bf16_autocast_is_close_to_float32_also_where_norms_meet_large_means(network):
    network.eval()
    image = torch.rand(2, 1, 16, 16) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        coarse = network.latent(image)
    fine = network.latent(image)
    assert (coarse - fine).abs().max() < 0.03 * fine.abs().max()
    vectors = network.quantizer(fine).vectors
    with torch.autocast("cpu", torch.bfloat16):
        coarse = network.decode_latent(vectors)
    fine = network.decode_latent(vectors)
    assert torch.isfinite(coarse).all()
    assert (coarse - fine).abs().max() < 0.03 * fine.abs().max()
    # 64 ± 1: sums in bf16 would lose the variance altogether.
    x = (64 + torch.randn(1, 8, 32, 32)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        normed = vqgan.norm(8)(x)
    assert torch.equal(normed, vqgan.norm(8)(x.float()))
    assert vqgan.norm(8).bfloat16()(x).dtype == torch.bfloat16


# Dynamo looks for gradients of tensors that have none; the warning is its own.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compilation_gives_equal_outputs_and_gradients_under_the_same_names(backend):
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("inductor needs a C++ compiler")
    torch.manual_seed(0)
    network = VQGAN(dataclasses.replace(MICRO, channels=(8, 16))).train()
    compiled = copy.deepcopy(network)
    compiled.compile(backend=backend)
    assert list(compiled.state_dict()) == list(network.state_dict())
    image = torch.rand(2, 1, 16, 16) * 2 - 1
    (one, plain), (other, fast) = gradients(network, image), gradients(compiled, image)
    assert torch.allclose(one, other, atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain, fast, strict=True))
    codes = network.eval().encode(image)
    assert torch.allclose(compiled.eval().decode(codes), network.decode(codes), atol=1e-5)


def test_the_module_compiles_where_it_is_asked_to():
    assert ImageCodebook(MICRO).network.run is vqgan.run
    module = ImageCodebook(MICRO, compile=True)
    assert module.network.run is not vqgan.run
    assert list(module.state_dict()) == list(ImageCodebook(MICRO).state_dict())


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
