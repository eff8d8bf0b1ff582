"""`WordHeatMaps`: what each word of a report lights up in its radiograph, as pictures and as a table.

A test and some validation epochs draw a handful of images; `predict` of an aligner with `predict_output: heat_maps`
draws every image and lists every word.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.explanation_pictures import Explained, compose_explanations
from callbacks.extraction import check_images
from callbacks.grids import publish_picture, save_picture
from callbacks.metrics_file import describe_checkpoint
from callbacks.protocols import ClueOrigin, ExplainsWords, WordMap
from callbacks.word_tables import clue_row, gathered, word_row, write_table
from datamodules.manifest import Batch
from datamodules.reports.labels import FINDINGS

CHUNK = 8  # images whose maps are held at a time
COMPRESSION = 3  # of PNG: less than half of the time that 6 takes, and a tenth more bytes
FOLDER = "heat_maps"


class WordHeatMaps(Callback):
    """Draws the radiograph, a heat map for each finding that its report states, doubts or denies, and the report.

    - Test, and every n-th validation epoch: `pictures/heat_maps-{validate,test}-<epoch>.png` below `default_root_dir`,
      which loggers that take images get as well. Drawn are `images` of the first batch, those first whose labels tell a
      finding, on rank 0 and without any collective; so the same ones are seen at every epoch.
    - Predict, where the step names a picture for each image: `heat_maps/<picture>`, which each rank writes for its own
      images, and `heat_maps/words.parquet` with one row a word. With key patches also `heat_maps/clues.parquet`, one
      row a key patch that a report fetched, and in the pictures the cells that they fill.

    A map's colours run from the median of its cosines to its highest, for each word by itself, and both figures stand
    below it; the colours are the fainter, the less evidence the image gives of the finding anywhere. That evidence is
    the aligner's own and no calibrated probability. No pixel of a training image is drawn for a clue.

    Args:
        images: how many are drawn in a test and in validation.
        words: most maps of one image, stated findings first; the table of `predict` lists all.
        anatomy: also draw the anatomy that is named, after the findings.
        every_n_epochs: of validation; 0 draws none.
        columns: tiles side by side.
        cell: width of a tile in the picture, in pixels.

    Raises:
        TypeError: if the module gives no word maps.
    """

    def __init__(
        self,
        *,
        images: int = 3,
        words: int = 8,
        anatomy: bool = False,
        every_n_epochs: int = 4,
        columns: int = 5,
        cell: int = 160,
    ) -> None:
        if min(images, words, columns) < 1 or every_n_epochs < 0 or cell < 64:
            raise ValueError(
                f"images {images}, words {words}, columns {columns}, every_n_epochs {every_n_epochs}, cell {cell}; "
                "expected at least 1, 1, 1, 0 and 64"
            )
        self.images, self.words, self.anatomy = images, words, anatomy
        self.every_n_epochs, self.columns, self.cell = every_n_epochs, columns, cell
        self._words: list[dict[str, Any]] = []
        self._clues: list[dict[str, Any]] = []
        self._pictures: list[str] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module without word maps before anything runs."""
        if not isinstance(pl_module, ExplainsWords):
            raise TypeError(
                f"{type(pl_module).__name__} has no word maps; WordHeatMaps belongs into the callbacks of "
                "WordPatchAligner (callbacks/protocols.py, ExplainsWords, says what it asks)"
            )

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first batch of every n-th epoch."""
        due = self.every_n_epochs and trainer.current_epoch % self.every_n_epochs == 0 and not trainer.sanity_checking
        if due and batch_idx == 0 and dataloader_idx == 0 and trainer.is_global_zero:
            self._draw(trainer, pl_module, "validate", batch)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the first batch."""
        if batch_idx == 0 and dataloader_idx == 0 and trainer.is_global_zero:
            self._draw(trainer, pl_module, "test", batch)

    def _draw(self, trainer: Trainer, module: LightningModule, stage: str, batch: Batch) -> None:
        assert isinstance(module, ExplainsWords)
        candidates = range(len(batch["image_id"]))
        abnormal = (batch["labels"][:, 1:] == 1).any(dim=1).tolist()  # the first label is "No Finding"
        rows = sorted(candidates, key=lambda row: (not abnormal[row], row))[: self.images]
        explained, _ = self._explain(module, batch, rows)
        picture = compose_explanations(explained, cell=self.cell, columns=self.columns)
        name, key = f"heat_maps-{stage}-{trainer.current_epoch}", f"heat_maps_{stage}"
        publish_picture(picture, trainer, name=name, key=key, compress_level=COMPRESSION)

    # Predict

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin empty tables."""
        self._words, self._clues, self._pictures = [], [], []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write a picture for each image, where the step names them, and keep the rows of the tables."""
        if not isinstance(outputs, dict) or "picture" not in outputs:
            return  # the module predicts something else
        assert isinstance(pl_module, ExplainsWords)
        folder = Path(trainer.default_root_dir) / FOLDER
        for start in range(0, len(batch["image_id"]), CHUNK):
            rows = list(range(start, min(start + CHUNK, len(batch["image_id"]))))
            explained, maps = self._explain(pl_module, batch, rows)
            for row, one, of_image in zip(rows, explained, maps, strict=True):
                picture = compose_explanations([one], cell=self.cell, columns=self.columns)
                save_picture(picture, folder / outputs["picture"][row], compress_level=COMPRESSION)
                self._pictures.append(outputs["picture"][row])
                self._words += [word_row(one.title, word) for word in of_image]
                self._clues += [clue_row(one.title, rank, clue) for rank, clue in enumerate(one.clues)]

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the tables and write them on rank 0; every rank takes part."""
        assert isinstance(pl_module, ExplainsWords)
        pictures, words, clues = (gathered(items) for items in (self._pictures, self._words, self._clues))
        self._words, self._clues, self._pictures = [], [], []
        if not pictures or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir) / FOLDER
        manifest = getattr(getattr(trainer, "datamodule", None), "manifest", None)
        made_of = {
            "aligner": (describe_checkpoint(trainer.ckpt_path) or {}).get("sha256") or "",
            "manifest": manifest.digest() if manifest is not None else "",
        }
        write_table(folder / "words.parquet", words, kind="words", made_of=made_of)
        told = f"heat maps: wrote {len(pictures)} pictures and words.parquet ({len(words)} words) to {folder}"
        if pl_module.key_patches is None:
            print(f"{told}; with --model.init_args.key_patches=<key_patches.safetensors> they show the clues as well")
            return
        made_of |= {"key_patches": (describe_checkpoint(pl_module.key_patches) or {}).get("sha256") or ""}
        write_table(folder / "clues.parquet", clues, kind="clues", made_of=made_of)
        print(f"{told}, and clues.parquet ({len(clues)} key patches that the reports fetched)")

    # Both

    @torch.no_grad()
    def _explain(
        self, module: ExplainsWords, batch: Batch, rows: Sequence[int]
    ) -> tuple[list[Explained], Sequence[Sequence[WordMap]]]:
        """What is drawn of some rows of a batch, and all their maps."""
        ids, reports = ([batch[key][row] for row in rows] for key in ("image_id", "report"))
        images = check_images(batch["image"][rows], what="real", ids=ids)
        maps = module.word_maps(batch["image"][rows], reports, anatomy=self.anatomy)
        clues: Sequence[Sequence[ClueOrigin]] = [[] for _ in rows]
        if module.key_patches is not None:
            # As in training: a patient's report does not fetch patches of the same patient.
            clues = module.explain_clues(reports, exclude_patients=[batch["patient_id"][row] for row in rows])
        explained = []
        for n, row in enumerate(rows):
            shown = maps[n][: self.words]
            regions = [_region(batch, row, word) for word in shown]
            explained.append(Explained(ids[n], images[n, 0].cpu(), reports[n], shown, regions, clues[n]))
        return explained, maps


def _region(batch: Batch, row: int, word: WordMap) -> Tensor | None:
    """Where the finding of a word was marked, bool [H,W]; None where it was not."""
    if "masks" not in batch or word.label not in FINDINGS:
        return None
    mask = batch["masks"][row, FINDINGS.index(word.label)].cpu()
    return mask if bool(mask.any()) else None
