"""The chain of `make nih-aligner` at the smallest sizes, on phantoms that lie on disk as NIH and OpenI do."""

import json
from pathlib import Path

import pytest

from datamodules.__main__ import main as data_main
from datamodules.phantom import disk
from main import main
from tests.chain import ROOT, SMALL

NIH = "configs/experiment/nih"
STEPS = (
    "--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.callbacks=MetricsFile",
    "--trainer.max_steps=2", "--trainer.limit_val_batches=0",
    "--data.init_args.size=32", "--data.init_args.batch_size=8",
)  # fmt: skip


def configs(stage: str, *more: str) -> list[str]:
    names = ["configs/base.yaml", f"configs/{stage}.yaml", f"{NIH}/{stage}.yaml", *more]
    return [flag for name in names for flag in ("-c", str(ROOT / name))]


def test_the_aligner_and_grad_cam_play_the_same_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.write("nih", tmp_path / "nih", studies=120, seed=1, size=32)
    disk.write("openi", tmp_path / "openi", studies=150, seed=2, size=32)
    monkeypatch.setenv("CXR_ROOT", str(tmp_path / "nih"))
    cache = f"--data.init_args.cache_dir={tmp_path / 'cache'}"
    last = {stage: tmp_path / stage / "checkpoints/last.ckpt" for stage in ("classifier", "aligner")}

    seeing = ("classifier", f"{NIH}/classifier-boxes.yaml")
    small = (*STEPS, *SMALL["classifier"], cache, f"--run_dir={tmp_path / 'classifier'}")
    main(["fit", *configs("classifier"), *small])
    main(["test", *configs(*seeing), *small, f"--ckpt_path={last['classifier']}"])

    reading = configs("aligner", f"{NIH}/aligner-openi.yaml")
    texts = tmp_path / "reports.jsonl"
    given = ["--reports-layout", "openi", "--reports-root", str(tmp_path / "openi"), "--reports-option", "section=both"]
    assert data_main(["match-reports", *reading, *given, "--out", str(texts)]) == 0
    small = (*STEPS, *SMALL["aligner"], cache, f"--run_dir={tmp_path / 'aligner'}", f"--data.init_args.prompts={texts}",
             f"--model.init_args.classifier_ckpt={last['classifier']}")  # fmt: skip
    cli = main(["fit", *reading, *small])
    assert cli.datamodule.tokens is None
    assert cli.datamodule.manifest.frame["report_source"].str.startswith("matched:").all()
    main(["test", *reading, *small, f"--ckpt_path={last['aligner']}"])

    figures = [json.loads((tmp_path / stage / "metrics.json").read_text()) for stage in ("classifier", "aligner")]
    classifier, aligner = figures
    assert classifier["protocol"]["n"] == aligner["protocol"]["n"]
    boxes = (cli.datamodule.manifest.frame["boxes"] != "").sum()
    assert classifier["classifier/pointing_patients"] == boxes > 0
    # The same boxes: the references that do not depend on a map are equal where every finding has a word.
    shared = {"pointing_cases", "pointing_patients", "pointing_micro_chance", "pointing_micro_centre"}
    assert {name: aligner[f"aligner/prompted_{name}"] for name in shared} == pytest.approx(
        {name: classifier[f"classifier/{name}"] for name in shared}
    )
    for stage, found in zip(
        ("classifier/", "aligner/", "aligner/prompted_"), (classifier, aligner, aligner), strict=True
    ):
        low, value, high = (found[f"{stage}pointing_micro{end}"] for end in ("_low", "", "_high"))
        assert 0 <= low <= value <= high <= 1
    assert aligner["aligner/zero_shot_auroc_low"] <= aligner["aligner/zero_shot_auroc"]
    assert aligner["aligner/zero_shot_auroc"] <= aligner["aligner/zero_shot_auroc_high"]
