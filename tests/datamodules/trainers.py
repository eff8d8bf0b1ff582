"""The Trainer that tests of the data layer share."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer


def quiet_trainer(folder: Path, **options: Any) -> Trainer:
    """On one CPU process, with nothing printed and nothing written but below `folder`; options overrule."""
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
    }
    return Trainer(**(quiet | options))
