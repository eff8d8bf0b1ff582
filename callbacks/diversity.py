"""`SampleDiversity`: are samples of one prompt, and of different prompts, as unlike one another as real images are?

MS-SSIM of pairs; callbacks/metrics/similarity.py states its scales. The prompts that are looked at are chosen, and
paired, by the hash of their image ids: the same whatever the order of the images and the number of ranks.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.extraction import CHUNK, check_images, images_of
from callbacks.logged import log_equal
from callbacks.metrics.bank import RowBank, Rows, id_hash
from callbacks.metrics.pairs import Mean, disjoint_pairs, mean_of
from callbacks.metrics.ranks import from_all_ranks
from callbacks.metrics.similarity import KERNEL, SIGMA, betas_for, ms_ssim
from datamodules.manifest import Batch


@runtime_checkable
class SamplesPrompts(Protocol):
    """A module that can draw a prompt's image once more."""

    def sample_again(self, batch: Batch, *, seed: int) -> Tensor:
        """Float [B,1,H,W] in [-1,1] of the batch's prompts, other images than `test_step` gives.

        The same for the same image id and seed, in any batch and on any rank; other images for other seeds.
        """


class Candidate(NamedTuple):
    """One tested prompt, with all that is needed to draw it again."""

    order: int  # hash of the image id
    row: Batch  # a batch of one, on the CPU
    made: Tensor  # float32 [1,1,H,W]


class SampleDiversity(Callback):
    """Logs mean MS-SSIMs of pairs at the end of a test; higher is less diverse. With `<p>` = `<prefix>/diversity`.

    - `<p>_same_prompt`: samples of one prompt with other seeds; 1 where the seed changes nothing. Only for modules
      with `sample_again` (see `SamplesPrompts`).
    - `<p>_other_prompt`: samples of two prompts of different patients and texts.
    - `<p>_real`: the real images of the same pairs of prompts.
    - `<p>_excess`: `_other_prompt` minus `_real`, pair by pair; above 0 the samples are more alike than real images.
    - each with `_low` and `_high`, Student's 95 % interval over prompts or pairs, and `<p>_n`, the number of prompts.

    Real images of one prompt are hardly ever had, so that `_same_prompt` has no real counterpart: it lies between
    `_other_prompt` (the text decides nothing) and 1 (the seed decides nothing).

    Args:
        prompts: most prompts that are looked at, one a patient. Memory: 1 + `samples` images of each.
        samples: of each prompt, at least 2; the first is the one that `test_step` returned.
        output: the key of the images in what `test_step` returns.
        prefix: of the metric names.
        seed: of the further samples.

    Raises:
        ValueError: for images that are not finite, naming the image; for images below 16 pixels.
    """

    def __init__(
        self,
        *,
        prompts: int = 128,
        samples: int = 2,
        output: str = "synthetic",
        prefix: str = "generator",
        seed: int = 0,
    ) -> None:
        if prompts < 2 or samples < 2:
            raise ValueError(f"diversity of {prompts} prompts with {samples} samples each; expected at least 2 of both")
        self.prompts, self.samples, self.seed = prompts, samples, seed
        self.output, self.prefix = output, prefix
        self.kept: dict[str, Candidate] = {}
        self._protocol: dict[str, Any] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin without candidates."""
        self._protocol, self.kept = {}, {}

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the prompts whose ids have the lowest hashes."""
        ids = batch["image_id"]
        real = check_images(batch["image"], what="real", ids=ids)
        made = images_of(outputs, key=self.output, like=real, ids=ids)
        for at, (image_id, patient) in enumerate(zip(ids, batch["patient_id"], strict=True)):
            order = id_hash(image_id)
            if patient not in self.kept or order < self.kept[patient].order:
                self.kept[patient] = Candidate(order, row_of(batch, at), made[at : at + 1].cpu())
        lowest = sorted(self.kept, key=lambda patient: self.kept[patient].order)[: self.prompts]
        self.kept = {patient: self.kept[patient] for patient in lowest}

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Agree on the prompts, draw them again, compare and log; every rank takes part and logs the same."""
        chosen, (height, width) = self._agree()
        own = [one for one in self.kept.values() if one.order in chosen]
        self.kept = {}
        again = isinstance(pl_module, SamplesPrompts)
        kinds = ["real", "sample-0", *(f"sample-{i}" for i in range(1, self.samples if again else 1))]
        banks = {kind: RowBank(height * width).to(pl_module.device) for kind in kinds}
        for bank in banks.values():
            bank.start()
        for start in range(0, len(own), CHUNK):
            part = own[start : start + CHUNK]
            batch = joined([one.row for one in part], device=pl_module.device)
            images = {"real": batch["image"].float(), "sample-0": torch.cat([one.made for one in part])}
            for kind in kinds[2:]:
                drawn = self._draw(pl_module, batch, seed=self.seed + int(kind.removeprefix("sample-")))
                images[kind] = check_images(drawn, what=kind, ids=batch["image_id"])
            for kind, bank in banks.items():
                bank.update(images[kind].flatten(1).to(pl_module.device), batch["image_id"], batch["report"])
        rows = {kind: bank.compute() for kind, bank in banks.items()}
        values = self._measure(rows, size=(height, width))
        log_equal(pl_module, values)

    def protocol(self) -> dict[str, Any]:
        """How the last test's figures were made."""
        return {f"{self.prefix}/diversity": self._protocol} if self._protocol else {}

    def _agree(self) -> tuple[set[int], tuple[int, int]]:
        # The hashes that all ranks look at, one a patient, and the images' size, which an empty rank does not know.
        mine = [(patient, one.order, (one.made.shape[-2], one.made.shape[-1])) for patient, one in self.kept.items()]
        everyone = [one for part in from_all_ranks(mine) for one in part]
        sizes = {size for _, _, size in everyone}
        if len(sizes) != 1:
            raise ValueError(f"{self.prefix}/diversity: images of the sizes {sorted(sizes)}; expected one size")
        lowest: dict[str, int] = {}
        for patient, order, _ in everyone:
            lowest[patient] = min(order, lowest.get(patient, order))
        return set(sorted(lowest.values())[: self.prompts]), sizes.pop()

    def _draw(self, module: LightningModule, batch: Batch, *, seed: int) -> Tensor:
        assert isinstance(module, SamplesPrompts)
        with torch.no_grad():
            return module.sample_again(batch, seed=seed)

    def _measure(self, rows: dict[str, Rows], *, size: tuple[int, int]) -> dict[str, float]:
        base = f"{self.prefix}/diversity"
        texts = rows["real"].groups.tolist()
        images = {kind: one.values.view(-1, 1, *size) for kind, one in rows.items()}
        pairs = disjoint_pairs(texts)
        first, second = (torch.tensor([pair[i] for pair in pairs], dtype=torch.int64) for i in (0, 1))
        means: dict[str, Mean] = {}
        drawn = [images[kind] for kind in images if kind != "real"]
        if len(drawn) > 1:
            every = [ms_ssim(a, b) for i, a in enumerate(drawn) for b in drawn[i + 1 :]]
            means["same_prompt"] = mean_of(torch.stack(every).double().mean(0))
        made = ms_ssim(drawn[0][first], drawn[0][second])
        real = ms_ssim(images["real"][first], images["real"][second])
        means |= {"other_prompt": mean_of(made), "real": mean_of(real), "excess": mean_of(made.double() - real)}
        values = {f"{base}_n": float(len(texts))}
        for name, mean in means.items():
            values |= {f"{base}_{name}": mean.value, f"{base}_{name}_low": mean.low, f"{base}_{name}_high": mean.high}
        betas = betas_for(min(size))
        self._protocol = {
            "figures": sorted(values),
            "output": self.output,
            "n": len(texts),
            "prompts": f"at most {self.prompts}, one a patient, of the lowest sha256 of their image ids",
            "pairs": len(pairs),
            "pairing": "disjoint, in the order of those hashes, of different patients and texts",
            "samples": len(drawn),
            "same_prompt": None if len(drawn) > 1 else "not measured: the module has no sample_again(batch, seed)",
            "repeated_left_out": rows["real"].repeated,
            "seed": self.seed,
            "interval": "Student's 95 % over prompts, or over pairs",
            "scales": len(betas),
            "betas": [round(beta, 6) for beta in betas],
            "window": {"gaussian": KERNEL, "sigma": SIGMA},
            "packages": [],
        }
        if undefined := [key for key, value in values.items() if math.isnan(value)]:
            few = f"{len(texts)} prompts give {len(pairs)} pairs of different patients and texts"
            self._protocol["undefined"] = dict.fromkeys(undefined, few)
        return values


def row_of(batch: Batch, at: int) -> Batch:
    """The batch of one row, copied to the CPU so that the rest of the batch can go."""
    row = {
        key: value[at : at + 1].detach().cpu().clone() if isinstance(value, Tensor) else list(value[at : at + 1])
        for key, value in _mapping(batch).items()
    }
    return row  # type: ignore[return-value]


def joined(rows: list[Batch], *, device: torch.device) -> Batch:
    """One batch of batches with the same keys, on `device`."""
    batch: dict[str, Any] = {}
    for key in _mapping(rows[0]):
        values = [_mapping(row)[key] for row in rows]
        tensors = isinstance(values[0], Tensor)
        batch[key] = torch.cat(values).to(device) if tensors else [item for value in values for item in value]
    return batch  # type: ignore[return-value]


def _mapping(batch: Batch) -> Mapping[str, Any]:
    return batch
