"""Radiographs to one vector a patch, each from a small surrounding of it: what is found there lies there.

A network that sees the whole chest names findings well and points badly: nothing keeps what it knows of a finding at
the finding's place. Measured on the phantom with the same training: features that see half of the image point beside
what they name (0.45 of the cases are hit, 0.62 within two pixels), features that see a third of it hit 0.62 (0.85).
So at patches of 2 pixels and one block each sees 21 pixels and its own place; the blocks normalise each place for
itself. The group normalisation of the first stages would tell it how bright the image is as a whole: where these are a
classifier's, `local_norm` takes its place. Where exactly a patch looks is measured, see `receptive_field`.
Legend: B images, S patches a side, P = S·S patches (row-major), C width, D the shared space.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.networks.adaptive_patches import AdaptivePatches
from lightning_modules.networks.boxes import grid_boxes
from lightning_modules.networks.classifier import FindingNetwork, stem_and_stages
from lightning_modules.networks.local_norm import made_local
from lightning_modules.networks.pretrained_image import ImageTrunk
from lightning_modules.networks.receptive_field import mean_offset

WAVES = 4  # frequencies of the place


class PlaceNorm(nn.LayerNorm):
    """LayerNorm over the channels of each place: [B,C,H,W] → the same."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each place for itself."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PlaceBlock(nn.Module):
    """A residual block of two convolutions of side `kernel`."""

    def __init__(self, width: int, *, kernel: int) -> None:
        super().__init__()
        same = kernel // 2
        self.layers = nn.Sequential(
            PlaceNorm(width),
            nn.SiLU(),
            nn.Conv2d(width, width, kernel, padding=same),
            PlaceNorm(width),
            nn.SiLU(),
            nn.Conv2d(width, width, kernel, padding=same),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → the same shape."""
        return x + self.layers(x)


def waves(side: int) -> Tensor:
    """Sines and cosines of each patch's place, float32 [1,4·WAVES,side,side]."""
    centre = (torch.arange(side) + 0.5) / side * 2 - 1
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    angles = [math.pi / 2 * 2**k * axis for k in range(WAVES) for axis in (y, x)]
    return torch.stack([f(angle) for angle in angles for f in (torch.sin, torch.cos)])[None]


def every_second(x: Tensor, phase: int | None) -> Tensor:
    """Every second place of every second row, beginning with one of four: [B,C,S,S] → [B,C,S/2,S/2]; all if None."""
    return x if phase is None else x[:, :, phase // 2 :: 2, phase % 2 :: 2]


class PatchEncoder(nn.Module):
    """The first stages of a finding network, residual blocks, the patch's place, one unit vector a patch.

    Args:
        side: patches along one side of the image.
        channels: widths of the stages, each of which halves the image: those of a FindingClassifier, so that its
            weights can be taken.
        width: channels of the blocks.
        depth: blocks of 3 × 3 convolutions on the patch grid; each widens what a patch sees.
        dim: size of the shared space.
        dropout: of the channels before the last layer.
        adaptive: let each patch choose its own box (see `adaptive_patches`).
        trunk: a pretrained network in place of the stages; `side` and `channels` are then its own.
    """

    place: Tensor
    boxes: Tensor
    offset: Tensor

    def __init__(
        self,
        *,
        side: int,
        channels: tuple[int, ...],
        width: int,
        depth: int,
        dim: int,
        dropout: float,
        adaptive: bool = False,
        trunk: ImageTrunk | None = None,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        if trunk is None:
            self.size = side * 2 ** len(channels)
            self.stem, self.stages = stem_and_stages(channels)
        else:
            self.size, side, channels = trunk.resolution, trunk.side, (trunk.channels,)
        self.channels, self.frozen = channels, False
        self.enter = nn.Conv2d(channels[-1], width, 1)
        self.blocks = nn.Sequential(*(PlaceBlock(width, kernel=3) for _ in range(depth)), PlaceNorm(width), nn.SiLU())
        self.register_buffer("place", waves(side), persistent=False)
        self.register_buffer("boxes", grid_boxes(side), persistent=False)
        self.register_buffer("offset", torch.zeros(2))  # of where patches look from their cells, fractions (x, y)
        self.place_in = nn.Conv2d(4 * WAVES, width, 1)
        self.adaptive = AdaptivePatches(width) if adaptive else None
        self.join = nn.Sequential(PlaceBlock(width, kernel=1), PlaceNorm(width))
        self.out = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, dim))
        self.to(memory_format=torch.channels_last)

    def take_trunk(self, network: FindingNetwork) -> None:
        """Copy the first stages of a finding network.

        Raises:
            ValueError: if its widths are others, or it was trained on images of another size.
        """
        mine, theirs = tuple(self.channels), tuple(network.config.channels[: len(self.channels)])
        if mine != theirs:
            raise ValueError(
                f"the aligner's image encoder begins with channels {list(mine)}, the classifier of classifier_ckpt "
                f"with {list(theirs)}; give model.init_args.network.channels the classifier's"
            )
        if network.config.resolution != self.size:
            raise ValueError(
                f"the classifier of classifier_ckpt was trained on images of {network.config.resolution} pixels, the "
                f"aligner's have {self.size}; train one at the data's size"
            )
        self.stem.load_state_dict(network.stem.state_dict())
        for stage, given in zip(self.stages, network.stages, strict=False):
            stage.load_state_dict(given.state_dict())

    def freeze_trunk(self) -> None:
        """Leave the stem and the stages as they are, but for what their norms tell of the rest of the image."""
        self.frozen = True
        for part in (self.stem, self.stages):
            part.requires_grad_(False)
            made_local(part)

    def forward(self, image: Tensor, *, phase: int | None = None) -> Tensor:
        """The vectors of `located`."""
        return self.located(image, phase=phase)[0]

    def located(self, image: Tensor, *, phase: int | None = None) -> tuple[Tensor, Tensor]:
        """Float [B,1,H,W] in [-1,1] → unit vectors, float32 [B,P,D], and the boxes they look at, float32 [B,P,4].

        Boxes at the border may reach out of the image.

        Args:
            image: of the size that the network was built for.
            phase: 0 .. 3 takes every second patch of every second row only, beginning with one of four: a quarter of
                the late interaction's cost in training. None takes all.

        Raises:
            ValueError: if the image has another shape.
        """
        if image.ndim != 4 or image.shape[1:] != (1, self.size, self.size):
            raise ValueError(
                f"the aligner was built for images [B,1,{self.size},{self.size}] and was given {list(image.shape)}; "
                "set the data's resolution to the aligner's"
            )
        image = image.contiguous(memory_format=torch.channels_last)
        x = self._staged(image) if self.trunk is None else self.trunk(image)
        x = self.blocks(self.enter(x)) + self.place_in(self.place)
        if self.adaptive is not None:
            x, boxes = self.adaptive(x, phase=phase)
        else:
            x, boxes = every_second(x, phase), self._grid_boxes(len(x), phase)
        x = self.join(x).permute(0, 2, 3, 1).flatten(1, 2)  # B P C
        return functional.normalize(self.out(x).float(), dim=-1), boxes + self.offset.repeat(2)

    def locate(self, image: Tensor, *, seeds: Sequence[int]) -> None:
        """Measure on all ranks' images [B,1,H,W] in [-1,1] where patches look, and move their boxes there.

        One of the B seeds for each image.
        """
        training, offset = self.training, self.offset.clone()
        self.offset.zero_()
        try:
            offset = mean_offset(self.eval().located, image, seeds=seeds)
        finally:  # where it fails they stay where they were
            self.offset.copy_(offset)
            self.train(training)

    def _staged(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for stage in self.stages:
            x = stage(x)
        return x

    def _grid_boxes(self, count: int, phase: int | None) -> Tensor:
        side = self.place.shape[-1]
        boxes = every_second(self.boxes.T.unflatten(1, (side, side))[None], phase)  # 1 4 s s
        return boxes.flatten(2).transpose(1, 2).expand(count, -1, -1)
