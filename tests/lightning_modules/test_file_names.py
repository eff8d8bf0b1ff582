"""Every image id has a file name of its own, and what is short enough can be read back."""

from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules.file_names import LONGEST, file_name


@pytest.mark.parametrize(
    ("image_id", "name"),
    [
        ("phantom-0-000001", "phantom-0-000001.png"),
        ("1.2.840_IM-0001~a", "1.2.840_IM-0001~a.png"),
        ("nih/00000001_000", "nih%2F00000001_000.png"),
        ("a b\\c.png", "a%20b%5Cc.png.png"),
        ("é", "%C3%A9.png"),
        ("a%2Fb", "a%252Fb.png"),
        ("..", "%2E..png"),
        ("../../etc", "%2E.%2F..%2Fetc.png"),
        (".hidden", "%2Ehidden.png"),
        ("contact_sheet", "%63ontact_sheet.png"),
        ("a\n\0", "a%0A%00.png"),
    ],
)
def test_names_hold_nothing_that_a_file_system_minds(image_id, name):
    assert file_name(image_id, suffix=".png") == name
    assert unquote(name.removesuffix(".png")) == image_id


@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30))
def test_names_are_unique_and_are_read_back(one, other):
    names = [file_name(image_id, suffix=".png") for image_id in (one, other)]
    assert (names[0] == names[1]) == (one == other)
    for image_id, name in zip((one, other), names, strict=True):
        if "%-" not in name:
            assert unquote(name.removesuffix(".png")) == image_id


def test_long_names_are_cut_and_stay_unique(tmp_path: Path):
    ids = ["a" * LONGEST, "a" * (LONGEST + 1), "a" * 4000, "a" * 4000 + "b", "/" * 4000, "é" * 100]
    names = [file_name(image_id, suffix=".png") for image_id in ids]
    assert names[0] == f"{ids[0]}.png"
    assert len(set(names)) == len(ids)
    for name in names:
        assert len(name) <= LONGEST + 4
        (tmp_path / f".{name}.tmp").write_text("")
    # A name that was cut is no name of another id.
    assert file_name(names[1], suffix="") not in names[1:]


def test_an_empty_id_names_no_file():
    with pytest.raises(ValueError, match=r'the image id is "": it cannot name a file \*.png; give each row'):
        file_name("", suffix=".png")
