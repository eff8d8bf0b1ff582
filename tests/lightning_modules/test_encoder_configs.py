"""The config of pretrained encoders through the real command line, with small models in folders."""

from pathlib import Path

import pytest
import torch

from main import main
from tests.chain import Chain
from tests.lightning_modules import tiny_encoders


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_the_pretrained_config_trains_tests_and_makes_clues_without_its_models(chain: Chain, tmp_path: Path) -> None:
    image = tiny_encoders.vision(tmp_path / "vit", "vit", processor=tiny_encoders.HALF)
    text = tiny_encoders.bert(tmp_path / "bert", positions=512)

    def run(verb: str, *extra: str) -> dict[str, float]:
        found = chain.arguments(verb, "aligner", configs=("configs/experiment/aligner-pretrained.yaml",))
        left_out = ("--ckpt_path", "--run_dir", "--model.init_args.classifier_ckpt")
        models = [f"--model.init_args.pretrained.{k}={v}" for k, v in (("image_model", image), ("text_model", text))]
        cli = main(
            [*(a for a in found if not a.startswith(left_out)), *models, f"--run_dir={tmp_path / 'run'}", *extra]
        )
        assert cli.model.network.config.resolution == 32
        assert cli.model.network.image.trunk.side == 4
        assert cli.model.network.config.max_length == 256
        assert len(cli.model.network.pretrained) == 2
        return {key: float(value) for key, value in cli.trainer.callback_metrics.items()}

    run("fit", "--trainer.max_steps=2", "--trainer.limit_val_batches=1")
    image.rename(tmp_path / "gone-vit")
    text.rename(tmp_path / "gone-bert")
    checkpoint = f"--ckpt_path={tmp_path / 'run/checkpoints/last.ckpt'}"
    metrics = run("test", checkpoint)
    assert metrics["aligner/recall_at_1"] <= metrics["aligner/recall_at_10"] <= 1
    run("predict", checkpoint)
    assert (tmp_path / "run/clues.safetensors").is_file()


def test_the_pretrained_config_without_its_models_says_what_to_fetch(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = chain.arguments("fit", "aligner", configs=("configs/experiment/aligner-pretrained.yaml",))
    found = [a for a in found if not a.startswith(("--run_dir", "--model.init_args.classifier_ckpt"))]
    with pytest.raises(FileNotFoundError, match=r"image_model .*rad-dino' .*`hf download microsoft/rad-dino`"):
        main([*found, f"--run_dir={tmp_path}", "--model.init_args.pretrained.text_model=null"])
