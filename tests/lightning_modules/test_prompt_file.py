"""A prompter that is killed goes on with the next text, on one rank or several, and writes what it would have."""

import json
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.cxr import CXRDataModule
from datamodules.reports.keywords import Keywords
from datamodules.reports.vocabulary import mine
from lightning_modules.networks.language_model import LanguageModelConfig
from lightning_modules.networks.prompt_file import PromptFile, read_partial
from lightning_modules.networks.report_writer import Sampling
from lightning_modules.prompter import ReportPrompter
from lightning_modules.prompter_parts import facts_of

REPORTS = [
    "Small left pleural effusion. The heart is normal.",
    "Large right pneumothorax. No pleural effusion.",
    "Mild cardiomegaly. The lungs are clear.",
    "Possible pneumonia in the right lower lobe.",
]
STUDIES = 10
BATCH = 2


class Sets(lightning.LightningDataModule):
    """Ten keyword sets in batches of two, in turn over the ranks."""

    def train_reports(self) -> list[str]:
        return REPORTS

    def train_dataloader(self) -> DataLoader:
        return DataLoader([self.batch(range(4), REPORTS)], batch_size=None)

    val_dataloader = train_dataloader

    def batch(self, numbers: Any, texts: list[str]) -> dict[str, Any]:
        return {
            "report": texts,
            "labels": torch.full((len(texts), 14), float("nan")),
            "view": torch.zeros(len(texts), dtype=torch.int64),
            "study_id": [f"s{i}" for i in numbers],
            "patient_id": [f"s{i}" for i in numbers],
        }

    def predict_dataloader(self) -> DataLoader:
        words = ["small left pleural effusion", "large right pneumothorax", "mild cardiomegaly", "hernia"]
        sets = [Keywords(("heart", "scapula")[: i % 3], (words[i % 4],)).prompt() for i in range(STUDIES)]
        mine = list(range(STUDIES))[self.trainer.global_rank :: self.trainer.world_size]
        parts = [mine[start : start + BATCH] for start in range(0, len(mine), BATCH)]
        return DataLoader([self.batch(part, [sets[i] for i in part]) for part in parts], batch_size=None)


class Interrupt(lightning.Callback):
    """Ctrl-C after the first batch; among several ranks an error, since Lightning ends on Ctrl-C in its own way."""

    def on_predict_batch_end(self, trainer: lightning.Trainer, *args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt if trainer.world_size == 1 else RuntimeError("the power failed")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("prompter")
    lightning.seed_everything(0, verbose=False)
    mine(REPORTS, min_count=1).save(folder / "vocabulary.json")
    model = prompter(vocabulary=str(folder / "vocabulary.json"))
    fit = trainer(folder, max_epochs=20, limit_val_batches=0)
    fit.fit(model, datamodule=Sets())
    fit.save_checkpoint(folder / "prompter.ckpt")
    return folder / "prompter.ckpt"


def prompter(**kwargs: Any) -> ReportPrompter:
    network = LanguageModelConfig(sub_words=300, max_length=60, width=32, depth=1, heads=2)
    given = {"mode": "asked", "max_new_tokens": 16, "candidates": 2, "rescue": 1} | kwargs
    return ReportPrompter(network, warmup_steps=5, optimizer=adam, **given)


def adam(groups: Any) -> torch.optim.Optimizer:
    # The default is a lambda, which cannot go to spawned processes.
    return torch.optim.AdamW(groups, lr=2e-3)


def trainer(folder: Path, *, ranks: int = 1, **kwargs: Any) -> lightning.Trainer:
    where: dict[str, Any] = {"devices": 2, "strategy": "ddp_spawn"} if ranks == 2 else {"devices": 1}
    return lightning.Trainer(
        **where, **kwargs, accelerator="cpu", default_root_dir=folder, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0, use_distributed_sampler=False,
    )  # fmt: skip


def predict(folder: Path, checkpoint: Path, *, ranks: int = 1, interrupt: bool = False, **kwargs: Any) -> str:
    callbacks = [Interrupt()] if interrupt else []
    run = trainer(folder, ranks=ranks, callbacks=callbacks)
    options = {"datamodule": Sets(), "ckpt_path": checkpoint, "return_predictions": False}
    if interrupt:
        with pytest.raises(SystemExit):
            run.predict(prompter(**kwargs), **options)
        return ""
    run.predict(prompter(**kwargs), **options)
    return (folder / "prompts.jsonl").read_text()


def partials(folder: Path) -> list[Path]:
    return sorted(folder.glob("prompts.partial-*"))


@pytest.fixture(scope="module")
def whole(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a run writes that nobody interrupts."""
    return predict(tmp_path_factory.mktemp("whole"), checkpoint)


def test_an_interrupted_predict_goes_on_and_writes_the_same(
    checkpoint: Path, whole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(whole.splitlines()) > STUDIES // 2  # what is empty is left out
    predict(tmp_path, checkpoint, interrupt=True)
    assert not (tmp_path / "prompts.jsonl").exists()
    (partial,) = partials(tmp_path)
    assert [row["study_id"] for row in read_partial(partial).rows] == ["s0", "s1"]
    # Killed while it wrote.
    with partial.open("a") as file:
        file.write('{"study_id": "s2", "keywo')
    capsys.readouterr()
    assert predict(tmp_path, checkpoint) == whole
    said = capsys.readouterr().out
    assert f"takes 2 texts over from an interrupted run ({partial}); 1 lines that were cut" in said
    # Named when they are met, and counted at the end.
    assert "of 2 sets some ask for words that the prompter has not learnt" in said
    assert "of 10 sets some ask for words that the prompter has not learnt" in said
    assert "hernia (2)" in said.split("of 10 sets")[1]
    assert "scapula (3)" in said.split("of 10 sets")[1]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["prompts.jsonl"]


def test_another_seed_starts_anew_and_leaves_what_there_was(
    checkpoint: Path, whole: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(tmp_path, checkpoint, interrupt=True, seed=5)
    (other,) = partials(tmp_path)
    assert predict(tmp_path, checkpoint) == whole
    said = capsys.readouterr().out
    assert f"starts anew beside {other}, 2 texts of an interrupted run with other seed (5, now 0); it stays" in said
    assert partials(tmp_path) == [other]
    predict(tmp_path, checkpoint, seed=5)
    assert f"takes 2 texts over from an interrupted run ({other})" in capsys.readouterr().out
    assert partials(tmp_path) == []


def test_weights_sampling_seed_and_data_are_facts(checkpoint: Path, tmp_path: Path) -> None:
    def phantoms(studies: int, **options: Any) -> CXRDataModule:
        return CXRDataModule(layout_options={"studies": studies}, cache_dir=str(tmp_path), **options)

    parts = ReportPrompter.load_from_checkpoint(checkpoint, map_location="cpu").parts
    assert parts is not None
    data = phantoms(20)

    def facts(temperature: float = 1.0, seed: int = 0) -> dict[str, Any]:
        sampling = Sampling(temperature=temperature)
        return facts_of(parts, data=data, sampling=sampling, instruction=None, mode="asked", seed=seed)

    def changed(other: dict[str, Any]) -> set[str]:
        return {name for name in first if first[name] != other[name]}

    first = facts()
    assert changed(facts()) == set()
    assert changed(facts(temperature=0.5)) == {"temperature"}
    assert changed(facts(seed=1)) == {"seed"}
    data = phantoms(21, predict_splits=["test"])
    assert changed(facts()) == {"data", "predict_splits"}
    data = phantoms(20)
    with torch.no_grad():
        next(iter(parts.model.parameters())).view(-1)[0] += 1
    assert changed(facts()) == {"weights"}


def test_a_damaged_file_is_kept_under_another_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given: dict[str, Any] = {"facts": {"seed": 0}, "mode": "asked", "learnt": True, "seed": 0}
    one = PromptFile(tmp_path / "prompts.jsonl", rank=0, vocabulary=mine(REPORTS, min_count=1), **given)
    one.partial.write_text('{"schema": 1, "fac')
    one.resume()
    assert one.rows == {}
    assert f"{one.partial} is damaged and not used; it is now {one.partial.stem}.damaged" in capsys.readouterr().out
    assert [file.suffix for file in tmp_path.iterdir()] == [".damaged"]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 1), (1, 2)])
def test_any_number_of_ranks_goes_on_where_any_other_was_killed(
    before: int, after: int, checkpoint: Path, whole: str, tmp_path: Path
) -> None:
    run = trainer(tmp_path, ranks=2, callbacks=[Interrupt()]) if before == 2 else None
    if run is None:
        predict(tmp_path, checkpoint, interrupt=True)
    else:
        with pytest.raises(Exception, match="the power failed"):
            run.predict(prompter(), datamodule=Sets(), ckpt_path=checkpoint, return_predictions=False)
    found = [row["study_id"] for file in partials(tmp_path) for row in read_partial(file).rows]
    # One of two ranks may be ended by the death of the other, before or after its own batch.
    assert 2 <= len(found) <= 2 * before
    predict(tmp_path, checkpoint, ranks=after)
    written = (tmp_path / "prompts.jsonl").read_text()
    assert [json.loads(line) for line in written.splitlines()] == [json.loads(line) for line in whole.splitlines()]
    assert written == whole
    assert partials(tmp_path) == []
