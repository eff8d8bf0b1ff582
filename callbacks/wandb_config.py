"""`WandbConfigCallback`: the full command-line config beside the run's results, and in W&B where a WandbLogger is used.

Whether W&B is offline is the logger's own setting; nothing here logs in.
"""

import os
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, Namespace, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn


class WandbConfigCallback(SaveConfigCallback):
    """Writes `<default_root_dir>/config.yaml` for `fit` and `config-<stage>.yaml` for the others, over an older file.

    The file goes into the run's folder, not into the logger's, so that it stays where the checkpoints are, and a test
    does not replace the config that the weights were trained with. A requeued job and a sweep write it again.

    Args:
        parser: given by LightningCLI.
        config: given by LightningCLI.
        kwargs: the other arguments of `SaveConfigCallback`, as LightningCLI's `save_config_kwargs` gives them.
    """

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **kwargs: Any) -> None:
        super().__init__(parser, config, **{**kwargs, "overwrite": True, "save_to_log_dir": False})

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called by the base class on rank 0 only: no collective may be used here."""
        text = self.parser.dump(self.config, skip_none=False)
        name = Path(self.config_filename)
        # Lightning hands over an enum whose text is "TrainerFn.TESTING".
        verb = TrainerFn(stage).value
        path = Path(trainer.default_root_dir) / (name if verb == "fit" else f"{name.stem}-{verb}{name.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(text)
        os.replace(temporary, path)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.config.update(yaml.safe_load(text), allow_val_change=True)
