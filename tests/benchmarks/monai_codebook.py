"""MONAI's VQVAE as a LightningModule that is trained as MONAI's tutorials do and tested as ImageCodebook is."""

from collections.abc import Sequence
from typing import Any

import lightning
import torch
from monai.losses.adversarial_loss import PatchAdversarialLoss
from monai.networks.nets import VQVAE
from monai.networks.nets.patchgan_discriminator import PatchDiscriminator
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from lightning_modules.networks.reconstruction_metrics import ReconstructionMetrics
from lightning_modules.networks.vqgan import VQGANConfig
from tests.benchmarks.codebook_runs import parameters

TOLERANCE = 0.1  # of the decoder's parameters


def vqvae(channels: Sequence[int], *, code_dim: int, codes: int) -> VQVAE:
    """One of MONAI's default halvings (a 4 × 4 convolution of stride 2) a width, two residual layers each."""
    return VQVAE(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=tuple(channels),
        num_res_channels=tuple(channels),
        num_res_layers=2,
        downsample_parameters=((2, 4, 1, 1),) * len(channels),
        upsample_parameters=((2, 4, 1, 1, 0),) * len(channels),
        num_embeddings=codes,
        embedding_dim=code_dim,
        ddp_sync=False,
    )


def check_decoder(channels: Sequence[int], config: VQGANConfig, *, decoder: int) -> None:
    """Refuse widths that make another grid, or a decoder of another size.

    Args:
        channels: of `vqvae`.
        config: whose grid it must have.
        decoder: parameters of the decoder that it is compared with.

    Raises:
        ValueError: with both numbers.
    """
    if 2 ** len(channels) != config.factor:
        raise ValueError(
            f"channels {tuple(channels)} of MONAI's VQVAE are f{2 ** len(channels)}, expected f{config.factor}; give "
            "one width for each halving"
        )
    with torch.device("meta"):  # only the sizes
        found = parameters(vqvae(channels, code_dim=config.code_dim, codes=config.codes).decoder)
    if abs(found / decoder - 1) > TOLERANCE:
        raise ValueError(
            f"the decoder of MONAI's VQVAE with channels {tuple(channels)} has {found} parameters, expected {decoder} "
            f"± {TOLERANCE:.0%}; choose other widths"
        )


def matched(config: VQGANConfig, *, decoder: int) -> tuple[int, ...]:
    """Widths of a VQVAE with the grid of `config` and a decoder nearest to so many parameters.

    They are those of `config`, one for each halving, times a common factor.

    Raises:
        ValueError: see `check_decoder`.
    """
    halvings = config.factor.bit_length() - 1
    widths = (config.channels[:1] * halvings + config.channels[1:])[-halvings:]
    found: dict[tuple[int, ...], int] = {}
    for sixteenths in range(8, 65):
        channels = tuple(width * sixteenths // 16 for width in widths)
        with torch.device("meta"):
            found[channels] = parameters(vqvae(channels, code_dim=config.code_dim, codes=config.codes).decoder)
    best = min(found, key=lambda channels: abs(found[channels] - decoder))
    check_decoder(best, config, decoder=decoder)
    return best


class MonaiCodebook(lightning.LightningModule):
    """L1 and MONAI's own quantisation loss under Adam, as its VQ-VAE tutorial trains it, on images in [0,1] as there.

    With a discriminator as in its VQ-GAN tutorial: PatchDiscriminator of 64 channels and 3 layers, least squares, five
    times the autoencoder's learning rate. That tutorial's perceptual loss is left out: its networks need weights from
    the internet. The two optimisers' steps use one reconstruction and one state of the discriminator, so one backward
    pass of the sum has their gradients.

    Args:
        channels: see `vqvae`.
        code_dim: dimension of a code's vector.
        codes: size of the codebook.
        lr: learning rate.
        adversarial: weight of the discriminator's verdict; its VQ-GAN tutorial takes 0.01, 0 leaves it out.
    """

    def __init__(
        self, *, channels: list[int], code_dim: int, codes: int, lr: float = 1e-4, adversarial: float = 0.0
    ) -> None:
        super().__init__()
        self.network = vqvae(channels, code_dim=code_dim, codes=codes)
        self.lr, self.adversarial = lr, adversarial
        self.discriminator: PatchDiscriminator | None = None
        if adversarial > 0:
            self.discriminator = PatchDiscriminator(spatial_dims=2, in_channels=1, channels=64, num_layers_d=3)
        self.verdict = PatchAdversarialLoss(criterion="least_squares")
        self.metrics = ReconstructionMetrics(codes)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss on images [B,1,H,W] in [-1,1]."""
        image = (batch["image"].float() + 1) / 2
        reconstruction, quantisation = self.network(image)
        loss = functional.l1_loss(reconstruction.float(), image) + quantisation
        return loss if self.discriminator is None else loss + self._game(self.discriminator, reconstruction, image)

    def _game(self, discriminator: PatchDiscriminator, reconstruction: Tensor, image: Tensor) -> Tensor:
        fixed = {name: p.detach() for name, p in discriminator.named_parameters()}
        judged = functional_call(discriminator, fixed, (reconstruction,))[-1]
        generator = self.verdict(judged, target_is_real=True, for_discriminator=False)
        fake = self.verdict(discriminator(reconstruction.detach())[-1], target_is_real=False, for_discriminator=True)
        real = self.verdict(discriminator(image)[-1], target_is_real=True, for_discriminator=True)
        return self.adversarial * (generator + (fake + real) * 0.5)

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """{"reconstruction": float32 [B,1,H,W]}; nothing outside of [-1,1], which an image does not have."""
        codes = self.network.index_quantize((batch["image"].float() + 1) / 2)
        reconstruction = (2 * self.network.decode_samples(codes).float() - 1).clamp(-1, 1)
        self.metrics.update(reconstruction, batch["image"].float(), codes)
        return {"reconstruction": reconstruction}

    def on_test_epoch_end(self) -> None:
        """Log as ImageCodebook does."""
        self.log_dict({f"codebook/{name}": value for name, value in self.metrics.compute().items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, one group a player."""
        groups: list[dict[str, Any]] = [{"params": [p for p in self.network.parameters() if p.requires_grad]}]
        if self.discriminator is not None:
            groups.append({"params": list(self.discriminator.parameters()), "lr": 5 * self.lr})
        return torch.optim.Adam(groups, lr=self.lr)
