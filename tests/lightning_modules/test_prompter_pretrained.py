"""ReportPrompter with models from a Hugging Face folder: fine-tuned, with adapters, and asked as they are."""

import json
from pathlib import Path

import pytest
import torch

from datamodules.reports.keywords import keywords_of
from datamodules.reports.vocabulary import mine
from lightning_modules.networks.adapters import LoraConfig, add_adapters
from lightning_modules.networks.instruct import Instruction, chats
from lightning_modules.networks.language_model import load_pretrained
from lightning_modules.networks.written import Request
from lightning_modules.prompter import ReportPrompter
from tests.lightning_modules import chat_model
from tests.lightning_modules.test_prompter import REPORTS, Reports, module, trainer

INSTRUCTION = Instruction("You report.", "{view} view. State: {pathology}. Name: {anatomy}.")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def requests() -> list[Request]:
    return [Request(keywords_of(report), view="PA", source=report) for report in REPORTS]


def reopened(path: Path, **kwargs: object) -> ReportPrompter:
    again = module(**kwargs)
    checkpoint = torch.load(path, weights_only=True)
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(checkpoint["state_dict"], strict=True)
    return again


def test_a_hugging_face_folder_is_fine_tuned_and_travels_in_the_checkpoint(tmp_path: Path) -> None:
    chat_model.build(tmp_path / "lm", REPORTS, positions=100)
    model = module(language_model=str(tmp_path / "lm"))
    fit = trainer(tmp_path, max_epochs=2)
    fit.fit(model, datamodule=Reports())
    fit.save_checkpoint(tmp_path / "tuned.ckpt")
    (tmp_path / "lm").rename(tmp_path / "gone")
    again = reopened(tmp_path / "tuned.ckpt")
    assert again.max_length == 100
    assert again.write(requests()[:1], seed=0) == model.write(requests()[:1], seed=0)


def test_a_missing_language_model_says_what_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"could not be opened: give a folder with config\.json"):
        load_pretrained(str(tmp_path / "nowhere"))


def test_adapters_need_a_pretrained_model() -> None:
    with pytest.raises(
        ValueError, match=r"lora is for a pretrained model: name it with --model\.init_args\.language_model"
    ):
        module(lora=LoraConfig())
    with pytest.raises(ValueError, match=r"lora\.rank 0 must be at least 1"):
        LoraConfig(rank=0)


@pytest.mark.parametrize("keep_base", [True, False])
def test_adapters_are_trained_beside_frozen_weights(tmp_path: Path, keep_base: bool) -> None:
    pytest.importorskip("peft", reason="adapters need the extra lora: pip install 'cxr-synth[lora]'")
    chat_model.build(tmp_path / "lm", REPORTS, positions=100)
    before = load_pretrained(str(tmp_path / "lm"))[0].state_dict()
    model = module(language_model=str(tmp_path / "lm"), lora=LoraConfig(rank=4, keep_base=keep_base))
    fit = trainer(tmp_path, max_epochs=3)
    fit.fit(model, datamodule=Reports())
    fit.save_checkpoint(tmp_path / "tuned.ckpt")
    state = model.model.state_dict()
    for name, value in before.items():
        matching = [v for k, v in state.items() if ".lora_" not in k and k.replace("base_layer.", "").endswith(name)]
        assert len(matching) == 1, name
        assert torch.equal(matching[0], value), name
    changed = [name for name, value in state.items() if ".lora_B" in name and bool(value.abs().sum() > 0)]
    assert len(changed) == 2 * 4  # attention and MLP of two blocks have two linear layers each
    saved = torch.load(tmp_path / "tuned.ckpt", weights_only=True)["state_dict"]
    assert any("wte" in name for name in saved) == keep_base
    expected = model.write(requests()[:1], seed=0)
    if keep_base:
        (tmp_path / "lm").rename(tmp_path / "gone")
        assert reopened(tmp_path / "tuned.ckpt").write(requests()[:1], seed=0) == expected
        return
    (tmp_path / "lm").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=r"could not be opened"):
        reopened(tmp_path / "tuned.ckpt")
    again = reopened(tmp_path / "tuned.ckpt", language_model=str(tmp_path / "moved"))
    assert again.write(requests()[:1], seed=0) == expected
    # Another model under that name: the adapters would change weights that they do not belong to.
    other, _ = load_pretrained(str(tmp_path / "moved"))
    with torch.no_grad():
        other.transformer.wte.weight[0, 0] += 1
    other.save_pretrained(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"has other weights \(digest .* than the adapters were trained on"):
        reopened(tmp_path / "tuned.ckpt", language_model=str(tmp_path / "moved"))


def test_adapters_for_layers_that_are_not_there(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="adapters need the extra lora: pip install 'cxr-synth[lora]'")
    chat_model.build(tmp_path / "lm", REPORTS)
    model, _ = load_pretrained(str(tmp_path / "lm"))
    with pytest.raises(ValueError, match=r"target_modules \['q_proj'\].*this model has layers named .*'c_attn'"):
        add_adapters(model, LoraConfig(target_modules=("q_proj",)))


def test_an_instruct_model_is_asked_without_a_checkpoint(tmp_path: Path) -> None:
    chat_model.build(tmp_path / "lm", [*REPORTS, INSTRUCTION.user], chat=True)
    answers = [f"Sure! Here is the report:\n**Findings:**\n- {report}" for report in REPORTS]
    chat_model.teach(tmp_path / "lm", chats(INSTRUCTION, requests()), answers)
    mine(REPORTS, min_count=1).save(tmp_path / "vocabulary.json")
    given = {"language_model": str(tmp_path / "lm"), "instruction": INSTRUCTION, "max_new_tokens": 80}
    model = module(**given, vocabulary=str(tmp_path / "vocabulary.json"))
    trainer(tmp_path).predict(model, datamodule=Reports())
    rows = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert [row["report"] for row in rows] == REPORTS
    assert all(row["verified"] for row in rows)
    metrics = trainer(tmp_path).test(module(**given), datamodule=Reports(), verbose=False)[0]
    assert metrics["prompter/coverage"] == 1.0
    assert metrics["prompter/copied_excess"] == 0
    with pytest.raises(ValueError, match=r"an instruct model is asked as it is: run predict"):
        trainer(tmp_path, max_epochs=1).fit(module(**given), datamodule=Reports())
