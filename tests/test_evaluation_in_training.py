"""A real generator is trained bit for bit alike with and without all evaluation callbacks and their schedule."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from main import main
from tests.callbacks.all_callbacks import Losses
from tests.chain import ROOT, Chain


def shipped(*names: str) -> list[dict[str, Any]]:
    """The callbacks of these configs, in order."""
    return [one for name in names for one in yaml.safe_load((ROOT / name).read_text())["trainer"]["callbacks+"]]


def smallest(one: dict[str, Any], chain: Chain, samples: Path) -> dict[str, Any]:
    """A shipped callback with the chain's checkpoints and sizes."""
    arguments = one.setdefault("init_args", {})
    judges = [arguments["extractor"]] if "extractor" in arguments else arguments.get("extractors", [])
    for judge in judges:
        if "init_args" in judge:  # EfficientNet-Lite0 needs none
            judge["init_args"]["ckpt"] = str(chain.path("classifier"))
    if "aligner" in arguments:
        arguments["aligner"]["init_args"]["ckpt"] = str(chain.path("aligner"))
    if one["class_path"] == "PrivacyGate":
        arguments |= {"fail": False, "false_alarms": 0.2}  # of a dozen validation images
    if one["class_path"] == "ReportConsistency":
        arguments |= {"min_training": 3, "min_cases": 1}
    if one["class_path"] == "SyntheticUtility":
        arguments |= {"samples": str(samples), "seeds": 1, "min_positives": 1, "real_shares": [0.0, 1.0]}
        arguments["recipe"] = {"steps": 2}
        arguments["classifier"]["init_args"]["config"] |= {"resolution": 32, "channels": [8]}
    return one


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_loss_curve_weights_and_checkpoints_are_those_of_a_training_without_them(chain: Chain, tmp_path: Path) -> None:
    main(chain.arguments("predict", "generator", f"--run_dir={tmp_path}", "--data.init_args.predict_splits=[train]"))
    names = [
        f"configs/{name}.yaml"
        for name in ("generator", *(f"experiment/{n}" for n in ("evaluation", "privacy", "consistency", "utility")))
    ]
    every = [smallest(one, chain, tmp_path / "samples" / "samples.csv") for one in shipped(*names)]
    assert len(every) == 10
    schedule = {"class_path": "TrainingEvaluation", "init_args": {"every_n_epochs": 1, "samples": 11}}
    watching = {"class_path": "tests.callbacks.all_callbacks.Losses"}

    def run(name: str, callbacks: list[dict[str, Any]]) -> tuple[list[torch.Tensor], list[Path]]:
        folder = tmp_path / name
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump({"trainer": {"callbacks": [watching, *callbacks]}}))
        arguments = chain.arguments("fit", "generator", f"--run_dir={folder}", "--trainer.max_epochs=3")
        position = arguments.index("--trainer.callbacks=[]")
        cli = main([*arguments[:position], "-c", str(file), *arguments[position + 1 :]])
        losses = next(one for one in cli.trainer.callbacks if isinstance(one, Losses))
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
        after = folder / "after-test.ckpt"
        cli.trainer.save_checkpoint(after)
        return losses.steps, [folder / "checkpoints" / "last.ckpt", after]

    plain, without = run("run-0", [])
    evaluated, with_them = run("run-1", [*every, schedule])
    assert len(list((tmp_path / "run-1" / "in_training").glob("*/figures.json"))) == 3
    assert len(plain) > 10
    assert torch.equal(torch.stack(evaluated), torch.stack(plain))
    for mine, other in zip(with_them, without, strict=True):
        assert mine.stat().st_size == other.stat().st_size
        one, two = (torch.load(file, weights_only=True) for file in (mine, other))
        assert set(one) == set(two)
        assert set(one["callbacks"]) == {key.replace("run-0", "run-1") for key in two["callbacks"]}
        assert one["state_dict"].keys() == two["state_dict"].keys()
        for key, weight in one["state_dict"].items():
            assert torch.equal(weight, two["state_dict"][key]), key
