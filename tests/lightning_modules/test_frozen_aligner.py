"""FrozenAligner reads a checkpoint's aligner, and measures each image by its own report's statements alone."""

from pathlib import Path

import lightning
import pytest
import torch
from torch.nn import functional

from callbacks.alignment import TWINS as ASKED
from datamodules.cxr import CXRDataModule
from lightning_modules.aligner import WordPatchAligner
from lightning_modules.frozen_aligner import TWINS, FrozenAligner
from lightning_modules.networks.statements import queries, stated
from lightning_modules.networks.zero_shot import twins
from tests.lightning_modules.test_aligner import TINY, data, trainer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WordPatchAligner, CXRDataModule]:
    folder = tmp_path_factory.mktemp("frozen")
    lightning.seed_everything(0, verbose=False)
    module, served = WordPatchAligner(TINY), data(folder)
    fit = trainer(folder, limit_val_batches=0)
    fit.fit(module, served)
    fit.save_checkpoint(folder / "aligner.ckpt")
    return folder / "aligner.ckpt", module.eval(), served


def test_its_figures_are_those_of_the_network(made: tuple[Path, WordPatchAligner, CXRDataModule]) -> None:
    path, module, served = made
    before = torch.random.get_rng_state()
    frozen = FrozenAligner(str(path))
    assert torch.equal(torch.random.get_rng_state(), before)
    frozen.train()
    assert not frozen.network.training
    assert not any(p.requires_grad for p in frozen.parameters())
    batch = next(iter(served.test_dataloader()))
    image, reports = batch["image"], [*batch["report"][:-1], "Unchanged."]
    got = frozen.log_likelihood(image, reports)
    network = module._network()
    with torch.no_grad():
        patches = network.located_patches(image)[0]
        for b, report in enumerate(reports[:-1]):
            tokens = module._tokens([report])
            own = [(0, inside) for _, inside in stated(report, tokens.spans[0])]
            fits = network.fits(queries(own, network.words(tokens)), patches[b : b + 1])
            assert got[b] == pytest.approx(functional.logsigmoid(fits).mean().item(), abs=1e-4)
        assert got[-1].isnan()
        cases = twins(network, module._tokens, patches, batch["image_id"], reports)
    counts = frozen.flipped(image, reports)
    for k, kind in enumerate(TWINS):
        of_kind = [case for case in cases if case.kind == kind]
        assert counts[:, k, 0].sum() == len(of_kind) > 0
        assert abs(counts[:, k, 1].sum() - sum(case.right for case in of_kind)) <= 1  # a tie may fall either way
    assert TWINS == ASKED


def test_images_of_another_size_are_resized(made: tuple[Path, WordPatchAligner, CXRDataModule]) -> None:
    frozen = FrozenAligner(str(made[0]))
    image = next(iter(made[2].test_dataloader()))["image"][:2]
    large = functional.interpolate(image, (32, 32), mode="nearest")
    small = functional.interpolate(large, (16, 16), mode="bilinear", antialias=True)
    reports = ["Small left pleural effusion.", "No pneumothorax."]
    torch.testing.assert_close(frozen.log_likelihood(large, reports), frozen.log_likelihood(small, reports))
