"""CXRDataModule: a manifest, its resized images, its cached codes and clues, served as batches to every stage."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from lightning.pytorch import LightningDataModule

from datamodules.augment import augment, check_views, mirror
from datamodules.caches import clues_key, load_caches, pictures_of, tokens_key
from datamodules.dataset import CXRDataset
from datamodules.images import RESIZE
from datamodules.loader import BatchLoader, batches_done
from datamodules.manifest import Batch, Manifest
from datamodules.options import check_names, check_numbers, check_unchanged
from datamodules.prepared import manifest_path, positions
from datamodules.prompts import with_prompts
from datamodules.reading import read_source
from datamodules.reports.labels import SPLITS, UncertainPolicy, resolve_uncertain
from datamodules.resized import key_here, open_resized, resize, resized_folder
from datamodules.rows import RowTable, write_rows
from datamodules.samplers import EvalSampler, TrainSampler, long_tail_weights
from datamodules.selection import select, split_rows, summary
from datamodules.shards import ShardStore
from datamodules.tokens import Pictures, TokenCache, write_clues, write_tokens


class CXRDataModule(LightningDataModule):
    """Serves a data set to every stage; splits over ranks itself (`trainer.use_distributed_sampler: false`).

    Args:
        layout: which data set, one of `datamodules.layouts.NAMES`.
        root: its folder, file or fsspec URL; by default the environment variable CXR_ROOT. The phantom needs none.
        layout_options: what the layout's `read` takes, e.g. `studies` and `seed` of the phantom.
        shards: what `python -m datamodules prepare` wrote, a folder or an fsspec URL: its manifest and images are
            served, and layout and root are not read.
        size: side of the images in pixels.
        store: "shards" resizes all images once, into `cache_dir`, where `shards` names none; "files" decodes each
            picture whenever it is asked for, which needs no disk and is some hundred times slower.
        batch_size: most rows a batch on each rank.
        num_workers: loader processes; memory-mapped images are faster with 0.
        cache_dir: where manifests and resized images are kept.
        seed: of the order of training rows, of the `limit` subset, and of what is random in training images.
        views: keep these views only, e.g. [PA, AP]; the others are counted in the manifest's drops.
        policy: what becomes of uncertain labels: "ignore" makes them NaN, "zeros" 0, "ones" 1; or one of these for
            each finding that is named.
        tokens: cache of image codes that the codebook's `predict` wrote; adds `codes`.
        clues: cache of clues that the aligner's `predict` wrote; adds `clues`.
        prompts: JSON Lines of {"study_id", "report"} written by the prompter. They replace the rows' reports, whose
            report_source becomes "prompter:<digest of the file>": synthetic text, never to be taken for real. Those of
            `python -m datamodules match-reports` become "matched:<digest>": real, but of other patients.
        prompts_verified: leave out the studies whose text the prompter flagged; how many there are is always said.
        masks: add where each finding is to validation and test batches.
        text_only: serve one row a study without images, also those that have none.
        images: False serves no images, only what is in the caches.
        limit: train on this many rows only, drawn by seed (few-shot); a smaller limit takes a subset of a larger one.
        balance: 0 trains on each row once an epoch; up to 1, rows with rare findings are drawn more often, see
            `datamodules.samplers.long_tail_weights`.
        augment: strength (0 to 6) of small shifts, zooms and contrast changes of training images, see
            `datamodules.augment`.
        mirror: share (0 to 1) of frontal (PA, AP) training images that are mirrored, left and right exchanged in their
            reports; one whose report has an L or R that may be a side and is not understood stays as it is.
        predict_splits: the splits that `predict` goes through, in the order of the manifest.

    Raises:
        ValueError: for a number outside its range or a name that does not exist, see `datamodules.options`; for augment
            or mirror with a cache.
    """

    def __init__(
        self,
        *,
        layout: str = "phantom",
        root: str | None = None,
        layout_options: dict[str, Any] | None = None,
        shards: str | None = None,
        size: int = 64,
        store: Literal["shards", "files"] = "shards",
        batch_size: int = 64,
        num_workers: int = 0,
        cache_dir: str = "runs/cache",
        seed: int = 0,
        views: list[str] | None = None,
        policy: UncertainPolicy = "ignore",
        tokens: str | None = None,
        clues: str | None = None,
        prompts: str | None = None,
        prompts_verified: bool = False,
        masks: bool = False,
        text_only: bool = False,
        images: bool = True,
        limit: int | None = None,
        balance: float = 0.0,
        augment: float = 0.0,
        mirror: float = 0.0,
        predict_splits: list[str] | None = None,
    ) -> None:
        super().__init__()
        check_numbers(size=size, batch_size=batch_size, limit=limit, num_workers=num_workers)
        check_numbers(balance=balance, augment=augment, mirror=mirror)
        check_names(views=views, predict_splits=predict_splits)
        if augment or mirror:
            check_unchanged(tokens=tokens, clues=clues)
        self.layout, self.root, self.layout_options = layout, root, dict(layout_options or {})
        self.shards, self.store, self.views, self.policy = shards, store, views, policy
        self.size, self.batch_size, self.num_workers = size, batch_size, num_workers
        self.cache_dir, self.seed = Path(cache_dir).expanduser(), seed
        self.image_protocol = {"size": size, **RESIZE}
        self.tokens, self.clues, self.prompts = tokens, clues, prompts
        self.prompts_verified, self.masks, self.text_only = prompts_verified, masks, text_only
        self.limit, self.predict_splits, self.images = limit, predict_splits or list(SPLITS), images and not text_only
        self.balance, self.augment, self.mirror = balance, augment, mirror
        self._manifest: Manifest | None = None
        self._kept = np.zeros(0, dtype=np.int64)  # the row of `source` of each row of `manifest`
        self._store: tuple[ShardStore | None, np.ndarray] | None = None
        self._loader: BatchLoader | None = None
        self._resume: dict[str, Any] = {}
        self._caches: dict[str, TokenCache] | None = None

    # What is served

    @functools.cached_property
    def source(self) -> Manifest:
        """Everything that the layout holds, with the prompts in place of the reports where there are prompts."""
        prompts = self.prompts
        source = read_source(self.layout, self.root, self.layout_options, shards=self.shards, cache_dir=self.cache_dir)
        return source if prompts is None else with_prompts(source, prompts, verified_only=self.prompts_verified)

    @property
    def manifest(self) -> Manifest:
        """The rows that are served, and in its drops what was left out and why."""
        if self._manifest is None:
            wanted = {"text_only": self.text_only, "prompts_verified": self.prompts_verified}
            self._manifest, self._kept = select(self.source, views=self.views, **wanted)
        return self._manifest

    @property
    def tokens_key(self) -> str:
        """As `datamodules.caches.tokens_key`."""
        return tokens_key(self.source, size=self.size)

    @property
    def clues_key(self) -> str:
        """As `datamodules.caches.clues_key`."""
        return clues_key(self.source, codes=self.tokens_key)

    @property
    def tokens_digest(self) -> str | None:
        """Sha256 of the checkpoint that made the token cache; None without a cache."""
        return self._load_caches()["codes"].checkpoint_digest if self.tokens else None

    @property
    def clues_digest(self) -> str | None:
        """Sha256 of the key patches that the clue cache was fetched from; None without a cache."""
        return self._load_caches()["clues"].checkpoint_digest if self.clues else None

    def train_reports(self) -> list[str]:
        """The reports of the training rows, each study's once; rows without a text are left out."""
        frame = self.manifest.frame.iloc[self._train_rows()].drop_duplicates("study_id")
        return [report for report in frame["report"] if report]

    def train_labels(self) -> np.ndarray:
        """Float32 [N,14] of 1, 0, NaN: the labels of the training rows after `policy`."""
        return resolve_uncertain(self.manifest.labels()[self._train_rows()], policy=self.policy)

    def reference_dataset(self, n: int, *, seed: int) -> CXRDataset:
        """Of n different training images, drawn by seed; of all where there are fewer."""
        rows = self._train_rows()
        return self._dataset(rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:n])])

    def split_dataset(self, split: str) -> CXRDataset:
        """All rows of a split, whatever `limit`: `len(it)`, and `it[[3, 1]]` is the batch of two of them."""
        return self._dataset(split_rows(self.manifest, [split]))

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
            pictures=self.pictures(image_ids),
        )

    def write_clues(
        self, path: str | Path, *, image_ids: Sequence[str], clues: np.ndarray, key_patches_digest: str
    ) -> None:
        """Write the clues of this data, made of the codes of its token cache, see `datamodules.tokens.write_clues`."""
        if self.tokens is None:
            raise ValueError(f"{path}: clues are a codebook's codes; name its token cache with --data.init_args.tokens")
        codes = self._load_caches()["codes"]
        write_clues(
            path,
            image_ids=image_ids,
            clues=clues,
            manifest_digest=self.clues_key,
            key_patches_digest=key_patches_digest,
            codes_total=codes.codes_total,
            positions_total=codes.values.shape[1] * codes.values.shape[2],
            pictures=self.pictures(image_ids),
        )

    # What Lightning calls

    def prepare_data(self) -> None:
        """Read the layout, resize its images once, keep the manifest with its drops; on one rank of a node."""
        manifest = self.manifest
        self._row_table()
        if self._resizes():
            resize(manifest, size=self.size, folder=self._resized)
        path = self.cache_dir / f"manifest-{self._digest[:12]}-{key_here(manifest, self._digest)[:6]}.parquet"
        manifest.save_ledger(path)  # equal rows may stand beside other drops: the ledger is always this run's
        if self.shards is None and not path.is_file():
            manifest.save(path)
        print(summary(manifest, size=self.size, digest=self._digest, limit=self.limit), flush=True)

    def setup(self, stage: str) -> None:
        """Open the caches, so that a wrong one is refused before anything starts."""
        self._load_caches()

    def train_dataloader(self) -> BatchLoader:
        """Each training row once an epoch over all ranks, shuffled by (seed, epoch); weighted draws with `balance`."""
        rows = self._train_rows()
        if self.mirror:
            check_views(self.manifest.frame["view"].iloc[rows])
        dataset = self._dataset(rows)
        weights = long_tail_weights(dataset.labels(), power=self.balance) if self.balance else None
        # What is drawn depends on the labels, and so on the policy.
        drawn = "" if weights is None else f" of labels {hashlib.sha256(dataset.labels().tobytes()).hexdigest()[:8]}"
        identity = f"{dataset.identity()[:12]}, balance {self.balance:g}{drawn}"
        sampler = TrainSampler(dataset, **self._place(), seed=self.seed, weights=weights, identity=identity)
        self._loader = self._load(dataset, sampler)
        self._loader.load_state_dict(self._resume)
        self._resume = {}  # another trainer begins its own epochs
        return self._loader

    def val_dataloader(self) -> BatchLoader:
        """Each validation row once over all ranks."""
        return self._eval_loader("validate", masks=self.masks)

    def test_dataloader(self) -> BatchLoader:
        """Each test row once over all ranks."""
        return self._eval_loader("test", masks=self.masks)

    def predict_dataloader(self) -> BatchLoader:
        """Each row of `predict_splits` once over all ranks."""
        return self._eval_loader(*self.predict_splits)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Change training images at random, on the device.

        It depends on (seed, epoch, image) alone, and on the draw where `balance` repeats one, lest repeats be copies.
        """
        trainer = self.trainer
        if trainer is not None and trainer.training and (self.augment or self.mirror) and "image" in batch:
            keys = [f"{self.seed}/{trainer.current_epoch}/{image_id}" for image_id in batch["image_id"]]
            if "draw" in batch:
                keys = [f"{key}/{n}" if n else key for key, n in zip(keys, batch["draw"], strict=True)]
            if self.augment:
                batch["image"] = augment(batch["image"], keys=keys, strength=self.augment)
            if self.mirror:
                images, reports, views = batch["image"], batch["report"], batch["view"]
                batch["image"], batch["report"] = mirror(images, reports, views, keys=keys, share=self.mirror)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """How far the epoch is: a checkpoint in its middle goes on with the next row."""
        return {} if self._loader is None else self._loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it for the loader, which is made later."""
        self._resume = state_dict

    # How

    def _train_rows(self) -> np.ndarray:
        return split_rows(self.manifest, ["train"], limit=self.limit, seed=self.seed)

    @functools.cached_property
    def _digest(self) -> str:
        return self.manifest.digest()

    @functools.cached_property
    def _resized(self) -> Path:
        return resized_folder(self.manifest, size=self.size, cache_dir=self.cache_dir)

    def _row_table(self) -> RowTable:
        # prepare_data writes it; without a trainer it is written when it is first asked for.
        return write_rows(self.manifest, self.cache_dir / f"rows-{key_here(self.manifest, self._digest)[:24]}.arrow")

    def _resizes(self) -> bool:
        """Whether images are resized here: to be served, or because codes of them were made from what is there."""
        if self.shards is not None or self.store == "files":
            return False
        return self.images or self._resized.is_dir()

    def _open_shards(self) -> tuple[ShardStore | None, np.ndarray]:
        """The resized images, also where only their digests are needed, and the store's row of each of the manifest."""
        if self._store is None:
            store, rows = None, np.arange(len(self.manifest))
            if self.shards is not None and not self.text_only:
                store = ShardStore.open(self.shards, size=self.size, cache=self.cache_dir)
                ids, beside = self.source.frame["image_id"].tolist(), manifest_path(self.shards, cache=self.cache_dir)
                rows = positions(store, manifest=beside, image_ids=ids)[self._kept]
            elif self._resizes():
                store = open_resized(self.manifest, size=self.size, folder=self._resized)
            self._store = store, rows
        return self._store

    def pictures(self, image_ids: Sequence[str]) -> Pictures:
        """What is known of some images, see `datamodules.caches.pictures_of`."""
        store, rows = self._open_shards()
        return pictures_of(image_ids, manifest=self.manifest, store=store, rows=rows)

    def _load_caches(self) -> dict[str, TokenCache]:
        if self._caches is None and (self.tokens or self.clues):
            served = self.manifest.frame["image_id"].tolist()
            self._caches = load_caches(
                self.tokens, self.clues, source=self.source, size=self.size, served=served, now=self.pictures(served)
            )
        return self._caches or {}

    def _dataset(self, rows: np.ndarray, *, masks: bool = False) -> CXRDataset:
        caches, (shards, store_rows) = self._load_caches(), self._open_shards()
        return CXRDataset(
            self._row_table(),
            rows,
            policy=self.policy,
            store=(shards if shards is not None else "files") if self.images else None,
            store_rows=store_rows,
            size=self.size,
            codes=caches.get("codes"),
            clues=caches.get("clues"),
            masks=masks and not self.text_only,
        )

    def _place(self) -> dict[str, int]:
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        return {"batch_size": self.batch_size, "rank": rank, "world": world}

    def _eval_loader(self, *splits: str, masks: bool = False) -> BatchLoader:
        dataset = self._dataset(split_rows(self.manifest, splits), masks=masks)
        return self._load(dataset, EvalSampler(dataset, **self._place()))

    def _load(self, dataset: CXRDataset, sampler: TrainSampler | EvalSampler) -> BatchLoader:
        if self.num_workers:
            # Reading tables leaves free pages behind, which every worker would inherit.
            pa.default_memory_pool().release_unused()
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        done = None if self.trainer is None else batches_done(self.trainer)
        return BatchLoader(dataset, sampler, num_workers=self.num_workers, pin_memory=on_cuda, processed=done)
