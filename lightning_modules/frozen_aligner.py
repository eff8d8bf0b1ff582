"""`FrozenAligner`: a trained aligner as a fixed measure of how well images show what reports state."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules import stages
from lightning_modules.aligner import STAGE, WordPatchAligner
from lightning_modules.networks.alignment import AlignmentNetwork, Queries
from lightning_modules.networks.quantizer import float32
from lightning_modules.networks.resizing import resized
from lightning_modules.networks.statements import queries, stated
from lightning_modules.networks.tokenizer import Tokens
from lightning_modules.networks.zero_shot import twins

TWINS = ("stated", "denied", "side")


class FrozenAligner(nn.Module):
    """Eval mode, no gradients, float32 whoever calls, as measures must not depend on a run's precision.

    Args:
        ckpt: checkpoint of a WordPatchAligner.

    Attributes:
        name: how metrics call it.
        digest: sha256 of the file.
        resolution: side in pixels of the images that it was trained on; others are resized (bilinear, antialiased).
    """

    name = "word-patch-aligner"

    def __init__(self, ckpt: str) -> None:
        super().__init__()
        self.digest = stages.open_stage(ckpt, stage=STAGE).digest
        checkpoint = stages.load_checkpoint(ckpt)
        with stages.drawn_apart():
            module = WordPatchAligner(checkpoint["hyper_parameters"]["network"])
            module.on_load_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"])
        assert module.network is not None
        assert module.tokenizer is not None
        self.frozen = stages.Frozen(module.network)
        self.resolution, self.max_length = module.config.resolution, module.config.max_length
        self.tokenizer = module.tokenizer

    @property
    def network(self) -> AlignmentNetwork:
        """The network itself."""
        assert isinstance(self.frozen.part, AlignmentNetwork)
        return self.frozen.part

    @torch.no_grad()
    def log_likelihood(self, image: Tensor, report: Sequence[str]) -> Tensor:
        """How likely an image finds what its report states and denies: the mean of log σ over these statements.

        Args:
            image: float [B,1,H,W] in [-1,1].
            report: B texts.

        Returns:
            Float32 [B], at most 0; NaN for a report that states nothing.
        """
        network, tokens = self.network, self.tokenizer(report, max_length=self.max_length)
        with float32(image.device):
            patches, words = self._patches(image), network.words(tokens)
            found = [(b, inside) for b, text in enumerate(report) for _, inside in stated(text, tokens.spans[b])]
            asked = queries(found, words)
            means = patches.new_full((len(report),), torch.nan)
            for b in range(len(report)):
                # Each image is asked its own statements: all of the batch's would be tens of times as many.
                own = [m for m, (row, _) in enumerate(found) if row == b]
                if own:
                    fits = network.fits(Queries(*(part[own] for part in asked)), patches[b : b + 1])
                    means[b] = functional.logsigmoid(fits.float()).mean()
        return means

    @torch.no_grad()
    def flipped(self, image: Tensor, report: Sequence[str]) -> Tensor:
        """How many statements score above their twin of the other status or side, see `networks.zero_shot`.

        Args:
            image: float [B,1,H,W] in [-1,1].
            report: B texts.

        Returns:
            Float32 [B,3,2] for TWINS: of each kind how many, and how many of them the right way round.
        """
        with float32(image.device):
            rows = [str(b) for b in range(len(report))]
            cases = twins(self.network, self._tokens, self._patches(image), rows, report)
        counts = torch.zeros(len(report), len(TWINS), 2)
        for case in cases:
            counts[int(case.image_id), TWINS.index(case.kind)] += torch.tensor([1.0, float(case.right)])
        return counts.to(image.device)

    def _tokens(self, texts: Sequence[str]) -> Tokens:
        return self.tokenizer(texts, max_length=self.max_length)

    def _patches(self, image: Tensor) -> Tensor:
        return self.network.located_patches(resized(image.float(), self.resolution))[0]
