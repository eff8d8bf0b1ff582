"""The 14 CheXpert labels: their names, their order, and what is done with uncertain ones.

Names and order follow CheXpert (Irvin et al., arXiv 1901.07031). A label is 1 present, 0 absent, -1 uncertain, NaN not
mentioned or not known.
"""

from typing import Literal

import numpy as np

FINDINGS: tuple[str, ...] = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
VIEWS: tuple[str, ...] = ("PA", "AP", "LATERAL", "unknown")
SPLITS: tuple[str, ...] = ("train", "validate", "test")

UncertainPolicy = Literal["ignore", "zeros", "ones"]


def resolve_uncertain(labels: np.ndarray, *, policy: UncertainPolicy) -> np.ndarray:
    """Replace the uncertain label -1 (U-Ignore, U-Zeros, U-Ones of CheXpert section 3.2).

    Args:
        labels: float [..., 14] of 1, 0, -1 or NaN.
        policy: "ignore" makes -1 NaN, "zeros" 0, "ones" 1.

    Returns:
        A float32 copy of the same shape, of 1, 0 or NaN.
    """
    value = {"ignore": np.nan, "zeros": 0.0, "ones": 1.0}[policy]
    return np.where(labels == -1, value, labels).astype(np.float32)
