"""Token and clue caches: round trips, and what is refused."""

import numpy as np
import pytest

from datamodules.tokens import Pictures, TokenCache, write_clues, write_tokens


def write(path, codes=None, **changes):
    codes = np.arange(12).reshape(3, 2, 2) if codes is None else codes
    facts = {
        "image_ids": ["a", "b", "c"],
        "manifest_digest": "m" * 64,
        "checkpoint_digest": "c" * 64,
        "codes_total": 12,
    }
    write_tokens(path, codes=codes, **(facts | changes))
    return path


def test_codes_round_trip(tmp_path):
    cache = TokenCache.load(write(tmp_path / "t.safetensors"), kind="codes", manifest_digest="m" * 64)
    assert cache.values.dtype == np.uint16
    assert cache.values[cache.rows(["c", "a"])].tolist() == [[[8, 9], [10, 11]], [[0, 1], [2, 3]]]
    assert (cache.checkpoint_digest, cache.codes_total) == ("c" * 64, 12)
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]


def test_large_codebooks_do_not_wrap(tmp_path):
    codes = np.full((3, 1, 1), 70_000)
    cache = TokenCache.load(write(tmp_path / "t.safetensors", codes, codes_total=70_001), kind="codes")
    assert cache.values.tolist() == codes.tolist()


def test_clues_round_trip_with_padding(tmp_path):
    clues = np.array([[[5, 3], [-1, -1]], [[0, 0], [11, 3]]])
    write_clues(
        tmp_path / "c.safetensors",
        image_ids=["a", "b"],
        clues=clues,
        manifest_digest="m",
        key_patches_digest="k",
        codes_total=12,
        positions_total=4,
    )
    cache = TokenCache.load(tmp_path / "c.safetensors", kind="clues", manifest_digest="m")
    assert cache.values.tolist() == clues.tolist()
    with pytest.raises(ValueError, match="expected a codes cache of schema 2 and found kind 'clues'"):
        TokenCache.load(tmp_path / "c.safetensors", kind="codes")


def test_cache_of_other_data_is_refused_with_both_digests_and_the_command(tmp_path):
    path = write(tmp_path / "t.safetensors")
    message = r"made from data mmmmmmmmmmmm, .* is nnnnnnnnnnnn; make it again: python main.py predict .*codebook.yaml"
    with pytest.raises(ValueError, match=message):
        TokenCache.load(path, kind="codes", manifest_digest="n" * 64)


def test_codes_of_other_pixels_are_refused(tmp_path):
    files = np.array([[10, 1], [-1, -1], [30, 3]])
    pixels = np.array([7, 2**64 - 1, 5], dtype=np.uint64)
    cache = TokenCache.load(write(tmp_path / "t.safetensors", pictures=Pictures(files, pixels)), kind="codes")
    # Pixels decide where they are known: a copy may have other times.
    cache.check_pictures(["c", "a"], Pictures(np.array([[30, 4], [10, 2]]), np.array([5, 7], dtype=np.uint64)))
    with pytest.raises(
        ValueError, match=r"the picture of image b is not the one that these codes are of \(1 of 2 have"
    ):
        cache.check_pictures(["a", "b"], Pictures(files[:2], np.array([7, 2**64 - 2], dtype=np.uint64)))


def test_codes_of_other_files_are_refused_where_no_pixels_are_at_hand(tmp_path):
    files = np.array([[10, 1], [-1, -1], [30, 3]])
    cache = TokenCache.load(write(tmp_path / "t.safetensors", pictures=Pictures(files)), kind="codes")
    assert cache.pictures.pixels is None
    cache.check_pictures(["c", "b"], Pictures(np.array([[30, 3], [20, 2]]), np.array([5, 7], dtype=np.uint64)))
    cache.check_pictures(["c", "b"], Pictures(np.array([[-1, -1], [-1, -1]])))
    with pytest.raises(ValueError, match=r"size or time of the file of image c is not .*see by its pixels whether"):
        cache.check_pictures(["a", "c"], Pictures(np.array([[10, 1], [30, 4]])))


def test_missing_rows_files_and_broken_files(tmp_path):
    cache = TokenCache.load(write(tmp_path / "t.safetensors"), kind="codes")
    with pytest.raises(ValueError, match=r"image z is not in the codes cache \(1 of 2 are not\)"):
        cache.rows(["a", "z"])
    with pytest.raises(FileNotFoundError, match=r"none.safetensors does not exist; make it again"):
        TokenCache.load(tmp_path / "none.safetensors", kind="codes")
    (tmp_path / "broken.safetensors").write_bytes(b"12345")
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        TokenCache.load(tmp_path / "broken.safetensors", kind="codes")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes_total": 11}, r"codes are expected in \[0, 11\) and found in \[0, 11\]"),
        ({"image_ids": ["a", "b", "a"]}, "image a is given twice; predict without padding"),
        ({"image_ids": ["a", "b"]}, "2 image ids for 3 rows"),
        ({"codes": np.zeros((3, 4), dtype=int)}, r"codes are \[N, h, w\], found \(3, 4\)"),
    ],
)
def test_wrong_codes_are_not_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "t.safetensors", **changes)
    assert list(tmp_path.iterdir()) == []


def test_equal_caches_are_equal_bytes(tmp_path):
    """safetensors writes the keys of its metadata in another order each time."""
    made = [write(tmp_path / f"{n}.safetensors", image_ids=["a", "b", "é"]).read_bytes() for n in range(6)]
    assert len(set(made)) == 1
    assert TokenCache.load(tmp_path / "0.safetensors", kind="codes", manifest_digest="m" * 64).index["é"] == 2
