"""Opening former stages: digest, kind, weights, and what is said when they are wrong."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_modules import stages
from lightning_modules.networks.vqgan import VQGANConfig


def write(path: Path, stage: str, **extra: str) -> Path:
    checkpoint = {
        "hyper_parameters": {"network": {"width": 3}},
        "state_dict": {"network.a": torch.ones(2), "b": torch.zeros(1)},
    }
    stages.stamp(checkpoint, stage=stage, **extra)
    torch.save(checkpoint, path)
    return path


def test_open_stage_returns_config_weights_extra_and_digest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ckpt", "codebook", tokenizer="words")
    opened = stages.open_stage(path, stage="codebook")
    assert opened.config == {"network": {"width": 3}}
    assert opened.extra == {"tokenizer": "words"}
    assert opened.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    weights = opened.weights("network.")
    assert list(weights) == ["a"]
    assert weights["a"].tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"no weights below 'decoder\.'"):
        opened.weights("decoder.")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named_with_what_to_do(share: float, tmp_path: Path) -> None:
    path = write(tmp_path / "a.ckpt", "codebook")
    size = int(share * path.stat().st_size)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(
        ValueError, match=rf"a\.ckpt \({size:,} bytes\) cannot be read as a checkpoint .* copy it again"
    ):
        stages.open_stage(path, stage="codebook")


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt does not exist.*configs/aligner\.yaml"):
        stages.open_stage(tmp_path / "none.ckpt", stage="aligner")


def test_another_stage_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ckpt", "classifier")
    with pytest.raises(ValueError, match=r"a\.ckpt is a checkpoint of the classifier stage, expected the codebook"):
        stages.open_stage(path, stage="codebook")


def test_a_foreign_checkpoint_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not a checkpoint of cxr-synth schema 1 .stage mark: none"):
        stages.stage_of({"state_dict": {}})
    with pytest.raises(ValueError, match="schema 99"):
        stages.stage_of({stages.KEY: {"schema": 99, "stage": "codebook"}})


def test_as_config_turns_saved_lists_back_into_tuples() -> None:
    config = VQGANConfig()
    assert stages.as_config(VQGANConfig, config) is config
    plain = {"channels": [16, 32], "codes": 8}
    assert stages.as_config(VQGANConfig, plain).channels == (16, 32)


def test_a_frozen_part_stays_frozen_whatever_its_owner_does() -> None:
    part = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    owner = nn.Sequential(stages.Frozen(part), nn.Linear(2, 2))
    owner.train()
    assert not part.training
    assert owner[1].training
    assert [p.requires_grad for p in part.parameters()] == [False, False]
    owner.eval()
    owner.train(True)
    assert not part[1].training
