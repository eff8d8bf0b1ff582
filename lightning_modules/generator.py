"""CXRGenerator: report words and key-patch clues → image codes → radiograph.

Owns frozen copies of the codebook's decoder and of the aligner's clue retrieval, so that its checkpoint is complete.
These former stages are read when training starts and travel in the checkpoint's stage mark afterwards; their sizes are
therefore no constructor arguments.
"""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from PIL import Image
from torch import Tensor

from datamodules.manifest import Batch
from datamodules.reports.labels import FINDINGS, VIEWS
from lightning_modules import stages
from lightning_modules.contact_sheet import write_contact_sheet
from lightning_modules.file_names import file_name
from lightning_modules.networks.alignment import AlignerConfig
from lightning_modules.networks.clue_retriever import ClueRetriever
from lightning_modules.networks.key_patch_files import load_key_patches
from lightning_modules.networks.key_patches import KeyPatchConfig
from lightning_modules.networks.masked_generator import Condition, GeneratorConfig, MaskedGenerator
from lightning_modules.networks.pretrained_text import TextModel, build_text, open_tokenizer
from lightning_modules.networks.ranks import gather_items
from lightning_modules.networks.sampling import SamplingConfig, sample_codes, seeded_uniform
from lightning_modules.networks.vqgan import VQGAN, VQGANConfig
from lightning_modules.optimizers import parameter_groups
from lightning_modules.sample_table import forget_origin, write_table
from lightning_modules.schedule import with_schedule


def image_seed(seed: int, *parts: object) -> int:
    """A 63-bit seed that depends on `seed` and `parts` alone, not on batch, rank or process."""
    text = ":".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class CXRGenerator(LightningModule):
    """Trains the masked transformer on cached codes and samples radiographs from reports.

    Args:
        network: sizes of the transformer.
        codebook_ckpt: checkpoint of the codebook stage; needed by `fit` only.
        aligner_ckpt: checkpoint of the aligner stage (tokenizer, text encoder, retrieval); needed by `fit` only.
        key_patches: the key-patch codebook that the aligner's `predict` wrote; needed by `fit` only.
        use_clues: False trains and samples from text and view alone.
        sampling: steps, temperatures, guidance.
        optimizer: makes the optimiser from the parameters.
        train_text: train the copy of the aligner's text encoder further; frozen, a step costs a fifth less.
        label_smoothing: of the cross-entropy; what it adds to every code is drawn when sampling.
        drop_text: share of training images whose text is left out (guidance).
        drop_clues: share of training images whose clues are left out.
        sampling_seed: seed of validation, test and predicted images.
    """

    def __init__(
        self,
        *,
        network: GeneratorConfig,
        codebook_ckpt: str | None = None,
        aligner_ckpt: str | None = None,
        key_patches: str | None = None,
        use_clues: bool = True,
        sampling: SamplingConfig | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        train_text: bool = False,
        label_smoothing: float = 0.0,
        drop_text: float = 0.1,
        drop_clues: float = 0.3,
        sampling_seed: int = 0,
    ) -> None:
        super().__init__()
        self.config = stages.as_config(GeneratorConfig, network)
        self.save_hyperparameters({"network": dataclasses.asdict(self.config)})
        self.paths = {"codebook": codebook_ckpt, "aligner": aligner_ckpt, "key_patches": key_patches}
        self.use_clues = use_clues
        self.sampling = sampling or SamplingConfig()
        self.optimizer = optimizer
        self.train_text, self.label_smoothing = train_text, label_smoothing
        self.drop_text, self.drop_clues = drop_text, drop_clues
        self.sampling_seed = sampling_seed
        self.parts: dict[str, Any] | None = None  # plain data of the former stages, once they are known

    def setup(self, stage: str) -> None:
        """Read the former stages when training starts; a checkpoint brings its own copies.

        Lightning loads a resumed run's checkpoint after this, so a missing file is no error yet:
        `configure_optimizers`, which comes after both, reports it.
        """
        if stage == "fit" and self.parts is None and all(p is None or Path(p).is_file() for p in self.paths.values()):
            self._read_former_stages()

    def _read_former_stages(self) -> None:
        if self.parts is None:
            codebook = stages.open_stage(self._path("codebook"), stage="codebook")
            aligner = stages.open_stage(self._path("aligner"), stage="aligner")
            path, splits = self._path("key_patches"), self.trainer.datamodule.source.split_digest()  # type: ignore[attr-defined]
            config, arrays = load_key_patches(
                path, tokens_digest=codebook.digest, aligner_digest=aligner.digest, split_digest=splits
            )
            self._build(
                {
                    "codebook": codebook.config["network"],
                    "aligner": aligner.config["network"],
                    "key_patches": dataclasses.asdict(config),
                    "tokenizer": aligner.extra["tokenizer"],
                    "text_model": aligner.extra.get("text_model"),
                    "digests": {"codebook": codebook.digest, "key_patches": stages.file_digest(path)},
                }
            )
            self.vqgan.load_state_dict(codebook.weights("network."))
            self.clue_retriever.load_stages(aligner.weights("network."), arrays)
            self.network.text.load_state_dict(aligner.weights("network.text."))
            self.network.start_from(self.vqgan.quantizer.codebook)

    @property
    def vqgan(self) -> VQGAN:
        """The frozen codebook."""
        return cast(VQGAN, self.codebook.part)

    @property
    def clue_retriever(self) -> ClueRetriever:
        """The frozen text half of the aligner with its key patches."""
        return cast(ClueRetriever, self.retriever.part)

    def _path(self, name: str) -> str:
        path = self.paths[name]
        if path is None:
            option = "key_patches" if name == "key_patches" else f"{name}_ckpt"
            raise ValueError(f"training the generator needs model.init_args.{option}: what the stage before it wrote")
        return path

    def _build(self, parts: dict[str, Any]) -> None:
        codebook = stages.as_config(VQGANConfig, parts["codebook"])
        aligner = stages.as_config(AlignerConfig, parts["aligner"])
        text_model = stages.as_config(TextModel, parts.get("text_model"))
        self.tokenizer = open_tokenizer(parts["tokenizer"], text_model)
        key_patches = stages.as_config(KeyPatchConfig, parts["key_patches"])
        retriever = ClueRetriever(aligner, parts["tokenizer"], key_patches, text_model)
        self.codebook, self.retriever = stages.Frozen(VQGAN(codebook)), stages.Frozen(retriever)
        config = dataclasses.replace(self.config, codes=codebook.codes, grid=codebook.grid, views=len(VIEWS))
        dropout = config.dropout if self.train_text else 0.0
        text = dataclasses.replace(retriever.text_config, vocabulary=len(self.tokenizer), dropout=dropout)
        self.network = MaskedGenerator(config, build_text(text, text_model, train=self.train_text))
        self.network.text.requires_grad_(self.train_text)
        self.parts = parts

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the plain data of the former stages."""
        stages.stamp(checkpoint, stage="generator", parts=self.parts)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the network that the checkpoint's weights belong to."""
        stages.check_stage(checkpoint, stage="generator")
        if "key_patches" not in checkpoint[stages.KEY]["parts"]["digests"]:
            raise ValueError("the checkpoint is of a former generator, whose key patches were others; train it again")
        self._build(checkpoint[stages.KEY]["parts"])

    def on_fit_start(self) -> None:
        """Check the caches."""
        self._check_caches()

    def on_validation_start(self) -> None:
        """Check weights and caches."""
        self._check_caches()

    def on_test_start(self) -> None:
        """Check weights and caches."""
        self._check_caches()

    def _check_caches(self) -> None:
        """Refuse cached codes or clues of another codebook, or other key patches, than this generator holds."""
        parts = self._require_network()
        for cache, maker, stage in (("tokens", "codebook", "codebook"), ("clues", "key_patches", "aligner")):
            made_by, held = getattr(self.trainer.datamodule, f"{cache}_digest"), parts["digests"][maker]  # type: ignore[attr-defined]
            if made_by is not None and made_by != held:
                raise ValueError(
                    f"the {cache} cache was made from the {maker} {made_by[:12]}, the generator holds {held[:12]}: run "
                    f"`python main.py predict -c configs/base.yaml -c configs/{stage}.yaml --ckpt_path <checkpoint>`"
                )

    def _require_network(self) -> dict[str, Any]:
        if self.parts is None:
            raise ValueError("the generator has no weights: give --ckpt_path, the file that `fit` wrote")
        return self.parts

    def condition(self, report: list[str], view: Tensor, clues: Tensor) -> Condition:
        """The network's condition from texts; clues int64 [B,K,2] as `ClueRetriever.clues` gives them."""
        tokens = self.tokenizer(report, max_length=self.network.text.max_length)
        if not self.use_clues:
            clues = torch.full_like(clues, -1)
        ids, mask, view, clues = (x.to(self.device) for x in (tokens.ids, tokens.mask, view, clues))
        return Condition(ids, mask, view, clues)

    def retrieve(self, report: list[str], *, exclude_patients: list[str] | None = None) -> Tensor:
        """Clues int64 [B,K,2] of reports from the key-patch codebook, but for the patches of these patients."""
        return self.clue_retriever.clues(report, exclude_patients=exclude_patients)

    @torch.no_grad()
    def sample(
        self,
        report: list[str],
        view: Tensor,
        clues: Tensor | None = None,
        *,
        seed: int | Tensor = 0,
    ) -> Tensor:
        """Radiographs float32 [B,1,H,W] in [-1,1] from B reports.

        Args:
            report: B texts.
            view: int64 [B], index into VIEWS.
            clues: int64 [B,K,2]; retrieved from the key-patch codebook when None.
            seed: one seed for the batch, or int64 [B], one an image.
        """
        self._require_network()
        seeds = torch.tensor([image_seed(seed, i) for i in range(len(report))]) if isinstance(seed, int) else seed
        clues = self.retrieve(report) if clues is None else clues
        training = self.network.training
        self.network.eval()
        codes = sample_codes(self.network, self.condition(report, view, clues), seeds, self.sampling)
        self.network.train(training)
        return self.decode(codes)

    def decode(self, codes: Tensor) -> Tensor:
        """Image codes int64 [B,N] → float32 [B,1,H,W] in [-1,1]."""
        grid = self.network.config.grid
        return self.vqgan.decode(codes.view(-1, grid, grid)).float().clamp(-1, 1)

    def redraw(self, image: Tensor) -> Tensor:
        """Radiographs [B,1,H,W] in [-1,1] as the decoder draws them, which is as near as a sample comes to them."""
        return self.decode(self.vqgan.encode(image).flatten(1))

    def decode_random(self, n: int, seed: int) -> Tensor:
        """Radiographs [n,1,H,W] of codes drawn uniformly: what the decoder alone would score."""
        config = self.network.config
        generator = torch.Generator().manual_seed(seed)
        codes = torch.randint(config.codes, (n, config.grid**2), generator=generator)
        with torch.no_grad():
            return torch.cat([self.decode(part.to(self.device)) for part in codes.split(64)])

    def _batch_condition(self, batch: Batch) -> tuple[Tensor, Condition]:
        codes = batch["codes"] if "codes" in batch else self.vqgan.encode(batch["image"])
        # A training image must not be painted from its own pixels.
        clues = (
            batch["clues"] if "clues" in batch else self.retrieve(batch["report"], exclude_patients=batch["patient_id"])
        )
        return codes.flatten(1), self.condition(batch["report"], batch["view"], clues)

    def _loss(self, batch: Batch, *, epoch: int, drop: bool) -> Tensor:
        codes, condition = self._batch_condition(batch)
        seeds = torch.tensor([image_seed(self.sampling_seed, epoch, i) for i in batch["image_id"]])
        noise = seeded_uniform(seeds, codes.shape[1] + 3).to(self.device)
        if drop:
            # One draw decides both, so that "no text and no clues", the branch that guidance needs, is trained as well.
            without_text = noise[:, 0] < self.drop_text
            condition = condition.drop(text=without_text, clues=without_text | (noise[:, 1] < self.drop_clues))
        return self.network.loss(codes, condition, noise[:, 2:], label_smoothing=self.label_smoothing if drop else 0.0)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of the masked codes."""
        loss = self._loss(batch, epoch=self.current_epoch, drop=True)
        self.log("train/loss", loss, batch_size=len(batch["report"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Cross-entropy with masks that are the same in each epoch, and samples of the first batch to look at."""
        count = len(batch["report"])
        loss = self._loss(batch, epoch=-1, drop=False)
        self.log("validate/loss", loss, batch_size=count, sync_dist=True, prog_bar=True)
        if batch_idx:
            return {}
        first = min(8, count)
        return {"synthetic": self._sample_batch(batch, first)}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One radiograph for each report; the callbacks measure them."""
        loss = self._loss(batch, epoch=-1, drop=False)
        self.log("generator/loss", loss, batch_size=len(batch["report"]), sync_dist=True)
        return {"synthetic": self._sample_batch(batch, len(batch["report"]))}

    def sample_again(self, batch: Batch, *, seed: int) -> Tensor:
        """Other radiographs [B,1,H,W] of the batch's prompts than `test_step` gives; the same for the same seed."""
        return self._sample_batch(batch, len(batch["report"]), again=(seed,))

    def sampling_protocol(self) -> dict[str, Any]:
        """How radiographs are drawn, for the protocol of what is measured on them."""
        return dataclasses.asdict(self.sampling) | {"seed": self.sampling_seed, "clues": self.use_clues}

    def _sample_batch(self, batch: Batch, first: int, again: tuple[int, ...] = ()) -> Tensor:
        seeds = torch.tensor([image_seed(self.sampling_seed, i, *again) for i in batch["image_id"][:first]])
        report, patients = batch["report"][:first], batch["patient_id"][:first]
        # As in training: no image of a patient is made from the patches of the same patient.
        clues = batch["clues"][:first] if "clues" in batch else self.retrieve(report, exclude_patients=patients)
        return self.sample(report, batch["view"][:first], clues, seed=seeds)

    def on_predict_start(self) -> None:
        """Check weights and caches, make the folder of the samples."""
        self._check_caches()
        self.written: list[dict[str, Any]] = []
        self._samples_folder().mkdir(parents=True, exist_ok=True)
        forget_origin(self._samples_folder())

    def _samples_folder(self) -> Path:
        return Path(self.trainer.default_root_dir) / "samples"

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One radiograph for each report, written as a greyscale PNG at once; each rank writes its own.

        The files are named by `file_names.file_name`; samples.csv holds the id itself as `source_image_id`.
        """
        images = self._sample_batch(batch, len(batch["report"]))
        pixels = ((images[:, 0] + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
        labels = batch["labels"].cpu().numpy()
        for row, image_id in enumerate(batch["image_id"]):
            name = file_name(image_id, suffix=".png")
            temporary = self._samples_folder() / f".{name}.tmp"
            Image.fromarray(pixels[row]).save(temporary, format="PNG")
            os.replace(temporary, self._samples_folder() / name)
            self.written.append(
                {
                    "image": name,
                    "report": batch["report"][row],
                    "view": VIEWS[int(batch["view"][row])],
                    "patient": f"synthetic-{image_id}",
                    "seed": image_seed(self.sampling_seed, image_id),
                    "source_image_id": image_id,
                    **dict(zip(FINDINGS, labels[row], strict=True)),
                }
            )
        return {"synthetic": images}

    def on_predict_epoch_end(self) -> None:
        """Write samples.csv, a data set in the `table` layout, what made it (samples.json), and a contact sheet."""
        rows = sorted(gather_items(self.written), key=lambda row: row["image"])
        if not self.trainer.is_global_zero:
            return
        folder = self._samples_folder()
        write_table(rows, folder, trainer=self.trainer, sampling=self.sampling_protocol())
        write_contact_sheet([folder / row["image"] for row in rows[:64]], folder / "contact_sheet.png")
        print(
            f"generator: wrote {len(rows)} synthetic radiographs, samples.csv and contact_sheet.png to {folder}; read "
            f"them with -c configs/data/table.yaml --data.init_args.root={folder / 'samples.csv'}"
        )

    def configure_optimizers(self) -> Any:
        """The optimiser, its learning rate warmed up and falling along a cosine."""
        self._read_former_stages()
        optimizer = self.optimizer(parameter_groups(self.network))
        return with_schedule(optimizer, steps=self.trainer.estimated_stepping_batches)
