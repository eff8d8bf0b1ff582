"""Who reads the 14 labels of a report: the project's rules, a CheXbert or a RadGraph, with one interface."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from datamodules.reports.labels import FINDINGS
from datamodules.reports.mentions import labels_of
from lightning_modules.networks.chexbert import CheXbert
from lightning_modules.networks.radgraph import VOCABULARY, WEIGHTS, RadGraph

Labeler = Callable[[Sequence[str]], np.ndarray]


def rules_or_network(backend: str, *, device: torch.device | str = "cpu") -> Labeler:
    """Labels of reports, [N] texts to float32 [N,14] of 1, 0, -1 and NaN in the order of FINDINGS.

    Args:
        backend: "rules" for `datamodules.reports.mentions.labels_of`, or the folder of a RadGraph (which has weights.th
            or vocabulary/) or of a CheXbert.
        device: of the network.

    Raises:
        FileNotFoundError: if the folder lacks a file, naming it.
        ValueError: if the weights are those of another network.
        ImportError: if a RadGraph's package is not installed.
    """
    if backend == "rules":
        return _by_rules
    folder = Path(backend)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f'{folder}/config.json is missing; expected "rules", a folder of CheXbert (config.json, tokenizer, '
            "model.safetensors or chexbert.pth) or one of RadGraph (config.json, vocabulary/, weights.th, encoder/)"
        )
    if (folder / WEIGHTS).exists() or (folder / VOCABULARY).exists():
        return RadGraph(folder, device=device).labels
    return CheXbert(folder).to(device).labels


def _by_rules(reports: Sequence[str]) -> np.ndarray:
    return np.array([labels_of(report) for report in reports], dtype=np.float32).reshape(-1, len(FINDINGS))
