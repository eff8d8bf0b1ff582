"""What all layouts share: roots, options, views, splits."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules import layouts
from datamodules.layouts.source import hash_fractions, hashed_split
from datamodules.layouts.views import normalise_views


@pytest.mark.parametrize("layout", ["nih", "openi", "table"])
def test_missing_root_says_what_and_how(layout, tmp_path, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match=r"nowhere does not exist; it should hold .*--data.init_args.root.*CXR_ROOT"
    ):
        layouts.read(layout, tmp_path / "nowhere")
    monkeypatch.delenv("CXR_ROOT", raising=False)
    with pytest.raises(FileNotFoundError, match=f"layout {layout}: no root given"):
        layouts.read(layout, None)
    monkeypatch.setenv("CXR_ROOT", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match="elsewhere does not exist"):
        layouts.read(layout, None)


def test_unknown_layout_and_option(tmp_path):
    with pytest.raises(ValueError, match=r"layout 'mimic' does not exist; expected one of \['chexpert'"):
        layouts.read("mimic", tmp_path)
    with pytest.raises(ValueError, match="layout nih has no option 'studies'"):
        layouts.read("nih", tmp_path, studies=3)


def test_all_phantoms_may_be_in_one_split():
    usual = layouts.read("phantom", None, studies=40, seed=1)
    assert set(usual.frame["split"]) == {"train", "validate", "test"}
    fresh = layouts.read("phantom", None, studies=40, seed=1, split="test")
    assert set(fresh.frame["split"]) == {"test"}
    assert fresh.frame["image"].tolist() == usual.frame["image"].tolist()
    with pytest.raises(ValueError, match=r"layout_options.split is 'valid'; expected null or one of \['train', "):
        layouts.read("phantom", None, studies=4, split="valid")


def test_views():
    names = pd.Series(["pa", "AP_Supine", "LL", " L ", None, "antero-posterior"])
    views = normalise_views(names, file=Path("f.csv"), option="o")
    assert views.tolist() == ["PA", "AP", "LATERAL", "LATERAL", "unknown", "AP"]


def test_hashed_split_is_by_patient_and_stable():
    patients = [f"p{i}" for i in range(4000)]
    split = hashed_split(patients, seed=1)
    share = {name: float(np.mean(split == name)) for name in ("train", "validate", "test")}
    assert share == pytest.approx({"train": 0.8, "validate": 0.1, "test": 0.1}, abs=0.02)
    # A patient stays where it is, however many rows there are and in whatever order.
    assert hashed_split(patients[::-1] * 2, seed=1).tolist() == split[::-1].tolist() * 2
    assert not np.array_equal(hash_fractions(patients, seed=1), hash_fractions(patients, seed=2))
