"""A cache of clues is served to the texts and splits that it was made from, and to no others."""

import json

import numpy as np
import pandas as pd
import pytest

from datamodules.cxr import CXRDataModule
from tests.datamodules.pictures import write_table


def test_clues_of_other_texts_or_splits_are_refused(tmp_path):
    root = write_table(tmp_path / "data", {"split": ["train"] * 16 + ["validate"] * 4 + ["test"] * 4}, side=8)
    tokens, clues = tmp_path / "t.safetensors", tmp_path / "c.safetensors"

    def make(**caches):
        cache = str(tmp_path / "cache")
        return CXRDataModule(layout="table", root=str(root), size=8, cache_dir=cache, images=False, **caches)

    ids = list(make().source.frame["image_id"])
    codes = np.zeros((24, 2, 2), dtype=np.int64)
    make().write_tokens(tokens, image_ids=ids, codes=codes, checkpoint_digest="book", codes_total=24)
    made = make(tokens=str(tokens))
    made.write_clues(clues, image_ids=ids, clues=np.zeros((24, 1, 2), dtype=np.int64), key_patches_digest="k")
    make(clues=str(clues)).setup("fit")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"study_id": "r20", "report": "another text"}))
    refused = f"c.safetensors: was made from data {made.clues_key[:12]}, .*make it again: .*configs/aligner.yaml"
    with pytest.raises(ValueError, match=refused):
        make(clues=str(clues), prompts=str(prompts)).setup("fit")
    table = root if root.is_file() else next(root.glob("*.csv"))
    frame = pd.read_csv(table, keep_default_na=False)
    frame.loc[0, "split"] = "test"
    frame.to_csv(table, index=False)
    with pytest.raises(ValueError, match=refused):
        make(clues=str(clues)).setup("fit")
