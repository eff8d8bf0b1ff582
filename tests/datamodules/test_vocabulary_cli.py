"""`python -m datamodules vocabulary`: both files, what it says, and the picture's numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import layouts
from datamodules.__main__ import main
from datamodules.phantom import disk
from datamodules.reports.cooccurrence_picture import cooccurrence_table, draw_cooccurrence
from datamodules.reports.vocabulary import Vocabulary, mine

ROOT = Path(__file__).parents[2]
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


def test_a_config_names_the_texts_that_training_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "openi"
    disk.write("openi", root, studies=60, seed=1, size=32)
    config = str(ROOT / "configs/data/openi.yaml")
    seen = {}
    for section, arguments in {
        "first": ["-c", config],
        "findings": [],
        "impression": ["-c", config, "--option", "section=impression"],
    }.items():
        out = tmp_path / f"{section}.json"
        assert main(["vocabulary", "--root", str(root), *arguments, "--min-count", "1", "--out", str(out)]) == 0
        said = capsys.readouterr().out
        read = layouts.read("openi", root, section=section)
        assert read.drops
        for drop in read.drops:
            assert f"not read: {drop.count} × {drop.reason}, e.g. {drop.ids[0]}" in said
        reports = read.split("train").frame.drop_duplicates("study_id")["report"]
        seen[section] = Vocabulary.load(out)
        assert seen[section].reports == len(reports)
        assert seen[section].digest == mine(list(reports), min_count=1).digest
    assert len({one.digest for one in seen.values()}) > 1


def test_configs_of_another_layout_and_those_that_name_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "phantom.json"
    configs = str(ROOT / "configs")
    # Another layout than the config's is read without its options.
    command = ["vocabulary", "-c", f"{configs}/data/openi.yaml", "--layout", "phantom", "--studies", "30"]
    assert main([*command, "--min-count", "1", "--out", str(out)]) == 0
    expected = layouts.read("phantom", None, studies=30).split("train")
    assert Vocabulary.load(out).reports == len(expected)
    assert main(["vocabulary", "-c", f"{configs}/base.yaml", "-c", "none.yaml", "--out", str(out)]) == 1
    assert "error: -c none.yaml does not exist" in capsys.readouterr().err
    assert main(["vocabulary", "-c", f"{configs}/data/shards.yaml", "--out", str(out)]) == 1
    assert "data/shards.yaml names the shards data/shards; name the config or the --root" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--max-words", "-3"), ("--min-count", "0")])
def test_counts_below_one_are_refused(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["vocabulary", "--studies", "20", option, value, "--out", str(tmp_path / "v.json")]) == 1
    assert capsys.readouterr().err == f"error: {option} is {value}; expected 1 or more\n"


def test_faults_are_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["vocabulary", "--studies", "20", "--out", str(tmp_path / "v.json")]
    assert main([*command, "--stop-words", str(tmp_path / "none.json")]) == 1
    assert capsys.readouterr().err.startswith(f"error: the stop list {tmp_path / 'none.json'} does not exist")
    assert main(["vocabulary", "--studies", "20", "--out", str(tmp_path / "v.png")]) == 1
    assert "is the picture's name; give the JSON file, e.g. v.json" in capsys.readouterr().err
