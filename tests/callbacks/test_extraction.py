"""The border that images cross: shape, range, finiteness."""

import pytest
import torch

from callbacks.extraction import check_images, extract, images_of
from tests.callbacks.chain import SIZE, RandomProjection


def test_images_in_range_pass_unchanged_and_as_float32():
    images = torch.linspace(-1, 1, 2 * 16).reshape(2, 1, 4, 4)
    assert torch.equal(check_images(images, what="real", ids=["a", "b"]), images)
    assert check_images(images.bfloat16(), what="real", ids=["a", "b"]).dtype == torch.float32


def test_range_and_shape_are_refused_with_both_numbers():
    images = torch.zeros(2, 1, 4, 4)
    images[1, 0, 0, 0] = 255
    with pytest.raises(ValueError, match=r"real image b: pixels in \[0, 255\], expected \[-1, 1\]"):
        check_images(images, what="real", ids=["a", "b"])
    with pytest.raises(ValueError, match=r"shape \[2, 3, 4, 4\], expected \[2, 1, H, W\]"):
        check_images(torch.zeros(2, 3, 4, 4), what="real", ids=["a", "b"])
    with pytest.raises(ValueError, match=r"shape \[1, 1, 4, 4\], the batch's images \[2, 1, 4, 4\]"):
        images_of({"x": images[:1]}, key="x", like=images, ids=["a", "b"])
    with pytest.raises(ValueError, match="no 'x' images; it returned NoneType"):
        images_of(None, key="x", like=images, ids=["a", "b"])


def test_chunks_do_not_change_the_features_and_a_wrong_width_is_refused():
    extractor = RandomProjection()
    images = torch.rand(150, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    ids = [str(i) for i in range(150)]
    got = extract(extractor, images, method="features", what="real", ids=ids)
    torch.testing.assert_close(got, extractor.features(images).detach())
    assert not got.requires_grad
    extractor.num_features = 7
    with pytest.raises(ValueError, match=r"features of the shape \[150, 6\], expected \[150, 7\]"):
        extract(extractor, images, method="features", what="real", ids=ids)
