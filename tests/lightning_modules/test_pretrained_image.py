"""Pretrained image trunks: their grid, its order, the model's own pixels, and what of them is trained."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModel

from lightning_modules.encoders import Encoders, PretrainedOptions, open_encoders
from lightning_modules.networks.alignment import AlignerConfig, AlignmentNetwork
from lightning_modules.networks.pretrained_image import IMAGENET, ImageTrunk, grid_side
from lightning_modules.networks.vqgan import VQGAN, VQGANConfig
from lightning_modules.stages import open_stage
from tests.lightning_modules import tiny_encoders

CONFIG = AlignerConfig(resolution=32, width=16, depth=0, dim=8, dropout=0.0, text_width=16, heads=2)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def opened(options: PretrainedOptions, *, config: AlignerConfig = CONFIG) -> AlignmentNetwork:
    """The network as `fit` makes it."""
    torch.manual_seed(1)
    encoders = open_encoders(options, resolution=config.resolution)
    return encoders.build(config, vocabulary=20, options=options).eval()


def hub(folder: Path, *, train: bool = False, **sizes: int) -> AlignmentNetwork:
    options = PretrainedOptions(image_model=str(folder), train_image=train)
    return opened(options, config=dataclasses.replace(CONFIG, **sizes))


def trunk_of(network: AlignmentNetwork) -> ImageTrunk:
    assert network.image.trunk is not None
    return network.image.trunk


@pytest.mark.parametrize("name", tiny_encoders.CONFIGS)
def test_every_kind_of_model_gives_unit_vectors_on_its_grid(name: str, tmp_path: Path) -> None:
    network = hub(tiny_encoders.vision(tmp_path, name))
    side = tiny_encoders.SIDES[name]
    assert trunk_of(network).side == side
    image = torch.rand(2, 1, 32, 32) * 2 - 1
    patches, boxes = network.located_patches(image)
    assert patches.shape == (2, side**2, 8)
    assert patches.dtype == torch.float32
    torch.testing.assert_close(patches.norm(dim=-1), torch.ones(2, side**2))
    assert boxes[0, 1].tolist() == [1 / side, 0, 2 / side, 1 / side]  # row-major: the next patch is to the right
    places = patches.view(2, side, side, 8)
    for phase in range(4):
        part = network.patches(image, phase=phase)
        torch.testing.assert_close(part, places[:, phase // 2 :: 2, phase % 2 :: 2].flatten(1, 2))


@pytest.mark.parametrize("size", [32, 48])
def test_a_transformer_s_places_by_hand(size: int, tmp_path: Path) -> None:
    """Without attention a place is the mean of its normalised pixels plus its position; the class token is dropped."""
    folder = tiny_encoders.vision(tmp_path, "vit", processor=tiny_encoders.HALF)
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        model.embeddings.cls_token.fill_(1000.0)
        model.embeddings.position_embeddings.fill_(0.25)
        projection = model.embeddings.patch_embeddings.projection
        projection.bias.zero_()
        projection.weight.zero_()
        for colour in range(3):
            projection.weight[colour, colour] = 1 / 64
    model.save_pretrained(folder)
    trunk = trunk_of(hub(folder, resolution=size))
    assert trunk.side == size // 8
    trunk.features.network.layers, trunk.features.network.layernorm = nn.ModuleList(), nn.Identity()
    brightness = torch.linspace(-1, 1, trunk.side**2).view(1, 1, trunk.side, trunk.side)
    grid = trunk(brightness.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3))
    for colour, (mean, std) in enumerate(zip(*tiny_encoders.HALF.values(), strict=True)):
        torch.testing.assert_close(grid[:, colour : colour + 1], ((brightness + 1) / 2 - mean) / std + 0.25)
    torch.testing.assert_close(grid[:, 3:], torch.full((1, 13, trunk.side, trunk.side), 0.25))


@pytest.mark.parametrize("name", ["resnet", "convnext"])
def test_a_bright_square_changes_the_patches_that_it_lies_in_most(name: str, tmp_path: Path) -> None:
    network = hub(tiny_encoders.vision(tmp_path, name), resolution=64)
    trunk = trunk_of(network)
    assert trunk.side == 8
    image = torch.zeros(1, 1, 64, 64)
    for row, column in ((0, 6), (2, 0), (5, 3)):  # of 2 × 2 patches
        lit = image.clone()
        lit[..., row * 8 : row * 8 + 16, column * 8 : column * 8 + 16] = 1
        inside = torch.zeros(8, 8, dtype=torch.bool)
        inside[row : row + 2, column : column + 2] = True
        seen = (trunk(lit) - trunk(image)).norm(dim=1)[0]
        changed = (network.patches(lit) - network.patches(image)).norm(dim=-1).view(8, 8)
        for change in (seen, changed):
            assert change[inside].mean() > 2 * change[~inside].mean()


def test_pixels_are_normalised_as_the_model_s_files_say(tmp_path: Path) -> None:
    def normalisation(name: str, processor: dict | None) -> tuple[list[float], list[float]]:
        folder = tiny_encoders.vision(tmp_path / name, "resnet", processor=processor)
        features = trunk_of(hub(folder)).features
        return features.mean.flatten().tolist(), features.std.flatten().tolist()

    assert normalisation("own", tiny_encoders.HALF) == (pytest.approx([0.5, 0.4, 0.3]), pytest.approx([0.2, 0.25, 0.5]))
    assert normalisation("none", None) == (pytest.approx(IMAGENET[0]), pytest.approx(IMAGENET[1]))
    assert normalisation("raw", {"do_normalize": False}) == ([0, 0, 0], [1, 1, 1])


def test_a_model_of_one_colour_gets_the_mean_of_three(tmp_path: Path) -> None:
    config = {"num_channels": 1, **tiny_encoders.CONFIGS["resnet"].to_dict()} | {"num_channels": 1}
    AutoModel.from_config(type(tiny_encoders.CONFIGS["resnet"])(**config)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(tiny_encoders.HALF))
    features = trunk_of(hub(tmp_path)).features
    assert features.mean.flatten().tolist() == pytest.approx([0.4])
    assert features.std.flatten().tolist() == pytest.approx([0.95 / 3])


def test_the_codebook_s_encoder_sees_what_its_codes_are_made_of(tmp_path: Path) -> None:
    path = tiny_encoders.codebook(tmp_path)
    network = opened(PretrainedOptions(codebook_ckpt=str(path)))
    trunk = trunk_of(network)
    assert (trunk.side, trunk.channels) == (8, 16)
    image = torch.rand(2, 1, 32, 32) * 2 - 1
    stage = open_stage(path, stage="codebook")
    vqgan = VQGAN(VQGANConfig(**stage.config["network"])).eval()
    vqgan.load_state_dict(stage.weights("network."))
    torch.testing.assert_close(vqgan.encoder[-1](trunk(image)), vqgan.latent(image))
    assert network.patches(image).shape == (2, 64, 8)
    with pytest.raises(ValueError, match=r"codebook\.ckpt was trained on images of 32 pixels, the aligner's have 64"):
        open_encoders(PretrainedOptions(codebook_ckpt=str(path)), resolution=64)


def test_tokens_to_a_grid() -> None:
    assert grid_side(17, resolution=32, patch=8) == 4
    assert grid_side(9, resolution=32, patch=16) == 2  # five extra tokens, which isqrt alone would take for places
    assert grid_side(4, resolution=64, patch=4) == 2  # merged patches
    with pytest.raises(ValueError, match=r"patches have 14 pixels, which do not divide the images' 64.*multiple of 14"):
        grid_side(17, resolution=64, patch=14)
    with pytest.raises(ValueError, match="makes 18 tokens of an image of 32 pixels, which are no square grid"):
        grid_side(18, resolution=32, patch=None)


def test_images_that_a_model_cannot_take_are_named(tmp_path: Path) -> None:
    vit = tiny_encoders.vision(tmp_path / "vit", "vit")
    with pytest.raises(ValueError, match=r"vit cannot be taken at this image size: its patches have 8 pixels.*36"):
        hub(vit, resolution=36)
    resnet = tiny_encoders.vision(tmp_path / "resnet", "resnet")
    with pytest.raises(ValueError, match=r"makes 1 × 1 places of an image of 8 pixels; expected a square grid"):
        hub(resnet, resolution=8)
    with pytest.raises(ValueError, match=r"makes 5 × 5 places of an image of 36 pixels; expected .*whole pixels"):
        hub(resnet, resolution=36)


def test_a_frozen_trunk_cannot_be_trained_by_accident(tmp_path: Path) -> None:
    network = hub(tiny_encoders.vision(tmp_path, "resnet")).train()
    trunk = trunk_of(network)
    assert not any(module.training for module in trunk.modules())
    assert network.image.training
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    network.patches(torch.rand(2, 1, 32, 32)).sum().backward()
    assert all(p.grad is None for p in trunk.parameters())
    assert network.image.enter.weight.grad is not None
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())


@pytest.mark.parametrize("name", tiny_encoders.CONFIGS)
def test_all_that_is_trained_gets_a_gradient(name: str, tmp_path: Path) -> None:
    """DDP stops at a trained parameter without one: poolers, mask tokens, the text half of CLIP."""
    network = hub(tiny_encoders.vision(tmp_path, name), train=True).train()
    trunk = trunk_of(network)
    network.patches(torch.rand(2, 1, 32, 32)).sum().backward()
    trained = {n for n, p in trunk.named_parameters() if p.requires_grad}
    assert trained == {n for n, p in trunk.named_parameters() if p.grad is not None}
    assert trained
    assert not any("pooler" in n or "mask_token" in n for n in trained)


def test_the_weights_are_the_folder_s(tmp_path: Path) -> None:
    folder = tiny_encoders.vision(tmp_path, "clip")
    half = AutoModel.from_pretrained(folder).vision_model.state_dict()
    mine = trunk_of(hub(folder)).features.network.state_dict()
    assert mine.keys() == half.keys()
    assert all(torch.equal(value, mine[name]) for name, value in half.items())


def test_plain_data_rebuilds_the_trunk(tmp_path: Path) -> None:
    for name in tiny_encoders.CONFIGS:
        options = PretrainedOptions(image_model=str(tiny_encoders.vision(tmp_path / name, name)))
        encoders = open_encoders(options, resolution=32)
        first = encoders.build(CONFIG, vocabulary=20, options=options).eval()
        plain = json.loads(json.dumps(encoders.plain()))
        assert plain["text_model"] is None
        again = Encoders.from_plain(plain).build(CONFIG, vocabulary=20, options=options).eval()
        again.load_state_dict(first.state_dict())
        image = torch.rand(1, 1, 32, 32)
        assert torch.equal(first.patches(image), again.patches(image))


SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "img_size": 64}


@pytest.mark.parametrize(
    ("architecture", "size", "side", "settings"),
    [
        ("test_resnet", 64, 2, {}),
        ("test_convnext", 64, 2, {}),
        ("test_vit", 64, 4, {}),  # trained at 160: positions are interpolated
        ("test_vit", 160, 10, {}),
        ("swin_tiny_patch4_window7_224", 64, 8, SWIN),  # channels last
    ],
)
def test_models_of_timm(architecture: str, size: int, side: int, settings: dict, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm's models need the extra timm: pip install 'cxr-synth[timm]'")
    torch.manual_seed(0)
    # As timm itself saves it for the hub.
    saved = timm.create_model(architecture, num_classes=7, **settings)
    timm.models.save_for_hf(saved, tmp_path, safe_serialization=True)
    network = hub(tmp_path, resolution=size, train=True)
    trunk = trunk_of(network)
    assert trunk.side == side
    image = torch.rand(1, 1, size, size) * 2 - 1
    torch.testing.assert_close(network.patches(image).norm(dim=-1), torch.ones(1, side**2))
    dynamic = {"dynamic_img_size": True} if architecture == "test_vit" else {}
    reference = timm.create_model(architecture, num_classes=7, **settings, **dynamic).eval()
    timm.models.load_checkpoint(reference, str(tmp_path / "model.safetensors"))
    mean, std = (torch.tensor(reference.default_cfg[key])[None, :, None, None] for key in ("mean", "std"))
    expected = reference.forward_features(((image + 1) / 2 - mean) / std)
    if architecture == "test_vit":
        expected = expected[:, reference.num_prefix_tokens :].transpose(1, 2).unflatten(2, (side, side))
    if settings:
        expected = expected.permute(0, 3, 1, 2)
    torch.testing.assert_close(trunk(image), expected)
