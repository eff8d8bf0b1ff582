"""ReportPrompter: learns eight reports by heart, travels in its checkpoint, writes prompts."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from datamodules.reports.keywords import Keywords, keywords_of
from datamodules.reports.labels import FINDINGS
from datamodules.reports.vocabulary import mine
from lightning_modules.networks.language_model import (
    IGNORED,
    LanguageModelConfig,
    build_small,
    generate,
    load_pretrained,
    train_codec,
)
from lightning_modules.networks.report_writer import Sampling
from lightning_modules.networks.text_metrics import DistinctNgrams, Ratio
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
    return ReportPrompter(
        SMALL,
        optimizer=lambda params: torch.optim.AdamW(params, lr=5e-3),
        warmup_steps=5,
        max_new_tokens=40,
        temperature=0.2,
        **kwargs,
    )


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
    assert again.vocabulary == model.vocabulary


def test_a_text_depends_on_its_key_and_seed_only(trained: tuple[ReportPrompter, Path]) -> None:
    model, _ = trained
    model.sampling = Sampling(candidates=1, max_new_tokens=40, temperature=2.0, top_p=1.0)
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
    assert written.attempts == 4
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


def test_another_stage_is_refused(trained: tuple[ReportPrompter, Path]) -> None:
    checkpoint = torch.load(trained[1], weights_only=True)
    checkpoint["cxr_synth"]["stage"] = "codebook"
    with pytest.raises(ValueError, match="a checkpoint of the codebook stage, expected the prompter stage"):
        module().on_load_checkpoint(checkpoint)


def test_a_hugging_face_folder_is_fine_tuned_and_travels_in_the_checkpoint(tmp_path: Path) -> None:
    codec = train_codec(REPORTS, sub_words=300)
    network = GPT2LMHeadModel(
        GPT2Config(vocab_size=400, n_positions=100, n_embd=32, n_layer=1, n_head=2, bos_token_id=2, eos_token_id=3)
    )
    network.save_pretrained(tmp_path / "lm")
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(codec.tokenizer)
    PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), eos_token="[EOS]").save_pretrained(tmp_path / "lm")
    model = module(language_model=str(tmp_path / "lm"))
    fit = trainer(tmp_path, max_epochs=2)
    fit.fit(model, datamodule=Reports())
    fit.save_checkpoint(tmp_path / "tuned.ckpt")
    moved = (tmp_path / "lm").rename(tmp_path / "gone")
    assert moved.is_dir()
    again = module()
    checkpoint = torch.load(tmp_path / "tuned.ckpt", weights_only=True)
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(checkpoint["state_dict"], strict=True)
    assert again.max_length == 100
    assert again.write([keywords_of(REPORTS[0])], seed=0) == model.write([keywords_of(REPORTS[0])], seed=0)


def test_a_missing_language_model_says_what_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"could not be opened: give a folder with config\.json"):
        load_pretrained(str(tmp_path / "nowhere"))


def test_cached_generation_is_the_models_own_greedy_continuation() -> None:
    torch.manual_seed(0)
    codec = train_codec(REPORTS, sub_words=300)
    model = build_small(SMALL, codec).eval()
    prompts = codec.prompts(["heart", "small left pleural effusion ; lung"])  # of different lengths: one is padded
    got = generate(
        model, prompts, torch.zeros(2, 12, dtype=torch.float64), codec=codec, temperature=0, top_p=1.0, max_length=80
    )
    for prompt, new in zip(prompts, got, strict=True):
        ids = list(prompt)
        for _ in range(12):  # recomputed from the start each time, without cache or padding
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if token == codec.end:
                break
            ids.append(token)
        assert new == ids[len(prompt) :]


def test_loss_counts_the_report_and_its_end_only() -> None:
    codec = train_codec(REPORTS, sub_words=300)
    ids, mask, targets = codec.training_batch(["heart", "heart ; lung"], ["Clear.", "Clear."], max_length=80)
    answer = [*codec.encode(["Clear."])[0], codec.end]
    for row in range(2):
        assert targets[row][targets[row] != IGNORED].tolist() == answer
        assert ids[row][targets[row] != IGNORED].tolist() == answer
    assert mask.sum(dim=1).tolist() == [len(codec.prompts([k])[0]) + len(answer) for k in ("heart", "heart ; lung")]
    assert codec.decode([answer]) == ["Clear."]


def test_metrics_by_hand() -> None:
    ratio = Ratio(torch.exp)
    ratio.update(1.0, 2)
    ratio.update(2.0, 2)
    assert float(ratio.compute()) == pytest.approx(np.exp(0.75))
    distinct = DistinctNgrams(2)
    distinct.update(["a b a b", "a b"])  # ab ba ab | ab
    assert float(distinct.compute()) == 0.5


def test_bad_sampling_is_refused() -> None:
    with pytest.raises(ValueError, match=r"top_p 1.5 in \(0, 1\]"):
        module(top_p=1.5)
