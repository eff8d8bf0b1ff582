"""ReportPrompter: a causal language model that writes a report from keywords, and checks what it wrote.

Trained on `keywords → report` of the training reports (anatomy-pathology prompting, arXiv 2403.06835). Every text is
read back by the mention extractor; the best of a few candidates is kept, and what still fails is flagged.
"""

import dataclasses
import json
import math
import os
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
from datamodules.reports.keywords import Keywords, keywords_of
from datamodules.reports.labels import VIEWS
from datamodules.reports.vocabulary import Vocabulary, mine
from lightning_modules import stages
from lightning_modules.networks.language_model import (
    IGNORED,
    Codec,
    LanguageModelConfig,
    architecture,
    build_small,
    load_pretrained,
    rebuild,
    train_codec,
)
from lightning_modules.networks.ranks import distributed, gather_items, sum_over_ranks
from lightning_modules.networks.report_writer import Sampling, Written, write_reports
from lightning_modules.networks.text_metrics import DistinctNgrams, Ratio
from lightning_modules.optimizers import parameter_groups

STAGE = "prompter"
TESTED = ("coverage", "contradiction", "unasked", "verified", "perplexity", "perplexity_word", "distinct2")


class ReportPrompter(lightning.LightningModule):
    """Keywords in, verified reports out.

    Args:
        network: sizes of the model that is trained from scratch; not used with `language_model`.
        vocabulary: vocabulary.json of `python -m datamodules vocabulary`; None mines it from the training reports. Read
            at fit; its text travels in the checkpoint.
        language_model: id or folder of a Hugging Face causal LM to fine-tune instead; read at fit.
        min_count: reports that a word must occur in, where the vocabulary is mined here; fewer where there are less
            than 100 × min_count reports.
        optimizer: from parameters to the optimiser.
        warmup_steps: steps of linear warm-up before the cosine.
        candidates: texts written at most for one set of keywords, until one is verified.
        max_new_tokens: longest report in sub-words.
        temperature, top_p: of nucleus sampling.
        seed: of everything that is written in test and predict.
    """

    def __init__(
        self,
        network: LanguageModelConfig = LanguageModelConfig(),  # noqa: B008 - frozen
        *,
        vocabulary: str | None = None,
        language_model: str | None = None,
        min_count: int = 5,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=2e-3, weight_decay=0.01),
        warmup_steps: int = 50,
        candidates: int = 4,
        max_new_tokens: int = 200,
        temperature: float = 0.7,
        top_p: float = 0.95,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = stages.as_config(LanguageModelConfig, network)
        self.save_hyperparameters({"network": dataclasses.asdict(self.config)})
        self.vocabulary_path, self.language_model, self.min_count = vocabulary, language_model, min_count
        self.optimizer, self.warmup_steps = optimizer, warmup_steps
        self.sampling = Sampling(candidates, max_new_tokens, temperature, top_p)
        self.seed = seed
        # Known once the training reports or a checkpoint are.
        self.model: nn.Module | None = None
        self.codec: Codec | None = None
        self.vocabulary: Vocabulary | None = None
        self.validation_loss = Ratio()
        self.coverage, self.contradiction, self.unasked, self.verified = Ratio(), Ratio(), Ratio(), Ratio()
        self.perplexity, self.perplexity_word = Ratio(torch.exp), Ratio(torch.exp)
        self.distinct2 = DistinctNgrams(2)
        self._keywords: dict[str, Keywords] = {}
        self._rows: dict[str, dict[str, Any]] = {}

    # Building: late, since the tokenizer comes from the data

    def setup(self, stage: str) -> None:
        """At fit: read or mine the vocabulary, train the tokenizer on rank 0, build the model."""
        if stage != "fit" or self.model is not None:
            return
        state: tuple[str, dict[str, Any] | None] = ("", None)
        reports = list(self.trainer.datamodule.train_reports())  # type: ignore[attr-defined]
        if self.trainer.is_global_zero:
            if self.vocabulary_path is None:
                vocabulary = mine(reports, min_count=min(self.min_count, 1 + len(reports) // 100))
            else:
                vocabulary = Vocabulary.load(self.vocabulary_path)
            codec = None
            if self.language_model is None:
                prompts = [keywords_of(report, words=vocabulary.words).prompt() for report in reports]
                codec = dataclasses.asdict(train_codec([*reports, *prompts], sub_words=self.config.sub_words))
            state = (vocabulary.to_json(), codec)
        text, codec_data = self.trainer.strategy.broadcast(state)
        self.vocabulary = Vocabulary.from_json(text)
        if self.language_model is not None:
            self.model, self.codec = load_pretrained(self.language_model)
        else:
            self.codec = Codec(**(codec_data or {}))
            self.model = build_small(self.config, self.codec)
        self._print_cut(reports)

    def _print_cut(self, reports: Sequence[str]) -> None:
        assert self.codec is not None
        lengths = [
            len(prompt) + len(ids) + 1
            for prompt, ids in zip(
                self.codec.prompts([self.keywords_of(r).prompt() for r in reports]),
                self.codec.encode(reports),
                strict=True,
            )
        ]
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
        model, _, _ = self._ready()
        return int(getattr(model.config, "max_position_embeddings", self.config.max_length))

    def _ready(self) -> tuple[Any, Codec, Vocabulary]:
        if self.model is None or self.codec is None or self.vocabulary is None:
            raise ValueError(
                "the prompter has no weights: give --ckpt_path of a prompter checkpoint, which "
                "`python main.py fit -c configs/base.yaml -c configs/prompter.yaml` writes"
            )
        return self.model, self.codec, self.vocabulary

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the tokenizer, the vocabulary and the model's configuration, so that no other file is needed."""
        model, codec, vocabulary = self._ready()
        stages.stamp(
            checkpoint,
            stage=STAGE,
            tokenizer=json.dumps(dataclasses.asdict(codec)),
            vocabulary=vocabulary.to_json(),
            architecture=architecture(model),
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Rebuild the model from the checkpoint, before its weights are loaded."""
        stages.check_stage(checkpoint, stage=STAGE)
        extra = checkpoint[stages.KEY]
        self.codec = stages.as_config(Codec, json.loads(extra["tokenizer"]))
        self.vocabulary = Vocabulary.from_json(extra["vocabulary"], source="the checkpoint's vocabulary")
        if self.model is None or architecture(self.model) != extra["architecture"]:
            self.model = rebuild(extra["architecture"]).to(self.device)
        self._keywords.clear()

    # Training

    def keywords_of(self, report: str) -> Keywords:
        """The report's keywords that are in the vocabulary; remembered, since each report is seen every epoch."""
        if report not in self._keywords:
            _, _, vocabulary = self._ready()
            self._keywords[report] = keywords_of(report, words=vocabulary.words)
        return self._keywords[report]

    def _losses(self, reports: Sequence[str]) -> tuple[Tensor, int]:
        """The summed negative log-likelihood of the reports given their keywords, and its number of tokens."""
        model, codec, _ = self._ready()
        reports = [report for report in reports if report]
        if not reports:
            raise ValueError(
                "a batch holds no report to learn from; the prompter trains on a data set with reports "
                "(data.init_args.text_only: true leaves rows without one out)"
            )
        prompts = [self.keywords_of(report).prompt() for report in reports]
        ids, mask, targets = (
            x.to(self.device) for x in codec.training_batch(prompts, reports, max_length=self.max_length)
        )
        logits = model(input_ids=ids, attention_mask=mask.long(), use_cache=False).logits[:, :-1]
        # Only where there is a loss: the largest product here is tokens × vocabulary.
        scored = targets[:, 1:] != IGNORED
        losses = functional.cross_entropy(logits[scored].float(), targets[:, 1:][scored], reduction="sum")
        return losses, int(scored.sum())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss a token; over all ranks' tokens, so that R ranks give the gradient of one with the whole batch."""
        losses, tokens = self._losses(batch["report"])
        count = sum_over_ranks(torch.tensor(float(tokens), device=self.device))
        ranks = torch.distributed.get_world_size() if distributed() else 1
        loss = losses / (count / ranks).clamp(min=1)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["report"]), sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Mean loss a token over the whole split."""
        losses, tokens = self._losses(batch["report"])
        self.validation_loss.update(float(losses), tokens)
        self.log("validate/loss", self.validation_loss, batch_size=len(batch["report"]))

    def configure_optimizers(self) -> Any:
        """The given optimiser with linear warm-up and a cosine to a tenth."""
        model, _, _ = self._ready()
        optimizer = self.optimizer(parameter_groups(model))
        steps, warm = self.trainer.estimated_stepping_batches, max(1, self.warmup_steps)

        def factor(step: int) -> float:
            progress = min(1.0, max(0.0, (step - warm) / max(1.0, steps - warm)))
            return min((step + 1) / warm, 0.1 + 0.45 * (1 + math.cos(math.pi * progress)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Writing

    def write(
        self, keywords: Sequence[Keywords], *, n: int = 1, seed: int, keys: Sequence[str] | None = None
    ) -> list[Written]:
        """Write n reports for each set of keywords, each the best of at most `candidates`.

        Args:
            keywords: what to say.
            n: reports a set.
            seed: of the sampling.
            keys: what tells the sets apart besides their order, e.g. study ids; a text depends on (seed, key, copy,
                attempt) and its keywords only, not on the batch, up to rounding in the last bits of the logits. The
                position in `keywords` by default.

        Returns:
            len(keywords) × n texts: all copies of the first set, then of the second.
        """
        model, codec, _ = self._ready()
        # bf16 attention is slow in CPU decoding, and what is written should not depend on the training precision.
        with torch.autocast(self.device.type, enabled=False):
            return write_reports(
                model, codec, keywords, sampling=self.sampling, n=n, seed=seed, keys=keys, max_length=self.max_length
            )

    # Test and predict

    def on_test_start(self) -> None:
        """Refuse to test without weights."""
        self._ready()

    def on_predict_start(self) -> None:
        """Refuse to write without weights."""
        self._ready()
        self._rows.clear()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Write from the keywords of the test reports, and log what came of it.

        `prompter/coverage` is the share of asked keywords stated with the right status, side and severity;
        `prompter/contradiction`, `prompter/unasked` and `prompter/verified` are shares of texts; `prompter/perplexity`
        is of the test reports given their keywords, a sub-word, `prompter/perplexity_word` a white-space word;
        `prompter/distinct2` is different word pairs over all of them.
        """
        reports = [(report, key) for report, key in zip(batch["report"], batch["study_id"], strict=True) if report]
        losses, tokens = self._losses([report for report, _ in reports])
        self.perplexity.update(float(losses), tokens)
        self.perplexity_word.update(float(losses), sum(len(report.split()) for report, _ in reports))
        asked = [self.keywords_of(report) for report, _ in reports]
        written = self.write(asked, seed=self.seed, keys=[key for _, key in reports])
        total = sum(len(k.anatomy) + len(k.pathology) for k in asked)
        self.coverage.update(total - sum(len(w.check.missing) for w in written), total)
        self.contradiction.update(sum(bool(w.check.contradicting) for w in written), len(written))
        self.unasked.update(sum(bool(w.check.unasked) for w in written), len(written))
        self.verified.update(sum(w.verified for w in written), len(written))
        self.distinct2.update([w.report for w in written])
        for name in TESTED:
            self.log(f"prompter/{name}", getattr(self, name), batch_size=len(reports))

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Write one report for each new study, from its own report's keywords or else from its labels.

        Returns:
            The rows of these studies, as in prompts.jsonl.
        """
        _, _, vocabulary = self._ready()
        rows: list[dict[str, Any]] = []
        asked = []
        for i, study in enumerate(batch["study_id"]):
            if study in self._rows or study in [row["study_id"] for row in rows]:
                continue
            labels = batch["labels"][i].float().cpu().numpy()
            seed = [self.seed, zlib.crc32(study.encode())]
            report = batch["report"][i]
            keywords = (
                self.keywords_of(report) if report else vocabulary.from_labels(labels, np.random.default_rng(seed))
            )
            asked.append(keywords)
            rows.append(
                {
                    "study_id": study,
                    "keywords": keywords.as_dict(),
                    "keywords_from": "report" if report else "labels",
                    "labels": [None if math.isnan(x) else int(x) for x in labels],
                    "view": VIEWS[int(batch["view"][i])],
                    "seed": self.seed,
                }
            )
        for row, written in zip(
            rows, self.write(asked, seed=self.seed, keys=[str(row["study_id"]) for row in rows]), strict=True
        ):
            row |= {"report": written.report, "verified": written.verified, "attempts": written.attempts}
            row |= dataclasses.asdict(written.check)
            self._rows[str(row["study_id"])] = row
        return rows

    def on_predict_epoch_end(self) -> None:
        """Gather all ranks' rows; rank 0 writes prompts.jsonl, one line a study, sorted by study."""
        rows = dict(gather_items(list(self._rows.items())))
        if not self.trainer.is_global_zero:
            return
        empty = sorted(study for study, row in rows.items() if not row["report"])
        path = Path(self.trainer.default_root_dir) / "prompts.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        lines = [json.dumps(rows[study], ensure_ascii=False) for study in sorted(rows) if rows[study]["report"]]
        temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        os.replace(temporary, path)
        verified = sum(row["verified"] for row in rows.values())
        print(
            f"prompter: wrote {len(lines)} reports to {path}, {verified / max(1, len(rows)):.1%} verified; "
            f"{len(empty)} left out because nothing was written"
            + (f" (first: {empty[0]})" if empty else "")
            + f". Next: give them to a later stage with --data.init_args.prompts={path}",
            flush=True,
        )
