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


def widths(config: VQGANConfig) -> tuple[int, ...]:
    """The widths of `config`, one for each of its halvings, of which MONAI's encoder makes the first at once."""
    halvings = config.factor.bit_length() - 1
    return (config.channels[:1] * halvings + config.channels[1:])[-halvings:]


def vqvae(channels: Sequence[int], residual: Sequence[int], *, code_dim: int, codes: int) -> VQVAE:
    """For each width one of MONAI's default halvings, a 4 × 4 convolution of stride 2, and two residual layers.

    Args:
        channels: the widths.
        residual: those inside of the residual layers.
        code_dim: dimension of a code's vector.
        codes: size of the codebook.
    """
    return VQVAE(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=tuple(channels),
        num_res_channels=tuple(residual),
        num_res_layers=2,
        downsample_parameters=((2, 4, 1, 1),) * len(channels),
        upsample_parameters=((2, 4, 1, 1, 0),) * len(channels),
        num_embeddings=codes,
        embedding_dim=code_dim,
        ddp_sync=False,
    )


def decoder_parameters(residual: Sequence[int], config: VQGANConfig) -> int:
    """Of the VQVAE with the widths and the grid of `config`.

    Raises:
        ValueError: if there is not one width for each halving.
    """
    channels = widths(config)
    if len(residual) != len(channels):
        raise ValueError(
            f"residual widths {tuple(residual)} of MONAI's VQVAE for {len(channels)} halvings of widths {channels}; "
            "give one for each"
        )
    with torch.device("meta"):  # only the sizes
        return parameters(vqvae(channels, residual, code_dim=config.code_dim, codes=config.codes).decoder)


def check_decoder(residual: Sequence[int], config: VQGANConfig, *, decoder: int) -> None:
    """Refuse residual widths that make a decoder of another size than so many parameters.

    Raises:
        ValueError: with both numbers.
    """
    found = decoder_parameters(residual, config)
    if abs(found / decoder - 1) > TOLERANCE:
        raise ValueError(
            f"the decoder of MONAI's VQVAE with residual widths {tuple(residual)} has {found} parameters, expected "
            f"{decoder} ± {TOLERANCE:.0%}; choose others"
        )


def matched(config: VQGANConfig, *, decoder: int) -> tuple[int, ...]:
    """Residual widths, multiples of 8, whose decoder is nearest to so many parameters.

    Raises:
        ValueError: see `check_decoder`.
    """
    # Other than multiples of 8 are slow on a CPU.
    candidates = {tuple(max(8, round(width * share / 256) * 8) for width in widths(config)) for share in range(8, 65)}
    best = min(sorted(candidates), key=lambda residual: abs(decoder_parameters(residual, config) - decoder))
    check_decoder(best, config, decoder=decoder)
    return best


class MonaiCodebook(lightning.LightningModule):
    """L1 and MONAI's own quantisation loss under Adam, as its VQ-VAE tutorial trains it, on images in [0,1] as there.

    With a discriminator as in its VQ-GAN tutorial: PatchDiscriminator of 3 layers, least squares, five times the
    autoencoder's learning rate. That tutorial's perceptual loss is left out: its networks need weights from the
    internet. The two optimisers' steps use one reconstruction and one state of the discriminator, so one backward pass
    of the sum has their gradients.

    Args:
        channels: see `vqvae`.
        residual: see `vqvae`.
        code_dim: dimension of a code's vector.
        codes: size of the codebook.
        lr: learning rate.
        verdict_weight: of the discriminator's verdict; its VQ-GAN tutorial takes 0.01, 0 leaves it out. Not called as
            ImageCodebook's is: jsonargparse keeps the values of arguments of the same name when the class changes.
        verdict_width: channels of the discriminator's first layer.
    """

    def __init__(
        self,
        *,
        channels: list[int],
        residual: list[int],
        code_dim: int,
        codes: int,
        lr: float = 1e-4,
        verdict_weight: float = 0.0,
        verdict_width: int = 32,
    ) -> None:
        super().__init__()
        self.network = vqvae(channels, residual, code_dim=code_dim, codes=codes)
        self.lr, self.verdict_weight = lr, verdict_weight
        self.discriminator: PatchDiscriminator | None = None
        if verdict_weight > 0:
            self.discriminator = PatchDiscriminator(
                spatial_dims=2, in_channels=1, channels=verdict_width, num_layers_d=3
            )
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
        return self.verdict_weight * (generator + (fake + real) * 0.5)

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
