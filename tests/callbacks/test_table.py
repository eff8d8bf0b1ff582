"""`python -m callbacks`: merging, contradictions, targets, exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest

from callbacks.__main__ import main
from callbacks.table import judge, merge, read_targets


def stage(run: Path, name: str, figures: dict[str, float | None], **protocol: Any) -> Path:
    folder = run / name
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({**figures, "protocol": {"schema": 1, **protocol}}))
    return folder / "metrics.json"


def test_stages_are_merged_flat_with_their_protocols(tmp_path: Path, capsys: pytest.CaptureFixture):
    stage(tmp_path, "codebook", {"codebook/psnr": 24.5, "codebook/usage": 0.91}, data_digest="a" * 64)
    stage(
        tmp_path,
        "generator",
        {"generator/fid": 3.25, "generator/fid_n": 500.0, "classifier/auroc_ratio": None, "a/other": 1.5},
        data_digest="b" * 64,
        undefined={"classifier/auroc_ratio": "no positives"},
        metrics={"generator/fid": {"rank_deficient": "5 images for 6 features"}},
    )
    picture = tmp_path / "generator" / "pictures" / "test-0.png"
    picture.parent.mkdir()
    picture.write_bytes(b"")
    samples, copy = tmp_path / "generator" / "samples", tmp_path / "generator" / "wandb" / "run-1"
    for path in (samples / "contact_sheet.png", samples / "i1.png", copy / "test.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    assert main([str(tmp_path)]) == 0
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert set(document.pop("protocol")) == {"codebook", "generator"}
    assert document == {
        "codebook/psnr": 24.5, "codebook/usage": 0.91, "generator/fid": 3.25, "generator/fid_n": 500.0,
        "classifier/auroc_ratio": None, "a/other": 1.5,
    }  # fmt: skip
    out = capsys.readouterr().out
    order = [
        "codebook/psnr",
        "codebook/usage",
        "classifier/auroc_ratio",
        "generator/fid ",
        "generator/fid_n",
        "a/other",
    ]
    assert [out.index(key) for key in order] == sorted(out.index(key) for key in order)
    assert "500" in out
    assert "500.0" not in out
    assert "generator: classifier/auroc_ratio is null: no positives" in out
    assert "tested on different data (codebook: aaaaaaaaaaaa; generator: bbbbbbbbbbbb)" in out
    assert "5 images for 6 features" in out
    assert "not measured yet: codebook/ssim, codebook/ms_ssim, codebook/bits, codebook/rfid," in out
    pictures = [line.removeprefix("picture: ") for line in out.splitlines() if line.startswith("picture: ")]
    assert pictures == [str(picture), str(samples / "contact_sheet.png")]
    assert "next: look at the pictures" in out
    # The merged file is no stage: a second call gives the same.
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == out


def test_one_key_with_two_values_is_an_error_that_names_both_files(tmp_path: Path, capsys: pytest.CaptureFixture):
    a = stage(tmp_path, "a", {"classifier/auroc_real": 0.9})
    b = stage(tmp_path, "b", {"classifier/auroc_real": 0.8})
    assert main([str(tmp_path)]) == 2
    assert f"classifier/auroc_real is 0.9 in {a} and 0.8 in {b}" in capsys.readouterr().err
    assert not (tmp_path / "metrics.json").exists()
    stage(tmp_path / "same", "a", {"x/y": 0.9})
    stage(tmp_path / "same", "b", {"x/y": 0.9000001})
    assert merge(tmp_path / "same").metrics == {"x/y": 0.9}


def test_targets_decide_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture):
    stage(tmp_path, "a", {"codebook/usage": 0.85, "generator/fid": 4.0, "generator/fid_blur": 6.0})
    targets = tmp_path / "targets.yaml"
    targets.write_text('codebook/usage: ">= 0.8"\ngenerator/fid: ["< 5", "< 0.7 * generator/fid_blur"]\n')
    assert main([str(tmp_path), "--targets", str(targets)]) == 0
    assert "met" in capsys.readouterr().out
    targets.write_text('codebook/usage: ">= 0.9"\nprompter/coverage: ">= 0.9"\n')
    assert main([str(tmp_path), "--targets", str(targets)]) == 1
    out = capsys.readouterr().out
    assert "2 of 2 targets missed: codebook/usage >= 0.9, prompter/coverage >= 0.9" in out
    assert "not measured" in out


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (">= 2", True), ("> 2", False), ("<=2", True), ("< 2.0e0", False), ("< b", True), (">= 3 * b", False),
        ("<= 0.5*b", True), ("> missing", False), ("> nothing", False), (">= -1", True),
    ],
)  # fmt: skip
def test_judging(target: str, met: bool, tmp_path: Path):
    path = tmp_path / "t.yaml"
    path.write_text(json.dumps({"a": target}))
    assert [v.met for v in judge({"a": 2.0, "b": 4.0, "nothing": None}, read_targets(path))] == [met]


def test_null_misses_every_target():
    assert [v.met for v in judge({"a": None}, {"a": [">= 0", "<= 0"]})] == [False, False]


def test_unreadable_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main([str(tmp_path)]) == 2
    assert "no <stage>/metrics.json in it; run `python main.py test`" in capsys.readouterr().err
    path = stage(tmp_path, "a", {"a": 1.0})
    targets = tmp_path / "targets.yaml"
    targets.write_text("a: 0.8\n")
    assert main([str(tmp_path), "--targets", str(targets)]) == 2
    assert f"{targets}: a: 0.8 is no target" in capsys.readouterr().err
    path.write_text('{"a": "high", "protocol": {"schema": 1}}')
    assert main([str(tmp_path)]) == 2
    assert f"{path}: a is 'high', expected a number or null" in capsys.readouterr().err
    path.write_text('{"a": 1.0}')
    assert main([str(tmp_path)]) == 2
    assert "protocol schema None, expected 1" in capsys.readouterr().err
    path.write_text("{")
    assert main([str(tmp_path)]) == 2
    assert f"{path}: no valid JSON" in capsys.readouterr().err
