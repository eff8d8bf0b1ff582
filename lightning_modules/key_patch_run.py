"""One `predict` of the aligner: key patches of the training split, and the clues that all reports fetch from them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.manifest import Batch
from lightning_modules import stages
from lightning_modules.networks.alignment import AlignmentNetwork
from lightning_modules.networks.key_patch_atlas import write_atlas
from lightning_modules.networks.key_patch_build import KeyPatchBuilder, KeyPatchOptions, select
from lightning_modules.networks.key_patch_candidates import pair_candidates
from lightning_modules.networks.key_patch_files import Digests, write_key_patches
from lightning_modules.networks.ranks import gather_items
from lightning_modules.networks.tokenizer import Tokens

CHUNK = 128  # reports that fetch their clues at a time


class Fetch(Protocol):
    """The aligner's verb `clues`."""

    def __call__(self, report: Sequence[str], *, exclude_patients: Sequence[str] | None = None) -> Tensor:
        """Clues int64 [B,K,2]."""


class KeyPatchRun:
    """Collects candidates batch by batch, then writes; every rank takes part in every call.

    Args:
        trainer: of the run; its datamodule has a token cache, its `ckpt_path` is the aligner's.
        options: how key patches are chosen and fetched.

    Raises:
        ValueError: without a checkpoint or a token cache.
    """

    def __init__(self, trainer: Trainer, options: KeyPatchOptions) -> None:
        self.trainer, self.options = trainer, options
        self.data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not trainer.ckpt_path:
            raise ValueError(
                "predict writes the key patches of a trained aligner, whose digest marks them: give --ckpt_path"
            )
        if self.data.tokens_digest is None:
            raise ValueError(
                "key patches are made of image codes, and the data has no token cache; make one with `python main.py "
                "predict -c configs/base.yaml -c configs/codebook.yaml --ckpt_path=<codebook checkpoint>` and give it "
                "as --data.init_args.tokens"
            )
        frame = self.data.manifest.frame
        self.splits: dict[str, str] = dict(zip(frame["image_id"], frame["split"], strict=True))
        self.builder = KeyPatchBuilder(options)

    def add(
        self, batch: Batch, *, network: AlignmentNetwork, tokenize: Callable[[Sequence[str]], Tokens]
    ) -> dict[str, list[str]]:
        """Take the training images of a batch and return their ids; images of other splits are passed over."""
        train = [row for row, image_id in enumerate(batch["image_id"]) if self.splits[image_id] == "train"]
        for row in train:
            found = pair_candidates(batch, row, network=network, tokenize=tokenize, options=self.options)
            self.builder.add(found, split=self.splits[batch["image_id"][row]])
        return {"image_id": [batch["image_id"][row] for row in train]}

    def write(self) -> Path:
        """Write key_patches.safetensors, key_patches.parquet and atlas.png to `default_root_dir`.

        Returns:
            The first of them.
        """
        path = Path(self.trainer.default_root_dir) / "key_patches.safetensors"
        pairs, floor = self.builder.candidates()
        entries = select(gather_items(pairs), gather_items(floor), options=self.options)
        if self.trainer.is_global_zero:
            digests = Digests(
                aligner=stages.file_digest(str(self.trainer.ckpt_path)),
                tokens=self.data.tokens_digest,
                manifest=self.data.manifest.digest(),
                splits=self.data.source.split_digest(),
            )
            write_key_patches(entries, path, digests=digests, options=self.options)
            if self.options.atlas:
                write_atlas(entries, path.with_name("atlas.png"))
        rank_zero_info(f"wrote {len(entries)} key patches of {len({e.word for e in entries})} words to {path}")
        self.trainer.strategy.barrier("key_patches")
        return path

    def write_clues(self, fetch: Fetch, key_patches: Path) -> None:
        """Write clues.safetensors beside the key patches: what the report of every image fetches from other patients.

        Args:
            fetch: the aligner's verb, with these key patches.
            key_patches: the file, whose digest marks the clues; it names the aligner in its turn.
        """
        clues = self._all_clues(fetch)
        if self.trainer.is_global_zero:
            path = key_patches.with_name("clues.safetensors")
            digest = stages.file_digest(key_patches)
            values = np.stack(list(clues.values()))
            self.data.write_clues(path, image_ids=list(clues), clues=values, key_patches_digest=digest)
            filled = (values[..., 0] >= 0).mean()
            rank_zero_info(
                f"wrote the clues of {len(clues)} images to {path} (on average {filled:.0%} of "
                f"{self.options.clue_tokens} tokens filled)"
            )
        self.trainer.strategy.barrier("clues")

    def _all_clues(self, fetch: Fetch) -> dict[str, np.ndarray]:
        """The clues of every row by image id.

        Ranks take turns in chunks of the whole table, which are those of one rank: so a kernel rounds alike.
        """
        frame = self.data.manifest.frame
        rows = list(zip(frame["image_id"], frame["report"], frame["patient_id"], strict=True))
        chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        found: list[tuple[str, np.ndarray]] = []
        for part in chunks[self.trainer.global_rank :: self.trainer.world_size]:
            clues = fetch([report for _, report, _ in part], exclude_patients=[patient for *_, patient in part])
            found += zip([image_id for image_id, *_ in part], clues.cpu().numpy(), strict=True)
        by_id = dict(gather_items(found))
        return {image_id: by_id[image_id] for image_id, *_ in rows}
