"""CXRDataModule: a manifest, its resized images, its cached codes and clues, served as batches to every stage."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from datamodules import layouts
from datamodules.dataset import CXRDataset
from datamodules.files import temporary_beside
from datamodules.manifest import Remark, Manifest
from datamodules.reports.labels import SPLITS, VIEWS
from datamodules.samplers import EvalSampler, TrainSampler
from datamodules.shards import build_store, images_digest, phantom_code
from datamodules.tokens import TokenCache, write_clues, write_tokens


class CXRDataModule(LightningDataModule):
    """Serves a data set to every stage; splits over ranks itself (`trainer.use_distributed_sampler: false`).

    Args:
        layout: which data set: nih, openi, phantom or table.
        root: its folder or file; by default the environment variable CXR_ROOT. The phantom needs none.
        layout_options: what the layout's `read` takes, e.g. `studies` and `seed` of the phantom.
        size: side of the images in pixels.
        batch_size: rows a batch on each rank.
        num_workers: loader processes; memory-mapped images are faster with 0.
        cache_dir: where manifests and resized images are kept.
        seed: of the order of training rows and of the `limit` subset.
        views: keep these views only, e.g. [PA, AP]; the others are counted in the manifest's drops.
        policy: what becomes of uncertain labels: "ignore" makes them NaN, "zeros" 0, "ones" 1.
        tokens: cache of image codes that the codebook's `predict` wrote; adds `codes`.
        clues: cache of clues that the aligner's `predict` wrote; adds `clues`.
        prompts: JSON Lines of {"study_id", "report"} written by the prompter. They replace the rows' reports, whose
            report_source becomes "prompter:<digest of the file>": synthetic text, never to be taken for real.
        masks: add where each finding is to validation and test batches.
        text_only: serve one row a study without images, also those that have none.
        images: False serves no images, only what is in the caches.
        limit: train on this many rows only, drawn by seed (few-shot).
        predict_splits: the splits that `predict` goes through, in the order of the manifest.
    """

    def __init__(
        self,
        *,
        layout: str = "phantom",
        root: str | None = None,
        layout_options: dict[str, Any] | None = None,
        size: int = 64,
        batch_size: int = 64,
        num_workers: int = 0,
        cache_dir: str = "runs/cache",
        seed: int = 0,
        views: list[str] | None = None,
        policy: Literal["ignore", "zeros", "ones"] = "ignore",
        tokens: str | None = None,
        clues: str | None = None,
        prompts: str | None = None,
        masks: bool = False,
        text_only: bool = False,
        images: bool = True,
        limit: int | None = None,
        predict_splits: list[str] | None = None,
    ) -> None:
        super().__init__()
        for name, value in {"size": size, "batch_size": batch_size, "limit": 1 if limit is None else limit}.items():
            if value < 1:
                raise ValueError(f"data.init_args.{name} is {value}; expected at least 1")
        for what, names, known in (("views", views, VIEWS), ("predict_splits", predict_splits, SPLITS)):
            wrong = sorted(set(names or ()) - set(known))
            if wrong:
                raise ValueError(f"data.init_args.{what}: {wrong[0]!r} does not exist; expected of {list(known)}")
        self.layout, self.root, self.layout_options = layout, root, dict(layout_options or {})
        self.size, self.batch_size, self.num_workers = size, batch_size, num_workers
        self.cache_dir, self.seed = Path(cache_dir), seed
        self.views, self.policy = views, policy
        self.tokens, self.clues, self.prompts = tokens, clues, prompts
        self.masks, self.text_only = masks, text_only
        self.images = images and not text_only
        self.limit, self.predict_splits = limit, predict_splits or list(SPLITS)
        self._source: Manifest | None = None
        self._manifest: Manifest | None = None
        self._caches: dict[str, TokenCache] | None = None

    # What is served

    @property
    def source(self) -> Manifest:
        """Everything that the layout holds, with the prompts in place of the reports where there are prompts."""
        if self._source is None:
            source = self._read()
            self._source = source if self.prompts is None else with_prompts(source, self.prompts)
        return self._source

    @property
    def manifest(self) -> Manifest:
        """The rows that are served, and in its drops what was left out and why."""
        if self._manifest is None:
            self._manifest = self._select(self.source)
        return self._manifest

    @property
    def tokens_key(self) -> str:
        """Digest of what the codes of this data depend on: the pictures, their order and size."""
        return images_digest(self.source, size=self.size)

    @property
    def clues_key(self) -> str:
        """Digest of what the clues of this data depend on: the pictures and the texts."""
        texts = hashlib.sha256(self.tokens_key.encode())
        for report in self.source.frame["report"]:
            texts.update(f"{report}\n".encode())
        return texts.hexdigest()

    @property
    def tokens_digest(self) -> str | None:
        """Sha256 of the checkpoint that made the token cache; None without a cache."""
        return self._load_caches()["codes"].checkpoint_digest if self.tokens else None

    @property
    def clues_digest(self) -> str | None:
        """Sha256 of the checkpoint that made the clue cache; None without a cache."""
        return self._load_caches()["clues"].checkpoint_digest if self.clues else None

    def train_reports(self) -> list[str]:
        """The reports of the training rows, each study's once; rows without a text are left out."""
        frame = self._rows("train").frame.drop_duplicates("study_id")
        return [report for report in frame["report"] if report]

    def reference_images(self, n: int, *, seed: int) -> torch.Tensor:
        """Float32 [n,1,H,W] in [-1,1] of n different training images, drawn by seed; all where there are fewer."""
        dataset = self._dataset("train")
        order = np.random.default_rng(seed).permutation(len(dataset))[:n]
        return dataset.image(np.sort(order))

    def write_tokens(
        self, path: str | Path, *, image_ids: Sequence[str], codes: np.ndarray, checkpoint_digest: str, codes_total: int
    ) -> None:
        """Write the codes of this data, see `datamodules.tokens.write_tokens`."""
        write_tokens(
            path,
            image_ids=image_ids,
            codes=codes,
            manifest_digest=self.tokens_key,
            checkpoint_digest=checkpoint_digest,
            codes_total=codes_total,
        )

    def write_clues(
        self, path: str | Path, *, image_ids: Sequence[str], clues: np.ndarray, checkpoint_digest: str
    ) -> None:
        """Write the clues of this data, made of the codes of its token cache, see `datamodules.tokens.write_clues`."""
        if self.tokens is None:
            raise ValueError(
                f"{path}: clues are codes of a codebook; name its token cache with --data.init_args.tokens"
            )
        codes = self._load_caches()["codes"]
        write_clues(
            path,
            image_ids=image_ids,
            clues=clues,
            manifest_digest=self.clues_key,
            checkpoint_digest=checkpoint_digest,
            codes_total=codes.codes_total,
            positions_total=codes.values.shape[1] * codes.values.shape[2],
        )

    # What Lightning calls

    def prepare_data(self) -> None:
        """Read the layout, resize its images once, keep the manifest with its drops; on one rank of a node."""
        manifest = self.manifest
        if self.images:
            build_store(manifest, size=self.size, folder=self.cache_dir)
        digest = manifest.digest()
        manifest.save(self.cache_dir / f"manifest-{digest[:12]}.parquet")
        counts = ", ".join(f"{split} {int((manifest.frame['split'] == split).sum())}" for split in SPLITS)
        dropped = "; ".join(f"{drop.count} × {drop.reason}" for drop in manifest.drops) or "nothing"
        print(f"data: {self.layout} {self.size} px: {counts}; digest {digest[:12]}; dropped: {dropped}", flush=True)

    def setup(self, stage: str) -> None:
        """Open the caches, so that a wrong one is refused before anything starts."""
        self._load_caches()

    def train_dataloader(self) -> DataLoader:
        """Shuffled by (seed, epoch); an incomplete last batch is left out where there is a complete one."""
        dataset = self._dataset("train")
        rank, world = self._place()
        sampler = TrainSampler(dataset, rank=rank, world=world, seed=self.seed)
        return self._loader(dataset, sampler, drop_last=len(sampler) > self.batch_size)

    def val_dataloader(self) -> DataLoader:
        """Each validation row once over all ranks."""
        return self._eval_loader("validate", masks=self.masks)

    def test_dataloader(self) -> DataLoader:
        """Each test row once over all ranks."""
        return self._eval_loader("test", masks=self.masks)

    def predict_dataloader(self) -> DataLoader:
        """Each row of `predict_splits` once over all ranks."""
        return self._eval_loader(*self.predict_splits)

    # How

    def _read(self) -> Manifest:
        if self.layout != "phantom":
            return layouts.read(self.layout, self.root, **self.layout_options)
        # Describing thousands of phantoms takes longer than reading them back; only options and code change them.
        key = json.dumps([self.root, sorted(self.layout_options.items()), phantom_code()])
        path = self.cache_dir / f"phantom-{hashlib.sha256(key.encode()).hexdigest()[:12]}.parquet"
        if path.is_file():
            return Manifest.load(path)
        source = layouts.read(self.layout, self.root, **self.layout_options)
        # Each process writes its own, all are equal. The table is renamed last, since it is what is looked for.
        own = temporary_beside(path)
        source.save(own)
        for suffix in (".ledger.json", ""):
            os.replace(f"{own}{suffix}", f"{path}{suffix}")
        return Manifest.load(path)

    def _select(self, source: Manifest) -> Manifest:
        frame, drops = source.frame, list(source.drops)

        def keep(rows: pd.Series, reason: str) -> None:
            nonlocal frame
            if not rows.all():
                drops.append(Remark(reason, tuple(frame.loc[~rows, "image_id"])))
                frame = frame[rows]

        if self.views is not None:
            keep(frame["view"].isin(self.views), f"view is not one of {self.views}")
        if self.text_only:
            keep(frame["report"] != "", "no report")
            keep(~frame["study_id"].duplicated(), "another image of a study that is served as text")
        else:
            keep(frame["image"] != "", "no image")
        if frame.empty:
            raise ValueError(
                f"layout {self.layout}: none of {len(source)} rows is left: "
                + "; ".join(f"{drop.count} × {drop.reason}" for drop in drops)
                + ("" if self.text_only else "; set data.init_args.text_only=true for a data set without images")
            )
        return dataclasses.replace(source, frame=frame.reset_index(drop=True), drops=tuple(drops))

    def _rows(self, *splits: str) -> Manifest:
        frame = self.manifest.frame
        chosen = np.flatnonzero(frame["split"].isin(splits).to_numpy())
        if splits == ("train",) and self.limit is not None:
            chosen = np.sort(np.random.default_rng(self.seed).permutation(chosen)[: self.limit])
        if not len(chosen):
            counts = {split: int((frame["split"] == split).sum()) for split in SPLITS}
            raise ValueError(f"layout {self.layout}: no rows in {' or '.join(splits)}; the splits hold {counts}")
        # The index stays that of the manifest: it is the row of the image store.
        return dataclasses.replace(self.manifest, frame=frame.iloc[chosen])

    def _load_caches(self) -> dict[str, TokenCache]:
        if self._caches is None:
            self._caches = {}
            if self.tokens:
                self._caches["codes"] = TokenCache.load(self.tokens, kind="codes", manifest_digest=self.tokens_key)
            if self.clues:
                self._caches["clues"] = TokenCache.load(self.clues, kind="clues", manifest_digest=self.clues_key)
        return self._caches

    def _dataset(self, *splits: str, masks: bool = False) -> CXRDataset:
        rows, caches = self._rows(*splits), self._load_caches()
        store = None
        if self.images:
            # prepare_data made it; without a trainer it is made here.
            store = (build_store(self.manifest, size=self.size, folder=self.cache_dir), len(self.manifest), self.size)
        return CXRDataset(
            rows,
            policy=self.policy,
            store=store,
            store_rows=rows.frame.index.to_numpy(),
            codes=caches.get("codes"),
            clues=caches.get("clues"),
            masks=self.size if masks and not self.text_only else None,
        )

    def _place(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _eval_loader(self, *splits: str, masks: bool = False) -> DataLoader:
        dataset = self._dataset(*splits, masks=masks)
        rank, world = self._place()
        return self._loader(dataset, EvalSampler(dataset, rank=rank, world=world), drop_last=False)

    def _loader(self, dataset: CXRDataset, sampler: TrainSampler | EvalSampler, *, drop_last: bool) -> DataLoader:
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=on_cuda,
            collate_fn=_as_it_is,
        )


def _as_it_is(batch: Any) -> Any:
    # `__getitems__` has made the batch already.
    return batch


def with_prompts(manifest: Manifest, path: str | Path) -> Manifest:
    """The manifest with prompter-written reports in place of its own.

    Args:
        manifest: any.
        path: JSON Lines with study_id and report, each study at most once. Studies without a line keep their report.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming file and line, for what is no such line; or when no study of the manifest is in the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"prompts {path} do not exist; write them with the prompter's `predict`")
    content = path.read_bytes()
    reports: dict[str, str] = {}
    for number, line in enumerate(content.decode().split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            study, report = row["study_id"], row["report"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: line {number}: expected a JSON object with study_id and report, found {line[:80]!r}"
            ) from error
        if study in reports:
            raise ValueError(f"{path}: line {number}: study {study} is given twice; keep one report a study")
        if not str(report).strip():
            raise ValueError(f"{path}: line {number}: study {study} has an empty report; remove the line")
        reports[study] = str(report)
    frame = manifest.frame.copy()
    written = frame["study_id"].map(reports)
    given = written.notna()
    if not given.any():
        example = next(iter(reports), "none")
        raise ValueError(
            f"{path}: none of its {len(reports)} studies (first: {example}) is in this data set (first: "
            f"{frame['study_id'].iat[0]}); write the prompts again for this data set"
        )
    frame.loc[given, "report"] = written[given]
    frame.loc[given, "report_source"] = f"prompter:{hashlib.sha256(content).hexdigest()[:12]}"
    return dataclasses.replace(manifest, frame=frame)
