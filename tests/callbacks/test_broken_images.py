"""An image that is not finite stops each callback with its name, wherever it comes from."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from callbacks.training_evaluation import TrainingEvaluation
from tests.callbacks.all_callbacks import DoubledStage, EverySplit, every_callback
from tests.callbacks.chain import trainer
from tests.callbacks.utility_case import Rows

REAL, MADE, TRAINING, REFERENCE = "real image", "synthetic image", "training image", "reference image"
# What each callback looks at; the utility's own images are 8-bit files, which hold no NaN.
SEEN = {
    "FidelityMetrics": (REAL, MADE, REFERENCE),
    "DownstreamClassifier": (REAL, MADE),
    "ReportAlignment": (REAL, MADE, REFERENCE),
    "SampleDiversity": (REAL, MADE),
    "NaturalQuality": (REAL, MADE, REFERENCE),
    "PrivacyGate": (MADE, TRAINING),
    "SyntheticUtility": (REAL, TRAINING),
}


class BrokenTraining(EverySplit):
    def split_dataset(self, split: str) -> Rows:
        rows = super().split_dataset(split)
        if split == "train":
            rows.images.image[7, 0, 0, 0] = torch.nan
        return rows


def broken(where: str) -> tuple[DoubledStage, EverySplit, str]:
    """A stage and its data, and how the error names the image."""
    stage, data = DoubledStage(), BrokenTraining() if where == TRAINING else EverySplit()
    stage.bad_output = where == MADE
    if where == REAL:
        data.broken = 12
    if where == REFERENCE:
        data.broken_reference = 54  # with which the aligner compares an image
    names = {REAL: "image-12", MADE: "image-6", TRAINING: "train-7", REFERENCE: "training-54"}
    return stage, data, rf"{where} {names[where]}: \d of 1024 values are not finite"


def by_name(folder: Path) -> dict[str, Callback]:
    return {type(callback).__name__: callback for callback in every_callback(folder)}


def test_every_callback_is_looked_at(tmp_path: Path) -> None:
    assert set(by_name(tmp_path)) == set(SEEN)


@pytest.mark.parametrize(("name", "where"), [(name, where) for name, seen in SEEN.items() for where in seen])
def test_the_image_is_named(name: str, where: str, tmp_path: Path) -> None:
    stage, data, message = broken(where)
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, [by_name(tmp_path)[name]]).test(stage, data, verbose=False)


@pytest.mark.parametrize("where", [REAL, MADE, TRAINING])
def test_so_it_is_in_training(where: str, tmp_path: Path) -> None:
    stage, data, message = broken(where)
    evaluation = TrainingEvaluation(callbacks=every_callback(tmp_path), every_n_epochs=1)
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, [evaluation], max_epochs=1).fit(stage, data)
