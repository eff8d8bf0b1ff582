"""`EvenGame`: keeps decoder and discriminator of a VQ-GAN level with each other.

The decoder's push is scaled to a fixed share of its fidelity gradient (VQ-GAN equation 7), however well it does, so
nothing holds the two players together: on the phantom a discriminator at the decoder's learning rate wins outright
(loss 0.002) and one that is weaker or is pushed against harder loses for good (loss 1.000). As in BEGAN (arXiv
1703.10717, section 3.4) a set level of the discriminator's loss decides how much each player may do.
"""

from torch import Tensor

from lightning_modules.networks.ranks import sum_over_ranks, world_size

KEPT = 0.9  # share of the former level that a batch leaves


class EvenGame:
    """The running level of the discriminator's hinge loss: 1 where it cannot tell, 0 where it always can.

    Args:
        target: the level that is kept, in (0, 1); None lets both play on unhindered.

    Attributes:
        level: mean over batches and ranks, the newest counting most; it starts at 1.

    Raises:
        ValueError: for another target.
    """

    def __init__(self, target: float | None) -> None:
        if target is not None and not 0 < target < 1:
            raise ValueError(f"discriminator_target is a hinge loss between 0 and 1, or null; got {target}")
        self.target, self.level = target, 1.0

    @property
    def push(self) -> float:
        """Share of its weight that the adversarial loss has: 0 at level 1 or more, 1 at the target or below."""
        return 1.0 if self.target is None else min(1.0, max(0.0, (1 - self.level) / (1 - self.target)))

    def learns(self, loss: Tensor) -> bool:
        """Whether the discriminator learns from this batch, on whose rank its loss is the scalar `loss`.

        Equal on all ranks, all of which must ask.
        """
        if self.target is None:
            return True
        mean = float(sum_over_ranks(loss.detach().float().clone())) / world_size()
        self.level = KEPT * self.level + (1 - KEPT) * mean
        return self.level > self.target
