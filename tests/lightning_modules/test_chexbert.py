"""CheXbert's form on a network of a few weights: heads, order, both kinds of file, and the prompter's measure."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from datamodules.reports.keywords import Keywords
from datamodules.reports.labels import FINDINGS
from lightning_modules.networks.chexbert import HEADS, CheXbert
from lightning_modules.networks.language_model import train_codec
from lightning_modules.networks.report_metrics import Baseline, ReportMetrics
from lightning_modules.networks.written import Request, read_back
from tests.lightning_modules import tiny_readers
from tests.lightning_modules.tiny_readers import CHEXBERT_WORDS as WORDS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_readers.chexbert(tmp_path)


def change(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    weights = load_file(folder / "model.safetensors")
    if tensor is None:
        del weights[name]
    else:
        weights[name] = tensor
    save_file(weights, folder / "model.safetensors")


def test_each_head_gives_its_own_finding_and_class(folder: Path) -> None:
    for n in range(14):
        change(folder, f"linear_heads.{n}.weight", torch.zeros(4 if n < 13 else 2, 8))
        bias = torch.zeros(4 if n < 13 else 2)
        bias[n % 4 if n < 13 else 1] = 1
        change(folder, f"linear_heads.{n}.bias", bias)
    (labels,) = CheXbert(folder).labels(["No effusion."])
    values = [float("nan"), 1.0, 0.0, -1.0]
    expected = {name: values[n % 4] for n, name in enumerate(HEADS[:13])} | {"No Finding": 1.0}
    np.testing.assert_array_equal(labels, np.array([expected[name] for name in FINDINGS], dtype=np.float32))


def test_labels_are_those_of_bert_and_its_heads_one_text_at_a_time(folder: Path) -> None:
    texts = ["no effusion .", "edema", "", "nodule no nodule . effusion\n edema unknown"]
    network = CheXbert(folder)
    labels = network.labels(texts, batch_size=2)
    assert np.isnan(labels[2]).all()
    for text, row in zip(texts, labels, strict=True):
        if not text:
            continue
        tokens = [2, *(WORDS.index(w) if w in WORDS else 1 for w in text.split()), 3]
        with torch.inference_mode():
            hidden = network.bert(torch.tensor([tokens])).last_hidden_state[0, 0]
            classes = [int(head(hidden).argmax()) for head in network.linear_heads]
        expected = {n: [np.nan, 1, 0, -1][c] for n, c in zip(HEADS, classes, strict=True)}
        np.testing.assert_array_equal(row, np.array([expected[name] for name in FINDINGS], dtype=np.float32))


def test_long_reports_are_cut_at_what_bert_can_read(folder: Path) -> None:
    assert CheXbert(folder).labels(["effusion " * 2000]).shape == (1, 14)


def test_the_published_file_is_read_as_it_is(folder: Path) -> None:
    before = CheXbert(folder).labels(["edema", "no nodule"])
    weights = load_file(folder / "model.safetensors")
    saved = {f"module.{name}": tensor for name, tensor in weights.items()}
    saved["module.bert.embeddings.position_ids"] = torch.arange(512)[None]
    torch.save({"model_state_dict": saved}, folder / "chexbert.pth")
    (folder / "model.safetensors").unlink()
    np.testing.assert_array_equal(CheXbert(folder).labels(["edema", "no nodule"]), before)


def test_other_weights_and_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    change(folder, "linear_heads.3.bias", None)
    with pytest.raises(ValueError, match=r"missing \['linear_heads.3.bias'\]"):
        CheXbert(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model.safetensors nor chexbert.pth"):
        CheXbert(folder)
    with pytest.raises(FileNotFoundError, match=r"config.json is missing; expected a folder"):
        CheXbert(tmp_path / "nowhere")


def test_the_prompter_is_measured_by_it_beside_the_rules(folder: Path) -> None:
    blank, present = torch.tensor([1.0, 0, 0, 0]), torch.tensor([0.0, 1, 0, 0])
    for n, name in enumerate(HEADS):
        classes = 2 if name == "No Finding" else 4  # a network that finds an edema in any text, and nothing else
        change(folder, f"linear_heads.{n}.weight", torch.zeros(classes, 8))
        change(folder, f"linear_heads.{n}.bias", (present if name == "Edema" else blank)[:classes].clone())
    texts = ["Pulmonary edema. The heart is normal.", "Small left pleural effusion."]
    asked = [Keywords(("heart",), ("pulmonary edema",)), Keywords((), ("small left pleural effusion",))]
    written = [read_back(text, Request(k)) for text, k in zip(texts, asked, strict=True)]
    baseline = Baseline(texts, codec=train_codec(texts, sub_words=300))
    metrics = ReportMetrics(seed=0, reader=str(folder))
    assert not [name for name in metrics.state_dict() if "bert." in name]
    metrics.reset()
    metrics.update_texts(written, texts, keys=["a", "b"], baseline=baseline)
    metrics.update_likelihoods(texts, given=3.0, without=6.0, tokens=30, baseline=baseline)
    values = {name: float(value) for name, value in metrics.compute().items() if name.startswith("finding")}
    # Edema in both texts, an edema and an effusion asked: one of both.
    assert values == {"finding_f1": 1.0, "finding_f1_reader": 0.5}
    assert not [name for name in metrics.state_dict() if "bert." in name]
    with pytest.raises(FileNotFoundError, match=r"config.json is missing; expected \"rules\", a folder of CheXbert"):
        ReportMetrics(seed=0, reader=str(folder / "nowhere")).reset()
