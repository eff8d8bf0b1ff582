"""FindingClassifier: masked loss, AUROC, its frozen form, checkpoints."""

import math
import warnings
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from sklearn.metrics import roc_auc_score
from torch.nn import functional
from torch.utils.data import DataLoader

from callbacks.extraction import describe
from datamodules.cxr import CXRDataModule
from datamodules.reports.labels import FINDINGS
from lightning_modules import stages
from lightning_modules.classifier import (
    FindingAUROC,
    FindingClassifier,
    FrozenFindingClassifier,
    auroc,
    masked_bce,
)
from lightning_modules.networks.classifier import ClassifierConfig
from tests.datamodules.pictures import write_table
from tests.datamodules.trainers import quiet_trainer

MICRO = ClassifierConfig(resolution=16, channels=(8, 16), dropout=0.0)
NAN = math.nan


def images(n: int) -> list[dict]:
    """Images whose findings 0 and 1 are bright squares; finding 2 is never known, finding 3 never present."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(n):
        image = 0.1 * torch.randn(1, 16, 16, generator=generator)
        labels = torch.zeros(14)
        labels[0], labels[1], labels[2] = i % 2, i // 2 % 2, NAN
        image[:, 2:7, 2:7] += 0.8 * labels[0]
        image[:, 9:14, 9:14] -= 0.8 * labels[1]
        rows.append({"image": image.clamp(-1, 1), "labels": labels, "image_id": f"i{i}"})
    return rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A classifier that knows 16 images by heart, its metrics and its checkpoint."""
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    module = FindingClassifier(MICRO, optimizer=lambda params: torch.optim.AdamW(params, lr=1e-2))
    trainer = lightning.Trainer(
        max_epochs=25, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    loader = DataLoader(images(16), batch_size=8)
    trainer.fit(module, loader, loader)
    metrics = trainer.test(module, loader, verbose=False)[0]
    trainer.save_checkpoint(folder / "last.ckpt")
    return module, metrics, folder / "last.ckpt"


def test_auroc_equals_sklearn_with_ties_and_unknown_labels():
    rng = np.random.default_rng(0)
    for n in (5, 50, 500):
        scores, labels = rng.integers(0, 9, n).astype(float), rng.integers(0, 2, n).astype(float)
        labels[:2] = 0, 1
        unknown = rng.random(n) < 0.3
        unknown[:2] = False
        with_gaps = np.where(unknown, NAN, labels)
        assert auroc(scores, with_gaps) == pytest.approx(roc_auc_score(labels[~unknown], scores[~unknown]))
    assert math.isnan(auroc(np.ones(3), np.array([1.0, 1.0, NAN])))


def test_the_macro_mean_is_over_findings_with_both_classes():
    metric = FindingAUROC()
    labels = torch.full((4, 14), NAN)
    labels[:, 0], labels[:, 1], labels[:, 2] = torch.tensor([0.0, 0, 1, 1]), torch.tensor([0.0, 1, 0, 1]), 1.0
    logits = torch.arange(4.0)[:, None].expand(4, 14)
    metric.update(logits[:1], labels[:1])
    metric.update(logits[1:], labels[1:])
    found = {key: value.item() for key, value in metric.compute().items()}
    assert found == {"auroc": 0.875, "auroc/no_finding": 1.0, "auroc/enlarged_cardiomediastinum": 0.75}


def test_unknown_labels_give_neither_loss_nor_gradient():
    logits = torch.tensor([[0.3, -2.0], [5.0, 1.0]], requires_grad=True)
    loss = masked_bce(logits, torch.tensor([[1.0, NAN], [NAN, 0.0]]))
    assert loss.item() == pytest.approx((math.log1p(math.exp(-0.3)) + math.log1p(math.exp(1.0))) / 2)
    loss.backward()
    assert logits.grad[0, 1] == 0
    assert logits.grad[1, 0] == 0
    assert logits.grad[0, 0] == pytest.approx((1 / (1 + math.exp(-0.3)) - 1) / 2)


def test_a_batch_without_any_known_label_has_loss_zero_and_positives_can_be_weighted():
    logits = torch.zeros(2, 14, requires_grad=True)
    loss = masked_bce(logits, torch.full((2, 14), NAN))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()
    assert masked_bce(torch.zeros(1, 1), torch.ones(1, 1), positive_weight=3.0).item() == pytest.approx(3 * math.log(2))


def loss_of_a_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    logits, labels = uneven_case()
    part = slice(0, 3) if rank == 0 else slice(3, 6)
    mine = logits[part].clone().requires_grad_()
    masked_bce(mine, labels[part]).backward()
    metric = FindingAUROC()
    metric.update(logits[:5] if rank == 0 else logits[5:], labels[:5] if rank == 0 else labels[5:])
    torch.save({"grad": mine.grad / 2, "auroc": metric.compute()["auroc"]}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def uneven_case() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(6, 14, generator=generator) < 0.5).float()
    labels[:3, :10] = NAN  # the first rank knows far less
    return torch.randn(6, 14, generator=generator), labels


@pytest.mark.slow
def test_two_ranks_average_to_the_gradient_and_auroc_of_one(tmp_path: Path):
    mp.spawn(loss_of_a_rank, args=(str(tmp_path),), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    logits, labels = uneven_case()
    logits.requires_grad_()
    masked_bce(logits, labels).backward()
    assert torch.allclose(torch.cat([part["grad"] for part in parts]), logits.grad, atol=1e-7)
    metric = FindingAUROC()
    metric.update(logits, labels)
    assert [part["auroc"] for part in parts] == [metric.compute()["auroc"]] * 2


def test_it_learns_sixteen_images_and_reports_what_can_be_known(trained):
    _, metrics, _ = trained
    assert metrics["classifier/auroc/no_finding"] > 0.99
    assert metrics["classifier/auroc/enlarged_cardiomediastinum"] > 0.99
    assert set(metrics) == {
        "classifier/auroc", "classifier/auroc/no_finding", "classifier/auroc/enlarged_cardiomediastinum"
    }  # fmt: skip


def test_the_frozen_classifier_equals_the_trained_one_and_stays_frozen(trained):
    module, _, path = trained
    image = torch.stack([row["image"] for row in images(4)])
    before = torch.random.get_rng_state()
    frozen = FrozenFindingClassifier(str(path))
    assert torch.equal(torch.random.get_rng_state(), before)
    frozen.train()
    assert not any(part.training for part in frozen.frozen.modules())
    assert not any(p.requires_grad for p in frozen.parameters())
    with torch.no_grad():
        expected = module.eval()(image)
    assert torch.allclose(frozen.logits(image), expected.logits)
    assert frozen(image).shape == (4, frozen.num_features)
    assert [tuple(m.shape[1:]) for m in frozen.maps(image)] == [(8, 16, 16), (8, 8, 8), (16, 4, 4)]
    assert frozen.digest == stages.file_digest(path)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(frozen.features(image), expected.features)
        assert torch.allclose(frozen.logits(image), expected.logits)
        assert {x.dtype for x in frozen.maps(image)} == {torch.float32}
        followed = frozen.output(image)
    assert followed.maps[-1].dtype == torch.bfloat16
    assert followed.features.dtype == torch.float32
    assert torch.allclose(followed.features, expected.features, atol=0.02 * float(expected.features.abs().max()))
    image.requires_grad_()
    frozen.features(image).sum().backward()
    assert image.grad.abs().sum() > 0


def test_images_of_another_size_are_resized_with_one_warning_and_a_word_in_the_protocol(trained):
    path = trained[2]
    frozen = FrozenFindingClassifier(str(path))
    image = torch.rand(2, 1, 32, 32)
    small = functional.interpolate(image, (16, 16), mode="bilinear", antialias=True)
    with pytest.warns(UserWarning, match=rf"{path} was trained on images of 16 × 16 pixels and gets images of 32 × 32"):
        resized = frozen.features(image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(frozen.features(image), resized)
        assert torch.equal(FrozenFindingClassifier(str(path)).features(small), resized)
    assert describe(frozen)["resolution"] == 16


def test_the_checkpoint_rebuilds_the_classifier_and_other_stages_are_refused(trained, tmp_path):
    module, _, path = trained
    rebuilt = FindingClassifier(**module.hparams)
    assert rebuilt.network.config == MICRO
    loaded = FindingClassifier.load_from_checkpoint(path)
    for name, value in module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    checkpoint = torch.load(path, weights_only=True)
    stages.stamp(checkpoint, stage="codebook")
    with pytest.raises(ValueError, match="codebook stage, expected the classifier stage"):
        module.on_load_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="codebook stage, expected the classifier stage"):
        FrozenFindingClassifier(str(tmp_path / "other.ckpt"))


@pytest.mark.parametrize("labels", [{}, {"Edema": ["-1"] * 24}])
def test_training_rows_without_a_label_are_refused(tmp_path, labels):
    split = ["train"] * 20 + ["validate"] * 4
    write_table(tmp_path / "data", {"split": split} | labels, side=16)
    message = (
        r"layout table: none of 20 training rows has a label .*data.init_args.layout_options.label_columns names them; "
        r".*data.init_args.policy=ones or zeros; else take a data set with labels"
    )
    with pytest.raises(ValueError, match=message):
        quiet_trainer(tmp_path, max_epochs=1).fit(FindingClassifier(MICRO), datamodule=table(tmp_path))


def test_findings_that_cannot_be_learnt_are_named(tmp_path, capsys):
    columns = {finding: ["1", "0"] * 12 for finding in FINDINGS if finding not in ("Edema", "Fracture")}
    # Fracture is never labelled in train, Edema is absent in it.
    columns |= {"Edema": ["0"] * 20 + ["1"] * 4, "Fracture": [""] * 20 + ["1"] * 4}
    write_table(tmp_path / "data", {"split": ["train"] * 20 + ["validate"] * 4} | columns, side=16)
    trainer = quiet_trainer(tmp_path, max_epochs=1, limit_val_batches=0)
    trainer.fit(FindingClassifier(MICRO), datamodule=table(tmp_path))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("classifier:")]
    assert said == ["classifier: none of 20 training rows is positive for Edema, Fracture: these cannot be learnt"]


def table(folder: Path) -> CXRDataModule:
    return CXRDataModule(
        layout="table", root=str(folder / "data"), size=16, batch_size=8, cache_dir=str(folder / "cache")
    )


def test_wrong_sizes_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"\[B,1,16,16\], got \[2, 1, 32, 32\]"):
        FindingClassifier(MICRO)(torch.zeros(2, 1, 32, 32))
    with pytest.raises(ValueError, match="resolution 18 is not a multiple of 4"):
        ClassifierConfig(resolution=18, channels=(8, 8))


def test_constant_images_stay_finite_under_bf16():
    module = FindingClassifier(MICRO)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(torch.full((2, 1, 16, 16), -1.0))
    masked_bce(out.logits, torch.ones(2, 14)).backward()
    assert out.logits.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in module.network.parameters())
