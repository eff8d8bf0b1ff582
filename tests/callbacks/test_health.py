"""HealthAlarm on real codebook runs: it fires on NaN, divergence and collapse, not on a healthy run; files are kept."""

import math
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional
from torch.utils.data import DataLoader

from callbacks.health import HealthAlarm, TrainingAlarm, broken_tensors
from lightning_modules.codebook import ImageCodebook
from lightning_modules.feature_networks import FrozenFeatures
from lightning_modules.networks.classifier import ClassifierConfig, FindingNetwork
from lightning_modules.networks.vqgan import VQGANConfig
from tests.chain import COMMON, ROOT, SMALL
from tests.processes import run_python

MICRO = VQGANConfig(resolution=16, channels=(8, 16), code_dim=8, codes=16)
QUANTISERS = {
    "ema": MICRO,
    "fsq": replace(MICRO, quantizer="fsq", levels=(4, 4)),
    "lfq": replace(MICRO, quantizer="lfq"),
}


def smooth(n: int) -> torch.Tensor:
    coarse = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return functional.interpolate(coarse, scale_factor=4, mode="bilinear").clamp(-1, 1)


def loader(images: torch.Tensor, **kwargs: Any) -> DataLoader:
    rows = [{"image": image, "image_id": f"i{i:02d}"} for i, image in enumerate(images)]
    return DataLoader(rows, **{"batch_size": 8} | kwargs)


def module(network: VQGANConfig = MICRO, **kwargs: Any) -> ImageCodebook:
    torch.manual_seed(0)
    return ImageCodebook(network, discriminator_width=8, **{"discriminator_start": 10, "cosine": False} | kwargs)


def classifier() -> FrozenFeatures:
    return FrozenFeatures(FindingNetwork(ClassifierConfig(resolution=16, channels=(8, 16))), digest="random")


def at_rate(rate: float) -> dict[str, Any]:
    return {"optimizer": lambda groups: torch.optim.AdamW(groups, lr=rate, betas=(0.8, 0.98))}


class Case:
    """A run with the alarm and a checkpoint an epoch."""

    def __init__(self, folder: Path, alarm: HealthAlarm | None = None, **kwargs: Any) -> None:
        self.alarm = alarm or HealthAlarm(after_steps=20)
        self.checkpoint = ModelCheckpoint(dirpath=folder / "checkpoints", save_last=True, enable_version_counter=False)
        self.trainer = lightning.Trainer(
            **{"max_epochs": 9, "gradient_clip_val": 1.0} | kwargs, default_root_dir=folder, accelerator="cpu",
            logger=False, num_sanity_val_steps=0, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[self.alarm, self.checkpoint],
        )  # fmt: skip
        self.last = folder / "checkpoints/last.ckpt"

    def fit(self, codebook: ImageCodebook, images: torch.Tensor, **kwargs: Any) -> None:
        self.trainer.fit(codebook, loader(images, **kwargs), loader(images))

    def stopped(self, codebook: ImageCodebook, images: torch.Tensor, **kwargs: Any) -> str:
        with pytest.raises((TrainingAlarm, FloatingPointError)) as error:
            self.fit(codebook, images, **kwargs)
        return "\n".join([str(error.value), *getattr(error.value, "__notes__", [])])

    def check_file(self) -> dict[str, Any]:
        """The checkpoint on disk, all of whose weights are finite."""
        checkpoint = torch.load(self.last, weights_only=True)
        assert not broken_tensors(checkpoint["state_dict"])
        for state in checkpoint["optimizer_states"][0]["state"].values():
            assert not broken_tensors(state)
        return checkpoint


def strict() -> HealthAlarm:
    return HealthAlarm(after_steps=20, min_usage=0.6, min_perplexity=4.0)


def poison(after: int) -> Any:
    """A batch hook that puts NaN into the images from batch `after` on."""
    seen = iter(range(10**6))

    def hook(batch: Any, batch_idx: int) -> None:
        if next(seen) >= after:
            batch["image"][0, 0, 0, 0] = math.nan

    return hook


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_healthy_tiny_run_with_a_last_batch_of_one_image_raises_nothing(tmp_path, precision):
    case = Case(tmp_path, strict(), precision=precision)
    case.fit(module(), smooth(25))
    assert case.trainer.global_step == 36
    assert case.check_file()["global_step"] == 36


def test_a_discriminator_that_has_won_is_warned_of_once_and_an_even_one_is_not(tmp_path):
    """A hundred steps at a rate of 0.01 against an autoencoder that hardly moves."""
    alarm = HealthAlarm(min_usage=None, min_perplexity=None, min_contrast=None, min_explained=None)
    case = Case(tmp_path, alarm, max_epochs=40)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        codebook = module(**at_rate(1e-6), discriminator_start=0, discriminator_rate=1e4, adversarial=1e-6)
        case.fit(codebook, smooth(24))
        Case(tmp_path / "even").fit(module(discriminator_start=0), smooth(24))
    (message,) = [str(one.message) for one in seen if "discriminator has won" in str(one.message)]
    assert 0 < float(re.search(r"its loss was (\S+) on average over epoch (\d+) ", message).group(1)) < 0.1
    assert case.trainer.global_step == 120


def test_nan_images_stop_before_the_step_and_keep_the_file(tmp_path):
    case, codebook = Case(tmp_path), module()
    codebook.on_train_batch_start = poison(after=7)
    message = case.stopped(codebook, smooth(24))
    assert message.startswith("the quantiser got latents that it cannot take")
    assert "stopped at step 7 (epoch 3)" in message
    assert "the batch's 8 images are NOT finite: look at the data first (i08, i09, i10 and 5 more)" in message
    assert f"kept: the last good checkpoint is {case.last}" in message
    assert case.check_file()["global_step"] == 6
    assert not broken_tensors(codebook.state_dict())


def test_nan_images_of_the_validation_split_are_named(tmp_path):
    case, codebook = Case(tmp_path), module()
    codebook.on_validation_batch_start = poison(after=1)
    message = case.stopped(codebook, smooth(24))
    assert message.startswith("the quantiser got latents that it cannot take")
    assert "stopped at step 3 (epoch 1)" in message
    assert "the batch's 8 images are NOT finite: look at the data first (i08, i09, i10 and 5 more)" in message


def test_nan_stops_before_the_step_names_the_loss_and_keeps_the_file(tmp_path):
    case, codebook = Case(tmp_path), module()
    losses, seen = codebook.both_losses, iter(range(10**6))

    def broken(image):
        total, parts = losses(image)
        factor = math.nan if next(seen) >= 7 else 1.0
        return total * factor, parts | {"loss": parts["loss"] * factor}

    codebook.both_losses = broken
    message = case.stopped(codebook, smooth(24))
    assert "stopped at step 7 (epoch 3)" in message
    assert "losses: train/loss nan" in message
    assert re.search(r"\d+ parameters have such a gradient: network\.encoder", message)
    assert "the batch's 8 images are finite (i08, i09, i10 and 5 more)" in message
    assert f"kept: the last good checkpoint is {case.last}" in message
    assert "lower the learning rate" in message
    assert "the learning rate was 0.001" in message
    assert case.check_file()["global_step"] == 6
    assert not broken_tensors(dict(codebook.named_parameters()))


def test_nan_in_the_first_epoch_says_that_there_is_no_checkpoint(tmp_path):
    codebook = module()
    codebook.on_train_batch_start = poison(after=1)
    assert "kept: no checkpoint had been written before" in Case(tmp_path).stopped(codebook, smooth(24))
    assert not list(tmp_path.rglob("*.ckpt"))


def test_broken_weights_never_reach_a_checkpoint(tmp_path):
    """Weights that break after the last check of a step: only the look at the file finds them."""
    case, codebook = Case(tmp_path), module()
    codebook.on_train_epoch_end = lambda: (
        codebook.network.quantizer.codebook[3].fill_(math.inf) if codebook.global_step == 6 else None
    )
    message = case.stopped(codebook, smooth(24))
    assert "1 tensors of the checkpoint to be written are not finite: network.quantizer.codebook" in message
    assert case.check_file()["global_step"] == 3


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_a_learning_rate_a_hundred_times_too_high_is_stopped_or_recovers(tmp_path, quantiser, precision):
    """Whether most codes stay unused depends on rounding; what may not be is that they do and nobody says so."""
    case = Case(tmp_path, strict(), precision=precision)
    message = ""
    try:
        case.fit(module(QUANTISERS[quantiser], **at_rate(0.1)), smooth(24))
    except TrainingAlarm as alarm:
        message = str(alarm)
    if message:
        assert re.search(r"(validate|train)/(usage 0\.\d+ is below 0\.6|perplexity [\d.]+ is below 4)", message)
        assert "the learning rate was 0.1" in message
        assert f"kept: the last good checkpoint is {case.last}" in message
    else:
        assert case.trainer.callback_metrics["validate/usage"] >= 0.6
        assert case.trainer.callback_metrics["validate/perplexity"] >= 4
    case.check_file()


def test_divergence_without_nan_is_stopped(tmp_path):
    message = Case(tmp_path).stopped(module(**at_rate(1.0)), smooth(24))
    assert re.search(r"reconstructions are worse than the mean image: they explain -\d", message)
    assert re.search(r"validate/perplexity 1(\.\d+)? is below 2", message)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (torch.full((17, 1, 16, 16), -1.0), "the 17 real images of validation are flat: their deviation is 0"),
        (torch.full((17, 1, 16, 16), 0.3), "the 17 real images of validation are flat"),
        (smooth(1).repeat(17, 1, 1, 1), "the 17 real images of validation are all the same"),
    ],
)
def test_black_flat_and_equal_images_are_named_and_break_no_weight(tmp_path, images, expected, precision):
    case = Case(tmp_path, precision=precision)
    message = case.stopped(module(), images)
    assert expected in message
    assert "stopped at step 21" in message
    assert "python -m datamodules doctor" in message
    assert case.check_file()["global_step"] == 18


@pytest.mark.filterwarnings("ignore:the discriminator has won")  # as it may over black images
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_black_images_break_no_weight_under_all_losses_and_quantisers(tmp_path, quantiser, precision):
    """Feature maps and spectra without contrast, a discriminator that sees nothing, a last batch of one image."""
    case = Case(tmp_path, precision=precision)
    networks = dict.fromkeys(("perceptual_network", "clinical_network"), classifier)
    codebook = module(QUANTISERS[quantiser], perceptual=1.0, clinical=0.1, frequency=1.0, **networks)
    message = case.stopped(codebook, torch.full((17, 1, 16, 16), -1.0))
    assert "the 17 real images of validation are flat" in message
    assert "stopped at step 21" in message
    assert case.check_file()["global_step"] == 18
    figures = {name: float(value) for name, value in case.trainer.callback_metrics.items()}
    assert {f"train/{name}" for name in ("perceptual", "clinical", "frequency", "adversarial")} <= set(figures)
    assert all(map(math.isfinite, figures.values())), figures


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_codebook_that_starts_from_black_images_recovers_by_restarts_or_is_stopped(tmp_path, precision):
    """A black image has 64 different cells at most: the k-means start gives half of 128 codes no place of their own."""
    images = torch.cat([torch.full((8, 1, 16, 16), -1.0), smooth(17)])

    def case(name: str) -> Case:
        alarm = HealthAlarm(after_steps=32, min_usage=0.9, min_explained=None)
        return Case(tmp_path / name, alarm, precision=precision)

    network = replace(MICRO, codes=128, decay=0.8)
    healthy = case("restarts")
    healthy.fit(module(network), images)
    assert healthy.trainer.global_step == 36
    message = case("none").stopped(module(replace(network, restart_below=0.0)), images)
    assert re.search(r"validate/usage 0\.\d+ is below 0\.9", message)
    assert "raise restart_below" in message


def test_a_few_flat_images_among_others_are_no_alarm(tmp_path):
    images = torch.cat([smooth(16), torch.full((8, 1, 16, 16), -1.0)])  # the last batch is black
    case = Case(tmp_path, strict())
    case.fit(module(), images)
    case.check_file()


def test_a_decoder_that_draws_one_image_is_reported_with_its_figures(tmp_path):
    case, codebook = Case(tmp_path), module()
    codebook.decode = lambda codes: smooth(1).expand(len(codes), 1, 16, 16)
    message = case.stopped(codebook, smooth(24))
    assert "reconstructions are all alike: they differ by 0 of what real images differ by, below 0.1" in message
    assert "reconstructions are constant" not in message
    codebook = module()
    codebook.decode = lambda codes: torch.zeros(len(codes), 1, 16, 16)
    assert "reconstructions are constant" in Case(tmp_path / "flat").stopped(codebook, smooth(24))


def test_a_run_without_validation_is_watched_when_it_saves(tmp_path):
    case = Case(tmp_path, HealthAlarm(after_steps=4, min_usage=0.99, min_perplexity=None), limit_val_batches=0)
    message = case.stopped(module(), torch.full((24, 1, 16, 16), 0.3))
    assert "train/usage" in message
    assert "stopped at step 6 (epoch 2)" in message
    assert case.check_file()["global_step"] == 3


def test_thresholds_of_null_watch_nothing_and_validate_alone_never_stops(tmp_path):
    off = HealthAlarm(min_usage=None, min_perplexity=None, min_contrast=None, min_explained=None, after_steps=0)
    Case(tmp_path, off, max_epochs=2).fit(module(), torch.full((24, 1, 16, 16), 0.3))
    other = Case(tmp_path, HealthAlarm(after_steps=0, min_usage=1.0))
    other.trainer.validate(module(), loader(smooth(8)), verbose=False)


def test_the_first_steps_are_not_judged(tmp_path):
    case = Case(tmp_path, HealthAlarm(after_steps=1000), max_epochs=3)
    case.fit(module(), torch.full((24, 1, 16, 16), 0.3))
    assert case.trainer.global_step == 9


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_command_line_ends_with_an_error_on_all_ranks(tmp_path, ranks):
    """A learning rate that breaks the weights at the first step."""
    files = [flag for name in ("base", "codebook") for flag in ("-c", str(ROOT / f"configs/{name}.yaml"))]
    common = [flag for flag in COMMON if "callbacks" not in flag and "batch_size" not in flag]
    lengths = [f"--trainer.devices={ranks}", *(["--trainer.strategy=ddp"] if ranks > 1 else [])]
    features = [f"--model.init_args.{name}" for name in ("perceptual=0", "clinical=0", "classifier_ckpt=null")]
    alarm = "{class_path: HealthAlarm, init_args: {after_steps: 0}}"
    result = run_python(
        ["main.py", "fit", *files, *common, *SMALL["codebook"], *lengths, *features, "--data.init_args.batch_size=4",
         f"--trainer.callbacks=[{alarm}]", "--model.init_args.optimizer.init_args.lr=1e30",
         f"--data.init_args.cache_dir={tmp_path}", f"--run_dir={tmp_path / 'run'}"],
        timeout=240,
    )  # fmt: skip
    assert result.returncode != 0
    assert "FloatingPointError: the quantiser got latents that it cannot take" in result.stderr
    assert "stopped at step 1 (epoch 1)" in result.stderr
    assert "the learning rate was" in result.stderr
    assert not list(tmp_path.rglob("*.ckpt"))
