"""The prompter's experiment configs through the real command line, with a small model in a folder."""

import json
from pathlib import Path

import pytest
import torch

from datamodules.phantom import disk
from datamodules.reports.keyword_rows import labels_of_keywords, row, write_rows
from datamodules.reports.keywords import Keywords
from main import main
from tests.chain import Chain
from tests.lightning_modules import chat_model

TEXTS = ["The heart is normal. Small left pleural effusion.", "No pneumothorax. The lungs are clear."]


def arguments(chain: Chain, verb: str, name: str, folder: Path, *extra: str) -> list[str]:
    found = chain.arguments(verb, "prompter", configs=(f"configs/experiment/{name}.yaml",))
    found = [a for a in found if not a.startswith(("--ckpt_path", "--run_dir"))]
    return [*found, f"--run_dir={folder}", f"--model.init_args.language_model={folder / 'lm'}", *extra]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_the_labels_config_writes_for_studies_without_a_report(chain: Chain, tmp_path: Path) -> None:
    disk.write("nih", tmp_path / "nih", studies=20, seed=1, size=32)
    configs = ("configs/data/nih.yaml", "configs/experiment/prompter-labels.yaml")
    found = chain.arguments("predict", "prompter", configs=configs)
    found = [a for a in found if not a.startswith("--run_dir") and "layout_options" not in a]
    cli = main([*found, f"--run_dir={tmp_path}", f"--data.root={tmp_path / 'nih'}"])
    frame = cli.datamodule.manifest.frame
    assert (frame["report"] == "").all()
    written = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert {one["study_id"] for one in written} <= set(frame["study_id"])
    assert len(written) > len(set(frame["study_id"])) / 2  # what is empty is left out
    assert {one["keywords_from"] for one in written} == {"labels"}


@pytest.mark.parametrize("name", ["prompter-instruct", "prompter-instruct-rewrite"])
def test_an_instruct_model_is_asked_with_the_text_of_the_config(chain: Chain, name: str, tmp_path: Path) -> None:
    chat_model.build(tmp_path / "lm", TEXTS, chat=True, positions=1024)
    extra = ("--data.init_args.predict_splits=[test]", "--model.init_args.rescue=0")
    cli = main(arguments(chain, "predict", name, tmp_path, *extra))
    content = cli.model.instruction.user
    assert "{pathology}" in content
    assert ("{report}" in content) == name.endswith("rewrite")
    # Random weights write nonsense, which is flagged; what is empty is left out.
    rows = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert rows
    assert not any(row["verified"] for row in rows if row["missing"])
    assert {row["keywords_from"] for row in rows} == {"rewrite" if name.endswith("rewrite") else "report"}


def test_adapters_are_trained_by_the_config(chain: Chain, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="adapters need the extra lora: pip install 'cxr-synth[lora]'")
    chat_model.build(tmp_path / "lm", TEXTS, positions=320)
    cli = main(arguments(chain, "fit", "prompter-lora", tmp_path, "--trainer.max_steps=2"))
    trained = {name for name, p in cli.model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    assert (tmp_path / "checkpoints/last.ckpt").is_file()


def test_the_openi_config_trains_for_its_epochs(chain: Chain, tmp_path: Path) -> None:
    found = chain.arguments("fit", "prompter", configs=("configs/experiment/prompter-openi.yaml",))
    found = [a for a in found if not a.startswith(("--run_dir", "--trainer.max_epochs"))]
    cli = main([*found, f"--run_dir={tmp_path}", "--trainer.max_steps=2"])
    assert cli.trainer.max_epochs == 7
    assert cli.trainer.limit_test_batches == 1.0
    assert cli.model.config.dropout == 0.1


def test_the_keywords_config_writes_from_a_file_of_keyword_sets(chain: Chain, tmp_path: Path) -> None:
    sets = [Keywords(("heart",), ("small left pleural effusion",)), Keywords(("left lung base",), ("possible mass",))]
    rows = [row(k, seed=9, index=i, vocabulary="v", view=("PA", None)[i]) for i, k in enumerate(sets)]
    write_rows(rows, tmp_path / "sets.jsonl")
    found = chain.arguments("predict", "prompter", configs=("configs/experiment/prompter-keywords.yaml",))
    found = [a for a in found if not a.startswith("--run_dir") and "layout_options" not in a]
    main([*found, f"--run_dir={tmp_path}", f"--data.root={tmp_path / 'sets.jsonl'}"])
    written = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert [one["study_id"] for one in written] == ["keywords-9-000000", "keywords-9-000001"]
    assert [one["keywords"] for one in written] == [keywords.as_dict() for keywords in sets]
    assert [one["labels"] for one in written] == [list(labels_of_keywords(keywords).values()) for keywords in sets]
    assert [one["view"] for one in written] == ["PA", "unknown"]
    assert [one["pair"] for one in written] == [None, None]
    assert all(one["report"] and one["verified"] is False for one in written)  # a model of one epoch babbles
