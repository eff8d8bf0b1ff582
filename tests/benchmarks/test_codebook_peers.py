"""The comparison with MONAI at the smallest size: equal decoders, equal data, equal time, all figures."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from lightning_modules.networks.vqgan import VQGANConfig, decoder, small
from lightning_modules.stages import file_digest
from tests.benchmarks import codebook_peers, record
from tests.benchmarks.budget import factor
from tests.benchmarks.codebook_runs import FIGURES, Setting, parameters
from tests.benchmarks.monai_codebook import MonaiCodebook, matched, vqvae, widths
from tests.chain import COMMON, SMALL, Chain

# MONAI's module is not validated while it trains, and Lightning remarks on it.
pytestmark = pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`")


@pytest.mark.parametrize(
    "config",
    [small(), VQGANConfig(resolution=128, stem=2, channels=(32, 64, 128), codes=1024)],
    ids=["stem 1", "stem 2"],
)
def test_the_peer_has_the_same_grid_and_a_decoder_of_the_same_size(config: VQGANConfig) -> None:
    wanted = parameters(decoder(config))
    network = vqvae(widths(config), matched(config, decoder=wanted), code_dim=config.code_dim, codes=config.codes)
    assert abs(parameters(network.decoder) / wanted - 1) < 0.1
    codes = network.index_quantize(torch.zeros(1, 1, 128, 128))
    assert codes.shape == (1, 16, 16)
    assert network.quantizer.quantizer.num_embeddings == config.codes


def test_a_decoder_that_no_width_matches_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has \d+ parameters, expected 1000000000 ± 10%"):
        matched(VQGANConfig(), decoder=10**9)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_gradients_of_monais_losses_are_those_of_its_tutorials(weight: float) -> None:
    """Written out with two turns: first the autoencoder's, then the discriminator's, as the tutorials have it."""
    torch.manual_seed(0)
    module = MonaiCodebook(
        channels=[8, 8], residual=[8, 8], code_dim=4, codes=8, verdict_weight=weight, verdict_width=8
    ).eval()
    image = torch.rand(2, 1, 32, 32)
    module.training_step({"image": 2 * image - 1}, 0).backward()
    found = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
    module.zero_grad(set_to_none=True)

    reconstruction, quantisation = module.network(image)
    loss = functional.l1_loss(reconstruction, image) + quantisation
    if module.discriminator is not None:
        squash = torch.nn.LeakyReLU(0.05)
        loss = loss + weight * (squash(module.discriminator(reconstruction)[-1]) - 1).square().mean()
    loss.backward()
    expected = {f"network.{name}": p.grad for name, p in module.network.named_parameters() if p.requires_grad}
    if module.discriminator is not None:
        module.discriminator.zero_grad(set_to_none=True)
        fake = squash(module.discriminator(reconstruction.detach())[-1]).square().mean()
        real = (squash(module.discriminator(image)[-1]) - 1).square().mean()
        (weight * 0.5 * (fake + real)).backward()
        expected |= {f"discriminator.{name}": p.grad for name, p in module.discriminator.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-7), name
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-4


def test_the_rate_rises_briefly_and_is_zero_at_the_end() -> None:
    assert [factor(share) for share in (0.0, 0.01, 0.02, 0.5, 1.0, 1.2)] == pytest.approx(
        [0, 0.499877, 0.999013, 0.5, 0, 0], abs=1e-6
    )


def setting(chain: Chain, folder: Path) -> Setting:
    common = [a for a in (*COMMON, *SMALL["codebook"], *chain.inputs("codebook")) if "--trainer" not in a]
    common.append("--model.init_args.network.channels=[8,16,24]")  # so small that few decoders of MONAI's match
    judge = str(chain.path("classifier"))
    return Setting(("base.yaml", "codebook.yaml"), judge, minutes=0.02, folder=folder / "runs", more=tuple(common))


def test_all_sides_are_trained_and_tested_on_the_same_data(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "FOLDER", tmp_path)
    shared = setting(chain, tmp_path)
    returned = codebook_peers.measure(shared)
    figures = json.loads((tmp_path / "codebook_peers.json").read_text())
    sides = figures["sides"]
    assert sides == json.loads(json.dumps(returned["sides"]))
    assert tuple(sides) == codebook_peers.SIDES
    assert figures["train"] > figures["n"] > 0
    assert figures["minutes"] == 0.02
    assert figures["seed"] == 0
    assert figures["judge"] == figures["features"] == file_digest(str(chain.path("classifier")))
    for name, side in sides.items():
        seen = {f"rfid_lite0{end}" for end in ("", "_low", "_high", "_blur")}
        assert {*FIGURES, *seen, "steps", "seconds", "cpu_seconds", "parameters", "protocol"} == side.keys()
        assert side["rfid_lite0_low"] <= side["rfid_lite0"] <= side["rfid_lite0_high"]
        assert abs(side["parameters"]["decoder"] / sides["ours"]["parameters"]["decoder"] - 1) < 0.1, name
        assert side["steps"] >= 1
        assert 1.2 <= side["seconds"] < 20
        assert side["cpu_seconds"] > 0.1
        assert 0 < side["usage"] <= 1
        assert side["rfid_low"] <= side["rfid"] <= side["rfid_high"]
        assert side["psnr"] > 0
        assert side["protocol"]["data_digest"] == figures["data_digest"]
        assert side["protocol"]["n"] == figures["n"]
    assert len({side["protocol"]["checkpoint"]["sha256"] for side in sides.values()}) == len(sides)
    plain = torch.load(tmp_path / "runs/plain-0/checkpoints/last.ckpt", weights_only=True)
    network = plain["hyper_parameters"]["network"]
    assert (network["gradient"], network["restart_below"]) == ("straight-through", 0)
    for name, (rate, plays) in {"monai": (1e-4, 0), "monai-lr-1e-3": (1e-3, 0), "monai-gan": (1e-3, 1)}.items():
        saved = torch.load(tmp_path / f"runs/{name}-0/checkpoints/last.ckpt", weights_only=True)
        groups = saved["optimizer_states"][0]["param_groups"]
        assert [group["initial_lr"] for group in groups] == pytest.approx([rate, 5 * rate][: 1 + plays])
        assert any(key.startswith("discriminator.") for key in saved["state_dict"]) == plays, name


def test_monai_with_a_decoder_of_another_size_is_refused_before_anything_is_trained(
    chain: Chain, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"widths \(64, 64\) has \d+ parameters, expected \d+ ± 10%"):
        codebook_peers.measure(setting(chain, tmp_path), residual=(64, 64))
    with pytest.raises(ValueError, match=r"widths \(64,\) of MONAI's VQVAE for 2 halvings of widths \(16, 24\)"):
        codebook_peers.measure(setting(chain, tmp_path), residual=(64,))
    assert not list((tmp_path / "runs").glob("*/result.json"))


def test_a_missing_judge_is_named(chain: Chain, tmp_path: Path) -> None:
    missing = Setting(("base.yaml", "codebook.yaml"), str(tmp_path / "none.ckpt"), minutes=1, folder=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt does not exist"):
        codebook_peers.measure(missing)
