"""MetricsFile: the numbers, their protocol, null with a reason, and refusal of two callbacks under one name."""

import hashlib
import json
from pathlib import Path

import lightning
import pytest
import torch

from callbacks.downstream import DownstreamClassifier
from callbacks.fidelity import FidelityMetrics
from callbacks.metrics_file import MetricsFile, describe_checkpoint
from callbacks.metrics_json import write_json
from tests.callbacks.chain import RandomProjection, TinyData, TinyStage, trainer


def test_file_holds_every_logged_figure_and_how_it_was_made(tmp_path: Path, capsys: pytest.CaptureFixture):
    fitted = trainer(tmp_path, [], max_epochs=1)
    fitted.fit(TinyStage(), TinyData(10))
    checkpoint = tmp_path / "tiny.ckpt"
    fitted.save_checkpoint(checkpoint)

    lightning.seed_everything(11, verbose=False)
    data = TinyData(37)
    data.layout_options = {"boxed_patients": "test"}
    t = trainer(tmp_path, [FidelityMetrics(RandomProjection()), MetricsFile()])
    t.test(TinyStage(), data, ckpt_path=checkpoint, weights_only=True, verbose=False)
    document = json.loads((tmp_path / "metrics.json").read_text())
    protocol = document.pop("protocol")
    assert document == {key: float(value) for key, value in t.callback_metrics.items()}
    assert document["generator/fid"] > 0
    expected = {
        "stage": "TinyStage",
        "data_digest": data.manifest.digest(),
        "layout": "tiny",
        "layout_options": {"boxed_patients": "test"},
        "split": "test",
        "n": 37,
        "repeated": 0,
        "limit_test_batches": 1.0,
        "image_size": [16, 16],
        "seed": 11,
        "checkpoint": {"name": "tiny.ckpt", "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest()},
        "precision": "32-true",
        "world_size": 1,
        "device": "cpu",
        "undefined": {},
    }
    assert {key: protocol[key] for key in expected} == expected
    assert protocol["versions"]["torch"] == torch.__version__
    assert protocol["versions"]["lightning"] == lightning.__version__
    assert protocol["metrics"]["generator/fid"]["extractor"] == {
        "name": "random projection",
        "digest": RandomProjection().digest,
        "num_features": 6,
    }
    out = capsys.readouterr().out
    assert f"{tmp_path / 'metrics.json'}: {len(document)} figures of 37 test images" in out
    assert f"{document['generator/fid']:.6g}" in out
    assert not list(tmp_path.glob("*.tmp"))


def test_nan_is_null_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture):
    class Undefined(TinyStage):
        def on_test_epoch_end(self) -> None:
            self.log("tiny/undefined", torch.nan)

    t = trainer(tmp_path, [DownstreamClassifier(RandomProjection(), min_positives=99), MetricsFile()])
    t.test(Undefined(), TinyData(20), verbose=False)
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert document["classifier/auroc_real"] is None
    assert document["tiny/undefined"] is None
    reason = "no finding has 99 positives and negatives among 20 images"
    assert document["protocol"]["undefined"]["classifier/auroc_real"] == reason
    assert document["protocol"]["undefined"]["tiny/undefined"] == "nan was logged"
    assert f"null ({reason})" in capsys.readouterr().out


def test_part_of_the_test_set_is_counted_as_such(tmp_path: Path):
    t = trainer(tmp_path, [MetricsFile()], limit_test_batches=2)
    t.test(TinyStage(), TinyData(37), verbose=False)
    protocol = json.loads((tmp_path / "metrics.json").read_text())["protocol"]
    assert (protocol["n"], protocol["limit_test_batches"], protocol["checkpoint"]) == (10, 2, None)


def test_two_callbacks_under_one_name_are_refused(tmp_path: Path):
    two = [FidelityMetrics(RandomProjection(), floor=False), FidelityMetrics(RandomProjection(), floor=False)]
    with pytest.raises(ValueError, match="two callbacks measure generator/fid; give one"):
        trainer(tmp_path, [*two, MetricsFile()]).test(TinyStage(), TinyData(10), verbose=False)
    assert not (tmp_path / "metrics.json").exists()


def test_strict_json_and_old_file_stay_when_writing_fails(tmp_path: Path):
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1.0}


def test_checkpoint_folders_have_no_digest(tmp_path: Path):
    assert describe_checkpoint(tmp_path) == {"name": tmp_path.name, "sha256": None, "reason": "not a single file"}
    assert describe_checkpoint(None) is None
