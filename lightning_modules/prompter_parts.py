"""What a prompter is made of beside its settings, and how it travels in a checkpoint: model, tokenizer, vocabulary.

A checkpoint needs no other file, with one exception that the user chooses: with `lora.keep_base: false` it holds
adapters only, and the base model must be found again, with the same weights.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from datamodules.reports.keywords import keywords_of
from datamodules.reports.labels import VIEWS
from datamodules.reports.vocabulary import Vocabulary, mine
from lightning_modules import stages
from lightning_modules.networks import adapters
from lightning_modules.networks.adapters import LoraConfig
from lightning_modules.networks.copying import CopiedNgrams
from lightning_modules.networks.examples import EXCERPT, REPORT, prompt
from lightning_modules.networks.instruct import Instruction
from lightning_modules.networks.language_model import (
    Codec,
    LanguageModelConfig,
    architecture,
    build_small,
    load_pretrained,
    rebuild,
    train_codec,
)
from lightning_modules.networks.prompt_file import code_digest
from lightning_modules.networks.report_writer import Sampling
from lightning_modules.networks.text_checks import words_of

STAGE = "prompter"
FORMAT = 3  # of what the checkpoint holds beside the weights; since 3, the runs of words of the training reports
WEIGHTS = "model."  # what the module calls the model


@dataclasses.dataclass(frozen=True)
class Parts:
    """A prompter's parts.

    Attributes:
        model: the language model, with adapters where there are any.
        codec: its texts to ids and back.
        vocabulary: the words that keywords are taken from.
        lora: the adapters, None without.
        base: id or folder that a pretrained model came from.
        base_digest: of the frozen weights beside adapters, "" without.
        known: the words of the training reports, which a model trained from scratch may write; None for others.
        training: runs of words of the training reports, which tell what a written text copied.
    """

    model: Any
    codec: Codec
    vocabulary: Vocabulary
    lora: LoraConfig | None = None
    base: str | None = None
    base_digest: str = ""
    known: frozenset[str] | None = None
    training: CopiedNgrams | None = None


class Texts(NamedTuple):
    """What is learnt of the training reports before the model: as plain data, since rank 0 makes it for all.

    Attributes:
        vocabulary: its file's text.
        codec: the tokenizer's; None for a pretrained model, which has one.
        known: their words; None for a pretrained model.
        copied: the state of `CopiedNgrams`.
    """

    vocabulary: str
    codec: dict[str, Any] | None
    known: list[str] | None
    copied: dict[str, Any]


def learn_texts(
    reports: Sequence[str], *, vocabulary: str | None, min_count: int, network: LanguageModelConfig | None
) -> Texts:
    """See `Texts`.

    Args:
        reports: of the training split; none are needed with `vocabulary` and without `network`.
        vocabulary: file to read; None mines it.
        min_count: see `ReportPrompter`.
        network: whose tokenizer is trained; None for a pretrained model, which has one.
    """
    if vocabulary is None:
        words = mine(reports, min_count=min(min_count, 1 + len(reports) // 100))
    else:
        words = Vocabulary.load(vocabulary)
    copied = CopiedNgrams(reports).state()
    if network is None:
        return Texts(words.to_json(), None, None, copied)
    prompts = [
        prompt(keywords_of(report, words=words.words), view=VIEWS[i % len(VIEWS)], form=(REPORT, EXCERPT)[i % 2])
        for i, report in enumerate(reports)
    ]
    codec = dataclasses.asdict(train_codec([*reports, *prompts], sub_words=network.sub_words))
    known = sorted(set().union(*(words_of(report) for report in reports)))
    return Texts(words.to_json(), codec, known, copied)


def new_parts(
    texts: Texts,
    *,
    network: LanguageModelConfig,
    language_model: str | None,
    lora: LoraConfig | None,
) -> Parts:
    """A model to train: with random weights, or the pretrained one."""
    vocabulary = Vocabulary.from_json(texts.vocabulary)
    training = CopiedNgrams.from_state(texts.copied)
    if texts.codec is not None:
        codec = stages.as_config(Codec, texts.codec)
        known = frozenset(texts.known or ())
        return Parts(build_small(network, codec), codec, vocabulary, known=known, training=training)
    assert language_model is not None
    model, codec = load_pretrained(language_model)
    if lora is None:
        return Parts(model, codec, vocabulary, base=language_model, training=training)
    model = adapters.add_adapters(model, lora)
    digest = adapters.base_digest(model.state_dict())
    return Parts(model, codec, vocabulary, lora, language_model, digest, training=training)


def save_parts(parts: Parts, checkpoint: dict[str, Any]) -> None:
    """Add the parts to a checkpoint that holds the weights; adapters alone leave the frozen ones out."""
    stages.stamp(
        checkpoint,
        stage=STAGE,
        format=FORMAT,
        tokenizer=json.dumps(dataclasses.asdict(parts.codec)),
        vocabulary=parts.vocabulary.to_json(),
        architecture=architecture(parts.model),
        lora=None if parts.lora is None else json.dumps(dataclasses.asdict(parts.lora)),
        base=parts.base,
        base_digest=parts.base_digest,
        known=None if parts.known is None else sorted(parts.known),
        training=None if parts.training is None else parts.training.state(),
    )
    if parts.lora is not None and not parts.lora.keep_base:
        checkpoint["state_dict"] = adapters.without_base(checkpoint["state_dict"], prefix=WEIGHTS)


def digest_of(parts: Parts) -> str:
    """Sha256 of all that decides what the parts write, wherever they came from."""
    known = None if parts.known is None else sorted(parts.known)
    copied = None if parts.training is None else parts.training.state()
    runs = "" if copied is None else adapters.weights_digest({"runs": torch.as_tensor(copied["runs"])})
    texts = [
        adapters.weights_digest(parts.model.state_dict()),
        architecture(parts.model),
        json.dumps(dataclasses.asdict(parts.codec)),
        parts.vocabulary.to_json(),
        json.dumps([known, runs, None if copied is None else float(copied["repeating"])]),
    ]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def facts_of(
    parts: Parts, *, data: Any, sampling: Sampling, instruction: Instruction | None, **asked: Any
) -> dict[str, Any]:
    """All that a written text depends on beside its study, as plain data: with the same facts, `predict` resumes.

    Args:
        parts: what writes.
        data: the data module; one without a manifest is taken for the same.
        sampling: how it is written.
        instruction: of an instruct model.
        asked: what else counts.
    """
    manifest = getattr(data, "manifest", None)
    return {
        "weights": digest_of(parts),
        "code": code_digest(),
        "data": None if manifest is None else manifest.digest(),
        **{name: getattr(data, name, None) for name in ("policy", "predict_splits")},
        **dataclasses.asdict(sampling),
        "instruction": None if instruction is None else dataclasses.asdict(instruction),
        **asked,
    }


def load_parts(checkpoint: dict[str, Any], *, model: nn.Module | None, language_model: str | None) -> Parts:
    """The parts that a checkpoint was saved with; its weights are loaded afterwards, by Lightning.

    Args:
        checkpoint: the loaded file. Frozen weights that it lacks are added to its state.
        model: what there is already; kept if it has the same architecture.
        language_model: where the base of adapters is now; None looks where it was.

    Raises:
        ValueError: if it is of another stage or format, or of adapters to a base that has other weights.
    """
    stages.check_stage(checkpoint, stage=STAGE)
    extra = checkpoint[stages.KEY]
    if extra.get("format") != FORMAT:
        raise ValueError(
            f"the prompter checkpoint has the format {extra.get('format', 1)}, expected {FORMAT}, which holds "
            "other things; train it again with `python main.py fit -c configs/base.yaml -c configs/prompter.yaml`"
        )
    lora = None if extra["lora"] is None else stages.as_config(LoraConfig, json.loads(extra["lora"]))
    base = language_model or extra["base"]
    if lora is not None and not lora.keep_base:
        model = adapters.add_adapters(load_pretrained(base)[0], lora)
        adapters.check_base(model, name=base, digest=extra["base_digest"])
        frozen = {f"{WEIGHTS}{name}": value for name, value in model.state_dict().items()}
        checkpoint["state_dict"] = frozen | checkpoint["state_dict"]
    elif model is None or architecture(model) != extra["architecture"]:
        model = rebuild(extra["architecture"])
        model = model if lora is None else adapters.add_adapters(model, lora)
    return Parts(
        model,
        stages.as_config(Codec, json.loads(extra["tokenizer"])),
        Vocabulary.from_json(extra["vocabulary"], source="the checkpoint's vocabulary"),
        lora,
        base,
        extra["base_digest"],
        None if extra["known"] is None else frozenset(extra["known"]),
        None if extra["training"] is None else CopiedNgrams.from_state(extra["training"]),
    )
