"""RadGraph's graphs read by hand, and a RadGraph of a few weights that runs in the package as the published ones do."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertModel

from datamodules.reports.keywords import Keywords
from datamodules.reports.labels import FINDINGS
from datamodules.reports.mentions import labels_from
from lightning_modules.networks.language_model import train_codec
from lightning_modules.networks.radgraph import RadGraph, mentions_of
from lightning_modules.networks.report_metrics import Baseline
from lightning_modules.networks.written import Request, read_back
from lightning_modules.prompter import ReportPrompter
from tests.lightning_modules import tiny_readers
from tests.lightning_modules.tiny_readers import ABSENT, PLACE, PRESENT, RADGRAPH_WORDS, UNCERTAIN


def labels(**stated: float) -> np.ndarray:
    """The 14 labels; of those that are not named only "No Finding" is known."""
    out = np.full(len(FINDINGS), np.nan, dtype=np.float32)
    for name, value in stated.items():
        out[FINDINGS.index(name.replace("_", " "))] = value
    return out


def graph(*entities: tuple[int, str, str, list[list[str]]]) -> dict[str, Any]:
    """Entities as RadGraph writes them, numbered from 1: (first token, tokens, label, relations)."""
    return {
        str(n): {
            "tokens": tokens,
            "label": label,
            "start_ix": start,
            "end_ix": start + len(tokens.split()) - 1,
            "relations": relations,
        }
        for n, (start, tokens, label, relations) in enumerate(entities, start=1)
    }


# Each as (entities, words and status of what they name, labels).
GRAPHS = {
    "present, with a modifier, a place and the place's modifier": (
        # Small left pleural effusion .
        graph(
            (0, "Small", PRESENT, [["modify", "4"]]),
            (1, "left", PLACE, [["modify", "3"]]),
            (2, "pleural", PLACE, []),
            (3, "effusion", PRESENT, [["located_at", "3"]]),
        ),
        [("pleural effusion", "present", "left", "small")],
        labels(No_Finding=0, Pleural_Effusion=1),
    ),
    "absent": (
        # No evidence of pneumothorax following chest tube removal .
        graph(
            (3, "pneumothorax", ABSENT, []), (5, "chest", PLACE, []), (6, "tube", PRESENT, [["located_at", "2"]])
        ),
        [("pneumothorax", "absent", None, None), ("chest tube", "present", None, None)],
        labels(No_Finding=1, Pneumothorax=0, Support_Devices=1),
    ),
    "what is suggested is uncertain, and stands for itself": (
        # Right basilar opacity may represent pneumonia .
        graph(
            (0, "Right", PLACE, [["modify", "2"]]),
            (1, "basilar", PLACE, []),
            (2, "opacity", PRESENT, [["located_at", "2"], ["suggestive_of", "4"]]),
            (5, "pneumonia", UNCERTAIN, []),
        ),
        [("opacity", "present", "right", None), ("pneumonia", "uncertain", None, None)],
        labels(No_Finding=0, Lung_Opacity=1, Pneumonia=-1),
    ),
    "normal is present, and what it is said of is not": (
        # The heart size is normal .
        graph(
            (1, "heart", PLACE, []), (2, "size", PLACE, [["modify", "1"]]),
            (4, "normal", PRESENT, [["located_at", "1"]]),
        ),
        [("cardiomegaly", "absent", None, None)],
        labels(No_Finding=1, Cardiomegaly=0),
    ),
    "the words name a finding and RadGraph denies it": (
        # The heart is not enlarged .
        graph((1, "heart", PLACE, []), (4, "enlarged", ABSENT, [["located_at", "1"]])),
        [("cardiomegaly", "absent", None, None)],
        labels(No_Finding=1, Cardiomegaly=0),
    ),
    "one of two mentions is present": (
        # No effusion on the right . Left effusion .
        graph((1, "effusion", ABSENT, [["located_at", "2"]]), (4, "right", PLACE, []), (6, "Left", PLACE, []),
              (7, "effusion", PRESENT, [["located_at", "3"]])),
        [("pleural effusion", "absent", "right", None), ("pleural effusion", "present", "left", None)],
        labels(No_Finding=0, Pleural_Effusion=1),
    ),
    "two that modify each other are each other's words": (
        graph(
            (0, "pulmonary", PRESENT, [["modify", "2"]]), (1, "edema", UNCERTAIN, [["modify", "1"], ["modify", "2"]])
        ),
        [("pulmonary edema", "present", None, None), ("pulmonary edema", "uncertain", None, None)],
        labels(No_Finding=0, Edema=1),
    ),
    "spans that overlap give each word once": (
        graph((0, "pleural effusion", PRESENT, [["located_at", "2"]]), (0, "pleural", PLACE, [])),
        [("pleural effusion", "present", None, None)],
        labels(No_Finding=0, Pleural_Effusion=1),
    ),
    "a measured device": (
        # et tube 2 cm above the carina
        graph(
            (0, "et tube", PRESENT, [["located_at", "2"]]),
            (2, "2 cm above", "Anatomy::measurement::definitely present", [["modify", "3"]]),
            (6, "carina", PLACE, []),
            (8, "4 cm", "Observation::measurement::definitely present", [["modify", "1"]]),
        ),
        [("endotracheal tube", "present", None, None)],
        labels(No_Finding=1, Support_Devices=1),
    ),
    "nothing that has a name": (
        # The lungs are clear .
        graph((1, "lungs", PLACE, []), (3, "clear", PRESENT, [["located_at", "1"]])),
        [],
        labels(No_Finding=1),
    ),
    "nothing at all": ({}, [], labels(No_Finding=1)),
}  # fmt: skip
SHORT = {PRESENT: "OBS-DP", ABSENT: "OBS-DA", UNCERTAIN: "OBS-U", PLACE: "ANAT-DP"}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("short", [False, True], ids=["as the package writes", "as PhysioNet has it"])
def test_findings_and_labels_of_a_graph(name: str, short: bool) -> None:
    entities, named, expected = GRAPHS[name]
    if short:
        entities = {n: one | {"label": SHORT.get(one["label"], one["label"])} for n, one in entities.items()}
    mentions = mentions_of(entities)
    assert [(m.word, m.status, m.side, m.severity) for m in mentions] == named
    np.testing.assert_array_equal(labels_from(mentions), expected)


def test_an_unknown_label_is_named() -> None:
    for label in ("Observation::likely", "Device::definitely present", "OBS"):
        with pytest.raises(
            ValueError, match=rf"label '{label}' of 'edema' is not known; expected one of \['Observation'"
        ):
            mentions_of(graph((0, "edema", label, [])))


# The model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pytest.importorskip("radgraph", reason="a RadGraph needs the extra radgraph: pip install 'cxr-synth[radgraph]'")
    return tiny_readers.radgraph(tmp_path / "mine")


def test_labels_of_reports_by_a_model_that_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    reader = RadGraph(folder)
    reports = [
        "Small left pleural effusion. The heart size is normal.\nNodule, no edema.",
        "  ",
        "Edema",
        "No findings in an unknown text.",
    ]
    found = reader.labels(reports)
    assert found.dtype == np.float32
    expected = [
        labels(No_Finding=0, Pleural_Effusion=1, Cardiomegaly=0, Lung_Lesion=-1, Edema=0),
        labels(),
        labels(No_Finding=1, Edema=0),
        labels(No_Finding=1),
    ]
    np.testing.assert_array_equal(found, np.array(expected))
    assert reader.labels([]).shape == (0, 14)
    (entities,) = reader.entities(["Small effusion in the left pleural space"])
    assert [(e["tokens"], e["label"], e["start_ix"], e["relations"]) for e in entities.values()] == [
        ("Small", PRESENT, 0, [["modify", "2"]]),
        ("effusion", PRESENT, 1, [["located_at", "4"]]),
        ("left", PLACE, 4, [["modify", "4"]]),
        ("pleural", PLACE, 5, []),
    ]


@pytest.mark.parametrize("name", ["radgraph", "modern-radgraph-xl"])
def test_a_model_is_known_by_its_vocabulary(folder: Path, tmp_path: Path, name: str) -> None:
    found = RadGraph(tiny_readers.radgraph(tmp_path / "other", name=name)).labels(["Small effusion. Nodule."])
    np.testing.assert_array_equal(found, [labels(No_Finding=0, Pleural_Effusion=1, Lung_Lesion=-1)])


def test_long_reports_are_read_in_parts_by_the_bert_as_transformers_has_it(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    bert = BertModel(tiny_readers.tiny_bert_config()).eval()
    reader = RadGraph(tiny_readers.radgraph(tmp_path / "other", bert=bert))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    (encoder,) = [part for part in reader.network.modules() if isinstance(part, BertModel)]
    encoder.register_forward_hook(lambda _, __, given, out: seen.append((given["input_ids"], out[0])), with_kwargs=True)
    text = ["edema", "nodule", "heart"] * 7
    reader.labels([" ".join(text)])
    ((tokens, hidden),) = seen
    ids = [RADGRAPH_WORDS.index(word) for word in text]
    first, rest = [2, *ids[:14], 3], [2, *ids[14:], 3]  # [CLS] and [SEP] around what 16 positions hold
    assert tokens.tolist() == [first, rest + [0] * (16 - len(rest))]
    with torch.inference_mode():
        for row, part in zip(hidden, (first, rest), strict=True):
            alone = bert(torch.tensor([part])).last_hidden_state[0]
            torch.testing.assert_close(row[: len(part)], alone, rtol=1e-5, atol=1e-5)


def test_it_reads_the_same_below_half_precision(folder: Path) -> None:
    reader, text = RadGraph(folder), ["Small effusion. Nodule."]
    before = reader.labels(text)
    with torch.autocast("cpu", dtype=torch.float16):
        np.testing.assert_array_equal(reader.labels(text), before)
    assert not any(weight.requires_grad for weight in reader.network.parameters())
    assert not reader.network.training


def test_the_prompter_is_measured_by_it_beside_the_rules(folder: Path) -> None:
    texts = ["Pulmonary edema. The heart is normal.", "Small left pleural effusion."]
    asked = [Keywords(("heart",), ("pulmonary edema",)), Keywords((), ("small left pleural effusion",))]
    written = [read_back(text, Request(k)) for text, k in zip(texts, asked, strict=True)]
    metrics = ReportPrompter(reader=str(folder)).metrics
    metrics.reset()
    metrics.update_texts(
        written, texts, keys=["a", "b"], baseline=Baseline(texts, codec=train_codec(texts, sub_words=300))
    )
    # This reader denies any edema: one finding of the two that were asked.
    assert float(metrics.finding_f1.compute()) == 1
    assert float(metrics.finding_f1_reader.compute()) == pytest.approx(2 / 3)
    assert not [name for name in metrics.state_dict() if "bert" in name]


@pytest.mark.parametrize("part", ["config.json", "weights.th", "vocabulary"])
def test_what_is_missing_is_named(folder: Path, part: str) -> None:
    (folder / part).rename(folder / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"mine/{part} is missing; expected .*radgraph-xl.tar.gz of Stanford"):
        RadGraph(folder)


@pytest.mark.parametrize("part", ["config.json", "vocab.txt"])
def test_a_missing_bert_is_named(folder: Path, part: str) -> None:
    (folder / "encoder" / part).unlink()
    with pytest.raises(FileNotFoundError, match=r"encoder lacks config.json, or .* of nobody/tiny-bert .* hf download"):
        RadGraph(folder)


def test_parts_that_do_not_fit_are_refused(folder: Path) -> None:
    weights = torch.load(folder / "weights.th", weights_only=True)
    del weights["_events._distance_embedding.weight"]
    torch.save(weights, folder / "weights.th")
    with pytest.raises(ValueError, match=r"mine: config.json, .* do not make one radgraph-xl .*_events._distance"):
        RadGraph(folder)
    (folder / "vocabulary" / "radgraph-xl__ner_labels.txt").rename(folder / "vocabulary" / "None__ner_labels.txt")
    with pytest.raises(ValueError, match=r"of \['None'\]; expected those of one of \['radgraph', 'radgraph-xl'"):
        RadGraph(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["model"]["embedder"]["token_embedders"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config.json has no 'token_embedders' of model.embedder"):
        RadGraph(folder)


def test_a_report_that_the_package_skips_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = RadGraph(folder)
    reader.network.model._loss_weights["ner"] = 0.0  # so that its own reading of the result fails
    with pytest.raises(RuntimeError, match=r"no graph for 'No edema.'; its own message stands above"):
        reader.labels(["No edema."])
    assert "Skipping inference" in capsys.readouterr().out


def test_without_the_package_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "radgraph", None)
    with pytest.raises(ImportError, match=r"pip install 'cxr-synth\[radgraph\]'"):
        RadGraph(folder)


def test_the_package_and_the_folder_are_left_as_they_were(folder: Path) -> None:
    from radgraph.allennlp.common import cached_transformers

    before = dict(vars(cached_transformers))
    RadGraph(folder)
    for broken in (b"", b"<html>", (folder / "weights.th").read_bytes()[:5000]):
        (folder / "weights.th").write_bytes(broken)
        with pytest.raises(ValueError, match=r"mine: config.json, .* do not make one radgraph-xl"):
            RadGraph(folder)
    assert vars(cached_transformers) == before
    assert {path.name for path in (folder / "vocabulary").iterdir()} == {
        "non_padded_namespaces.txt", "radgraph-xl__ner_labels.txt", "radgraph-xl__relation_labels.txt",
    }  # fmt: skip
