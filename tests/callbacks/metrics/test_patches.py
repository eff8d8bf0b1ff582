"""PatchBank against a search through all patches, and where patches are cut."""

import pytest
import torch

from callbacks.metrics.patches import PatchBank, cut


def test_a_patch_is_its_cell_with_a_margin_and_black_outside():
    image = (torch.arange(64).view(1, 1, 8, 8) / 127.5) - 1  # grey levels 0 to 63
    plain = cut(image, grid=2, margin=0.0)
    assert plain.shape == (1, 4, 4, 4)
    grey = torch.arange(64, dtype=torch.uint8).view(8, 8)
    assert torch.equal(plain[0, 1], grey[:4, 4:])
    wide = cut(image, grid=2, margin=0.5)
    assert wide.shape == (1, 4, 8, 8)
    assert torch.equal(wide[0, 0, 2:, 2:], grey[:6, :6])
    assert int(wide[0, 0, :2].sum()) == int(wide[0, 0, :, :2].sum()) == 0


def cells(images: int, *, codes: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randint(codes, (images, 9), generator=generator),
        torch.randint(20, (images, 9), generator=generator) / 20,  # many ties
        torch.randint(256, (images, 9, 2, 2), generator=generator, dtype=torch.uint8),
        torch.arange(images),
    )


def test_the_nearest_of_each_image_are_kept_whatever_the_batches():
    codes, distances, pixels, keys = cells(30, codes=7)
    codes[codes == 5] = 4
    expected: dict[int, list] = {}
    for code in range(7):
        best = {}
        for image in range(30):
            rows = [(float(distances[image, i]), i) for i in range(9) if codes[image, i] == code]
            if rows:
                best[image] = min(rows)
        chosen = sorted((distance, image, cell) for image, (distance, cell) in best.items())[:4]
        expected[code] = [(distance, pixels[image, cell].tolist()) for distance, image, cell in chosen]
    for size in (30, 7, 1):
        bank = PatchBank(7, patches=4, side=2)
        for part in torch.randperm(30, generator=torch.Generator().manual_seed(size)).split(size):
            bank.update(codes[part], distances[part], pixels[part], keys[part])
        found = bank.compute()
        assert found.counts.tolist() == torch.bincount(codes.flatten(), minlength=7).tolist()
        for code in range(7):
            there = found.distances[code].isfinite()
            got = zip(found.distances[code][there].tolist(), found.pixels[code][there].tolist(), strict=True)
            assert [p for _, p in expected[code]] == [p for _, p in got], code
            assert found.distances[code][there].tolist() == pytest.approx([d for d, _ in expected[code]])
    assert not found.distances[5].isfinite().any()
    assert int(found.pixels[5].sum()) == 0


def test_the_state_does_not_grow_with_the_images():
    bank = PatchBank(7, patches=4, side=2)
    before = sum(getattr(bank, name).numel() for name in ("counts", "distances", "keys", "pixels"))
    codes, distances, pixels, _ = cells(30, codes=7)
    for start in range(0, 300, 30):
        bank.update(codes, distances, pixels, torch.arange(start, start + 30))
    assert sum(getattr(bank, name).numel() for name in ("counts", "distances", "keys", "pixels")) == before
    assert int(bank.compute().counts.sum()) == 10 * 30 * 9
