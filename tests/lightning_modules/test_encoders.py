"""The aligner with pretrained encoders: opened, trained, complete in its checkpoint and in the generator's."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lightning_modules import stages
from lightning_modules.aligner import WordPatchAligner
from lightning_modules.encoders import PretrainedOptions, open_encoders
from lightning_modules.generator import CXRGenerator
from lightning_modules.networks.alignment import AlignerConfig
from lightning_modules.networks.masked_generator import GeneratorConfig
from lightning_modules.optimizers import PRETRAINED
from tests.lightning_modules import chat_model, tiny_encoders
from tests.lightning_modules.test_aligner import data, trainer

CONFIG = AlignerConfig(resolution=16, width=16, depth=0, dim=16, dropout=0.0, max_length=100)
REPORTS = ["Large left pleural effusion. The heart is large.", "Lungs are clear."]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def options(folder: Path, image: str = "resnet", **more: object) -> PretrainedOptions:
    vision = tiny_encoders.vision(folder / "vision", image)
    text = tiny_encoders.bert(folder / "bert", positions=128)
    return PretrainedOptions(image_model=str(vision), text_model=str(text), **more)  # type: ignore[arg-type]


def fitted(folder: Path, given: PretrainedOptions, **settings: object) -> tuple[WordPatchAligner, Path]:
    """An aligner after a few steps, and its checkpoint."""
    torch.manual_seed(0)
    module = WordPatchAligner(CONFIG, pretrained=given)
    fit = trainer(folder, limit_train_batches=2, limit_val_batches=1, **settings)
    fit.fit(module, data(folder))
    fit.save_checkpoint(folder / "aligner.ckpt")
    return module.eval(), folder / "aligner.ckpt"


def test_frozen_encoders_keep_their_weights_and_the_rest_learns(tmp_path: Path) -> None:
    given = options(tmp_path)
    before = open_encoders(given, resolution=16)
    module, _ = fitted(tmp_path, given)
    assert module.network is not None
    for prefix, weights in before.weights.items():
        state = module.network.get_submodule(prefix).state_dict()
        assert state.keys() == weights.keys()
        assert all(torch.equal(value, weights[name]) for name, value in state.items())
    assert module.encoders.weights == {}  # once, in the network
    assert not any(group.get(PRETRAINED) for group in module.trainer.optimizers[0].param_groups)


def test_trained_encoders_learn_at_their_share_of_the_rate(tmp_path: Path) -> None:
    given = options(tmp_path, train_image=True, train_text=True, rate=0.1)
    before = open_encoders(given, resolution=16)
    module, _ = fitted(tmp_path, given)
    assert module.network is not None
    for prefix, weights in before.weights.items():
        state = module.network.get_submodule(prefix).state_dict()
        assert any(not torch.equal(value, weights[name]) for name, value in state.items())
    groups = module.trainer.optimizers[0].param_groups
    rates = {bool(g.get(PRETRAINED)): g["initial_lr"] for g in groups}
    assert rates == {False: 1e-3, True: pytest.approx(1e-4)}
    theirs = {id(p) for part in module.network.pretrained for p in part.parameters() if p.requires_grad}
    assert {id(p) for g in groups if g.get(PRETRAINED) for p in g["params"]} == theirs


FRESH = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from lightning_modules.aligner import WordPatchAligner
torch.set_num_threads(1)
image, (folder, *reports) = torch.linspace(-1, 1, 512).view(2, 1, 16, 16), sys.argv[1:]
for path in Path(folder).glob("*/aligner.ckpt"):
    module = WordPatchAligner.load_from_checkpoint(path, map_location="cpu").eval()
    found = module.align(image, reports)
    save_file({"similarity": found.similarity, "boxes": found.boxes.contiguous()}, path.with_name("out.safetensors"))
"""


def test_checkpoints_need_neither_the_models_nor_a_hub(tmp_path: Path) -> None:
    image, sides, expected = torch.linspace(-1, 1, 512).view(2, 1, 16, 16), {"vit": 2, "resnet": 2, "codebook": 4}, {}
    for kind, side in sides.items():
        folder = tmp_path / kind
        if kind == "codebook":
            text = tiny_encoders.bert(folder / "bert", positions=128)
            codes = tiny_encoders.codebook(folder, resolution=16)
            given = PretrainedOptions(codebook_ckpt=str(codes), text_model=str(text))
        else:
            given = options(folder, kind, train_text=True)
        module, path = fitted(folder, given, max_steps=1)
        found = expected[kind] = module.align(image, REPORTS)
        assert found.similarity.shape == (2, 10, side**2)
        assert found.boxes[0, -1].tolist() == [1 - 1 / side, 1 - 1 / side, 1, 1]
        # The shipped config names a classifier, which this checkpoint has no use for.
        again = WordPatchAligner.load_from_checkpoint(path, map_location="cpu", classifier_ckpt="features.ckpt").eval()
        assert torch.equal(again.align(image, REPORTS).similarity, found.similarity)
        for source in ("vision", "bert", "codebook.ckpt"):
            if (folder / source).exists():
                (folder / source).rename(folder / f"gone-{source}")
    command = [sys.executable, "-c", FRESH, str(tmp_path), *REPORTS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for kind, found in expected.items():
        written = load_file(tmp_path / kind / "out.safetensors")
        assert torch.equal(written["similarity"], found.similarity)
        assert torch.equal(written["boxes"], found.boxes)


def test_a_run_is_resumed_when_the_models_are_gone(tmp_path: Path) -> None:
    given = options(tmp_path)
    _, path = fitted(tmp_path, given)
    shutil.rmtree(tmp_path / "vision")
    again = trainer(tmp_path, max_epochs=2, limit_train_batches=2, limit_val_batches=0)
    again.fit(WordPatchAligner(CONFIG, pretrained=given), data(tmp_path), ckpt_path=path)
    assert again.current_epoch == 2
    with pytest.raises(FileNotFoundError, match=r"image_model .*vision' could not be opened"):
        trainer(tmp_path).fit(WordPatchAligner(CONFIG, pretrained=given), data(tmp_path))


def test_the_generator_carries_the_text_encoder(tmp_path: Path) -> None:
    """Its own words and its clues are read by the aligner's BERT, from its checkpoint alone."""
    module, path = fitted(tmp_path, options(tmp_path), max_steps=1)
    codebook = tiny_encoders.codebook(tmp_path, resolution=16)
    served = data(tmp_path)
    served.setup("fit")
    rows = served.manifest.frame
    served.write_tokens(
        tmp_path / "tokens.safetensors",
        image_ids=rows["image_id"].tolist(),
        codes=np.random.default_rng(0).integers(0, 32, (len(rows), 4, 4)),
        checkpoint_digest=stages.file_digest(codebook),
        codes_total=32,
    )
    tokens = str(tmp_path / "tokens.safetensors")
    trainer(tmp_path).predict(module, data(tmp_path, tokens=tokens), ckpt_path=path, return_predictions=False)
    generator = CXRGenerator(
        network=GeneratorConfig(width=16, depth=1, heads=2),
        codebook_ckpt=str(codebook),
        aligner_ckpt=str(path),
        key_patches=str(tmp_path / "key_patches.safetensors"),
    )
    fit = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    fit.fit(generator, data(tmp_path, tokens=tokens, clues=str(tmp_path / "clues.safetensors")))
    assert module.network is not None
    for name, value in module.network.text.state_dict().items():
        assert torch.equal(generator.network.text.state_dict()[name], value)
    fit.save_checkpoint(tmp_path / "generator.ckpt")
    clues = module.clues(REPORTS)
    for source in ("vision", "bert", "aligner.ckpt", "codebook.ckpt", "key_patches.safetensors"):
        (tmp_path / source).rename(tmp_path / f"gone-{source}")
    again = CXRGenerator.load_from_checkpoint(tmp_path / "generator.ckpt", map_location="cpu").eval()
    assert torch.equal(again.retrieve(REPORTS), clues)
    view = torch.tensor([0, 1])
    generator.eval()
    assert torch.equal(again.sample(REPORTS, view, seed=3), generator.sample(REPORTS, view, seed=3))
    # Sentences beyond the first are read by the generator too.
    condition = again.condition(REPORTS, view, clues)
    other = again.condition([f"{REPORTS[0][:29]} No effusion.", REPORTS[1]], view, clues)
    assert condition.ids[0, :5].tolist() == other.ids[0, :5].tolist()
    with torch.no_grad():
        assert not torch.allclose(again.network.context(condition)[0][0, 1], again.network.context(other)[0][0, 1])


def refused(kind: type[Exception], match: str, **given: object) -> None:
    with pytest.raises(kind, match=match):
        open_encoders(PretrainedOptions(**{name: str(value) for name, value in given.items()}), resolution=16)


def test_models_that_cannot_be_opened_say_what_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    none = tmp_path / "none"
    refused(FileNotFoundError, r"image_model '.*none' could not be opened: give a folder with config", image_model=none)
    refused(FileNotFoundError, r"`hf download a/vit`; or set pretrained\.image_model to null", image_model="a/vit")
    refused(FileNotFoundError, r"text_model 'a/bert' .*safetensors, tokenizer\.json or vocab\.txt", text_model="a/bert")
    refused(FileNotFoundError, r"the codebook checkpoint .*none does not exist; train that stage", codebook_ckpt=none)


def test_models_of_the_wrong_kind_are_refused(tmp_path: Path) -> None:
    bert, vit = tiny_encoders.bert(tmp_path / "bert"), tiny_encoders.vision(tmp_path / "vit", "vit")
    refused(ValueError, r"image_model .* is a BertModel, which reads input_ids; expected a vision", image_model=bert)
    refused(ValueError, r"text_model .* is a ViTModel, which reads pixel_values; expected a BERT", text_model=vit)
    chat_model.build(tmp_path / "gpt", REPORTS)
    refused(ValueError, r"text_model .* tokenizer of type BPE .*; expected a BERT", text_model=tmp_path / "gpt")
    module, path = fitted(tmp_path, PretrainedOptions(), max_steps=1)
    refused(ValueError, "checkpoint of the aligner stage, expected the codebook stage", codebook_ckpt=path)
    assert module.encoders.plain() == {"image_model": None, "text_model": None}


def test_weights_that_are_missing_are_refused(tmp_path: Path) -> None:
    folder = tiny_encoders.bert(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    refused(ValueError, r"text_model .* lacks \d+ weights .*encoder\.layer\.1.*would be random", text_model=folder)
    vision = tiny_encoders.vision(tmp_path / "vit", "vit")
    config = json.loads((vision / "config.json").read_text())
    (vision / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    refused(ValueError, r"image_model .* lacks \d+ weights .*layers\.1.*would be random", image_model=vision)


def test_a_bert_under_another_name_is_read_as_one(tmp_path: Path) -> None:
    """BiomedVLP-CXR-BERT-specialized calls itself cxr-bert and brings code of its own, which is not run."""
    plain = open_encoders(PretrainedOptions(text_model=str(tiny_encoders.bert(tmp_path, positions=128))), resolution=16)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "cxr-bert", "projection_size": 8, "auto_map": {"AutoModel": "modeling.CXRBertModel"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    renamed = open_encoders(PretrainedOptions(text_model=str(tmp_path)), resolution=16)
    assert renamed.tokenizer == plain.tokenizer
    assert renamed.weights["text.network"].keys() == plain.weights["text.network"].keys()
    assert renamed.build(CONFIG, vocabulary=9, options=PretrainedOptions()).text.width == 16


def test_one_image_encoder_and_a_share_of_the_rate(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one image encoder, found classifier_ckpt a and pretrained\.image_model b"):
        WordPatchAligner(CONFIG, classifier_ckpt="a", pretrained=PretrainedOptions(image_model="b"))
    with pytest.raises(ValueError, match=r"pretrained\.rate is 2; expected a share"):
        WordPatchAligner(CONFIG, pretrained=PretrainedOptions(rate=2))
