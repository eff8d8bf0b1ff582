"""NIQE against scikit-video's parts, known shapes, and what it does with flat patches."""

from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.linalg
import torch
from PIL import Image
from torch import Tensor

from callbacks.metrics.niqe import (
    NaturalModel,
    asymmetric_gaussian,
    fit,
    niqe,
    normalised,
    patch_features,
    read_model,
    sharp,
)


def textures(n: int, *, size: int = 64, seed: int = 0) -> Tensor:
    """Float [n,1,size,size] in [-1,1] of smoothed noise of differing coarseness."""
    noise = np.random.default_rng(seed).normal(size=(n, size, size))
    sigmas = np.linspace(0.6, 1.6, n)
    smooth = np.stack([scipy.ndimage.gaussian_filter(x, s) * s for x, s in zip(noise, sigmas, strict=True)])
    return torch.from_numpy(smooth).clamp(-1, 1)[:, None]


def reference_features(image: Tensor, *, patch: int) -> np.ndarray:
    """The same by scikit-video's functions, patch by patch. Its own assembly fails under numpy 2 and has bl for br."""
    from skvideo.utils import aggd_features, compute_image_mscn_transform, paired_product

    pixels = np.round((image[0].numpy() + 1) * 127.5).astype(np.float32)
    half = np.asarray(Image.fromarray(pixels).resize((len(pixels) // 2,) * 2, Image.Resampling.BICUBIC))
    rows = []
    for grey, side in ((pixels, patch), (half, patch // 2)):
        normal = compute_image_mscn_transform(grey, extend_mode="nearest")[0]
        found = []
        for top in range(0, len(grey), side):
            for left in range(0, len(grey), side):
                tile = normal[top : top + side, left : left + side]
                shape, _, low, high, *_ = aggd_features(tile.copy())
                row = [shape, (low + high) / 2]
                for product in paired_product(tile):
                    row += list(aggd_features(product.copy())[:4])
                found.append(row)
        rows.append(found)
    return np.concatenate(rows, axis=1)


def test_features_are_those_of_scikit_video():
    images = textures(5)
    ours = patch_features(images, patch=32).features
    assert ours.shape == (5, 4, 36)
    for image, found in zip(images, ours, strict=True):
        # It computes in float32, and the shape is a step of a grid of .001.
        np.testing.assert_allclose(found.numpy(), reference_features(image, patch=32), atol=2.1e-3)
        close = np.isclose(found.numpy(), reference_features(image, patch=32), atol=1e-4)
        assert close.mean() > 0.98


def test_the_distance_is_that_of_scipy():
    features = patch_features(textures(40), patch=32).features
    model = fit(features.flatten(0, 1))
    other = patch_features(textures(3, seed=5), patch=32).features
    rows = features.flatten(0, 1).numpy()
    np.testing.assert_allclose(model.covariance.numpy(), np.cov(rows.T))
    for image, value in zip(other.numpy(), niqe(other, model).tolist(), strict=True):
        away = image.mean(0) - rows.mean(0)
        inverse = scipy.linalg.pinv((np.cov(rows.T) + np.cov(image.T)) / 2)
        assert value == pytest.approx(np.sqrt(away @ inverse @ away), rel=1e-6)


@pytest.mark.parametrize(("power", "shape"), [(1.0, 1.0), (2.0, 2.0)])
def test_the_shape_of_laplace_and_normal_numbers_is_found(power: float, shape: float):
    rng = np.random.default_rng(1)
    drawn = rng.laplace(size=10**6) if power == 1.0 else rng.normal(size=10**6)
    found, left, right = asymmetric_gaussian(torch.from_numpy(drawn).view(1000, 1000))
    assert float(found) == pytest.approx(shape, abs=0.02)
    # Deviation 1 has the scale sqrt(2), a Laplace distribution its own parameter 1.
    assert float(left) == pytest.approx(1.0 if power == 1.0 else 2**0.5, abs=0.02)
    assert float(right) == pytest.approx(float(left), abs=0.02)


def test_skew_is_seen_as_two_scales():
    drawn = torch.from_numpy(np.random.default_rng(2).normal(size=(1000, 1000)))
    _, left, right = asymmetric_gaussian(torch.where(drawn < 0, 3 * drawn, drawn))
    assert float(left / right) == pytest.approx(3.0, rel=0.01)


def test_local_normalisation_of_a_constant_and_of_a_step():
    flat, deviation = normalised(torch.full((1, 1, 16, 16), 77.0, dtype=torch.float64))
    assert flat.abs().max() < 1e-4
    assert deviation.max() < 1e-4
    step = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    step[..., 8:] = 200
    normal, _ = normalised(step)
    assert normal[..., :5].abs().max() < 1e-4  # farther than half a window
    assert normal[0, 0, 8, 7] < -0.5 < 0.5 < normal[0, 0, 8, 8]


def test_flat_patches_are_left_out_and_flat_images_have_no_figure():
    images = textures(30)
    images[0, :, :32] = -1.0  # the two upper patches of an image
    images[1] = 0.25
    patches = patch_features(images, patch=32)
    assert patches.features[0].isfinite().all(-1).tolist() == [False, False, True, True]
    kept = sharp(patches)
    assert kept[0].tolist()[:2] == [False, False]
    assert not kept[1].any()
    values = niqe(patches.features, fit(patches.features[kept]))
    assert values.isnan().tolist() == [False, True] + [False] * 28


def test_the_sharp_patches_of_an_image_are_those_near_its_sharpest():
    images = textures(1)
    images[0, :, :32, :32] *= 0.2
    assert sharp(patch_features(images, patch=32)).tolist() == [[False, True, True, True]]


def test_what_is_beyond_the_last_whole_patch_does_not_count():
    images = textures(2, size=76)
    whole = patch_features(images[..., :64, :64].contiguous(), patch=32).features
    assert torch.equal(patch_features(images, patch=32).features, whole)


def test_worse_than_the_images_of_the_model_is_farther_away():
    features = patch_features(textures(60), patch=32).features
    model = fit(features.flatten(0, 1))
    fresh = textures(20, seed=9)
    noisy = (fresh + 0.3 * torch.randn(fresh.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    good, bad = (niqe(patch_features(x, patch=32).features, model).mean() for x in (fresh, noisy))
    assert bad > 1.5 * good


def test_sizes_that_cannot_work_are_refused():
    with pytest.raises(
        ValueError, match="needs images of at least 192 a side, found \\[64, 64\\]; give a smaller patch"
    ):
        patch_features(textures(1), patch=96)
    for patch in (15, 14, 33):
        with pytest.raises(ValueError, match=f"patches of {patch} pixels; expected an even number of at least 16"):
            patch_features(textures(1), patch=patch)
    with pytest.raises(ValueError, match="more than 36 sharp patches, found 36"):
        fit(torch.rand(36, 36))
    with pytest.raises(ValueError, match="not finite"):
        fit(torch.full((40, 36), torch.nan))


def test_the_published_model_is_read_and_another_file_refused(tmp_path: Path):
    mean, covariance = np.arange(36.0)[None], np.eye(36)
    path = tmp_path / "modelparameters.mat"
    scipy.io.savemat(path, {"mu_prisparam": mean, "cov_prisparam": covariance})
    model = read_model(path)
    assert torch.equal(model.mean, torch.arange(36.0, dtype=torch.float64))
    assert torch.equal(model.covariance, torch.eye(36, dtype=torch.float64))
    # (0 + identity) / 2 inverted is 2: twice the squared distance.
    still = NaturalModel(model.mean, model.covariance)
    patches = (model.mean + 3.0).expand(1, 4, 36)
    assert float(niqe(patches, still)) == pytest.approx(np.sqrt(2 * 36 * 9))
    with pytest.raises(FileNotFoundError, match=r"none\.mat: NIQE's model of photographs is not there"):
        read_model(tmp_path / "none.mat")
    scipy.io.savemat(path, {"pop_mu": mean})
    with pytest.raises(ValueError, match=r"expected mu_prisparam \(1, 36\).*found \{'pop_mu': \(1, 36\)\}"):
        read_model(path)
    path.write_bytes(b"no MATLAB file, but long enough to look like one" * 20)
    with pytest.raises(ValueError, match="cannot be read as a MATLAB file"):
        read_model(path)
