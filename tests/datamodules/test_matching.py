"""Weak texts for images with labels alone: which text, of which split, and how they are marked."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules import layouts
from datamodules.__main__ import main
from datamodules.cxr import CXRDataModule
from datamodules.phantom import disk
from datamodules.prompts import with_prompts
from datamodules.reports.labels import FINDINGS, SPLITS
from datamodules.reports.matching import Texts, match, read_texts, with_hierarchy
from datamodules.reports.mentions import labels_of

ALL_TRAIN = {"train": 1.0}
REPORTS = {
    "a": "Right pleural effusion.",
    "b": "Left pleural effusion and cardiomegaly.",
    "c": "Possible pneumothorax. Right pleural effusion.",
    "d": "Normal chest.",
    "e": "Compared with the earlier study.",
    "f": "normal  CHEST.",
    "g": "Normal chest;",
}


def study(name: str, *positive: str, split: str = "train", known: bool = True) -> dict:
    labels = dict.fromkeys(FINDINGS, 0.0 if known else np.nan) | dict.fromkeys(positive, 1.0)
    return {"study_id": name, "split": split, **labels}


def given(studies: list[dict], *, seed: int = 0) -> dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]]:
    texts, _ = read_texts(REPORTS, shares=ALL_TRAIN, seed=0)
    found = match(pd.DataFrame(studies), texts, seed=seed)
    return {name: (texts.ids[one.text], one.missing, one.extra) for name, one in found.items()}


def test_a_kind_of_opacity_is_a_lung_opacity() -> None:
    rows = np.full((4, 14), np.nan, dtype=np.float32)
    pneumonia, opacity = FINDINGS.index("Pneumonia"), FINDINGS.index("Lung Opacity")
    rows[:3, pneumonia] = [1, -1, -1]
    rows[2, opacity] = 1
    assert with_hierarchy(rows)[:, opacity].tolist()[:3] == [1, -1, 1]
    assert np.isnan(with_hierarchy(rows)[3]).all()
    assert np.isnan(rows[0, opacity])  # a copy


def test_equal_texts_are_one_and_silent_ones_none() -> None:
    texts, silent = read_texts(REPORTS, shares=ALL_TRAIN, seed=0)
    assert texts.ids == ["a", "b", "c", "d"]
    assert silent == ["e"]
    assert texts.texts[3] == "Normal chest."
    assert np.array_equal(texts.labels[0], labels_of(REPORTS["a"]), equal_nan=True)
    assert set(texts.splits) == {"train"}


def test_texts_are_shared_out_as_the_images_are_and_keep_their_split() -> None:
    many = {f"r{n:04d}": f"Nodule of {n} mm." for n in range(600)}
    texts, _ = read_texts(many, shares={"train": 0.5, "validate": 0.2, "test": 0.3}, seed=0)
    shares = [float((texts.splits == split).mean()) for split in SPLITS]
    assert shares == pytest.approx([0.5, 0.2, 0.3], abs=0.06)
    fewer, _ = read_texts(
        {k: many[k] for k in sorted(many)[::7]}, shares={"train": 0.5, "validate": 0.2, "test": 0.3}, seed=0
    )
    split_of = dict(zip(texts.ids, texts.splits, strict=True))
    assert all(split_of[name] == split for name, split in zip(fewer.ids, fewer.splits, strict=True))


def test_the_same_findings_are_taken_where_a_text_has_them() -> None:
    found = given(
        [
            study("x", "Pleural Effusion"),
            study("y", "Pleural Effusion", "Cardiomegaly"),
            study("z", "No Finding"),
            study("unknown", known=False),
        ]
    )
    assert found == {"x": ("a", (), ()), "y": ("b", (), ()), "z": ("d", (), ())}


def test_else_the_nearest_with_what_is_wrong_in_it() -> None:
    found = given([study("x", "Cardiomegaly"), study("y", "Pleural Effusion", "Pneumothorax"), study("z", "Fracture")])
    # A finding too much costs what one that lacks does, and a suspicion states nothing.
    assert found["x"] == ("b", (), ("Pleural Effusion",))
    assert found["y"] in [("a", ("Pneumothorax",), ()), ("c", ("Pneumothorax",), ())]
    assert found["z"][1:] == (("Fracture",), ("No Finding",)) or found["z"][1:] == (
        ("Fracture",),
        ("Pleural Effusion",),
    )


def test_an_image_of_uncertain_labels_takes_a_text_that_suspects() -> None:
    one = study("x", "Pleural Effusion") | {"Pneumothorax": -1.0}
    assert given([one])["x"][1:] == ((), ())
    assert {given([one], seed=seed)["x"][0] for seed in range(20)} == {"a", "c"}


def test_the_images_of_a_study_share_its_findings() -> None:
    rows = [study("x", "Cardiomegaly"), study("x", "Pleural Effusion") | {"Cardiomegaly": np.nan}]
    assert given(rows) == {"x": ("b", (), ())}


def test_a_draw_depends_on_seed_and_study_alone_and_takes_every_text() -> None:
    texts = Texts(
        [str(n) for n in range(6)],
        ["Right pleural effusion."] * 6,
        np.tile(labels_of("Right pleural effusion."), (6, 1)),
        np.array(["train", "train", "train", "test", "test", "validate"], dtype=object),
    )
    studies = [study(f"s{n}", "Pleural Effusion", split=SPLITS[n % 3]) for n in range(90)]
    found = match(pd.DataFrame(studies), texts, seed=0)
    for name, one in found.items():
        assert texts.splits[one.text] == SPLITS[int(name[1:]) % 3]
    assert {one.text for one in found.values()} == set(range(6))
    assert match(pd.DataFrame(studies[::-1][:40]), texts, seed=0).items() <= found.items()
    assert match(pd.DataFrame(studies), texts, seed=1) != found


def test_a_split_without_texts_is_named() -> None:
    texts, _ = read_texts(REPORTS, shares=ALL_TRAIN, seed=0)
    with pytest.raises(ValueError, match=r"split 'test' has images and none of the 4 texts; give more reports"):
        match(pd.DataFrame([study("x", "Pleural Effusion", split="test")]), texts, seed=0)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("matching")
    disk.write("nih", place / "nih", studies=60, seed=1, size=32)
    disk.write("openi", place / "openi", studies=150, seed=2, size=32)
    return place


def test_the_command_writes_rows_that_are_served_and_marked(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "reports.jsonl"
    command = ["match-reports", "--layout", "nih", "--root", str(sets / "nih"), "--reports-layout", "openi"]
    command += ["--reports-root", str(sets / "openi"), "--reports-option", "section=both"]
    assert main([*command, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    manifest = layouts.read("nih", sets / "nih")
    assert len(rows) == manifest.frame["study_id"].nunique() == 60
    openi = layouts.read("openi", sets / "openi", images=False, section="both")
    text_of = dict(zip(openi.frame["study_id"], openi.frame["report"], strict=True))
    split_of = dict(zip(manifest.frame["study_id"], manifest.frame["split"], strict=True))
    for row in rows:
        assert row["report"] == text_of[row["report_id"]]
        assert row["split"] == split_of[row["study_id"]]
    served = {split: {row["report_id"] for row in rows if row["split"] == split} for split in SPLITS}
    assert all(served.values())
    assert not served["train"] & (served["test"] | served["validate"])
    exact = [row for row in rows if not row["missing"] and not row["extra"]]
    assert f"the same findings: {len(exact)} of 60 studies" in said
    labels = manifest.frame.set_index("study_id")[list(FINDINGS)]
    for row in exact:
        stated = with_hierarchy(labels_of(row["report"])[None])[0] == 1
        assert np.array_equal(stated, (labels.loc[row["study_id"]] == 1).to_numpy())
    assert f"-c configs/aligner.yaml -c configs/data/nih.yaml --data.init_args.prompts={out}\n" in said
    assert "Say so with every figure" in said
    again = tmp_path / "again.jsonl"
    assert main([*command, "--out", str(again)]) == 0
    assert again.read_bytes() == out.read_bytes()

    data = CXRDataModule(
        layout="nih",
        root=str(sets / "nih"),
        prompts=str(out),
        size=16,
        store="files",
        cache_dir=str(tmp_path / "cache"),
    )
    data.prepare_data()
    assert "data: 60 studies have the text of another patient with the same labels: weak, not paired" in (
        capsys.readouterr().out
    )
    sources = set(data.manifest.frame["report_source"])
    assert len(sources) == 1
    assert sources.pop().startswith("matched:")


def test_texts_of_other_splits_are_refused(sets: Path, tmp_path: Path) -> None:
    manifest = layouts.read("nih", sets / "nih")
    out = tmp_path / "reports.jsonl"
    one = manifest.split("test").frame["study_id"].iat[0]
    row = {"study_id": one, "report": "Clear lungs.", "source": "matched", "split": "train"}
    out.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=rf"study {one} serves the split 'train', and the study is in 'test' \(1 stud"):
        with_prompts(manifest, out)


def test_a_set_without_reports_is_refused(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["match-reports", "--layout", "nih", "--root", str(sets / "nih"), "--reports-layout", "nih"]
    assert main([*command, "--reports-root", str(sets / "nih"), "--out", str(tmp_path / "r.jsonl")]) == 1
    assert "layout nih: none of 60 studies has a report; name a set with reports" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
