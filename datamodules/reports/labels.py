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
FRONTAL_VIEWS: tuple[str, ...] = ("PA", "AP")
SPLITS: tuple[str, ...] = ("train", "validate", "test")

Policy = Literal["ignore", "zeros", "ones"]
# One policy for all findings, or one for each that is named: {"Edema": "ones", "Atelectasis": "ones"}.
UncertainPolicy = Policy | dict[str, Policy]
REPLACEMENTS: dict[str, float] = {"ignore": float("nan"), "zeros": 0.0, "ones": 1.0}


def resolve_uncertain(labels: np.ndarray, *, policy: UncertainPolicy) -> np.ndarray:
    """Replace the uncertain label -1 (U-Ignore, U-Zeros, U-Ones of CheXpert section 3.2).

    Args:
        labels: float [..., 14] of 1, 0, -1 or NaN, in the order of FINDINGS.
        policy: "ignore" makes -1 NaN, "zeros" 0, "ones" 1; a dict does so by finding, and ignores those it leaves out.

    Returns:
        A float32 copy of the same shape, of 1, 0 or NaN.

    Raises:
        ValueError: for a finding or a policy that does not exist, or an array of another width.
    """
    if labels.shape[-1:] != (len(FINDINGS),):
        raise ValueError(f"labels have the shape {labels.shape}; expected [..., {len(FINDINGS)}], one column a finding")
    return np.where(labels == -1, _replacements(policy), labels).astype(np.float32)


def _replacements(policy: UncertainPolicy) -> np.ndarray:
    """What -1 becomes, float64 [14]."""
    by_finding = policy if isinstance(policy, dict) else dict.fromkeys(FINDINGS, policy)
    for finding, one in by_finding.items():
        if finding not in FINDINGS:
            raise ValueError(f"policy: {finding!r} is not a finding; expected some of {list(FINDINGS)}")
        # A YAML list or number as a policy has no hash: compare, do not look up.
        if one not in list(REPLACEMENTS):
            where = f" of {finding}" if isinstance(policy, dict) else ""
            raise ValueError(f"policy{where} is {one!r}; expected one of {list(REPLACEMENTS)}")
    return np.array([REPLACEMENTS[by_finding.get(finding, "ignore")] for finding in FINDINGS])
