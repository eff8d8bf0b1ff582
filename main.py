"""The command line: `python main.py {fit,validate,test,predict} -c configs/base.yaml -c configs/<stage>.yaml ...`.

The only file that knows lightning_modules, datamodules and callbacks together; importing them registers their classes.
"""

import os
import platform
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

import callbacks
from callbacks.wandb_config import WandbConfigCallback
from datamodules.cxr import CXRDataModule
from lightning_modules import STAGES, stages
from lightning_modules.precision import fastest_precision

__all__ = ["CXRDataModule", "CXRSynthCLI", "callbacks", "main"]

# glibc reads them when a process starts.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"}


def allocator_advice() -> str | None:
    """What to export before a run on a CPU, where it is not; None elsewhere and where all is set."""
    missing = [f"{name}={value}" for name, value in ALLOCATOR.items() if name not in os.environ]
    if not missing or torch.cuda.is_available() or platform.libc_ver()[0] != "glibc":
        return None
    return (
        "memory: large buffers are given back and faulted in again at every step, which makes stages 1.7 to 3.4 times "
        f"slower on a CPU; export {' '.join(missing)}"
    )


def run_folder(run_dir: str) -> str:
    """The folder of one run: below `run_dir`, each run of a W&B sweep has its own, so none overwrites another's."""
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    return str(Path(run_dir) / run) if sweep and run else run_dir


class CXRSynthCLI(LightningCLI):
    """LightningCLI with one folder a run, a checkpoint callback that is always there, and stage-aware checkpoints."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `--run_dir`, and the links that let a size or folder be written once."""
        parser.add_argument("--run_dir", default="runs/dev", help="folder of checkpoints, metrics.json and pictures")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.save_last": True, "checkpoint.enable_version_counter": False})
        parser.link_arguments("run_dir", "trainer.default_root_dir", compute_fn=run_folder)
        parser.link_arguments("run_dir", "checkpoint.dirpath", compute_fn=lambda d: f"{run_folder(d)}/checkpoints")
        parser.link_arguments("data.init_args.size", "model.init_args.network.resolution")

    def _parse_ckpt_path(self) -> None:
        """Take the architecture from the checkpoint and everything else from config and command line.

        Replaces LightningCLI's merge, which does not know model subclasses without `_class_path` in their
        hyper-parameters and would load the weights of another stage into this one's class.
        """
        arguments = self.config[self.config.subcommand]
        path = arguments.get("ckpt_path")
        if not path or not Path(path).is_file():
            if path and path not in ("best", "last", "hpc", "registry"):
                raise FileNotFoundError(f"--ckpt_path {path} does not exist; run `python main.py fit` for it first")
            return
        checkpoint = stages.load_checkpoint(path)
        class_path = arguments.model.class_path
        stage = next(name for name, kind in STAGES.items() if class_path.rsplit(".", 1)[-1] == kind.__name__)
        stages.check_stage(checkpoint, stage=stage, path=path)
        architecture = {"class_path": class_path, "init_args": checkpoint["hyper_parameters"]}
        self.config = self.parser.parse_object({self.config.subcommand: {"model": architecture}}, self.config)

    def before_instantiate_classes(self) -> None:
        """Choose what depends on the machine and the run: the precision, and the folder of the loggers' files."""
        trainer = self.config[self.config.subcommand].trainer
        if trainer.precision is None:
            trainer.precision = fastest_precision(str(trainer.accelerator))
            rank_zero_info(
                f"precision: {trainer.precision}, the fastest on this device; --trainer.precision sets another"
            )
        if advice := allocator_advice():
            rank_zero_info(advice)
        loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
        for logger in loggers:
            arguments = getattr(logger, "init_args", None)
            if arguments is not None and arguments.get("save_dir") in (None, ".", ""):
                arguments.save_dir = trainer.default_root_dir
                Path(trainer.default_root_dir).mkdir(parents=True, exist_ok=True)


def main(args: ArgsType = None) -> CXRSynthCLI:
    """Run the command line on `args`, or on the process's own arguments."""
    return CXRSynthCLI(
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_callback=WandbConfigCallback,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"parser_mode": "omegaconf"},
        args=args,
    )


if __name__ == "__main__":
    main()
