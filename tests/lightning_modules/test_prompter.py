"""ReportPrompter: learns eight reports by heart, travels in its checkpoint, writes prompts."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.reports.keywords import Keywords, keywords_of
from datamodules.reports.labels import FINDINGS
from datamodules.reports.vocabulary import mine
from lightning_modules.networks.language_model import LanguageModelConfig
from lightning_modules.networks.report_writer import Sampling
from lightning_modules.networks.written import Request
from lightning_modules.prompter import ReportPrompter

REPORTS = [
    "Small left pleural effusion. The heart is normal.",
    "Large right pneumothorax. No pleural effusion.",
    "Mild cardiomegaly. The lungs are clear.",
    "Possible pneumonia in the right lower lobe.",
    "The heart is normal. No pneumothorax.",
    "Moderate pulmonary edema. No consolidation.",
    "Left rib fracture. The mediastinum is normal.",
    "Small right nodule in the right upper lobe.",
]
SMALL = LanguageModelConfig(sub_words=400, max_length=80, width=64, depth=2, heads=2)


class Reports(lightning.LightningDataModule):
    """Eight studies; with `labels_only`, two more that have labels and no report."""

    def __init__(self, *, labels_only: bool = False) -> None:
        super().__init__()
        self.extra = 2 if labels_only else 0

    def train_reports(self) -> list[str]:
        return REPORTS

    def _loader(self, reports: list[str]) -> DataLoader:
        labels = torch.full((len(reports), 14), float("nan"))
        labels[len(REPORTS) :] = 0
        labels[len(REPORTS) :, FINDINGS.index("Cardiomegaly")] = 1
        batch = {
            "report": reports,
            "labels": labels,
            "view": torch.zeros(len(reports), dtype=torch.int64),
            "study_id": [f"s{i}" for i in range(len(reports))],
        }
        return DataLoader([batch], batch_size=None)

    def train_dataloader(self) -> DataLoader:
        return self._loader(REPORTS)

    val_dataloader = test_dataloader = train_dataloader

    def predict_dataloader(self) -> DataLoader:
        return self._loader(REPORTS + [""] * self.extra)


def trainer(folder: Path, **kwargs: Any) -> lightning.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        **quiet,
        **kwargs,
    )


def module(**kwargs: Any) -> ReportPrompter:
    given = {"warmup_steps": 5, "max_new_tokens": 40, "temperature": 0.2} | kwargs
    return ReportPrompter(SMALL, optimizer=lambda params: torch.optim.AdamW(params, lr=5e-3), **given)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReportPrompter, Path]:
    """A prompter that knows the eight reports by heart, and its checkpoint; its vocabulary file is deleted."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("prompter")
    lightning.seed_everything(0, verbose=False)
    mine(REPORTS, min_count=1).save(folder / "vocabulary.json")
    model = module(vocabulary=str(folder / "vocabulary.json"))
    fit = trainer(folder, max_epochs=150)
    fit.fit(model, datamodule=Reports())
    fit.save_checkpoint(folder / "prompter.ckpt")
    (folder / "vocabulary.json").unlink()
    return model, folder / "prompter.ckpt"


def test_eight_reports_are_learnt_and_covered(trained: tuple[ReportPrompter, Path], tmp_path: Path) -> None:
    # A module without vocabulary, tokenizer or weights: all of it comes from the checkpoint.
    metrics = trainer(tmp_path).test(module(), datamodule=Reports(), ckpt_path=trained[1], verbose=False)[0]
    assert metrics["prompter/coverage"] == 1.0
    assert metrics["prompter/verified"] == 1.0
    assert metrics["prompter/contradiction"] == 0.0
    assert metrics["prompter/unasked"] == 0.0
    assert 1 <= metrics["prompter/perplexity"] < 1.5
    assert metrics["prompter/perplexity_word"] > metrics["prompter/perplexity"]
    written = trained[0].write([keywords_of(r) for r in REPORTS], seed=0, keys=[f"s{i}" for i in range(8)])
    pairs = Counter(pair for w in written for words in [w.report.lower().split()] for pair in pairwise(words))
    assert metrics["prompter/distinct2"] == pytest.approx(len(pairs) / pairs.total())


def test_checkpoint_rebuilds_the_same_writer(trained: tuple[ReportPrompter, Path]) -> None:
    model, path = trained
    checkpoint = torch.load(path, weights_only=True)
    again = ReportPrompter(**checkpoint["hyper_parameters"], max_new_tokens=40, temperature=0.2)
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(checkpoint["state_dict"], strict=True)
    asked = [keywords_of(report) for report in REPORTS]
    assert again.write(asked, seed=3) == model.write(asked, seed=3)
    assert again._ready().vocabulary == model._ready().vocabulary


def test_a_text_depends_on_its_key_and_seed_only(trained: tuple[ReportPrompter, Path]) -> None:
    model, _ = trained
    model.sampling = Sampling(candidates=1, rescue=0, max_new_tokens=40, temperature=2.0, top_p=1.0)
    try:
        asked = [keywords_of(report) for report in REPORTS]
        keys = [f"study {i}" for i in range(8)]
        together = [w.report for w in model.write(asked, seed=1, keys=keys)]
        alone = [model.write([k], seed=1, keys=[key])[0].report for k, key in zip(asked, keys, strict=True)]
        backwards = [w.report for w in model.write(asked[::-1], seed=1, keys=keys[::-1])]
        assert together == alone == backwards[::-1]
        assert together != [w.report for w in model.write(asked, seed=2, keys=keys)]
        copies = model.write(asked[:1], n=3, seed=1)
        assert len({w.report for w in copies}) == 3
        assert all(w.attempts == 1 for w in copies)
    finally:
        model.sampling = Sampling(max_new_tokens=40, temperature=0.2)


def test_what_cannot_be_written_stays_flagged(trained: tuple[ReportPrompter, Path]) -> None:
    asked = Keywords(("trachea", "stomach", "scapula"), ("hernia", "scoliosis"))
    written = trained[0].write([asked], seed=0)[0]
    assert not written.verified
    # Four as a whole, and where that was better, one sentence by sentence.
    assert written.attempts == 4 + written.guided
    assert set(written.check.missing) <= {*asked.anatomy, *asked.pathology}
    assert written.check.missing


def test_prompts_file_has_each_study_once_from_report_or_labels(
    trained: tuple[ReportPrompter, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer(tmp_path).predict(module(), datamodule=Reports(labels_only=True), ckpt_path=trained[1])
    rows = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert [row["study_id"] for row in rows] == [f"s{i}" for i in range(10)]
    assert [row["keywords_from"] for row in rows] == ["report"] * 8 + ["labels"] * 2
    assert rows[0]["keywords"] == {"anatomy": ["heart"], "pathology": ["small left pleural effusion"]}
    assert rows[0]["report"].startswith("Small left pleural effusion.")
    assert rows[0]["verified"] is True
    assert rows[8]["keywords"]["pathology"] == ["mild cardiomegaly"]
    assert rows[8]["labels"][FINDINGS.index("Cardiomegaly")] == 1
    assert rows[0]["labels"] == [None] * 14
    assert rows[0]["view"] == "PA"
    assert f"wrote 10 reports to {tmp_path / 'prompts.jsonl'}" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.tmp"))


def test_training_resumes_from_the_checkpoint(trained: tuple[ReportPrompter, Path], tmp_path: Path) -> None:
    model = module()
    again = trainer(tmp_path, max_epochs=151)
    again.fit(model, datamodule=Reports(), ckpt_path=trained[1], weights_only=True)
    assert again.global_step == 151
    assert float(again.callback_metrics["train/loss"]) < 0.2


def test_without_weights_the_error_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no weights: give --ckpt_path of a prompter checkpoint"):
        trainer(tmp_path).test(module(), datamodule=Reports(), verbose=False)


def test_an_older_format_is_refused(trained: tuple[ReportPrompter, Path]) -> None:
    checkpoint = torch.load(trained[1], weights_only=True)
    del checkpoint["cxr_synth"]["format"]
    with pytest.raises(ValueError, match=r"has the format 1, expected 3, which holds other things; train it again"):
        module().on_load_checkpoint(checkpoint)


def test_packing_changes_neither_loss_nor_count(trained: tuple[ReportPrompter, Path]) -> None:
    model, _ = trained
    prompts = model._prompts([Request(model.keywords_of(report)) for report in REPORTS])
    try:
        packed, tokens = model._losses(prompts, REPORTS)
        model.packing = False
        padded, same = model._losses(prompts, REPORTS)
    finally:
        model.packing = True
    assert tokens == same
    assert float(packed.detach()) == pytest.approx(float(padded.detach()), rel=1e-5)


def test_rewriting_asks_for_what_can_be_drawn(trained: tuple[ReportPrompter, Path], tmp_path: Path) -> None:
    trainer(tmp_path).predict(module(mode="rewrite"), datamodule=Reports(labels_only=True), ckpt_path=trained[1])
    rows = {row["study_id"]: row for row in map(json.loads, (tmp_path / "prompts.jsonl").read_text().splitlines())}
    assert sorted(rows) == [f"s{i}" for i in range(8)]  # two have no report to rewrite
    assert rows["s0"]["keywords_from"] == "rewrite"
    assert rows["s0"]["verified"]
    assert rows["s3"]["keywords"] == {
        "anatomy": ["right lower lobe"],
        "pathology": [],
    }  # "possible pneumonia" is a hedge
    assert not any("possible" in row["report"].lower() for row in rows.values() if row["verified"])


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"mode is 'both'; expected one of \['auto', 'keywords', 'labels', 'rewrite', 'asked'\]"
    ):
        module(mode="both")


def test_another_stage_is_refused(trained: tuple[ReportPrompter, Path]) -> None:
    checkpoint = torch.load(trained[1], weights_only=True)
    checkpoint["cxr_synth"]["stage"] = "codebook"
    with pytest.raises(ValueError, match="a checkpoint of the codebook stage, expected the prompter stage"):
        module().on_load_checkpoint(checkpoint)


def test_bad_sampling_is_refused() -> None:
    with pytest.raises(ValueError, match=r"top_p 1.5 in \(0, 1\]"):
        module(top_p=1.5)


def test_the_checkpoint_tells_what_was_copied_from_the_training_reports(trained: tuple[ReportPrompter, Path]) -> None:
    checkpoint = torch.load(trained[1], weights_only=True)
    parts = ReportPrompter.load_from_checkpoint(trained[1], map_location="cpu").parts
    assert parts is not None
    assert parts.training is not None
    state = checkpoint["cxr_synth"]["training"]
    assert parts.training.known.tolist() == state["runs"].tolist() == sorted(set(state["runs"].tolist()))
    assert parts.training.repeating == state["repeating"]
    assert 0 <= state["repeating"] <= 1
