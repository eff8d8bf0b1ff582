"""WordPatchAligner: report words ↔ image patches, and the key-patch codebook made from it.

`fit` trains both encoders by late interaction, `test` plays the pointing game and retrieval, `predict` writes key
patches of the training split and the clues that every report of the data set fetches from them, or names the pictures
that explain any images and reports.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.manifest import Batch
from lightning_modules import stages
from lightning_modules.classifier import FrozenFindingClassifier
from lightning_modules.encoders import Encoders, PretrainedOptions, open_encoders
from lightning_modules.file_names import file_name
from lightning_modules.key_patch_run import KeyPatchRun
from lightning_modules.networks.alignment import (
    AlignerConfig,
    Alignment,
    AlignmentNetwork,
    cosines,
)
from lightning_modules.networks.alignment_cases import AlignmentCases
from lightning_modules.networks.alignment_losses import LossWeights, alignment_losses
from lightning_modules.networks.boxes import inside
from lightning_modules.networks.clue_origins import ClueOrigin, ClueSources, clue_origins
from lightning_modules.networks.clue_retriever import ClueRetriever
from lightning_modules.networks.key_patch_build import KeyPatchOptions
from lightning_modules.networks.key_patch_files import load_key_patches
from lightning_modules.networks.pretrained_text import WordPieceTokenizer, open_tokenizer
from lightning_modules.networks.ranks import gather_items
from lightning_modules.networks.statements import prompts
from lightning_modules.networks.text_numbers import text_number
from lightning_modules.networks.tokenizer import Tokens, WordTokenizer, train_tokenizer
from lightning_modules.networks.word_maps import WordMap, word_maps
from lightning_modules.networks.zero_shot import prompt_words
from lightning_modules.optimizers import parameter_groups, slow_down
from lightning_modules.schedule import with_schedule

STAGE = "aligner"


class WordPatchAligner(LightningModule):
    """Trains the alignment of words and patches and writes the key-patch codebook.

    Args:
        network: sizes of both encoders.
        optimizer: makes the optimiser from the parameters.
        cosine: warm up, then let the learning rate fall to 0 along half a cosine over the run.
        losses: how much each part of the loss counts.
        classifier_ckpt: checkpoint of a FindingClassifier whose first stages the image encoder takes and keeps as they
            are; None trains them, from nothing, which takes several times as long.
        pretrained: encoders from elsewhere in place of the small ones; the checkpoint holds them.
        key_patch_options: how key patches are chosen and fetched.
        key_patches: a key-patch file for `clues`; `predict` makes one.
        test_pairs: pairs among which retrieval is tested, which bounds memory (their number is logged).
        least_cases: cases a finding needs to count in the pointing game's means.
        predict_output: "key_patches", or "heat_maps": what WordHeatMaps draws and writes of any images and reports.
    """

    def __init__(
        self,
        network: AlignerConfig = AlignerConfig(),  # noqa: B008 - frozen
        *,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=1e-3, weight_decay=0.05),
        cosine: bool = True,
        losses: LossWeights = LossWeights(),  # noqa: B008 - frozen
        classifier_ckpt: str | None = None,
        pretrained: PretrainedOptions = PretrainedOptions(),  # noqa: B008 - frozen
        key_patch_options: KeyPatchOptions = KeyPatchOptions(),  # noqa: B008 - frozen
        key_patches: str | None = None,
        test_pairs: int = 500,
        least_cases: int = 5,
        predict_output: Literal["key_patches", "heat_maps"] = "key_patches",
    ) -> None:
        super().__init__()
        self.config = stages.as_config(AlignerConfig, network)
        self.save_hyperparameters({"network": dataclasses.asdict(self.config)})
        self.optimizer, self.cosine = optimizer, cosine
        self.losses, self.classifier_ckpt = stages.as_config(LossWeights, losses), classifier_ckpt
        self.pretrained = stages.as_config(PretrainedOptions, pretrained)
        self.pretrained.check(classifier_ckpt=classifier_ckpt)
        self.options = stages.as_config(KeyPatchOptions, key_patch_options)
        self.key_patches, self.test_pairs, self.least_cases = key_patches, test_pairs, least_cases
        self.predict_output = predict_output
        self.network: AlignmentNetwork | None = None  # built once the tokenizer is known
        self.tokenizer: WordTokenizer | WordPieceTokenizer | None = None
        self.encoders = Encoders()
        self.unopened: FileNotFoundError | None = None
        self.retriever: tuple[ClueRetriever, ...] = ()  # in a tuple: no part of this module's weights
        self.clue_file = Path()  # what the retriever was read from, and, once they are asked for, its entries' origins
        self.clue_sources: ClueSources | None = None
        self.collected = AlignmentCases(limit=test_pairs, least=least_cases)
        self.prompt_words: dict[str, list[str]] = {}  # of the training reports
        self.key_patch_run: KeyPatchRun | None = None  # while predicting

    # The verbs

    @torch.no_grad()
    def align(self, image: Tensor, report: Sequence[str]) -> Alignment:
        """Similarity of each word of B reports with each patch of their images [B,1,H,W] in [-1,1]."""
        network, tokens = self._network(), self._tokens(report)
        patches, boxes = network.located_patches(image)
        return Alignment(cosines(network.words(tokens)[0], patches), tokens.words, tokens.spans, inside(boxes))

    def clues(self, report: Sequence[str], *, exclude_patients: Sequence[str] | None = None) -> Tensor:
        """Clues of B reports, int64 [B,K,2] of (code, grid position), -1 = padding.

        Raises:
            ValueError: if there are no key patches yet.
        """
        return self._retriever().clues(report, exclude_patients=exclude_patients)

    @torch.no_grad()
    def word_maps(self, image: Tensor, report: Sequence[str], *, anatomy: bool = False) -> list[list[WordMap]]:
        """Heat maps of what B reports say, on their images [B,1,H,W] in [-1,1]; see `networks.word_maps`."""
        return word_maps(self._network(), self._tokens(report), image, report, anatomy=anatomy)

    def explain_clues(
        self, report: Sequence[str], *, exclude_patients: Sequence[str] | None = None
    ) -> list[list[ClueOrigin]]:
        """Which word fetched which key patch for the `clues` of B reports, and where it lies.

        Raises:
            ValueError: if there are no key patches yet.
        """
        retriever = self._retriever()
        self.clue_sources = self.clue_sources or ClueSources(self.clue_file)
        return clue_origins(retriever, self.clue_sources, report, exclude_patients=exclude_patients)

    def _retriever(self) -> ClueRetriever:
        if not self.retriever:
            if self.key_patches is None:
                raise ValueError(
                    "the aligner has no key patches: run `python main.py predict` of this stage, or give their file as "
                    "model.init_args.key_patches"
                )
            self._load_key_patches(self.key_patches)
        return self.retriever[0]

    def _load_key_patches(self, path: str | Path) -> None:
        network, config_arrays = self._network(), load_key_patches(path)
        assert self.tokenizer is not None
        retriever = ClueRetriever(self.config, self.tokenizer.state, config_arrays[0], self.encoders.text)
        self.retriever = (retriever.load_stages(network.state_dict(), config_arrays[1]).to(self.device),)
        self.clue_file, self.clue_sources = Path(path), None

    # Building, saving, loading

    def setup(self, stage: str) -> None:
        """Open pretrained encoders and train the tokenizer on the training reports when fitting starts anew.

        All ranks get rank 0's tokenizer. Lightning loads a resumed run's checkpoint, which holds the encoders, after
        this, so a missing one is no error yet: `configure_optimizers`, which comes after both, reports it.
        """
        if stage != "fit" or self.network is not None:
            return
        encoders = Encoders()
        try:
            encoders = open_encoders(self.pretrained, resolution=self.config.resolution)
        except FileNotFoundError as error:
            self.unopened = error
        # What one rank lacks, all lack: none may wait for it.
        if missing := gather_items([str(self.unopened)] if self.unopened else []):
            rank_zero_info(f"aligner: only a run that is resumed goes on from here: {missing[0]}")
            self.unopened = self.unopened or FileNotFoundError(f"another rank says: {missing[0]}")
            return
        state, words = "", {}
        if self.trainer.is_global_zero:
            reports = self.trainer.datamodule.train_reports()  # type: ignore[attr-defined]
            state = encoders.tokenizer or train_tokenizer(reports, kind="words", vocabulary=self.config.vocabulary)
            words = prompt_words(reports)
        self._build(*self.trainer.strategy.broadcast((state, words)), encoders)
        if self.classifier_ckpt is not None:
            self._network().image.take_trunk(FrozenFindingClassifier(self.classifier_ckpt).network)
            self._network().image.freeze_trunk()

    def _build(self, tokenizer_state: str, prompt_words: dict[str, list[str]], encoders: Encoders) -> None:
        self.tokenizer, self.prompt_words = open_tokenizer(tokenizer_state, encoders.text), prompt_words
        network = encoders.build(self.config, vocabulary=len(self.tokenizer), options=self.pretrained)
        self.network, self.encoders = network.to(self.device), dataclasses.replace(encoders, weights={})

    def _network(self) -> AlignmentNetwork:
        if self.network is None:
            raise ValueError("the aligner has no weights: give --ckpt_path, the file that `fit` wrote")
        return self.network

    def _tokens(self, reports: Sequence[str]) -> Tokens:
        assert self.tokenizer is not None
        return self.tokenizer(reports, max_length=self.config.max_length)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Mark the checkpoint as an aligner's and add its tokenizer."""
        assert self.tokenizer is not None
        stages.stamp(
            checkpoint,
            stage=STAGE,
            tokenizer=self.tokenizer.state,
            prompt_words=self.prompt_words,
            frozen_trunk=self._network().image.frozen,
            **self.encoders.plain(),
        )

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Build the network that the checkpoint's weights belong to."""
        stages.check_stage(checkpoint, stage=STAGE)
        parts = checkpoint[stages.KEY]
        if "network.image.offset" not in checkpoint["state_dict"]:
            raise ValueError("the checkpoint is of a former aligner, whose patches lay elsewhere; train it again")
        self._build(parts["tokenizer"], parts["prompt_words"], Encoders.from_plain(parts))
        if parts["frozen_trunk"]:
            self._network().image.freeze_trunk()

    def configure_optimizers(self) -> Any:
        """The optimiser, with its schedule if `cosine`; what was pretrained learns at a share of the rate."""
        if self.network is None and self.unopened is not None:
            raise self.unopened
        theirs = self._network().pretrained
        optimizer = slow_down(self.optimizer(parameter_groups(self, pretrained=theirs)), rate=self.pretrained.rate)
        return with_schedule(optimizer, steps=self.trainer.estimated_stepping_batches) if self.cosine else optimizer

    # Training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Each statement for itself, and whole reports against one another, over all ranks' batch."""
        network, step = self._network(), self.global_step
        texts = [*batch["report"], *prompts(batch["report"])]
        tokens = self._tokens(texts)
        losses = alignment_losses(
            network,
            self.losses,
            texts=texts,
            tokens=tokens,
            words=network.words(tokens),
            patches=network.patches(batch["image"], phase=step % 4),
            labels=batch["labels"],
            step=step,
        )
        loss, count = torch.stack(list(losses.values())).sum(), len(batch["report"])
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, batch_size=count)
        self.log("train/loss", loss, prog_bar=True, batch_size=count)
        self.log("train/temperature", 1 / network.scale.detach(), batch_size=count)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """At the end of an epoch, measure where the patches look."""
        if self.trainer.is_last_batch:
            self._network().image.locate(batch["image"], seeds=[text_number(name) for name in batch["image_id"]])

    # Validation and test

    def on_validation_epoch_start(self) -> None:
        """Begin with no cases."""
        self.collected = AlignmentCases(limit=min(256, self.test_pairs), least=self.least_cases)

    def on_test_epoch_start(self) -> None:
        """Begin with no cases; refuse to test untrained weights."""
        self._network()
        self.collected = AlignmentCases(limit=self.test_pairs, least=self.least_cases, tested=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect pairs for retrieval and cases for the pointing game."""
        self._collect(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect pairs for retrieval and cases for the pointing game."""
        self._collect(batch)

    def on_validation_epoch_end(self) -> None:
        """Log `validate/recall_at_{1,5,10}`, and `validate/pointing...` where the data has masks."""
        scores = self.collected.scores(network=self._network(), resolution=self.config.resolution)
        self.log_dict({f"validate/{name}": value for name, value in scores.items()})

    def on_test_epoch_end(self) -> None:
        """Log retrieval, the pointing game, zero-shot AUROC and flipped twins as `aligner/...`."""
        scores = self.collected.scores(network=self._network(), resolution=self.config.resolution)
        self.log_dict({f"{STAGE}/{name}": value for name, value in scores.items()})

    def _collect(self, batch: Batch) -> None:
        self.collected.add(
            batch,
            network=self._network(),
            tokens=self._tokens(batch["report"]),
            tokenize=self._tokens,
            prompt_words=self.prompt_words,
        )

    # Key patches

    def on_predict_epoch_start(self) -> None:
        """Begin a new key-patch codebook; refuse to without weights or token cache."""
        self._network()
        if self.predict_output == "heat_maps":
            if self.key_patches is not None and self.trainer.ckpt_path:
                load_key_patches(self.key_patches, aligner_digest=stages.file_digest(str(self.trainer.ckpt_path)))
            return
        self.key_patch_run = KeyPatchRun(self.trainer, self.options)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, list[str]]:
        """Collect word-patches of the batch's training images and return these images' ids; others are passed over.

        For heat maps, of any split: the names of the pictures that WordHeatMaps draws.
        """
        if self.predict_output == "heat_maps":
            return {"picture": [file_name(image_id, suffix=".png") for image_id in batch["image_id"]]}
        assert self.key_patch_run is not None
        return self.key_patch_run.add(batch, network=self._network(), tokenize=self._tokens)

    def on_predict_epoch_end(self) -> None:
        """Write the key patches, and the clues that all reports fetch from them, to `default_root_dir`."""
        if self.predict_output == "heat_maps":
            return
        assert self.key_patch_run is not None
        path = self.key_patch_run.write()
        self._load_key_patches(path)
        self.key_patch_run.write_clues(self.clues, path)
        self.key_patch_run = None
