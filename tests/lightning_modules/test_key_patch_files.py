"""The key-patch codebook on disk: round trip, equal bytes, what is refused, what shows pixels."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch
from PIL import Image, ImageChops
from safetensors.torch import save_file

from lightning_modules.networks.key_patch_atlas import MARGIN, atlas_words, write_atlas
from lightning_modules.networks.key_patch_build import KeyPatchOptions
from lightning_modules.networks.key_patch_files import load_key_patches, read_facts, write_key_patches
from lightning_modules.networks.key_patches import KeyPatchCodebook, KeyPatchConfig
from lightning_modules.networks.text_numbers import text_number
from tests.lightning_modules.key_patch_entries import DIGESTS, entry

AXES = np.eye(8, dtype=np.float32)
ENTRIES = [
    entry("edema", 0.7, image="a", word_half=AXES[2]),
    entry("edema", 0.6, image="b", word_half=AXES[3], codes=(5, 6), positions=(1, 2)),
    entry("heart", 0.6, image="b", side="left", kind="anatomy"),
]


def test_files_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "key_patches.safetensors"
    write_key_patches(ENTRIES, path, digests=DIGESTS, options=KeyPatchOptions(clue_tokens=7))
    config, arrays = load_key_patches(
        path, tokens_digest="t" * 64, aligner_digest="a" * 64, split_digest=DIGESTS.splits
    )
    assert config == KeyPatchConfig(3, 2, 8, ("edema", "heart"), clue_tokens=7)
    assert arrays["word"].tolist() == [0, 0, 1]
    assert arrays["side"].tolist() == [-1, -1, 0]
    assert arrays["codes"].tolist() == [[3, -1], [5, 6], [3, -1]]
    assert arrays["patient"].tolist() == [text_number("p-a"), text_number("p-b"), text_number("p-b")]
    assert arrays["pathology"].tolist() == [True, False]
    half = 0.5**0.5
    assert arrays["centres"].tolist() == [
        pytest.approx([0, 0, half, half, 0, 0, 0, 0]),
        pytest.approx(AXES[1].tolist()),
    ]
    KeyPatchCodebook(config).load_state_dict(arrays)
    assert not list(tmp_path.glob("*.tmp"))

    table = pd.read_parquet(path.with_suffix(".parquet"))
    assert table.columns.tolist() == [
        "word", "kind", "side", "score", "image_id", "study_id", "patient_id", "box", "codes", "positions"
    ]  # fmt: skip
    assert table["word"].tolist() == ["edema", "edema", "heart"]
    assert table["study_id"].tolist() == ["s-a", "s-b", "s-b"]
    assert table["score"].tolist() == pytest.approx([0.7, 0.6, 0.6])
    assert [codes.tolist() for codes in table["codes"]] == [[3], [5, 6], [3]]
    assert table["box"][0].tolist() == [0.0, 0.0, 0.25, 0.25]
    metadata = pyarrow.parquet.read_schema(path.with_suffix(".parquet")).metadata
    assert metadata == {
        b"schema": b"2", b"split": b"train", b"aligner": b"a" * 64, b"tokens": b"t" * 64, b"manifest": b"m" * 64,
        b"splits": b"s" * 64,
    }  # fmt: skip


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key_patches.safetensors"
    write_key_patches(ENTRIES, path, digests=DIGESTS, options=KeyPatchOptions())
    with pytest.raises(ValueError, match="holds codes of the codebook tttttttttttt, expected those of 000000000000"):
        load_key_patches(path, tokens_digest="0" * 64)
    with pytest.raises(ValueError, match="was made by the aligner aaaaaaaaaaaa, expected 000000000000"):
        load_key_patches(path, aligner_digest="0" * 64)
    with pytest.raises(
        ValueError,
        match=r"of other splits \(ssssssssssss\) than this data has \(000000000000\): a training study of then may be "
        "a test study now",
    ):
        load_key_patches(path, split_digest="0" * 64)
    with pytest.raises(FileNotFoundError, match=r"predict -c configs/base.yaml -c configs/aligner.yaml"):
        load_key_patches(tmp_path / "none.safetensors")
    save_file({"features": torch.zeros(1, 2)}, path, metadata={"schema": "1", "split": "train"})
    with pytest.raises(ValueError, match="expected key patches of schema 2 and split train, found schema 1 and split"):
        read_facts(path)


def test_equal_entries_make_equal_bytes(tmp_path: Path) -> None:
    """safetensors writes the keys of its metadata in another order each time."""
    for name in "abc":
        path = tmp_path / name / "key_patches.safetensors"
        write_key_patches(ENTRIES, path, digests=DIGESTS, options=KeyPatchOptions())
    for suffix in ("safetensors", "parquet"):
        assert len({path.read_bytes() for path in tmp_path.glob(f"*/key_patches.{suffix}")}) == 1, suffix


def test_pixels_are_kept_only_where_they_are_asked_for(tmp_path: Path) -> None:
    patch = np.arange(12, dtype=np.uint8).reshape(3, 4)
    entries = [entry("edema", 0.7, image="a", pixels=patch)]
    for pixels in (False, True):
        path = tmp_path / f"{pixels}.safetensors"
        write_key_patches(entries, path, digests=DIGESTS, options=KeyPatchOptions(pixels=pixels))
        table = pd.read_parquet(path.with_suffix(".parquet"))
        assert ("png" in table.columns) == pixels
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(table["png"][0]))), patch)


def test_atlas_begins_with_pathologies() -> None:
    entries = [entry("lungs", 0.9, image=str(i), kind="anatomy") for i in range(5)]
    entries += [entry("edema", 0.5, image="a"), entry("mass", 0.5, image="a"), entry("mass", 0.4, image="b")]
    assert atlas_words(entries, words=20) == ["mass", "edema", "lungs"]
    assert atlas_words(entries, words=2) == ["mass", "edema"]


def test_atlas_by_hand(tmp_path: Path) -> None:
    """Two rows of one and two patches, each beside its label."""
    grey = [np.full((8, 8), level, np.uint8) for level in (255, 200, 100)]
    entries = [
        entry("edema", 0.9, image="a", pixels=grey[0]),
        entry("heart", 0.5, image="a", kind="anatomy", pixels=grey[1]),
        entry("heart", 0.8, image="b", kind="anatomy", pixels=grey[2]),
    ]
    write_atlas(entries, tmp_path / "atlas.png", patches=2, size=20)
    picture = Image.open(tmp_path / "atlas.png")
    width, height = picture.size
    assert height == 2 * (20 + MARGIN) + MARGIN
    first = width - 2 * (20 + MARGIN)
    tiles = np.asarray(picture)[:, first:]
    assert (tiles[MARGIN : MARGIN + 20, :20] == 255).all()
    assert (tiles[MARGIN : MARGIN + 20, 20:] == 0).all()
    second = tiles[2 * MARGIN + 20 : 2 * MARGIN + 40]
    assert (second[:, :20] == 100).all()  # the better one first
    assert (second[:, 20 + MARGIN : 40 + MARGIN] == 200).all()
    labels = picture.crop((0, 0, first, height))
    rows = [labels.crop((0, y, first, y + 20)) for y in (MARGIN, 2 * MARGIN + 20)]
    assert all(np.asarray(row).any() for row in rows)
    assert ImageChops.difference(*rows).getbbox() is not None
