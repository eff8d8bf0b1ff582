"""The comparison with MONAI at the smallest size: equal decoders, equal data, all figures."""

import json
from pathlib import Path

import pytest
import torch

from lightning_modules.networks.vqgan import VQGANConfig, decoder, small
from tests.benchmarks import codebook_peers, record
from tests.benchmarks.monai_codebook import parameters, peer
from tests.chain import COMMON, ROOT, SMALL, Chain


@pytest.mark.parametrize(
    "config",
    [small(), VQGANConfig(resolution=128, stem=2, channels=(32, 64, 128), codes=1024)],
    ids=["stem 1", "stem 2"],
)
def test_the_peer_has_the_same_grid_and_a_decoder_of_the_same_size(config: VQGANConfig) -> None:
    wanted = parameters(decoder(config))
    network = peer(config, decoder=wanted)
    assert abs(parameters(network.decoder) / wanted - 1) < 0.1
    codes = network.index_quantize(torch.zeros(1, 1, 128, 128))
    assert codes.shape == (1, 16, 16)
    assert network.quantizer.quantizer.num_embeddings == config.codes


def test_a_decoder_that_no_width_matches_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the nearest decoder has \d+ parameters, expected 1000000000 ± 10%"):
        peer(VQGANConfig(), decoder=10**9)


# MONAI's module is not validated while it trains, and Lightning remarks on it.
@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`")
def test_all_sides_are_trained_and_tested_on_the_same_data(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "FOLDER", tmp_path)
    configs = ["-c", str(ROOT / "configs/base.yaml"), "-c", str(ROOT / "configs/codebook.yaml")]
    common = [a for a in (*COMMON, *SMALL["codebook"], *chain.inputs("codebook")) if "--trainer" not in a]
    codebook_peers.measure(
        [*configs, *common], judge=str(chain.path("classifier")), minutes=0.01, names=["ours", "monai"]
    )
    figures = json.loads((tmp_path / "codebook_peers.json").read_text())
    ours, monai = figures["ours"], figures["monai"]
    assert abs(ours["parameters_decoder"] / monai["parameters_decoder"] - 1) < 0.1
    assert figures["train"] > figures["n"] > 0
    for side in (ours, monai):
        assert side["steps"] >= 1
        assert side["seconds"] < 60
        assert 0 < side["usage"] <= 1
        assert side["rfid"] > 0
        assert side["psnr"] > 0
    assert ours["psnr"] != monai["psnr"]
