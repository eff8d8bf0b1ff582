"""WordHeatMaps in real Trainers: which images are drawn when, what predict writes, on one rank and on two."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from callbacks.heat_maps import WordHeatMaps
from callbacks.overlays import OUTLINE, radiograph
from datamodules.reports.labels import FINDINGS
from tests.callbacks.chain import SIZE, Images, TinyData, TinyStage, trainer
from tests.callbacks.explained import TinyExplainer


class Marked(Images):
    """Image 3 alone has a finding; an effusion is marked in it."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.labels[:] = 0
        self.labels[:, 0] = 1  # "No Finding" is no finding
        self.labels[3, 0], self.labels[3, FINDINGS.index("Pleural Effusion")] = 0, 1
        self.masks = torch.zeros(n, len(FINDINGS), SIZE, SIZE, dtype=torch.bool)
        self.masks[3, FINDINGS.index("Pleural Effusion"), 4:12, 4:12] = True

    def __getitem__(self, index: int) -> dict[str, Any]:
        return super().__getitem__(index) | {"masks": self.masks[index]}


class MarkedData(TinyData):
    def images(self) -> Images:
        return Marked(self.n)


def places(picture: np.ndarray, image: Tensor, *, cell: int) -> list[int]:
    """The rows at which the picture's first column shows an image."""
    tile = radiograph(image, size=cell)
    left = picture[:, 6 : 6 + cell]
    return [top for top in range(len(left) - cell) if (left[top : top + cell] == tile).all()]


def test_a_test_draws_the_first_images_those_with_findings_before_the_others(tmp_path: Path) -> None:
    module = TinyExplainer()
    t = trainer(tmp_path, [WordHeatMaps(images=2, cell=64, columns=3)])
    t.test(module, MarkedData(12), verbose=False)
    assert module.asked == [2]  # once, for what is drawn
    picture = np.asarray(Image.open(tmp_path / "pictures" / "heat_maps-test-0.png"))
    images = Marked(12).image[:, 0]
    (third,), (first,) = places(picture, images[3], cell=64), places(picture, images[0], cell=64)
    assert third < first
    assert all(places(picture, images[i], cell=64) == [] for i in (1, 2, 4))
    cyan = (picture == OUTLINE).all(axis=-1)
    assert cyan[third : third + 64, 76:140].any()  # on the effusion's tile of image 3 alone
    assert not cyan[first : first + 64].any()
    assert not cyan[third : third + 64, 146:].any()  # nobody marked a pneumothorax


def test_validation_draws_every_nth_epoch_or_never(tmp_path: Path) -> None:
    for every, expected in ((2, ["heat_maps-validate-0.png", "heat_maps-validate-2.png"]), (0, [])):
        folder = tmp_path / str(every)
        t = trainer(folder, [WordHeatMaps(images=1, every_n_epochs=every, cell=64)], max_epochs=4)
        t.fit(TinyExplainer(), TinyData(6))
        assert sorted(p.name for p in folder.glob("pictures/*")) == expected


def test_predict_writes_every_image_and_every_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    t = trainer(tmp_path, [WordHeatMaps(words=1, cell=64, columns=2)])
    t.predict(TinyExplainer(), TinyData(12), return_predictions=False)
    folder = tmp_path / "heat_maps"
    assert sorted(p.name for p in folder.glob("*.png")) == sorted(f"image-{i}.png" for i in range(12))
    assert not (folder / "clues.parquet").exists()
    words = pd.read_parquet(folder / "words.parquet")
    assert words["image_id"].value_counts().to_dict() == {f"image-{i}": 2 for i in range(12)}  # also what is not drawn
    images = Images(12).image
    for i in range(12):
        effusion, denied = (words[words["image_id"] == f"image-{i}"].iloc[k] for k in range(2))
        row, column = divmod(int(images[i, 0].argmax()), SIZE)
        assert (effusion["x"], effusion["y"]) == pytest.approx(((column + 0.5) / SIZE, (row + 0.5) / SIZE))
        assert (effusion["status"], effusion["side"], effusion["start"], effusion["end"]) == ("present", "left", 5, 21)
        assert denied["status"] == "absent"
        assert pd.isna(denied["side"])
        assert effusion["probability"] == pytest.approx(1 / (1 + np.exp(-3)))
        picture = np.asarray(Image.open(folder / f"image-{i}.png"))
        assert len(places(picture, images[i, 0], cell=64)) == 1
    metadata = pq.read_schema(folder / "words.parquet").metadata
    assert metadata[b"schema"] == b"1"
    assert metadata[b"manifest"].decode() == TinyData(12).manifest.digest()
    assert f"wrote 12 pictures and words.parquet (24 words) to {folder}; with --model" in capsys.readouterr().out
    assert not list(folder.glob(".*"))


def test_key_patches_of_other_patients_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "key_patches.safetensors"
    file.write_bytes(b"entries")
    t = trainer(tmp_path, [WordHeatMaps(cell=64, columns=2)])
    t.predict(TinyExplainer(key_patches=str(file)), TinyData(4), return_predictions=False)
    clues = pd.read_parquet(tmp_path / "heat_maps" / "clues.parquet")
    assert clues["source_image_id"].tolist() == [f"not-of-patient-{i // 2}" for i in range(4)]
    row = clues.iloc[0]
    assert (row["rank"], row["word"], row["entry"], row["grid"]) == (0, "pleural effusion", 3, 4)
    assert (row["positions"].tolist(), row["codes"].tolist()) == ([0], [9])
    assert (row["x1"], row["y1"]) == (0.25, 0.25)
    assert len(pq.read_schema(tmp_path / "heat_maps" / "clues.parquet").metadata[b"key_patches"]) == 64
    assert "and clues.parquet (4 key patches that the reports fetched)" in capsys.readouterr().out


def test_what_predicts_something_else_is_left_alone(tmp_path: Path) -> None:
    t = trainer(tmp_path, [WordHeatMaps()])
    t.predict(TinyExplainer(names=False), TinyData(4), return_predictions=False)
    assert not (tmp_path / "heat_maps").exists()


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="TinyStage has no word maps; WordHeatMaps belongs into the callbacks of"):
        trainer(tmp_path, [WordHeatMaps()]).test(TinyStage(), TinyData(4), verbose=False)
    with pytest.raises(ValueError, match="images 0"):
        WordHeatMaps(images=0)


@pytest.mark.slow
def test_two_ranks_write_what_one_writes(tmp_path: Path) -> None:
    for name, devices in (("one", 1), ("two", 2)):
        strategy = "ddp_spawn" if devices == 2 else "auto"
        t = trainer(
            tmp_path / name, [WordHeatMaps(cell=64, columns=2)], devices=devices, strategy=strategy,
            use_distributed_sampler=False,
        )  # fmt: skip
        t.predict(TinyExplainer(), TinyData(11), return_predictions=False)
    one, two = (tmp_path / name / "heat_maps" for name in ("one", "two"))
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in one.iterdir())
    pd.testing.assert_frame_equal(pd.read_parquet(two / "words.parquet"), pd.read_parquet(one / "words.parquet"))
    for path in one.glob("*.png"):
        assert path.read_bytes() == (two / path.name).read_bytes()
