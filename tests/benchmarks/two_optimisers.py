"""A VQ-GAN training step with two optimisers, as the reference implementation of arXiv 2012.09841 takes it.

Its Lightning module is called once for each optimiser, and each call passes the autoencoder forward, then the images
and the reconstructions through the perceptual network; the adaptive weight takes both losses back to the last layer
separately, before the whole loss goes back. The parts are those of `ImageCodebook`, so that only the order of the work
differs.
"""

import torch
from torch import Tensor

from lightning_modules.codebook import ImageCodebook
from lightning_modules.networks import losses
from lightning_modules.networks.fidelity import fidelity


class TwoOptimisers:
    """The two turns of one step.

    Args:
        module: whose networks, feature networks and weights are used.
    """

    def __init__(self, module: ImageCodebook) -> None:
        self.module = module
        players = (module.network, module.discriminator)
        self.optimizers = [module.optimizer(list(player.parameters())) for player in players]

    def autoencoder_loss(self, image: Tensor) -> Tensor:
        """The loss of the autoencoder's turn on images [B,1,H,W], a scalar."""
        module = self.module
        output = module.network(image)
        distance, _ = fidelity(output.reconstruction, image, weights=module.weights, networks=module.features)
        verdict = losses.hinge_generator(module.discriminator(output.reconstruction))
        last = module.network.last_weight
        norms = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (distance, verdict)]
        adaptive = (norms[0] / (norms[1] + 1e-6)).clamp(0, losses.ADAPTIVE_LIMIT).detach()
        return distance + module.adversarial * adaptive * verdict + module.commitment * output.commitment

    def discriminator_loss(self, image: Tensor) -> Tensor:
        """The loss of the discriminator's turn on images [B,1,H,W], a scalar."""
        module = self.module
        reconstruction = module.network(image).reconstruction
        # Computed in this turn too, and not used.
        fidelity(reconstruction, image, weights=module.weights, networks=module.features)
        real, fake = module.discriminator(image), module.discriminator(reconstruction.detach())
        return losses.hinge_discriminator(real, fake)

    def gradients(self, image: Tensor) -> list[Tensor]:
        """What each parameter, the autoencoder's first, would be moved by."""
        turns = (self.autoencoder_loss, self.module.network), (self.discriminator_loss, self.module.discriminator)
        return [g for loss, player in turns for g in torch.autograd.grad(loss(image), list(player.parameters()))]

    def step(self, image: Tensor) -> None:
        """Both turns, each with its own backward pass and optimiser step."""
        for optimizer, loss in zip(self.optimizers, (self.autoencoder_loss, self.discriminator_loss), strict=True):
            optimizer.zero_grad()
            loss(image).backward()
            optimizer.step()
