"""ReportPrompter: a causal language model that writes a report from keywords, and checks what it wrote.

Trained on `keywords → report` of the training reports (anatomy-pathology prompting, arXiv 2403.06835), or an untrained
instruct model that is asked for it. Every text is read back by the mention extractor, and what fails is flagged.
"""

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional

from datamodules.manifest import Batch
from datamodules.reports.keywords import Keywords
from datamodules.reports.labels import VIEWS
from lightning_modules import stages
from lightning_modules.networks.adapters import LoraConfig
from lightning_modules.networks.examples import EXCERPT, REPORT, Examples, Variation, prompt
from lightning_modules.networks.instruct import Instruction, chats, report_of
from lightning_modules.networks.language_model import IGNORED, LanguageModelConfig
from lightning_modules.networks.packing import can_pack, pack
from lightning_modules.networks.prompt_file import PromptFile
from lightning_modules.networks.ranks import sum_over_ranks, world_size
from lightning_modules.networks.report_metrics import Baseline, ReportMetrics
from lightning_modules.networks.report_writer import Sampling, Writer, one_line
from lightning_modules.networks.requests import MODES, Mode
from lightning_modules.networks.text_checks import without_blanks
from lightning_modules.networks.text_metrics import Ratio
from lightning_modules.networks.written import Request, Written
from lightning_modules.optimizers import parameter_groups
from lightning_modules.prompter_parts import STAGE, Parts, facts_of, learn_texts, load_parts, new_parts, save_parts
from lightning_modules.schedule import with_schedule


class ReportPrompter(lightning.LightningModule):
    """Keywords in, verified reports out.

    Args:
        network: sizes of the model that is trained from scratch; not used with `language_model`.
        vocabulary: vocabulary.json of `python -m datamodules vocabulary`; None mines it from the training reports. Read
            at fit; its text travels in the checkpoint.
        language_model: id or folder of a Hugging Face causal LM to fine-tune instead; read at fit.
        lora: train adapters beside the frozen `language_model`; None trains all of it.
        instruction: with it `language_model` is an instruct model that is asked as it is, without fit or checkpoint.
        mode: what predict asks for: the words of each study's report ("keywords"), words for its labels ("labels", see
            configs/experiment/prompter-labels.yaml), the first where there is a report and else the second ("auto"),
            what can be drawn of its report ("rewrite"), or the sets of the layout `keywords` as they are ("asked").
        min_count: reports that a word must occur in, where the vocabulary is mined here; fewer where there are less
            than 100 × min_count reports.
        variation: how training texts are varied from epoch to epoch.
        packing: train on several texts a row instead of padding; the same loss.
        optimizer: from parameters to the optimiser.
        warmup_steps: steps of linear warm-up before the cosine.
        candidates, rescue, max_new_tokens, temperature, top_p: of writing, see `Sampling`.
        seed: of everything that is drawn in training, test and predict.
        reader: folder of a CheXbert or RadGraph, which reads the texts of `test` too; None has the rules alone.
    """

    def __init__(
        self,
        network: LanguageModelConfig = LanguageModelConfig(),  # noqa: B008 - frozen
        *,
        vocabulary: str | None = None,
        language_model: str | None = None,
        lora: LoraConfig | None = None,
        instruction: Instruction | None = None,
        mode: Mode = "auto",
        min_count: int = 5,
        variation: Variation = Variation(),  # noqa: B008 - frozen
        packing: bool = True,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=2e-3, weight_decay=0.01),
        warmup_steps: int = 50,
        candidates: int = 4,
        rescue: int = 32,
        max_new_tokens: int = 200,
        temperature: float = 1.0,
        top_p: float = 0.95,
        seed: int = 0,
        reader: str | None = None,
    ) -> None:
        super().__init__()
        self.config = stages.as_config(LanguageModelConfig, network)
        self.save_hyperparameters({"network": dataclasses.asdict(self.config)})
        if (lora or instruction) and language_model is None:
            raise ValueError(
                f"{'lora' if lora else 'instruction'} is for a pretrained model: name it with "
                "--model.init_args.language_model=<folder or Hugging Face id>"
            )
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; expected one of {list(MODES)}")
        self.vocabulary_path, self.language_model, self.min_count = vocabulary, language_model, min_count
        self.lora, self.instruction, self.mode = lora, instruction, mode
        self.variation, self.packing = variation, packing
        self.optimizer, self.warmup_steps = optimizer, warmup_steps
        self.sampling = Sampling(candidates, rescue, max_new_tokens, temperature, top_p)
        self.seed = seed
        # Known once the training reports or a checkpoint are.
        self.model: nn.Module | None = None
        self.parts: Parts | None = None
        self.examples: Examples | None = None
        self.baseline: Baseline | None = None
        self.validation_loss = Ratio()
        self.metrics = ReportMetrics(seed=seed, reader=reader)
        self.prompts: PromptFile | None = None

    # Building: late, since the tokenizer comes from the data

    def setup(self, stage: str) -> None:
        """At fit: read or mine the vocabulary, train the tokenizer on rank 0, build the model."""
        if stage != "fit" or self.model is not None:
            return
        if self.instruction is not None:
            raise ValueError("an instruct model is asked as it is: run predict, or leave instruction out to fine-tune")
        reports = self._train_reports()
        self._build(reports)
        self._print_cut(reports)

    def _train_reports(self) -> list[str]:
        return [without_blanks(report) for report in self.trainer.datamodule.train_reports()]  # type: ignore[attr-defined]

    def _build(self, reports: Sequence[str]) -> None:
        network = self.config if self.language_model is None else None
        texts = None
        if self.trainer.is_global_zero:
            texts = learn_texts(reports, vocabulary=self.vocabulary_path, min_count=self.min_count, network=network)
        texts = self.trainer.strategy.broadcast(texts)
        assert texts is not None
        self._take(new_parts(texts, network=self.config, language_model=self.language_model, lora=self.lora))

    def _take(self, parts: Parts) -> None:
        self.parts, self.lora = parts, parts.lora
        self.model = parts.model.to(self.device)
        self.examples = None

    def _print_cut(self, reports: Sequence[str]) -> None:
        prompts = self._prompts([Request(self.keywords_of(report)) for report in reports])
        answers = self._ready().codec.encode(reports)
        lengths = [len(p) + len(ids) + 1 for p, ids in zip(prompts, answers, strict=True)]
        cut = sum(length > self.max_length for length in lengths)
        if cut and self.trainer.is_global_zero:
            print(
                f"prompter: {cut} of {len(reports)} training texts are longer than {self.max_length} sub-words "
                f"(longest {max(lengths)}) and are cut; raise network.max_length to keep them whole",
                flush=True,
            )

    @property
    def max_length(self) -> int:
        """Longest prompt + report: the model's own limit where it has one."""
        return int(getattr(self._ready().model.config, "max_position_embeddings", self.config.max_length))

    def _ready(self) -> Parts:
        if self.parts is None:
            raise ValueError(
                "the prompter has no weights: give --ckpt_path of a prompter checkpoint, which "
                "`python main.py fit -c configs/base.yaml -c configs/prompter.yaml` writes"
            )
        return self.parts

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the tokenizer, the vocabulary and the model's configuration; see `prompter_parts`."""
        save_parts(self._ready(), checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Rebuild the model from the checkpoint, before its weights are loaded."""
        self._take(load_parts(checkpoint, model=self.model, language_model=self.language_model))

    # Training

    def keywords_of(self, report: str) -> Keywords:
        """The report's keywords that are in the vocabulary."""
        return self._examples().keywords_of(report)

    def _examples(self) -> Examples:
        if self.examples is None:
            self.examples = Examples(self._ready().vocabulary, self.variation)
        return self.examples

    def _prompts(self, requests: Sequence[Request], *, form: str = REPORT) -> list[list[int]]:
        """The ids before the report; what an instruct model is asked is the instruction's."""
        codec = self._ready().codec
        if self.instruction is not None:
            return codec.chat_prompts(chats(self.instruction, requests))
        return codec.prompts([prompt(r.keywords, view=r.view, form=form) for r in requests])

    def _losses(self, prompts: Sequence[Sequence[int]], reports: Sequence[str]) -> tuple[Tensor, int]:
        """The summed negative log-likelihood of the reports after their prompts, and its number of tokens."""
        model, codec = self._ready().model, self._ready().codec
        answers = [[*ids, codec.end] for ids in codec.encode(reports)]
        if self.packing and can_pack(model):
            packed = pack(prompts, answers, max_length=self.max_length)
            ids, positions, targets = (x.to(self.device) for x in packed)
            given = {"position_ids": positions}
        else:
            batch = codec.training_batch(prompts, reports, max_length=self.max_length)
            ids, mask, targets = (x.to(self.device) for x in batch)
            given = {"attention_mask": mask.long()}
        logits = model(input_ids=ids, **given, use_cache=False).logits[:, :-1]
        # Only where there is a loss: the largest product here is tokens × vocabulary.
        scored = targets[:, 1:] != IGNORED
        losses = functional.cross_entropy(logits[scored].float(), targets[:, 1:][scored], reduction="sum")
        return losses, int(scored.sum())

    def _requests(self, batch: Batch) -> tuple[list[Request], list[str], list[str]]:
        """What the batch's reports `without_blanks` would have been asked with, these, and their studies."""
        rows = [i for i, report in enumerate(batch["report"]) if report]
        if not rows:
            raise ValueError(
                "a batch holds no report to learn from; the prompter trains on a data set with reports "
                "(data.init_args.text_only: true leaves rows without one out)"
            )
        reports = [without_blanks(batch["report"][i]) for i in rows]
        requests = [
            Request(self.keywords_of(report), view=VIEWS[int(batch["view"][i])], source=batch["report"][i])
            for i, report in zip(rows, reports, strict=True)
        ]
        return requests, reports, [batch["study_id"][i] for i in rows]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss a token; over all ranks' tokens, so that R ranks give the gradient of one with the whole batch."""
        parts = self._ready()
        examples = [
            example
            for request, report, study in zip(*self._requests(batch), strict=True)
            # Of study and epoch alone: neither ranks nor a resumed run change what is learnt.
            for example in self._examples().draw(
                report,
                view=request.view,
                rng=np.random.default_rng([self.seed, self.current_epoch, zlib.crc32(study.encode())]),
            )
        ]
        losses, tokens = self._losses(parts.codec.prompts([p for p, _ in examples]), [report for _, report in examples])
        count = sum_over_ranks(torch.tensor(float(tokens), device=self.device))
        ranks = world_size()
        loss = losses / (count / ranks).clamp(min=1)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["report"]), sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Mean loss a token over the whole split, of whole reports under their keywords."""
        requests, reports, _ = self._requests(batch)
        losses, tokens = self._losses(self._prompts(requests), reports)
        self.validation_loss.update(float(losses), tokens)
        self.log("validate/loss", self.validation_loss, batch_size=len(batch["report"]))

    def configure_optimizers(self) -> Any:
        """The given optimiser with linear warm-up and a cosine to a tenth."""
        optimizer = self.optimizer(parameter_groups(self._ready().model))
        steps = self.trainer.estimated_stepping_batches
        return with_schedule(optimizer, steps=steps, warmup=self.warmup_steps, floor=0.1)

    # Writing

    def write(
        self, asked: Sequence[Keywords | Request], *, n: int = 1, seed: int, keys: Sequence[str] | None = None
    ) -> list[Written]:
        """Write n reports for each set of keywords, each verified or flagged.

        Args:
            asked: what to say; a `Request` also names the view.
            n: reports a set.
            seed: of the sampling.
            keys: what tells the sets apart besides their order, e.g. study ids; a text depends on (seed, key, copy,
                attempt) and its keywords only, not on the batch, up to rounding in the last bits of the logits. The
                position in `asked` by default.

        Returns:
            len(asked) × n texts: all copies of the first set, then of the second.
        """
        parts = self._ready()
        names = [str(i) for i in range(len(asked))] if keys is None else list(keys)
        requests = [one if isinstance(one, Request) else Request(one) for one in asked]
        jobs = [(one, f"{name}/{copy}") for one, name in zip(requests, names, strict=True) for copy in range(n)]
        instructed = self.instruction is not None
        writer = Writer(
            parts.model,
            parts.codec,
            ask=self._prompts,
            ask_excerpt=None if instructed else lambda requests: self._prompts(requests, form=EXCERPT),
            clean=report_of if instructed else one_line,
            sampling=self.sampling,
            max_length=self.max_length,
            known=parts.known,
            training=None if instructed else parts.training,
        )
        # bf16 attention is slow in CPU decoding, and what is written should not depend on the training precision.
        with torch.autocast(self.device.type, enabled=False):
            return writer.write([one for one, _ in jobs], seed=seed, keys=[key for _, key in jobs])

    # Test and predict

    def _start(self) -> None:
        if self.model is None and self.instruction is not None:
            self._build([] if self.vocabulary_path else self._train_reports())
        self._ready()

    def on_test_start(self) -> None:
        """Refuse to test without weights; read what the texts are compared with."""
        self._start()
        self.baseline = Baseline(self._train_reports(), codec=self._ready().codec)
        self.metrics.reset()

    def on_predict_start(self) -> None:
        """Refuse to write without weights; take over what an interrupted run has written."""
        self._start()
        parts = self._ready()
        asked: dict[str, Any] = {"mode": self.mode, "seed": self.seed}
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.prompts = PromptFile(
            Path(self.trainer.default_root_dir) / "prompts.jsonl",
            rank=self.global_rank,
            facts=facts_of(parts, data=data, sampling=self.sampling, instruction=self.instruction, **asked),
            vocabulary=parts.vocabulary,
            learnt=self.instruction is None,
            **asked,
        )
        self.prompts.resume()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Write from the keywords of the test reports; `ReportMetrics` says what is measured."""
        assert self.baseline is not None
        requests, reports, keys = self._requests(batch)
        losses, tokens = self._losses(self._prompts(requests), reports)
        bare = self._ready().codec.prompts([prompt(None, view=r.view) for r in requests])
        without, _ = self._losses(bare, reports)
        self.metrics.update_likelihoods(
            reports, given=float(losses), without=float(without), tokens=tokens, baseline=self.baseline
        )
        # All that the report names, also beside a blank.
        asked = [dataclasses.replace(one, keywords=self.keywords_of(one.source)) for one in requests]
        written = self.write(asked, seed=self.seed, keys=keys)
        self.metrics.update_texts(written, reports, keys=keys, baseline=self.baseline)

    def on_test_epoch_end(self) -> None:
        """Log all metrics as prompter/..., over the texts of all ranks."""
        for name, value in self.metrics.compute().items():
            self.log(f"{STAGE}/{name}", value.to(self.device), rank_zero_only=False)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Write one report for each study that has none yet, see `mode`: their rows as in prompts.jsonl."""
        assert self.prompts is not None
        asked = self.prompts.ask(batch)
        studies = asked.values()
        written = self.write([s.request for s in studies], seed=self.seed, keys=[s.key for s in studies])
        return self.prompts.add(asked, written)

    def on_predict_epoch_end(self) -> None:
        """Write prompts.jsonl, one line a study, sorted by study."""
        assert self.prompts is not None
        self.prompts.finish()
