"""Which data set a config of training names, so that a command reads the same texts: `-c configs/data/openi.yaml`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

NAMED = ("layout", "root", "layout_options", "shards")


def add_config(parser: argparse.ArgumentParser) -> None:
    """Give a parser `-c`, which may be repeated."""
    text = "a config that training takes, whose layout, root and layout options are read too: configs/data/openi.yaml"
    parser.add_argument("-c", "--config", type=Path, action="append", default=[], metavar="FILE", help=text)


def read_configs(paths: Sequence[Path]) -> dict[str, Any]:
    """Layout, root and layout_options of some configs, as `main.py` would take them: a later file replaces each.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: for one that is no config, or that names shards, which are read in place of a layout.
    """
    found: dict[str, Any] = {}
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"-c {path} does not exist; name a config such as configs/data/openi.yaml")
        try:
            data = OmegaConf.select(OmegaConf.load(path), "data.init_args")
            options = {} if data is None else OmegaConf.to_container(data, resolve=True)
        except (OmegaConfBaseException, yaml.YAMLError, OSError) as error:
            raise ValueError(f"-c {path} cannot be read as a config ({error}); mend it") from error
        assert isinstance(options, dict)
        found |= {str(name): value for name, value in options.items() if name in NAMED}
    if found.get("shards"):
        raise ValueError(
            f"-c {paths[-1]} names the shards {found['shards']}; name the config or the --root of the data set that "
            "they were made from"
        )
    return found
