"""How well an autoencoder reconstructs a whole split: PSNR, SSIM, L1 and the use of its codes, exact over ranks."""

from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from lightning_modules.networks.quantizer import CodeUsage, float32


class ReconstructionMetrics(nn.Module):
    """PSNR, SSIM, L1 and code usage over a whole split, exact over ranks.

    PSNR is that of the mean squared error of all images. SSIM takes images as light, from 0 to 1: its luminance term is
    made for grey levels that are not negative.
    """

    def __init__(self, codes: int) -> None:
        super().__init__()
        self.psnr = PeakSignalNoiseRatio(data_range=2.0)
        self.ssim = StructuralSimilarityIndexMeasure(data_range=1.0)
        self.l1 = MeanMetric()
        self.codes = CodeUsage(codes)

    def update(self, reconstruction: Tensor, image: Tensor, codes: Tensor) -> None:
        """Float32 images [B,1,H,W] in [-1,1], codes int64 [B,h,w]."""
        # SSIM filters by convolution, which autocast would take to bf16, and subtracts squares of nearly equal size.
        with float32(image.device):
            self.psnr.update(reconstruction, image)
            self.ssim.update((reconstruction + 1) / 2, (image + 1) / 2)
            self.l1.update((reconstruction - image).abs().mean(), weight=len(image))
        self.codes.update(codes)

    def compute(self) -> dict[str, Tensor]:
        """The values: psnr in dB (peak 2), ssim, l1, usage (share of codes that occur), perplexity. Starts anew."""
        values = {name: getattr(self, name).compute() for name in ("psnr", "ssim", "l1")} | self.codes.compute()
        for metric in (self.psnr, self.ssim, self.l1, self.codes):
            metric.reset()
        return values
