"""SampleGrid: what is drawn where, when, and that the text can be read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from PIL import Image, ImageFont

from callbacks.grids import (
    DIFFERENCE,
    DIFFERENCE_GAIN,
    HEADER,
    MARGIN,
    MAX_LINES,
    SampleGrid,
    compose,
    error_map,
    wrap,
)
from tests.callbacks.chain import Images, TinyData, TinyStage, trainer


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_pixels_stand_where_the_layout_says():
    ramp = torch.linspace(-1, 1, 64).expand(64, 64)[None, None]
    picture = np.asarray(compose({"real": ramp, "synthetic": -ramp}, captions=["Clear lungs."], cell=64))
    assert picture.shape[1] == 64 + 2 * MARGIN
    first = picture[HEADER : HEADER + 64, MARGIN : MARGIN + 64]
    expected = np.round((np.linspace(-1, 1, 64) + 1) * 127.5)
    assert np.abs(first - expected[None]).max() <= 1
    below = HEADER + 64 + MARGIN + HEADER
    assert np.abs(picture[below : below + 64, MARGIN : MARGIN + 64] - expected[None, ::-1]).max() <= 1
    text = picture[below + 64 + MARGIN :]
    assert text.min() == 0  # ink
    blank = np.asarray(compose({"real": ramp, "synthetic": -ramp}, captions=[""], cell=64))
    assert blank[below + 64 + MARGIN :].min() == 255


def test_wrapped_lines_fit_and_lose_nothing_below_the_limit():
    font = ImageFont.load_default(12)
    text = "Small left pleural effusion with adjacent atelectasis. " * 4
    lines = wrap(text, font=font, width=120)
    assert " ".join(lines).split() == text.split()
    assert all(font.getlength(line) <= 120 for line in lines)
    long = wrap("pneumonoultramicroscopicsilicovolcanoconiosis", font=font, width=60)
    assert "".join(long) == "pneumonoultramicroscopicsilicovolcanoconiosis"
    assert all(font.getlength(line) <= 60 for line in long)
    cut = wrap("word " * 500, font=font, width=100)
    assert len(cut) == MAX_LINES
    assert cut[-1].endswith("...")
    assert wrap("", font=font, width=100) == []


def test_validation_draws_every_second_epoch_and_passes_over_epochs_without_samples(tmp_path: Path):
    t = trainer(tmp_path, [SampleGrid(columns=3)], max_epochs=4)
    t.fit(TinyStage(), TinyData(8))
    # The stage samples on even epochs only.
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["validate-0.png", "validate-2.png"]
    t = trainer(tmp_path / "rare", [SampleGrid(every_n_epochs=4)], max_epochs=4)
    t.fit(TinyStage(), TinyData(8))
    assert sorted(p.name for p in (tmp_path / "rare" / "pictures").iterdir()) == ["validate-0.png"]


class PictureLogger(CSVLogger):
    """A logger that takes images, as WandbLogger does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.pictures: list[tuple[str, tuple[int, int]]] = []

    def log_image(self, key: str, images: list[Any]) -> None:
        self.pictures += [(key, image.size) for image in images]


def test_a_test_draws_reconstructions_with_their_difference_and_gives_them_to_loggers(tmp_path: Path):
    logger = PictureLogger(tmp_path)
    t = trainer(tmp_path, [SampleGrid(output="reconstruction", columns=2, cell=64)], logger=logger)
    t.test(TinyStage(), TinyData(8), verbose=False)
    picture = read(tmp_path / "pictures" / "test-0.png")
    assert logger.pictures == [("pictures/test", picture.shape[::-1])]
    assert picture.shape[1] == 2 * (64 + MARGIN) + MARGIN
    third = picture[2 * (HEADER + 64 + MARGIN) + HEADER :][:64, MARGIN : MARGIN + 64]
    image = Images(8).image[:1]
    gap = (torch.nn.functional.avg_pool2d(image, 3, 1, 1) * 0.9 - image).abs().mean() * DIFFERENCE_GAIN
    assert third.mean() == pytest.approx(min(gap.item(), 2.0) * 127.5, rel=0.1)


def test_the_error_map_is_white_from_a_quarter_of_the_range_on():
    real = torch.zeros(1, 1, 2, 2)
    made = torch.tensor([[[[0.0, 0.25], [-0.5, 1.0]]]])
    drawn, means = error_map(made, real)
    assert drawn.flatten().tolist() == [-1.0, 0.0, 1.0, 1.0]
    assert means == pytest.approx([100 * (0.25 + 0.5 + 1.0) / 4 / 2])
    assert f"{100 // DIFFERENCE_GAIN} % of the range" in DIFFERENCE
    assert DIFFERENCE_GAIN == 4


def test_a_validation_step_may_sample_fewer_images_than_the_batch_holds(tmp_path: Path):
    class Few(TinyStage):
        def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, torch.Tensor]:
            return {"synthetic": self(batch["image"][:2])}

    t = trainer(tmp_path, [SampleGrid(columns=4, cell=64)], max_epochs=1)
    t.fit(Few(), TinyData(8))
    assert read(tmp_path / "pictures" / "validate-0.png").shape[1] == 2 * (64 + MARGIN) + MARGIN


def test_a_test_without_the_named_images_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="no 'drawn' images; it returned"):
        trainer(tmp_path, [SampleGrid(output="drawn")]).test(TinyStage(), TinyData(8), verbose=False)
    with pytest.raises(ValueError, match="columns 0"):
        SampleGrid(columns=0)
