"""What PadChest's label names say of CheXpert's findings."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.layouts import padchest_labels
from datamodules.layouts.padchest_labels import HINTS, KNOWN, NAMED, UNNAMED, findings
from datamodules.reports.labels import FINDINGS


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["normal"], {"No Finding": 1, "Pneumonia": 0, "Support Devices": 0}),
        (["normal", "pacemaker"], {"No Finding": 1, "Support Devices": 1}),
        (["pacemaker"], {"No Finding": 1, "Support Devices": 1}),
        (["normal", "cardiomegaly"], {"No Finding": 0, "Cardiomegaly": 1, "Enlarged Cardiomediastinum": np.nan}),
        (["scoliosis"], {"No Finding": np.nan, "Fracture": 0}),
        (["pneumonia"], {"Pneumonia": 1, "Lung Opacity": 1, "No Finding": 0}),
        (["alveolar pattern"], {"Lung Opacity": 1, "Consolidation": np.nan}),
        (["alveolar pattern", "consolidation"], {"Lung Opacity": 1, "Consolidation": 1}),
        (["costophrenic angle blunting"], {"Pleural Effusion": np.nan, "Pleural Other": np.nan, "No Finding": np.nan}),
        (["hydropneumothorax"], {"Pneumothorax": 1, "Pleural Effusion": 1, "Lung Opacity": 0}),
        (["unchanged"], dict.fromkeys(FINDINGS, np.nan)),
        (["exclude"], dict.fromkeys(FINDINGS, np.nan)),
        (["unchanged", "nodule"], {"Lung Lesion": 1, "Lung Opacity": 1, "Edema": np.nan, "No Finding": 0}),
        (["suboptimal study"], dict.fromkeys(FINDINGS, np.nan)),
        (["suboptimal study", "normal"], {"No Finding": 1, "Edema": 0}),
        ([], dict.fromkeys(FINDINGS, np.nan)),
    ],
)
def test_what_label_names_say(names, expected):
    found = findings(names)
    for finding, value in expected.items():
        np.testing.assert_equal(found[finding], float(value), err_msg=finding)


def test_each_name_is_mapped_once_and_only_to_chexperts_findings():
    assert set(NAMED) | set(HINTS) <= set(FINDINGS)
    assert set(NAMED) == set(FINDINGS) - {"No Finding"}
    mapped = {name for part in (NAMED, HINTS) for names in part.values() for name in names}
    assert not mapped & set(UNNAMED)
    assert len(UNNAMED) == len(set(UNNAMED))
    for finding, names in HINTS.items():
        assert not set(names) & set(NAMED[finding]), finding
    assert len(KNOWN) == 194


@pytest.mark.parametrize(
    "text", ["['a'", "{'a': 1}", "__import__('os')", "[1, 2]", "('normal',)", "['a', ['b']]", "\x00"]
)
def test_text_that_is_no_list_of_names_is_an_error_in_the_ledger(text):
    parsed = padchest_labels.parse(pd.Series([text]), file=Path("x.csv"))
    assert parsed.oddities[padchest_labels.MALFORMED].tolist() == [True]
    assert parsed.labels.isna().all(axis=None)
