"""Explanations through the real command line: the shipped configs' pictures, and any table of images and reports."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from main import main
from tests.chain import Chain


def test_a_test_of_the_aligner_draws_heat_maps_by_the_shipped_config(chain: Chain, tmp_path: Path) -> None:
    arguments = chain.arguments("test", "aligner", f"--run_dir={tmp_path}")
    main([a for a in arguments if not a.startswith("--trainer.callbacks")])
    (picture,) = (tmp_path / "pictures").iterdir()
    assert picture.name == "heat_maps-test-0.png"


@pytest.mark.parametrize("key_patches", [False, True])
def test_explain_draws_any_table_of_images_and_reports(chain: Chain, tmp_path: Path, key_patches: bool) -> None:
    shade = np.linspace(0, 255, 40 * 50).astype(np.uint8).reshape(40, 50)
    rows = [("one.png", "Left pleural effusion. No pneumothorax."), ("two.png", "Cardiomegaly."), ("three.png", "")]
    for name, _ in rows:
        Image.fromarray(shade).save(tmp_path / name)
    pd.DataFrame(rows, columns=["image", "report"]).to_csv(tmp_path / "table.csv", index=False)
    extra = [f"--run_dir={tmp_path / 'explain'}", f"--data.init_args.root={tmp_path}"]
    if key_patches:
        extra.append(f"--model.init_args.key_patches={chain.path('aligner', 'key_patches.safetensors')}")
    arguments = chain.arguments("predict", "aligner", *extra, configs=("configs/experiment/explain.yaml",))
    dropped = (
        "--trainer.callbacks",
        "--data.init_args.tokens",
        "--data.init_args.layout_options",
        "--model.init_args.c",
    )
    main([a for a in arguments if not a.startswith(dropped)])
    folder = tmp_path / "explain/heat_maps"
    expected = {"one.png", "two.png", "three.png", "words.parquet"} | ({"clues.parquet"} if key_patches else set())
    assert {path.name for path in folder.iterdir()} == expected
    words = pd.read_parquet(folder / "words.parquet")
    assert [(row.image_id, row.word, row.status, row.start) for row in words.itertuples()] == [
        ("one", "pleural effusion", "present", 5),
        ("one", "pneumothorax", "absent", 26),
        ("two", "cardiomegaly", "present", 0),
    ]
    if key_patches:
        clues = pd.read_parquet(folder / "clues.parquet")
        listed = pd.read_parquet(chain.path("aligner", "key_patches.parquet")).to_dict("records")
        assert {"effusion" in row.word or row.word == "cardiomegaly" for row in clues.itertuples()} == {True}
        for row in clues.itertuples():
            assert row.source_image_id == listed[row.entry]["image_id"]
            assert set(row.positions) <= set(listed[row.entry]["positions"])
        assert set(clues["grid"]) == {8}
