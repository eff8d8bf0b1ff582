"""CodeAtlas: which codes and patches are drawn where, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.atlas import LABEL, CodeAtlas, compose_atlas, ends
from callbacks.grids import HEADER, MARGIN
from callbacks.metrics.patches import Patches
from tests.callbacks.chain import Images, TinyCodebook, TinyData, TinyStage, trainer


def test_most_used_and_least_used_codes():
    counts = torch.tensor([5, 0, 9, 1, 5, 2, 0, 7])
    most, least = ends(counts, each=2)
    assert most.tolist() == [2, 7]
    assert least.tolist() == [5, 3]
    everything, none = ends(counts, each=3)
    assert everything.tolist() == [2, 7, 0, 4, 5, 3]
    assert none.tolist() == []


def test_patches_stand_in_their_codes_row_without_smoothing():
    pixels = torch.zeros(3, 2, 2, 2, dtype=torch.uint8)
    pixels[1, 0] = torch.tensor([[10, 20], [30, 40]])
    distances = torch.full((3, 2), torch.inf)
    distances[1, 0] = 0.5
    found = Patches(torch.tensor([0, 3, 1]), distances, pixels)
    picture = np.asarray(compose_atlas(found, {"by use": torch.tensor([2, 1])}, title="t", width=8))
    top, left = 2 * HEADER + 10, MARGIN + LABEL
    assert np.array_equal(picture[top : top + 8, left : left + 8], np.kron([[10, 20], [30, 40]], np.ones((4, 4))))
    assert (picture[top - 10 : top, left:] == 255).all()  # code 2 has no patch
    assert (picture[top : top + 8, left + 10 :] == 255).all()


@pytest.mark.parametrize("vectors", [True, False])
def test_the_atlas_of_a_test_shows_the_training_patches_nearest_to_their_codes(tmp_path: Path, vectors: bool):
    t = trainer(tmp_path, [CodeAtlas(images=40, codes=2, patches=3, margin=0.0, width=8, seed=5)])
    stage = TinyCodebook(vectors=vectors)
    t.test(stage, TinyData(9), verbose=False)
    picture = np.asarray(Image.open(tmp_path / "pictures" / "atlas.png"))
    images = Images(40, seed=1005).image
    codes = stage.encode(images)
    most, _ = ends(torch.bincount(codes.flatten(), minlength=6), each=2)
    code = int(most[0])
    mean = torch.nn.functional.avg_pool2d(images, 4)[:, 0]
    centre = stage.network.quantizer.lookup(torch.tensor([[[code]]])).item() if vectors else mean[codes == code].mean()
    distance = (mean - centre).abs().masked_fill(codes != code, torch.inf)
    nearest = distance.flatten(1).min(1)
    image = int(nearest.values.argmin())
    row, column = divmod(int(nearest.indices[image]), 4)
    patch = images[image, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
    expected = ((patch + 1) * 127.5).round().numpy()
    drawn = picture[2 * HEADER : 2 * HEADER + 8, MARGIN + LABEL : MARGIN + LABEL + 8]
    assert np.array_equal(drawn, np.kron(expected, np.ones((2, 2))))


def test_it_is_the_same_again_and_another_for_another_seed(tmp_path: Path):
    def draw(name: str, **kwargs: int) -> bytes:
        t = trainer(tmp_path / name, [CodeAtlas(images=20, codes=2, patches=3, **kwargs)])
        t.test(TinyCodebook(), TinyData(9), verbose=False)
        return (tmp_path / name / "pictures" / "atlas.png").read_bytes()

    assert draw("a") == draw("b") != draw("c", seed=1)


def test_what_it_cannot_draw_is_refused_before_the_test(tmp_path: Path):
    with pytest.raises(TypeError, match="TinyStage has no codebook; CodeAtlas belongs"):
        trainer(tmp_path, [CodeAtlas()]).test(TinyStage(), TinyData(4), verbose=False)
    loader = TinyData(4).train_dataloader()
    with pytest.raises(ValueError, match=r"the datamodule has no reference_dataset\(n, seed\)"):
        trainer(tmp_path, [CodeAtlas()]).test(TinyCodebook(), loader, verbose=False)
    with pytest.raises(ValueError, match="images 0, codes 16"):
        CodeAtlas(images=0)
