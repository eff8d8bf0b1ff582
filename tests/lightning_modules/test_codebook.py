"""ImageCodebook: one backward for both players, metrics, token cache, checkpoints."""

import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchmetrics.functional.image import structural_similarity_index_measure

from datamodules.tokens import Pictures
from lightning_modules import stages
from lightning_modules.classifier import FindingClassifier
from lightning_modules.codebook import ImageCodebook
from lightning_modules.networks import losses
from lightning_modules.networks.classifier import ClassifierConfig
from lightning_modules.networks.code_parts import CodeParts
from lightning_modules.networks.vqgan import VQGANConfig

MICRO = VQGANConfig(resolution=16, channels=(8, 16), code_dim=8, codes=16)


def rows(n: int) -> list[dict]:
    coarse = torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    smooth = functional.interpolate(coarse, scale_factor=4, mode="bilinear").clamp(-1, 1)
    return [{"image": image, "image_id": f"i{n - i:02d}"} for i, image in enumerate(smooth)]


def batch(n: int = 4) -> dict[str, Any]:
    return {"image": torch.stack([row["image"] for row in rows(n)])}


class Data(lightning.LightningDataModule):
    """Six images, and a record of the tokens it was asked to write."""

    tokens_key = "k"
    manifest = SimpleNamespace(frame=pd.DataFrame({"image_id": [f"i{i:02d}" for i in range(1, 7)]}))

    def __init__(self, *, changed: int = 0) -> None:
        super().__init__()
        self.tokens: dict[str, Any] = {}
        self.changed = changed

    def train_dataloader(self) -> DataLoader:
        return DataLoader(rows(6), batch_size=4)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader

    def pictures(self, image_ids: Sequence[str]) -> Pictures:
        return Pictures(np.full((len(image_ids), 2), self.changed))

    def write_tokens(self, path: Path, **content: Any) -> None:
        self.tokens = {"path": path, **content}


def trainer(folder: Path, **kwargs: Any) -> lightning.Trainer:
    return lightning.Trainer(
        **{"max_epochs": 2} | kwargs, default_root_dir=folder, accelerator="cpu", logger=False, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def classifier_ckpt(tmp_path_factory):
    torch.manual_seed(0)
    module = FindingClassifier(ClassifierConfig(resolution=16, channels=(8, 16), dropout=0.0))
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    path = tmp_path_factory.mktemp("features") / "last.ckpt"
    torch.save(checkpoint, path)
    return str(path)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, classifier_ckpt):
    """A codebook after four steps of all losses, two of them with the discriminator, and its checkpoint."""
    folder = tmp_path_factory.mktemp("codebook")
    torch.manual_seed(0)
    module = ImageCodebook(
        MICRO, classifier_ckpt=classifier_ckpt, perceptual=0.2, clinical=0.1, discriminator_start=2,
        discriminator_width=8,
    )  # fmt: skip
    fit = trainer(folder, gradient_clip_val=1.0, precision="bf16-mixed")
    before = copy.deepcopy(module.discriminator.state_dict())
    fit.fit(module, datamodule=Data())
    fit.save_checkpoint(folder / "last.ckpt")
    return module, before, fit, folder / "last.ckpt"


@pytest.mark.parametrize("with_features", [False, True])
def test_one_backward_gives_the_gradients_of_two_separate_optimisers(classifier_ckpt, with_features, monkeypatch):
    torch.manual_seed(0)
    # An untrained discriminator tells little: the ratio lies above the bound, which would hide it.
    monkeypatch.setattr(losses, "ADAPTIVE_LIMIT", 100.0)
    weights = {"classifier_ckpt": classifier_ckpt, "perceptual": 0.3, "clinical": 0.2} if with_features else {}
    module = ImageCodebook(
        MICRO, adversarial=0.7, discriminator_start=0, discriminator_ramp=1, discriminator_width=8, **weights
    )
    module.on_fit_start()
    image = batch()["image"]
    module.network(image)  # starts the codebook; from here on both computations begin from one state
    reference = copy.deepcopy(module)

    total, parts = module.both_losses(image)
    total.backward()

    # Literally: the autoencoder's turn, then the discriminator's, each with a backward pass of its own.
    out = reference.network(image)
    fidelity = (out.reconstruction - image).abs().mean()
    if with_features:
        extractor = module.features["perceptual"]
        found, target = extractor.output(out.reconstruction), extractor.output(image)
        fidelity = fidelity + 0.3 * losses.perceptual_distance(found.maps, target.maps)
        fidelity = fidelity + 0.2 * (found.features - target.features).square().mean()
    verdict = -reference.discriminator(out.reconstruction).mean()
    last = reference.network.last_weight
    ratio = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (fidelity, verdict)]
    adaptive = (ratio[0] / (ratio[1] + 1e-6)).clamp(max=losses.ADAPTIVE_LIMIT).detach()
    generator_loss = fidelity + 0.7 * adaptive * verdict + 0.25 * out.commitment
    network = dict(reference.network.named_parameters())
    expected = dict(zip(network, torch.autograd.grad(generator_loss, list(network.values())), strict=True))
    discriminator = dict(reference.discriminator.named_parameters())
    real, fake = reference.discriminator(image), reference.discriminator(out.reconstruction.detach())
    hinge = 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean())
    judged = dict(zip(discriminator, torch.autograd.grad(hinge, list(discriminator.values())), strict=True))

    assert parts["loss"].item() == pytest.approx(generator_loss.item(), rel=1e-4)
    assert adaptive < losses.ADAPTIVE_LIMIT
    for name, p in module.network.named_parameters():
        assert torch.allclose(p.grad, expected[name], atol=1e-6, rtol=1e-4), name
    for name, p in module.discriminator.named_parameters():
        assert torch.allclose(p.grad, judged[name], atol=1e-6, rtol=1e-4), name
    assert max(g.abs().max() for g in expected.values()) > 1e-3
    assert max(g.abs().max() for g in judged.values()) > 1e-3


def test_before_its_start_the_discriminator_has_zero_gradients_but_takes_part():
    module = ImageCodebook(MICRO, discriminator_start=5, discriminator_width=8)
    module.both_losses(batch()["image"])[0].backward()
    assert all(p.grad is not None and not p.grad.any() for p in module.discriminator.parameters())
    assert module.network.last_weight.grad.any()


@pytest.mark.parametrize(("start", "clip"), [(2, "norm"), (9, "value")])
def test_until_its_start_the_discriminator_and_its_optimiser_stand_still(tmp_path, start, clip):
    """Steps that Adam had counted would make its first steps too long, and its decay would shrink the weights."""
    torch.manual_seed(0)
    module = ImageCodebook(MICRO, discriminator_start=start, discriminator_width=8)
    before = copy.deepcopy(module.discriminator.state_dict())
    fit = trainer(tmp_path, gradient_clip_val=1.0, gradient_clip_algorithm=clip)
    fit.fit(module, datamodule=Data())
    state = fit.optimizers[0].state
    counted = [float(state[p]["step"]) if p in state else 0.0 for p in module.discriminator.parameters()]
    assert fit.global_step == 4
    assert set(counted) == {max(0.0, 4.0 - start)}
    assert {float(state[p]["step"]) for p in module.network.parameters()} == {4.0}
    same = [torch.equal(p, before[name]) for name, p in module.discriminator.named_parameters()]
    assert not any(same) if start == 2 else all(same)


TERMS = ("perceptual", "clinical", "adversarial")


@pytest.mark.parametrize("term", TERMS)
def test_the_gradient_of_each_network_in_bf16_points_where_that_of_float32_does(classifier_ckpt, term, monkeypatch):
    """Without the pixels' own gradient, which would hide theirs; in float16 they compute in float32."""
    torch.manual_seed(0)
    monkeypatch.setattr(losses, "ADAPTIVE_LIMIT", 100.0)  # the ratio itself, not the bound
    weights = dict.fromkeys(TERMS, 0.0) | {term: 10.0}
    module = ImageCodebook(
        MICRO, classifier_ckpt=classifier_ckpt, discriminator_start=0, discriminator_ramp=1, discriminator_width=8,
        **weights,
    )  # fmt: skip
    module.on_fit_start()
    image = batch()["image"]
    output = module.network(image)  # one reconstruction for all, in float32
    monkeypatch.setattr(type(module.network), "forward", lambda self, image: output)
    pixels = (output.reconstruction - image).detach().sign().flatten() / image.numel()
    found = {}
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        with torch.autocast("cpu", kind, enabled=kind != torch.float32):
            total, parts = module.both_losses(image)
        (gradient,) = torch.autograd.grad(total, output.reconstruction, retain_graph=True)
        found[kind] = gradient.flatten() - pixels, parts
    (fine, parts), (coarse, coarse_parts) = found[torch.float32], found[torch.bfloat16]
    assert fine.norm() > 0.1 * pixels.norm()
    assert functional.cosine_similarity(fine, coarse, dim=0) > 0.98
    assert coarse.norm().item() == pytest.approx(fine.norm().item(), rel=0.1)
    assert coarse_parts[term].item() == pytest.approx(parts[term].item(), rel=0.05)
    assert torch.equal(found[torch.float16][0], fine)


def test_the_adversarial_weight_rises_linearly_after_the_start(monkeypatch):
    module = ImageCodebook(MICRO, adversarial=0.4, discriminator_start=10, discriminator_ramp=4)
    found = []
    for step in (0, 9, 10, 11, 13, 99):
        monkeypatch.setattr(ImageCodebook, "global_step", step)
        found.append(module.adversarial_weight)
    assert found == pytest.approx([0, 0, 0.1, 0.2, 0.4, 0.4])


def test_fitting_trains_both_players_and_measures(fitted):
    module, before, fit, _ = fitted
    found = {name: float(value) for name, value in fit.callback_metrics.items()}
    assert np.isfinite(list(found.values())).all()
    assert {"train/perceptual", "train/clinical", "train/adversarial", "train/discriminator"} <= set(found)
    assert 0 < found["validate/usage"] <= 1
    assert 1 <= found["validate/perplexity"] <= 16
    # The weights' decay alone would move them by far less.
    moved = [(p - before[name]).abs().max() for name, p in module.discriminator.named_parameters()]
    assert max(moved) > 1e-5
    assert fit.global_step == 4


def test_clipping_holds_for_each_player_by_itself():
    module = ImageCodebook(MICRO, discriminator_width=8)
    optimizer = module.optimizer([{"params": list(p.parameters())} for p in (module.network, module.discriminator)])
    for p in module.network.parameters():
        p.grad = torch.full_like(p, 100.0)
    for p in module.discriminator.parameters():
        p.grad = torch.full_like(p, 1e-6)
    module.configure_gradient_clipping(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
    norm = nn.utils.get_total_norm([p.grad for p in module.network.parameters()])
    assert norm.item() == pytest.approx(1.0, rel=1e-4)
    assert all((p.grad == 1e-6).all() for p in module.discriminator.parameters())


def test_test_metrics_equal_the_definitions_over_the_whole_split(fitted, tmp_path):
    module = fitted[0]
    found = trainer(tmp_path).test(module, datamodule=Data(), verbose=False)[0]
    image = batch(6)["image"]
    module.eval()
    codes = module.encode(image)
    error = module.decode(codes).detach() - image
    counts = torch.bincount(codes.flatten(), minlength=16).double()
    share = counts[counts > 0] / counts.sum()
    assert found["codebook/psnr"] == pytest.approx(float(10 * torch.log10(4 / error.square().mean())), rel=1e-4)
    assert found["codebook/l1"] == pytest.approx(float(error.abs().mean()), rel=1e-4)
    assert found["codebook/usage"] == pytest.approx(float((counts > 0).double().mean()))
    assert found["codebook/perplexity"] == pytest.approx(float(torch.exp(-(share * share.log()).sum())), rel=1e-4)
    light = [(x + 1) / 2 for x in (image + error, image)]  # from 0 to 1
    ssim = structural_similarity_index_measure(light[0], light[1], data_range=1.0)
    assert found["codebook/ssim"] == pytest.approx(float(ssim), abs=1e-5)


def test_predict_hands_the_codes_of_all_images_to_the_data_module(fitted, tmp_path):
    module, _, _, path = fitted
    data = Data()
    trainer(tmp_path).predict(module, datamodule=data, ckpt_path=path, weights_only=True)
    assert data.tokens["path"] == tmp_path / "tokens.safetensors"
    assert data.tokens["image_ids"] == ["i01", "i02", "i03", "i04", "i05", "i06"]
    assert data.tokens["checkpoint_digest"] == stages.file_digest(path)
    assert data.tokens["codes_total"] == 16
    expected = module.eval().encode(batch(6)["image"]).flip(0)  # ids count down
    assert np.array_equal(data.tokens["codes"], expected.numpy())


def interrupted(module: ImageCodebook, folder: Path, path: Path, monkeypatch) -> None:
    """A `predict` that is broken off in its second batch of two, after the first was written."""
    encode, calls = module.encode, []

    def broken(image):
        calls.append(len(image))
        if len(calls) == 2:
            raise RuntimeError("power cut")
        return encode(image)

    monkeypatch.setattr("lightning_modules.codebook.CodeParts", functools.partial(CodeParts, seconds=0.0))
    with monkeypatch.context() as patch:
        patch.setattr(module, "encode", broken)
        with pytest.raises(RuntimeError, match="power cut"):
            trainer(folder).predict(module, datamodule=Data(), ckpt_path=path, weights_only=True)
    assert calls == [4, 2]


def test_an_interrupted_predict_goes_on_with_the_next_images(fitted, tmp_path, monkeypatch, capsys):
    module, _, _, path = fitted
    whole, resumed = Data(), Data()
    trainer(tmp_path / "whole").predict(module, datamodule=whole, ckpt_path=path, weights_only=True)
    interrupted(module, tmp_path, path, monkeypatch)
    assert [file.name[-12:] for file in tmp_path.glob("tokens.partial-*")] == ["-0-00000.npz"]
    found = trainer(tmp_path).predict(module, datamodule=resumed, ckpt_path=path, weights_only=True)
    assert [one["image_id"] for one in found] == [[], ["i02", "i01"]]
    assert "takes the codes of 4 images over" in capsys.readouterr().out
    assert np.array_equal(resumed.tokens["codes"], whole.tokens["codes"])
    assert resumed.tokens["image_ids"] == whole.tokens["image_ids"]
    assert not list(tmp_path.glob("tokens.partial-*"))


def test_codes_of_pictures_that_were_replaced_meanwhile_are_not_taken_over(fitted, tmp_path, monkeypatch, capsys):
    module, _, _, path = fitted
    interrupted(module, tmp_path, path, monkeypatch)
    left = list(tmp_path.glob("tokens.partial-*"))
    found = trainer(tmp_path).predict(module, datamodule=Data(changed=1), ckpt_path=path, weights_only=True)
    assert sum(len(one["image_id"]) for one in found) == 6
    assert "1 files of an interrupted run with other pictures" in capsys.readouterr().out
    assert list(tmp_path.glob("tokens.partial-*")) == left


def test_a_damaged_part_is_encoded_again(fitted, tmp_path, monkeypatch, capsys):
    module, _, _, path = fitted
    interrupted(module, tmp_path, path, monkeypatch)
    (part,) = tmp_path.glob("tokens.partial-*")
    part.write_bytes(part.read_bytes()[:100])
    data = Data()
    trainer(tmp_path).predict(module, datamodule=data, ckpt_path=path, weights_only=True)
    assert f"{part} is damaged" in capsys.readouterr().out
    assert len(data.tokens["image_ids"]) == 6


def test_predict_without_a_checkpoint_says_what_to_give(tmp_path):
    with pytest.raises(ValueError, match="--ckpt_path"):
        trainer(tmp_path).predict(ImageCodebook(MICRO), datamodule=Data())


def test_the_checkpoint_rebuilds_the_codebook_without_the_classifier(fitted):
    module, _, _, path = fitted
    checkpoint = stages.open_stage(path, stage="codebook")
    assert not any("features" in name or "frozen" in name for name in checkpoint.state_dict)
    assert checkpoint.extra["features"] == dict.fromkeys(("perceptual", "clinical"), module.features["clinical"].digest)
    rebuilt = ImageCodebook(**checkpoint.config)
    rebuilt.load_state_dict(checkpoint.state_dict)
    image = batch()["image"]
    assert torch.equal(rebuilt.eval()(image), module.eval()(image))
    assert torch.equal(ImageCodebook.load_from_checkpoint(path).eval()(image), module(image))


def test_wrong_stages_changed_classifiers_and_missing_ones_are_refused(fitted, classifier_ckpt, tmp_path):
    module = ImageCodebook(MICRO, classifier_ckpt=classifier_ckpt, perceptual=1.0)
    with pytest.raises(ValueError, match="classifier stage, expected the codebook stage"):
        module.on_load_checkpoint(torch.load(classifier_ckpt, weights_only=True))
    checkpoint = torch.load(fitted[3], weights_only=True)
    stages.stamp(checkpoint, stage="codebook", features={"perceptual": "0" * 64})
    module.on_load_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="has changed since this run began"):
        module.on_fit_start()
    with pytest.raises(ValueError, match=r"perceptual = 0\.5 and clinical = 0\.0 need"):
        ImageCodebook(MICRO, perceptual=0.5)
