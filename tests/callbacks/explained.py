"""Word maps and clues made by hand, and a tiny stage that gives them: what the tests of explanations share."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.callbacks.chain import SIZE, TinyStage


@dataclasses.dataclass(frozen=True)
class Word:
    heat: Tensor
    word: str = "pleural effusion"
    kind: str = "pathology"
    status: str = "present"
    side: str | None = "left"
    label: str | None = "Pleural Effusion"
    span: tuple[int, int] = (5, 21)
    peak: tuple[float, float] = (0.5, 0.5)
    cosine: float = 0.8
    evidence: float = 0.0


@dataclasses.dataclass(frozen=True)
class Clue:
    positions: tuple[int, ...] = (0,)
    word: str = "pleural effusion"
    score: float = 0.75
    entry: int = 3
    entry_word: str = "pleural effusion"
    side: str | None = "left"
    image_id: str | None = "train-7"
    box: tuple[float, float, float, float] = (0.0, 0.0, 0.25, 0.25)
    codes: tuple[int, ...] = (9,)
    grid: int = 4


def hot(row: int, column: int, *, size: int = SIZE) -> Tensor:
    """A map of 0 but for one pixel of 1."""
    heat = torch.zeros(size, size)
    heat[row, column] = 1.0
    return heat


class TinyExplainer(TinyStage):
    """Says of each image that the brightest pixel shows an effusion, and denies a pneumothorax."""

    def __init__(self, *, key_patches: str | None = None, names: bool = True) -> None:
        super().__init__()
        self.key_patches, self.names = key_patches, names
        self.asked: list[int] = []

    def word_maps(self, image: Tensor, report: Sequence[str], *, anatomy: bool = False) -> list[list[Word]]:
        self.asked.append(len(report))
        maps = []
        for one in image[:, 0]:
            row, column = divmod(int(one.argmax()), SIZE)
            peak = ((column + 0.5) / SIZE, (row + 0.5) / SIZE)
            denied = Word(hot(0, 0), "pneumothorax", status="absent", side=None, label="Pneumothorax", evidence=-3.0)
            maps.append([Word(hot(row, column), peak=peak, evidence=3.0), denied])
        return maps

    def explain_clues(
        self, report: Sequence[str], *, exclude_patients: Sequence[str] | None = None
    ) -> list[list[Clue]]:
        assert exclude_patients is not None
        return [[Clue(image_id=f"not-of-{patient}")] for patient in exclude_patients]

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        return {"picture": [f"{name}.png" for name in batch["image_id"]]} if self.names else batch["image"]
