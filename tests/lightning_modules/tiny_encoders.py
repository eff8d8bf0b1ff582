"""Small vision models, a BERT and a codebook on disk, as pretrained ones would be on this machine."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPConfig,
    ConvNextConfig,
    DeiTConfig,
    Dinov2WithRegistersConfig,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
)

from lightning_modules.codebook import ImageCodebook
from lightning_modules.networks.vqgan import VQGANConfig

HALF = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.5]}
_VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
_TEXT = {**_VIT, "vocab_size": 10, "bos_token_id": 0, "eos_token_id": 1}
CONFIGS: dict[str, Any] = {
    "vit": ViTConfig(**_VIT, image_size=32, patch_size=8),
    "deit": DeiTConfig(**_VIT, image_size=32, patch_size=8),  # a distillation token beside the class token
    "dinov2": Dinov2WithRegistersConfig(**_VIT, image_size=32, patch_size=8, num_register_tokens=4),
    "clip": CLIPConfig(text_config=_TEXT, vision_config={**_VIT, "image_size": 32, "patch_size": 8}),
    "swin": SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4),
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    "convnext": ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
}
SIDES = {"vit": 4, "deit": 4, "dinov2": 4, "clip": 4, "swin": 4, "resnet": 4, "convnext": 4}  # of images of 32 pixels
WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "heart", "is", "large", "left", "right", "pleural", "."),
    *(
        "effusion",
        "effus",
        "##ion",
        "##s",
        "no",
        "pneumo",
        "##thora",
        "##x",
        "lungs",
        "clear",
        "a",
        "##re",
        "-",
        "sided",
    ),
]


def vision(folder: Path, name: str, *, processor: dict[str, Any] | None = None) -> Path:
    """One of `CONFIGS` with random weights."""
    torch.manual_seed(0)
    model = AutoModel.from_config(CONFIGS[name])
    model.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def bert(folder: Path, *, positions: int = 64, cased: bool = False) -> Path:
    """A BERT of one layer with random weights, and a WordPiece tokenizer of `WORDS`."""
    torch.manual_seed(0)
    BertModel(BertConfig(**_VIT, vocab_size=len(WORDS), max_position_embeddings=positions)).save_pretrained(folder)
    vocab = {word: i for i, word in enumerate(WORDS)}
    BertTokenizer(vocab=vocab, do_lower_case=not cased).save_pretrained(folder)
    return folder


def codebook(folder: Path, *, resolution: int = 32) -> Path:
    """A checkpoint of an untrained ImageCodebook at f4."""
    torch.manual_seed(0)
    config = VQGANConfig(resolution=resolution, channels=(8, 16, 16), codes=32, code_dim=8)
    module = ImageCodebook(config, perceptual=0.0, clinical=0.0, discriminator_width=8)
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "codebook.ckpt")
    return folder / "codebook.ckpt"
