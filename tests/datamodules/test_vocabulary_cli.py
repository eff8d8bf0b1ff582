"""`python -m datamodules vocabulary`: both files, what it says, and the picture's numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.__main__ import main
from datamodules.reports.cooccurrence_picture import cooccurrence_table, draw_cooccurrence
from datamodules.reports.vocabulary import Vocabulary, mine

REPORTS = [
    "Opacity in the left lower lobe and in the right lower lobe. The heart is normal.",
    "Opacity in the right lower lobe.",
    "Opacity. Mild cardiomegaly.",
    "The heart is enlarged.",
]


def test_the_table_adds_up_the_sides() -> None:
    rows, columns, counts = cooccurrence_table(mine(REPORTS, min_count=1), words=5)
    assert (rows, columns) == (["lower lobe", "heart"], ["opacity", "cardiomegaly"])
    # The first report names both lobes.
    np.testing.assert_array_equal(counts, [[3, 0], [0, 1]])
    rows, columns, counts = cooccurrence_table(mine(REPORTS, min_count=1), words=1)
    assert (rows, columns, counts.tolist()) == (["lower lobe"], ["opacity"], [[3]])


def test_the_picture_is_dark_where_much_stands_together() -> None:
    picture = np.asarray(draw_cooccurrence(mine(REPORTS, min_count=1)).convert("L"))
    # Lower right: two rows of two cells of 46 × 24 pixels, without the numbers in their middle.
    cells = picture[-12 - 48 : -12]
    left = int(np.flatnonzero((cells < 200).any(axis=0) & (cells[5] < 200))[0])
    corner = {(i, j): int(cells[i * 24 + 4, left + j * 46 + 5]) for i in (0, 1) for j in (0, 1)}
    assert corner[0, 1] == corner[1, 0] == 255
    assert corner[0, 0] < corner[1, 1] < 140


def test_an_empty_table_is_drawn_too() -> None:
    rows, _, counts = cooccurrence_table(mine(["The heart is normal."], min_count=1), words=5)
    assert (rows, counts.shape) == ([], (0, 0))
    assert draw_cooccurrence(mine(["The heart is normal."], min_count=1)).width > 100


def test_both_files_and_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "v.json"
    stop = tmp_path / "stop.json"
    stop.write_text(json.dumps({"schema": 1, "words": {"trachea": "hidden"}}))
    command = ["vocabulary", "--studies", "80", "--out", str(out)]
    assert main([*command, "--stop-words", str(stop), "--min-count", "3"]) == 0
    said = capsys.readouterr()
    found = Vocabulary.load(out)
    assert "trachea" not in found.words
    assert found.left_out["trachea"]["reason"] == "hidden"
    assert f"left out: 1 words on the stop list, e.g. trachea ({found.left_out['trachea']['reports']})" in said.out
    assert "words in fewer than 3 reports, e.g. " in said.out
    assert f"next: python -m datamodules keywords --vocabulary {out}" in said.out
    with Image.open(tmp_path / "v.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
    assert sorted(file.name for file in tmp_path.iterdir()) == ["stop.json", "v.json", "v.png"]


def test_faults_are_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["vocabulary", "--studies", "20", "--out", str(tmp_path / "v.json")]
    assert main([*command, "--stop-words", str(tmp_path / "none.json")]) == 1
    assert capsys.readouterr().err.startswith(f"error: the stop list {tmp_path / 'none.json'} does not exist")
    assert main(["vocabulary", "--studies", "20", "--out", str(tmp_path / "v.png")]) == 1
    assert "is the picture's name; give the JSON file, e.g. v.json" in capsys.readouterr().err
