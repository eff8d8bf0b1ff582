"""FindingClassifier: the 14 findings from an image, trained on partly unknown labels; and its frozen form.

`FrozenFindingClassifier` gives the codebook its perceptual and clinical losses and the callbacks their features and
scores, without any weights from a hub.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from datamodules.manifest import Batch
from datamodules.reports.labels import FINDINGS
from lightning_modules import stages
from lightning_modules.networks.cam_cases import CamCases
from lightning_modules.networks.classifier import ClassifierConfig, ClassifierOutput, FindingNetwork
from lightning_modules.networks.quantizer import float32
from lightning_modules.networks.ranks import sum_over_ranks, world_size
from lightning_modules.networks.resizing import resized
from lightning_modules.schedule import with_schedule

STAGE = "classifier"
CAM_IMAGES = 500  # among which the pointing game has its other images, as the aligner's


def slug(finding: str) -> str:
    """A finding's name in metric keys: "Pleural Effusion" → "pleural_effusion"."""
    return finding.lower().replace(" ", "_")


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve by ranks (Mann-Whitney), ties counted half; NaN labels are left out.

    Args:
        scores: float [N], higher = more likely.
        labels: float [N] of 1, 0, NaN.

    Returns:
        In [0,1]; NaN unless both classes occur.
    """
    known = ~np.isnan(labels)
    positive = labels[known] > 0.5
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return math.nan
    ranks = rankdata(scores[known])
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


class FindingAUROC(Metric):
    """AUROC of each of the 14 findings over all updates and ranks; exact, whatever the batch sizes of the ranks."""

    full_state_update = False
    logits: list[Tensor]
    labels: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("logits", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add [B,14] logits and labels of 1, 0, NaN."""
        self.logits.append(logits.detach().float())
        self.labels.append(labels.float())

    def compute(self) -> dict[str, Tensor]:
        """{"auroc": the mean over findings that have both classes, "auroc/<slug>": each of these}."""
        logits, labels = (dim_zero_cat(x).cpu().numpy() for x in (self.logits, self.labels))
        each = {f"auroc/{slug(f)}": auroc(logits[:, i], labels[:, i]) for i, f in enumerate(FINDINGS)}
        found = {key: value for key, value in each.items() if not math.isnan(value)}
        if found:
            found = {"auroc": sum(found.values()) / len(found), **found}
        return {key: torch.tensor(value, dtype=torch.float32) for key, value in found.items()}


def masked_bce(logits: Tensor, labels: Tensor, *, positive_weight: float = 1.0) -> Tensor:
    """Binary cross-entropy over the known labels.

    Args:
        logits: [B,14].
        labels: [B,14] of 1, 0, NaN; NaN gives neither loss nor gradient.
        positive_weight: factor of the positive labels' losses.

    Returns:
        The sum over known labels by their number per rank, where that number is averaged over all ranks: averaging the
        gradients of R ranks then gives what one rank with the whole batch gets, however the unknown labels are spread.
    """
    known = ~labels.isnan()
    losses = functional.binary_cross_entropy_with_logits(
        logits.float(),
        torch.where(known, labels, 0.0),
        pos_weight=torch.tensor(positive_weight, device=logits.device),
        reduction="none",
    )
    ranks = world_size()
    count = sum_over_ranks(known.sum().float()) / ranks
    return torch.where(known, losses, 0.0).sum() / count.clamp(min=1 / ranks)


class FindingClassifier(lightning.LightningModule):
    """A classifier of the 14 findings, trained from scratch.

    Args:
        network: sizes, or the plain data of a checkpoint.
        optimizer: from parameters to the optimiser.
        positive_weight: factor of positive labels in the loss; above 1 where findings are rare.
        cosine: let the learning rate fall to 0 along half a cosine over the run.
        cam_layer: which of the network's maps Grad-CAM takes in the pointing game.
        least_cases: cases a finding needs to count in the pointing game's means.
    """

    def __init__(
        self,
        network: ClassifierConfig = ClassifierConfig(),  # noqa: B008 - frozen
        *,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=2e-3, weight_decay=0.02),
        positive_weight: float = 1.0,
        cosine: bool = True,
        cam_layer: int = -1,
        least_cases: int = 5,
    ) -> None:
        super().__init__()
        config = stages.as_config(ClassifierConfig, network)
        self.save_hyperparameters({"network": dataclasses.asdict(config)})
        self.network = FindingNetwork(config)
        self.optimizer, self.cosine = optimizer, cosine
        self.positive_weight = positive_weight
        self.auroc = FindingAUROC()
        self.pointed = CamCases(limit=CAM_IMAGES, least=least_cases, layer=cam_layer)

    def setup(self, stage: str) -> None:
        """At fit: refuse data without a label, and say which findings cannot be learnt.

        Raises:
            ValueError: when no training row has a label: nothing would be learnt, at a loss of 0.
        """
        data: Any = getattr(self.trainer, "datamodule", None) if stage == "fit" else None
        if data is None:
            return  # loaders alone do not tell their labels
        labels = data.train_labels()
        if np.isnan(labels).all():
            raise ValueError(
                f"layout {data.manifest.source}: none of {len(labels)} training rows has a label (1 or 0), so a "
                "classifier learns nothing; a table's labels are columns with the names of the findings, or "
                "data.init_args.layout_options.label_columns names them; uncertain labels alone (-1) need "
                "data.init_args.policy=ones or zeros; else take a data set with labels"
            )
        lacking = [finding for finding, column in zip(FINDINGS, labels.T, strict=True) if not (column == 1).any()]
        if lacking and self.trainer.is_global_zero:
            print(
                f"classifier: none of {len(labels)} training rows is positive for {', '.join(lacking)}: "
                "these cannot be learnt",
                flush=True,
            )

    def forward(self, image: Tensor) -> ClassifierOutput:
        """Image float [B,1,H,W] in [-1,1], H = W = `network.config.resolution`.

        Raises:
            ValueError: if the image has another size.
        """
        side = self.network.config.resolution
        if image.ndim != 4 or image.shape[1:] != (1, side, side):
            raise ValueError(
                f"the classifier takes images [B,1,{side},{side}], got {list(image.shape)}; "
                "give the data and model.network.resolution the same value"
            )
        return self.network(image)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Masked binary cross-entropy."""
        loss = masked_bce(self(batch["image"]).logits, batch["labels"], positive_weight=self.positive_weight)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect scores."""
        self.auroc.update(self(batch["image"]).logits, batch["labels"])

    def on_validation_epoch_end(self) -> None:
        """Log `validate/auroc` and one value a finding."""
        self._log_auroc("validate")

    def on_test_epoch_start(self) -> None:
        """Begin with no cases of the pointing game."""
        self.pointed = CamCases(limit=CAM_IMAGES, least=self.pointed.least, layer=self.pointed.layer)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect scores, and where the data has masks Grad-CAM's cases of the pointing game."""
        self.validation_step(batch, batch_idx)
        if "masks" in batch:
            self.pointed.add(batch, network=self.network)

    def on_test_epoch_end(self) -> None:
        """Log `classifier/auroc`, one value a finding, and `classifier/pointing...` where the data has masks."""
        self._log_auroc("classifier")
        self.log_dict({f"classifier/{key}": value for key, value in self.pointed.scores().items()})

    def _log_auroc(self, prefix: str) -> None:
        # `compute` has gathered over ranks: every rank logs the same values.
        values = self.auroc.compute()
        if not values:
            raise ValueError(
                "no finding has both a positive and a negative label among the evaluated images, so there is no AUROC; "
                "evaluate more images (limit_val_batches / limit_test_batches) or data with labels"
            )
        self.log_dict({f"{prefix}/{key}": value.to(self.device) for key, value in values.items()})
        self.auroc.reset()

    def configure_optimizers(self) -> Any:
        """The given optimiser, with a learning rate that falls along a cosine."""
        optimizer = self.optimizer(self.network.parameters())
        return with_schedule(optimizer, steps=self.trainer.estimated_stepping_batches) if self.cosine else optimizer

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Mark the checkpoint as a classifier's."""
        stages.stamp(checkpoint, stage=STAGE)

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse another stage's checkpoint."""
        stages.check_stage(checkpoint, stage=STAGE)


class FrozenFindingClassifier(nn.Module):
    """A trained classifier as a fixed measure: eval mode, gradients for the image but not for its weights.

    Images of another size are resized to the classifier's own (bilinear, antialiased). Losses take `output`, which
    follows autocast; the others compute in float32 whoever calls, as measures must not depend on a run's precision.

    Args:
        ckpt: checkpoint of a FindingClassifier.

    Attributes:
        name: how metrics call this extractor.
        digest: sha256 of the file.
        num_features: D.
        resolution: side in pixels of the images that it was trained on.
    """

    name = "finding-classifier"

    def __init__(self, ckpt: str) -> None:
        super().__init__()
        checkpoint = stages.open_stage(ckpt, stage=STAGE)
        with stages.drawn_apart():
            network = FindingNetwork(stages.as_config(ClassifierConfig, checkpoint.config["network"]))
        network.load_state_dict(checkpoint.weights("network."))
        self.digest = checkpoint.digest
        self.num_features = network.config.num_features
        self.resolution = network.config.resolution
        self.ckpt, self.warned = ckpt, False
        self.frozen = stages.Frozen(network)

    @property
    def network(self) -> FindingNetwork:
        """The network itself, e.g. to take layers of it."""
        assert isinstance(self.frozen.part, FindingNetwork)
        return self.frozen.part

    def output(self, image: Tensor) -> ClassifierOutput:
        """Features, logits and maps in one pass; image [B,1,H,W] in [-1,1]. Under autocast in its precision."""
        image = image.float()
        if image.shape[-2:] != (self.resolution, self.resolution):
            self._warn_of(image.shape)
        return self.frozen.part(resized(image, self.resolution))

    def _measured(self, image: Tensor) -> ClassifierOutput:
        with float32(image.device):
            return self.output(image)

    def _warn_of(self, shape: torch.Size) -> None:
        if self.warned:
            return
        self.warned = True
        rank_zero_warn(
            f"{self.ckpt} was trained on images of {self.resolution} × {self.resolution} pixels and gets images of "
            f"{shape[-2]} × {shape[-1]}, which it resizes: it was not trained to judge those; train one "
            "at the data's size (--data.init_args.size) and name its checkpoint"
        )

    def features(self, image: Tensor) -> Tensor:
        """Float32 [B,D]."""
        return self._measured(image).features

    def logits(self, image: Tensor) -> Tensor:
        """Float32 [B,14] in the order of FINDINGS."""
        return self._measured(image).logits

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Float32 [B,C_i,H_i,W_i], full resolution first."""
        return self._measured(image).maps

    def forward(self, image: Tensor) -> Tensor:
        """The features."""
        return self.features(image)
