"""A pasted patch is found at its place; places without contrast match nothing."""

import torch

from callbacks.metrics.copied_patches import (
    SHIFT,
    WINDOW,
    patch_scores,
    shifted_windows,
    window_distances,
    windows,
)
from callbacks.metrics.registration import fine
from tests.callbacks.metrics.test_registration import smooth_noise


def scores(images: torch.Tensor, training: torch.Tensor, held_out: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    at_rows = windows(fine(training))
    usual = window_distances(shifted_windows(fine(held_out)), at_rows)[0].median(0).values
    distances, rows = window_distances(shifted_windows(fine(images)), at_rows)
    least, cell = patch_scores(distances, usual)
    return least, rows.gather(1, cell[:, None])[:, 0].tolist()


def test_a_pasted_patch_names_its_training_image():
    training, held_out, fresh = smooth_noise(50, seed=0), smooth_noise(60, seed=1), smooth_noise(20, seed=2)
    pasted = fresh.clone()
    for i in range(20):
        pasted[i, :, 16:44, 24:52] = training[2 * i, :, 16:44, 24:52]
    null, _ = scores(held_out, training, held_out)
    clean, _ = scores(fresh, training, held_out)
    found, rows = scores(pasted, training, held_out)
    assert found.max() < null.min()
    assert found.max() < clean.min()
    assert rows == [2 * i for i in range(20)]


def test_a_patch_that_moved_by_a_pixel_is_found():
    picture = torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(0))
    moved = torch.roll(picture, (SHIFT, -SHIFT), dims=(1, 2))
    distances, _ = window_distances(shifted_windows(moved), windows(picture))
    inner = distances.view(13, 13)[1:-1, 1:-1]
    assert inner.max() < 1e-5
    assert window_distances(shifted_windows(picture.flip(1)), windows(picture))[0].min() > 0.2


def test_windows_without_contrast_match_nothing():
    flat = 0.001 * torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(0))
    distances, _ = window_distances(shifted_windows(flat), windows(flat))
    assert distances.min() > 0.9
    assert windows(flat).shape[-1] == WINDOW**2


def test_scores_are_relative_to_the_place():
    distances, usual = torch.tensor([[0.2, 0.4], [0.3, 0.1]]), torch.tensor([0.1, 0.4])
    least, cell = patch_scores(distances, usual)
    torch.testing.assert_close(least, torch.tensor([1.0, 0.25]))
    assert cell.tolist() == [1, 1]
