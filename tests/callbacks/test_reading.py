"""Reference images are read a block at a time, each rank its share, and a broken one is named."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from callbacks.alignment import ReportAlignment
from callbacks.extraction import CHUNK
from callbacks.fidelity import FidelityMetrics
from callbacks.metrics.bank import id_hash
from callbacks.metrics.frechet import frechet_distance, moments
from callbacks.quality import NaturalQuality
from callbacks.reading import BLOCK, drawn, read_images
from tests.callbacks.chain import Images, Pictures, RandomProjection, TinyData, TinyStage, trainer
from tests.callbacks.test_alignment import Brightness
from tests.callbacks.test_quality import TexturedData


def test_blocks_hold_the_rows_that_are_asked_for_in_order():
    pictures, cpu = Pictures(Images(11).image), torch.device("cpu")
    blocks = list(read_images(pictures, range(1, 11, 2), device=cpu, what="training", block=2))
    assert [places for _, _, places in blocks] == [[1, 3], [5, 7], [9]]
    assert [ids for _, ids, _ in blocks][-1] == ["training-9"]
    assert torch.equal(torch.cat([images for images, _, _ in blocks]), pictures.images[1::2])
    assert pictures.largest == 2
    assert list(read_images(pictures, [], device=cpu, what="training")) == []


def test_a_draw_names_no_row_twice_and_depends_on_the_seed():
    rows = drawn(50, 20, seed=3)
    assert rows == sorted(set(rows)) == drawn(50, 20, seed=3) != drawn(50, 20, seed=4)
    assert len(rows) == 20
    assert max(rows) < 50
    assert drawn(5, 20, seed=0) == [0, 1, 2, 3, 4]


def test_more_references_than_a_block_score_as_the_whole_set(tmp_path: Path):
    data, extractor = TinyData(BLOCK + 70, batch_size=100), RandomProjection()
    t = trainer(tmp_path, [FidelityMetrics(extractor, controls=False)])
    t.test(TinyStage(), data, verbose=False)
    real, reference = (Images(BLOCK + 70, seed=seed).image for seed in (0, 1000))
    expected = frechet_distance(moments(extractor.features(real)), moments(extractor.features(reference)))
    assert float(t.callback_metrics["generator/fid_floor"]) == pytest.approx(expected, rel=1e-5)
    assert [pictures.largest for pictures in data.given] == [BLOCK]


def cases() -> dict[str, tuple[Callback, TinyData, int]]:
    """What measures against reference images, its data, and the most images that it may ask for at a time."""
    return {
        "fidelity": (FidelityMetrics(RandomProjection()), TinyData(), 37),
        "alignment": (ReportAlignment(Brightness()), TinyData(), 5),
        "quality": (NaturalQuality(fit_images=150), TexturedData(13), CHUNK),
    }


@pytest.mark.parametrize("name", cases())
def test_few_are_in_memory_and_a_broken_one_is_named(name: str, tmp_path: Path):
    callback, data, most = cases()[name]
    trainer(tmp_path, [callback]).test(TinyStage(), data, verbose=False)
    assert [pictures.largest for pictures in data.given] == [most]
    callback, data, _ = cases()[name]
    # The aligner compares the first image with that one.
    data.broken_reference = row = id_hash("image-0") % 64 if name == "alignment" else 7
    with pytest.raises(ValueError, match=rf"reference image training-{row}: 1 of \d+ values are not finite"):
        trainer(tmp_path, [callback]).test(TinyStage(), data, verbose=False)
