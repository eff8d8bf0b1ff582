"""ImageCodebook: images to a grid of discrete codes and back trained as a VQ-GAN.

Both players are trained by ONE backward pass and one optimiser with two parameter groups. The autoencoder is judged by
the discriminator with detached parameters, the discriminator sees the detached reconstruction; so the sum of both
losses has exactly the gradients of two separate steps on the same batch. Manual optimisation, the usual way, would
switch off the Trainer's clipping and accumulation, count every optimiser's step in `global_step` and leave parameters
unused under DDP.

B batch, H = W = resolution, h = w = grid.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.func import functional_call

from datamodules.manifest import Batch
from lightning_modules import stages
from lightning_modules.classifier import FrozenFindingClassifier
from lightning_modules.networks import losses
from lightning_modules.networks.code_parts import CodeParts
from lightning_modules.networks.codes import bf16_at_least
from lightning_modules.networks.discriminator import PatchDiscriminator
from lightning_modules.networks.features import FeatureNetwork
from lightning_modules.networks.fidelity import NETWORK_TERMS, fidelity
from lightning_modules.networks.quantizer import CodeUsage
from lightning_modules.networks.reconstruction_metrics import ReconstructionMetrics
from lightning_modules.networks.vqgan import VQGAN, VQGANConfig
from lightning_modules.schedule import with_schedule

STAGE = "codebook"


class AutoencoderLoss(NamedTuple):
    """The autoencoder's loss on one batch."""

    surrogate: Tensor  # scalar whose gradients for the reconstruction are those of the total
    total: Tensor  # constant scalar
    parts: dict[str, Tensor]  # constant scalars, for the log


class ImageCodebook(lightning.LightningModule):
    """A VQ-GAN whose perceptual and clinical losses look through a classifier of this project, or through others.

    Args:
        network: sizes, or the plain data of a checkpoint.
        classifier_ckpt: checkpoint of a FindingClassifier, which both losses look through unless told otherwise. It is
            read when fitting starts and is not part of this module's checkpoint; nor are the next two.
        perceptual_network: makes the FeatureNetwork of the perceptual loss in its place, for example
            `lightning_modules.feature_networks.FrozenLPIPS`.
        clinical_network: makes that of the clinical loss.
        optimizer: from parameter groups to the optimiser; the first group is the autoencoder's.
        perceptual: weight of the distance of feature maps.
        clinical: weight of the distance of feature vectors.
        frequency: weight of the distance of spectra (`losses.frequency_distance`), for fine lines.
        adversarial: weight of the discriminator's verdict, times VQ-GAN's adaptive weight; 0 leaves it out.
        commitment: weight of the distance of the latents from their codes.
        discriminator_start: optimiser step at which the discriminator begins to learn.
        discriminator_ramp: steps over which its weight grows linearly from 0.
        discriminator_rate: its learning rate over the autoencoder's.
        discriminator_width: channels of its first layer, a multiple of 8.
        cosine: let the learning rate fall to 0 along half a cosine over the run.
        compile: let torch.compile make encoder and decoder at their first use; slower on CPUs.
    """

    def __init__(
        self,
        network: VQGANConfig = VQGANConfig(),  # noqa: B008 - frozen
        *,
        classifier_ckpt: str | None = None,
        perceptual_network: Callable[[], nn.Module] | None = None,
        clinical_network: Callable[[], nn.Module] | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(
            params, lr=1e-3, betas=(0.8, 0.98), weight_decay=1e-4
        ),
        perceptual: float = 0.0,
        clinical: float = 0.0,
        frequency: float = 0.0,
        adversarial: float = 0.1,
        commitment: float = 0.25,
        discriminator_start: int = 1000,
        discriminator_ramp: int = 500,
        discriminator_rate: float = 1.0,
        discriminator_width: int = 32,
        cosine: bool = True,
        compile: bool = False,
    ) -> None:
        super().__init__()
        factories = {"perceptual": perceptual_network, "clinical": clinical_network}
        self.weights = {"perceptual": perceptual, "clinical": clinical, "frequency": frequency}
        # None stands for the classifier.
        self.factories = {term: factories[term] for term in NETWORK_TERMS if self.weights[term] > 0}
        if classifier_ckpt is None and None in self.factories.values():
            raise ValueError(
                f"the weights perceptual = {perceptual} and clinical = {clinical} need the features of a "
                "classifier, but classifier_ckpt is null; give its checkpoint, name a perceptual_network or "
                "clinical_network, or set the weights to 0"
            )
        config = stages.as_config(VQGANConfig, network)
        self.save_hyperparameters({"network": dataclasses.asdict(config), "discriminator_width": discriminator_width})
        self.network = VQGAN(config)
        if compile:
            self.network.compile()
        self.discriminator = PatchDiscriminator(discriminator_width)
        self.classifier_ckpt, self.optimizer, self.cosine = classifier_ckpt, optimizer, cosine
        self.adversarial, self.commitment = adversarial, commitment
        self.discriminator_start, self.discriminator_ramp = discriminator_start, discriminator_ramp
        self.discriminator_rate = discriminator_rate
        # In a dictionary, so that torch does not register them: neither trained nor saved nor sent to the optimiser.
        self.features: dict[str, FeatureNetwork] = {}
        self.feature_digests: dict[str, str] = {}
        self.train_codes = CodeUsage(config.codes)
        self.metrics = ReconstructionMetrics(config.codes)
        self.parts: CodeParts | None = None  # while predicting

    def encode(self, image: Tensor) -> Tensor:
        """Image [B,1,H,W] in [-1,1] → codes int64 [B,h,w]."""
        return self.network.encode(image)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes int64 [B,h,w] → image float32 [B,1,H,W] in [-1,1]."""
        return self.network.decode(codes)

    def forward(self, image: Tensor) -> Tensor:
        """The reconstruction float32 [B,1,H,W] in [-1,1]."""
        return self.decode(self.encode(image))

    def on_fit_start(self) -> None:
        """Open the networks that perceptual and clinical loss look through.

        Raises:
            TypeError: if one is no feature network.
            ValueError: if the run is resumed with another network than it was begun with.
        """
        self.features = self._open_networks()
        digests = {term: network.digest for term, network in self.features.items()}
        for term, digest in digests.items():
            begun = self.feature_digests.get(term, digest)
            if digest != begun:
                raise ValueError(
                    f"the network of the {term} loss has changed since this run began: sha256 {digest[:12]}…, expected "
                    f"{begun[:12]}…; give the one it was begun with, or start a new run"
                )
        self.feature_digests = digests

    def _open_networks(self) -> dict[str, FeatureNetwork]:
        networks: dict[str, FeatureNetwork] = {}
        for term, factory in self.factories.items():
            made = factory() if factory else FrozenFindingClassifier(str(self.classifier_ckpt))
            if not isinstance(made, FeatureNetwork):
                raise TypeError(
                    f"{term}_network made a {type(made).__name__}, which lacks `output` or `digest`; a feature network "
                    "has both (lightning_modules/networks/features.py says what each is)"
                )
            # Two of a kind with the same weights are one, passed once.
            same = (n for n in networks.values() if type(n) is type(made) and n.digest == made.digest)
            networks[term] = next(same, made.requires_grad_(False).eval().to(self.device))
        return networks

    @property
    def playing(self) -> bool:
        """Whether the discriminator learns."""
        return self.adversarial > 0 and self.global_step >= self.discriminator_start

    @property
    def adversarial_weight(self) -> float:
        """`adversarial` times the linear ramp after `discriminator_start`."""
        since = self.global_step - self.discriminator_start
        return self.adversarial * min(1.0, max(0.0, (since + 1) / max(1, self.discriminator_ramp)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Both players' losses on one batch, see the top of this file."""
        total, parts = self.both_losses(batch["image"])
        size = len(batch["image"])
        self.log("train/loss", parts.pop("loss"), prog_bar=True, batch_size=size)
        self.log_dict({f"train/{name}": value for name, value in parts.items()}, batch_size=size)
        return total

    def both_losses(self, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to differentiate, whose value means nothing, and the constant parts; "loss" is the autoencoder's.

        Args:
            image: float32 [B,1,H,W] in [-1,1].
        """
        output = self.network(image)
        self.train_codes.update(output.codes)
        with bf16_at_least(image.device):
            loss = self.autoencoder_loss(output.reconstruction, image, adversarial=self.adversarial_weight)
        total = loss.surrogate + self.commitment * output.commitment
        parts = loss.parts | {"commitment": output.commitment.detach()}
        if self.playing:
            verdict = self.discriminator_loss(output.reconstruction.detach(), image)
            total = total + verdict
            parts["discriminator"] = verdict.detach()
        else:
            # Every parameter takes part in every step, as DDP asks; the gradients are zero.
            total = total + 0.0 * torch.stack([p.sum() for p in self.discriminator.parameters()]).sum()
        parts["loss"] = loss.total + self.commitment * parts["commitment"]
        return total, parts

    def discriminator_loss(self, reconstruction: Tensor, image: Tensor) -> Tensor:
        """Hinge loss of the discriminator on constant images."""
        # One pass: GroupNorm keeps images apart.
        real, fake = self.discriminator(torch.cat([image, reconstruction])).chunk(2)
        return losses.hinge_discriminator(real, fake)

    def autoencoder_loss(self, reconstruction: Tensor, image: Tensor, *, adversarial: float) -> AutoencoderLoss:
        """Fidelity + adaptively weighted adversarial loss of float32 images [B,1,H,W].

        Under autocast networks compute in bf16; distances and the norms of the adaptive weight are taken in float32.
        Each network is passed backwards once: both gradients are taken at the reconstruction, weighed at the last layer
        (VQ-GAN equation 7), and their sum is handed on to the autoencoder through a surrogate that is linear in it.
        """
        leaf = reconstruction.detach().requires_grad_()
        distance, parts = fidelity(leaf, image, weights=self.weights, networks=self.features)
        (gradient,) = torch.autograd.grad(distance, leaf)
        total = distance.detach()
        if adversarial > 0:
            # Detached parameters: this verdict must not teach the discriminator.
            fixed = {name: p.detach() for name, p in self.discriminator.named_parameters()}
            verdict = losses.hinge_generator(functional_call(self.discriminator, fixed, (leaf,)))
            (push,) = torch.autograd.grad(verdict, leaf)
            adaptive = losses.adaptive_weight(
                reconstruction, self.network.last_weight, fidelity=gradient, adversarial=push
            )
            gradient = gradient + adversarial * adaptive * push
            total = total + adversarial * adaptive * verdict.detach()
            parts |= {"adversarial": verdict, "adaptive_weight": adaptive}
        surrogate = (reconstruction * gradient).sum()
        return AutoencoderLoss(surrogate, total, {name: value.detach() for name, value in parts.items()})

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep the discriminator out of the step before its start: Adam would count zeros, and decay its weights."""
        if not self.playing:
            for parameter in self.discriminator.parameters():
                parameter.grad = None

    def on_train_epoch_end(self) -> None:
        """Log usage and perplexity of the codes over the epoch."""
        values = self.train_codes.compute()
        self.train_codes.reset()
        self.log_dict({f"train/{name}": value for name, value in values.items()})

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Reconstruct and measure; {"reconstruction": float32 [B,1,H,W] in [-1,1], "codes": int64 [B,h,w]}."""
        codes = self.encode(batch["image"])
        reconstruction = self.decode(codes)
        self.metrics.update(reconstruction, batch["image"].float(), codes)
        return {"reconstruction": reconstruction, "codes": codes}

    def on_validation_epoch_end(self) -> None:
        """Log `validate/{psnr,ssim,l1,usage,perplexity}`."""
        self.log_dict({f"validate/{name}": value for name, value in self.metrics.compute().items()})

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """As `validation_step`."""
        return self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log `codebook/{psnr,ssim,l1,usage,perplexity}` over the test split."""
        self.log_dict({f"codebook/{name}": value for name, value in self.metrics.compute().items()})

    def on_predict_epoch_start(self) -> None:
        """Begin a token cache, or go on with one whose `predict` was interrupted.

        Raises:
            ValueError: if no checkpoint was given: its digest marks the cache.
        """
        if not self.trainer.ckpt_path:
            raise ValueError("predict writes the token cache of a trained codebook: give it with --ckpt_path")
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        facts = {
            "checkpoint": stages.file_digest(str(self.trainer.ckpt_path)),
            "data": data.tokens_key,
            "pictures": data.pictures(data.manifest.frame["image_id"].tolist()).digest(),
            "precision": str(self.trainer.precision),
        }
        path = Path(self.trainer.default_root_dir) / "tokens.safetensors"
        self.parts = CodeParts(path, rank=self.global_rank, facts=facts)
        self.parts.resume()

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Encode what has no codes yet; {"image_id": list of N str, "codes": int64 [N,h,w]}."""
        assert self.parts is not None
        places = self.parts.missing(batch["image_id"])
        image_ids = [batch["image_id"][place] for place in places]
        grid = self.network.config.grid
        codes = self.encode(batch["image"][places]).cpu() if places else torch.empty(0, grid, grid, dtype=torch.int64)
        self.parts.add(image_ids, codes.numpy())
        return {"image_id": image_ids, "codes": codes}

    def on_predict_epoch_end(self) -> None:
        """Write `<default_root_dir>/tokens.safetensors` from the codes of all ranks, sorted by image id."""
        assert self.parts is not None
        image_ids, codes = self.parts.gather()
        if self.trainer.is_global_zero:
            total, grid = self.network.config.codes, self.network.config.grid
            self.trainer.datamodule.write_tokens(  # type: ignore[attr-defined]
                self.parts.path,
                image_ids=image_ids,
                codes=codes,
                checkpoint_digest=self.parts.facts["checkpoint"],
                codes_total=total,
            )
            self.parts.remove()
            rank_zero_info(
                f"wrote the codes of {len(image_ids)} images ({grid} × {grid} of {total} codes) to {self.parts.path}; "
                f"train the later stages from them with --data.init_args.tokens={self.parts.path}"
            )
        self.parts = None
        self.trainer.strategy.barrier("tokens")

    def configure_optimizers(self) -> Any:
        """One optimiser, one parameter group a player."""
        groups = [{"params": list(part.parameters())} for part in (self.network, self.discriminator)]
        optimizer = self.optimizer(groups)
        optimizer.param_groups[1]["lr"] *= self.discriminator_rate
        return with_schedule(optimizer, steps=self.trainer.estimated_stepping_batches) if self.cosine else optimizer

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip each player by itself: a strong gradient of one must not weaken the other."""
        if not gradient_clip_val:
            return
        clip = nn.utils.clip_grad_value_ if gradient_clip_algorithm == "value" else nn.utils.clip_grad_norm_
        for group in optimizer.param_groups:
            # A player that stands still has none.
            if learning := [parameter for parameter in group["params"] if parameter.grad is not None]:
                clip(learning, gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Mark the checkpoint as a codebook's and name the networks it was trained against."""
        stages.stamp(checkpoint, stage=STAGE, features=self.feature_digests)

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse another stage's checkpoint."""
        stages.check_stage(checkpoint, stage=STAGE)
        self.feature_digests = dict(checkpoint[stages.KEY].get("features") or {})
