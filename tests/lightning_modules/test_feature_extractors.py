"""Published extractors with small or random weights on disk: what they compute, and what they say where files lack."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.image.fid import FrechetInceptionDistance
from transformers import AutoModel

from callbacks.metrics.frechet import frechet_distance, moments
from callbacks.protocols import as_feature_extractor
from lightning_modules.feature_extractors import FrozenInception, FrozenVisionModel, FrozenXRVDenseNet
from tests.lightning_modules import tiny_encoders
from tests.lightning_modules.random_inception import write_random_inception


def images(count: int = 3, side: int = 64) -> Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inception with random weights, in the format of the published file."""
    return write_random_inception(tmp_path_factory.mktemp("inception") / "weights.pth")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_inception_is_that_of_torchmetrics(inception_weights: Path) -> None:
    before = torch.random.get_rng_state()
    extractor = as_feature_extractor(FrozenInception(str(inception_weights)))
    assert torch.equal(torch.random.get_rng_state(), before)  # a measure must not change a training's first weights
    a, b = images(), images() * 0.5
    reference = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(inception_weights))
    reference.set_dtype(torch.float64)
    for given, real in ((a, True), (b, False)):
        reference.update(((given + 1) * 127.5).round().byte().expand(-1, 3, -1, -1), real=real)
    found = frechet_distance(moments(extractor.features(a)), moments(extractor.features(b)))
    assert extractor.features(a).shape == (3, extractor.num_features)
    assert found == pytest.approx(float(reference.compute()), rel=1e-3)


def test_xrv_sees_images_as_the_package_serves_them(tmp_path: Path) -> None:
    package = pytest.importorskip("torchxrayvision")
    torch.manual_seed(0)
    network = package.models.DenseNet(weights=None, num_classes=3).eval()
    torch.save(network.state_dict(), tmp_path / "xrv.pt")
    before = torch.random.get_rng_state()
    extractor = as_feature_extractor(FrozenXRVDenseNet(str(tmp_path / "xrv.pt")))
    assert torch.equal(torch.random.get_rng_state(), before)
    given = images(2, 224)
    served = package.datasets.normalize((given.numpy() + 1) / 2, maxval=1)
    with torch.no_grad():
        expected = network.features2(torch.from_numpy(served).float())
    torch.testing.assert_close(extractor.features(given), expected, rtol=1e-4, atol=1e-5)
    small = extractor.features(images(2, 64))
    resized = functional.interpolate(images(2, 64), (224, 224), mode="bilinear", antialias=True)
    torch.testing.assert_close(small, extractor.features(resized))
    torch.save(network, tmp_path / "pickle.pt")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        FrozenXRVDenseNet(str(tmp_path / "pickle.pt"))


@pytest.mark.parametrize(("kind", "width"), [("vit", 16), ("dinov2", 16), ("clip", 16), ("resnet", 16), ("swin", 16)])
def test_a_vision_model_gives_its_pooled_output(tmp_path: Path, kind: str, width: int) -> None:
    folder = tiny_encoders.vision(tmp_path / kind, kind, processor=tiny_encoders.HALF)
    before = torch.random.get_rng_state()
    extractor = as_feature_extractor(FrozenVisionModel(str(folder), resolution=32))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert extractor.num_features == width
    mean, std = (torch.tensor(tiny_encoders.HALF[key])[:, None, None] for key in ("image_mean", "image_std"))
    network = AutoModel.from_pretrained(folder).eval()
    network = getattr(network, "vision_model", network)
    given = images(2, 32)
    with torch.no_grad():
        expected = network(pixel_values=((given + 1) / 2 - mean) / std).pooler_output.flatten(1)
    torch.testing.assert_close(extractor.features(given), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(extractor.features(given), expected)


def test_digests_tell_weights_sizes_and_models_apart(tmp_path: Path) -> None:
    first = FrozenVisionModel(str(tiny_encoders.vision(tmp_path / "a", "vit")))
    again = FrozenVisionModel(str(tmp_path / "a"))
    changed = AutoModel.from_pretrained(tiny_encoders.vision(tmp_path / "b", "vit"))
    with torch.no_grad():
        next(changed.parameters()).add_(1e-3)
    changed.save_pretrained(tmp_path / "b")
    other = FrozenVisionModel(str(tmp_path / "b"))
    assert first.digest == again.digest != other.digest
    assert (first.name, first.resolution) == ("vit:a", 32)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"weights-inception-2015-12-05-6726825d\.pth of torch-fidelity"):
        FrozenInception(str(tmp_path / "none.pth"))
    with pytest.raises(FileNotFoundError, match=r"DenseNet\(weights='densenet121-res224-all'\).state_dict\(\)"):
        FrozenXRVDenseNet(str(tmp_path / "none.pt"))
    with pytest.raises(FileNotFoundError, match="hf download nobody/nothing"):
        FrozenVisionModel("nobody/nothing")
