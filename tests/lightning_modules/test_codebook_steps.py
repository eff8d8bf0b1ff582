"""What a step of the codebook is: accumulation, clipping, the schedule, averaged weights and their resume."""

import copy
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from lightning_modules import stages
from lightning_modules.codebook import ImageCodebook
from lightning_modules.networks.vqgan import VQGANConfig
from main import main
from tests.chain import ROOT, Chain

MICRO = VQGANConfig(resolution=16, channels=(8, 16), code_dim=8, codes=16)
# A codebook that stands still: it starts by k-means and keeps its place.
STILL = VQGANConfig(resolution=16, channels=(8, 16), code_dim=8, codes=16, decay=1.0, restart_below=0.0)
BUFFERS = ("codebook", "counts", "sums", "initialised", "updates")


def images(n: int = 16) -> Tensor:
    coarse = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return functional.interpolate(coarse, scale_factor=4, mode="bilinear").clamp(-1, 1)


def sgd(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.05)


def started(config: VQGANConfig = STILL, **kwargs: Any) -> ImageCodebook:
    """A codebook whose k-means start has seen all images, so that batches of any size go on from one state."""
    torch.manual_seed(0)
    defaults = {"optimizer": sgd, "cosine": False, "discriminator_start": 0, "discriminator_ramp": 1}
    module = ImageCodebook(config, discriminator_width=8, **defaults | kwargs)
    module.network(images())
    return module


def fit(module: ImageCodebook, folder: Path, *, batch_size: int, ckpt_path: Any = None, **kwargs: Any):
    trainer = lightning.Trainer(
        **{"max_epochs": 1} | kwargs, default_root_dir=folder, accelerator="cpu", logger=False, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    loader = DataLoader([{"image": image} for image in images()], batch_size=batch_size)
    trainer.fit(module, loader, loader, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def largest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[name].detach() - b[name].detach()).abs().max()) for name in a)


@pytest.mark.parametrize("clip", [None, 0.01])
def test_two_accumulated_batches_are_one_batch_of_twice_the_size(tmp_path, clip):
    """Within 1e-6 where codebook and adaptive weight stand still; clipping acts once, on the accumulated gradient."""
    start = started(adversarial=0.0)
    whole, halves = copy.deepcopy(start), copy.deepcopy(start)
    once = fit(whole, tmp_path, batch_size=16, gradient_clip_val=clip)
    twice = fit(halves, tmp_path, batch_size=8, accumulate_grad_batches=2, gradient_clip_val=clip)
    assert once.global_step == twice.global_step == 1
    found, expected, before = (dict(m.network.named_parameters()) for m in (halves, whole, start))
    assert largest(found, expected) < 1e-6
    assert largest(expected, before) > (1e-3 if clip is None else 1e-5)
    if clip is not None:
        moved = torch.stack([(expected[name] - before[name]).norm() for name in expected]).norm()
        assert moved.item() == pytest.approx(0.05 * clip, rel=1e-2)


def test_with_a_discriminator_its_step_is_the_same_and_the_autoencoders_nearly(tmp_path):
    """The adaptive weight is a ratio of gradient norms, taken of each batch: the mean of ratios is not the ratio."""
    start = started(adversarial=0.1)
    whole, halves = copy.deepcopy(start), copy.deepcopy(start)
    fit(whole, tmp_path, batch_size=16)
    fit(halves, tmp_path, batch_size=8, accumulate_grad_batches=2)
    found, expected = (dict(m.discriminator.named_parameters()) for m in (halves, whole))
    assert largest(found, expected) < 1e-6
    found, expected, before = (dict(m.network.named_parameters()) for m in (halves, whole, start))
    moved = largest(expected, before)
    assert moved > 1e-3
    assert largest(found, expected) < 0.1 * moved


def test_the_rate_of_the_discriminator_is_its_own(tmp_path):
    """Of plain SGD a tenth of the rate is a tenth of the way, and the autoencoder's way is the same."""
    start = started(adversarial=0.1)
    slow = started(adversarial=0.1, discriminator_rate=0.1)
    fast = copy.deepcopy(start)
    for module in (slow, fast):
        fit(module, tmp_path, batch_size=16)
    before, found, expected = (dict(m.discriminator.named_parameters()) for m in (start, slow, fast))
    tenth = {name: before[name] + 0.1 * (expected[name] - before[name]) for name in before}
    assert largest(found, tenth) < 1e-6
    assert largest(expected, before) > 1e-3
    assert largest(dict(slow.network.named_parameters()), dict(fast.network.named_parameters())) < 1e-7


def test_the_ema_codebook_moves_at_each_batch_of_a_step(tmp_path):
    """Its decay counts batches, accumulated or not, as if there were no accumulation."""
    start = started(MICRO, adversarial=0.0)
    halves, by_hand = copy.deepcopy(start), copy.deepcopy(start)
    fit(halves, tmp_path, batch_size=8, accumulate_grad_batches=2)
    by_hand.train()
    for part in images().chunk(2):
        by_hand.network(part)
    quantizer, expected = halves.network.quantizer, by_hand.network.quantizer
    assert int(quantizer.updates) == int(start.network.quantizer.updates) + 2
    assert torch.allclose(quantizer.codebook, expected.codebook, atol=1e-6)
    assert torch.allclose(quantizer.counts, expected.counts, atol=1e-6)


def test_schedule_and_discriminator_count_optimiser_steps(tmp_path):
    rates: list[float] = []
    playing: list[bool] = []

    class Watch(lightning.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            playing.append("train/discriminator" in trainer.callback_metrics)

    module = started(cosine=True, discriminator_start=2)
    trainer = fit(module, tmp_path, batch_size=4, accumulate_grad_batches=2, max_epochs=2, callbacks=[Watch()])
    # 2 epochs of 4 batches are 4 steps; half a cosine over them, after a warm-up of 1.
    assert trainer.global_step == trainer.estimated_stepping_batches == 4
    assert rates == pytest.approx([0.05 * share for share in (1.0, 0.853553, 0.5, 0.146447)], rel=1e-4)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)
    # It begins with the first batch after the second step.
    assert playing == [False] * 4 + [True] * 4


def averaging() -> EMAWeightAveraging:
    return EMAWeightAveraging(decay=0.5, use_buffers=False)


def test_averaged_weights_are_saved_and_the_quantiser_is_copied(tmp_path):
    module, seen = started(MICRO), []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append({name: p.detach().clone() for name, p in pl_module.network.named_parameters()})
            self.buffers = {name: b.clone() for name, b in pl_module.network.quantizer.named_buffers()}

        def on_train_epoch_end(self, trainer, pl_module):
            # As a checkpoint callback does: when training ends, the averages take the weights' place.
            trainer.save_checkpoint(tmp_path / "last.ckpt")

        def on_validation_epoch_start(self, trainer, pl_module):
            self.validated = {name: p.detach().clone() for name, p in pl_module.network.named_parameters()}

    # Validation is watched after the averages have been put in place.
    watch = Watch()
    fit(module, tmp_path, batch_size=4, callbacks=[averaging(), watch])
    expected = seen[0]
    for state in seen[1:]:
        expected = {name: 0.5 * expected[name] + 0.5 * state[name] for name in state}
    saved = stages.open_stage(tmp_path / "last.ckpt", stage="codebook")
    weights = saved.weights("network.")
    assert largest(expected, {name: weights[name] for name in expected}) < 1e-6
    assert largest(expected, watch.validated) < 1e-6
    assert largest(expected, seen[-1]) > 1e-5
    current = torch.load(tmp_path / "last.ckpt", weights_only=True)["current_model_state"]
    assert largest(seen[-1], {name: current[f"network.{name}"] for name in seen[-1]}) == 0
    for name in BUFFERS:
        assert torch.equal(weights[f"quantizer.{name}"], watch.buffers[name]), name
    assert weights["quantizer.updates"] == 5
    # A later stage opens the averages.
    rebuilt = ImageCodebook(**saved.config)
    rebuilt.load_state_dict(saved.state_dict)
    assert largest(expected, dict(rebuilt.network.named_parameters())) < 1e-6


def test_a_resumed_run_with_averages_ends_like_one_that_was_not_interrupted(tmp_path):
    kwargs: dict[str, Any] = {"discriminator_start": 5}
    whole, first = started(MICRO, **kwargs), started(MICRO, **kwargs)
    fit(whole, tmp_path, batch_size=4, max_epochs=2, callbacks=[averaging()])

    class Save(lightning.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.save_checkpoint(tmp_path / "half.ckpt")

    fit(first, tmp_path, batch_size=4, callbacks=[averaging(), Save()])
    resumed = started(MICRO, **kwargs)
    trainer = fit(
        resumed, tmp_path, batch_size=4, max_epochs=2, callbacks=[averaging()], ckpt_path=tmp_path / "half.ckpt"
    )
    assert trainer.global_step == 8
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_shipped_config_of_averages_saves_them_and_copies_buffers(chain: Chain, tmp_path):
    shipped = yaml.safe_load((ROOT / "configs/experiment/codebook-ema.yaml").read_text())
    # In place of the other callbacks, which need the runs of the demo.
    override = tmp_path / "callbacks.yaml"
    override.write_text(yaml.safe_dump({"trainer": {"callbacks": shipped["trainer"]["callbacks+"]}}))
    arguments = chain.arguments("fit", "codebook", f"--run_dir={tmp_path}", configs=(str(override),))
    cli = main([a for a in arguments if not a.startswith("--trainer.callbacks")])
    saved = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    average, current = saved["state_dict"], saved["current_model_state"]
    for name in BUFFERS:
        assert torch.equal(average[f"network.quantizer.{name}"], current[f"network.quantizer.{name}"]), name
    assert not torch.equal(average["network.decoder.0.weight"], current["network.decoder.0.weight"])
    assert torch.equal(cli.model.network.decoder[0].weight, average["network.decoder.0.weight"])
