"""Several sets as one: unique ids, sources, merged ledgers, and errors that name the item."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from datamodules import layouts
from datamodules.cxr import CXRDataModule
from datamodules.layouts import joined
from datamodules.manifest import COLUMNS, Manifest, decode_boxes
from datamodules.phantom import disk
from datamodules.reports.labels import FINDINGS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two sets under one folder, a table and Kaggle's edition, one picture of the table missing."""
    base = tmp_path_factory.mktemp("sets")
    disk.write("table", base / "own", studies=6, seed=1, size=32)
    disk.write("openi", base / "openi", studies=8, seed=1, size=32, kaggle=True)
    (base / "own" / "images" / "phantom-1-000002.png").unlink()
    return base


SETS = [{"layout": "table", "root": "own", "name": "own"}, {"layout": "openi", "root": "openi", "section": "first"}]


def test_rows_ids_and_ledgers_of_both(folder, tmp_path):
    own = layouts.read("table", folder / "own")
    openi = layouts.read("openi", folder / "openi", section="first")
    both = layouts.read("joined", folder, sets=SETS)
    assert both.source == "own+openi"
    assert len(both) == len(own) + len(openi)
    assert both.frame["source"].tolist() == ["own"] * len(own) + ["openi"] * len(openi)
    for column in ("image_id", "study_id", "patient_id"):
        expected = [f"own/{i}" for i in own.frame[column]] + [f"openi/{i}" for i in openi.frame[column]]
        assert both.frame[column].tolist() == expected
    others = ["image", "view", "split", "report", "report_source", "sex", "age", "boxes", *FINDINGS]
    pd.testing.assert_frame_equal(
        both.frame[others], pd.concat([own.frame[others], openi.frame[others]], ignore_index=True)
    )
    drop = both.drops[0]
    assert (drop.reason, drop.ids) == (
        "own: no file where the row names its picture",
        ("own/images_phantom-1-000002",),
    )
    assert (drop.level, drop.mend) == (own.drops[0].level, own.drops[0].mend)
    assert [r.count for r in (*both.drops, *both.notes)] == [
        r.count for r in (*own.drops, *openi.drops, *own.notes, *openi.notes)
    ]
    both.save(tmp_path / "m.parquet")
    loaded = Manifest.load(tmp_path / "m.parquet")
    assert loaded.digest() == both.digest()
    assert (loaded.drops, loaded.notes) == (both.drops, both.notes)
    assert loaded.frame["source"].tolist() == both.frame["source"].tolist()


def test_roots_may_be_absolute_or_urls(folder):
    sets = [SETS[0] | {"root": f"file://{folder}/own"}, SETS[1] | {"root": str(folder / "openi")}]
    alone = layouts.read("joined", None, sets=sets)
    assert alone.frame["image_id"].tolist() == layouts.read("joined", folder, sets=SETS).frame["image_id"].tolist()


def test_images_false_reaches_every_set(folder):
    both = layouts.read("joined", folder, images=False, sets=[*SETS, {"layout": "phantom", "studies": 2}])
    assert (both.frame.loc[both.frame["source"] != "phantom", "image"] == "").all()
    assert "own/images_phantom-1-000002" in both.frame["image_id"].tolist()
    assert both.frame["image"].iloc[-1] == "phantom:0:1"


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=4))
def test_the_same_layout_many_times(parts):
    sets = [
        {"layout": "phantom", "name": f"n{i}", "studies": studies, "seed": seed}
        for i, (studies, seed) in enumerate(parts)
    ]
    both = layouts.read("joined", None, sets=sets)
    assert len(both) == sum(studies for studies, _ in parts)
    assert both.frame["image_id"].is_unique
    assert both.frame["source"].value_counts().to_dict() == {f"n{i}": n for i, (n, _) in enumerate(parts)}
    first = layouts.read("phantom", None, studies=parts[0][0], seed=parts[0][1])
    assert [decode_boxes(b) for b in both.frame["boxes"][: len(first)]] == [first.boxes(i) for i in range(len(first))]


def test_a_picture_in_two_sets_is_found(folder):
    sets = [SETS[0], SETS[0] | {"name": "again", "split_column": None, "seed": 5}]
    both = layouts.read("joined", folder, sets=sets)
    shared = {note.reason: note for note in both.notes if note.reason.startswith("a picture is in several sets")}
    assert sum(note.count for note in shared.values()) == len(both)
    assert shared["a picture is in several sets"].level == "warning"
    frame = layouts.read("table", folder / "own").frame.assign(split="test")
    renamed = frame.rename(columns={"patient_id": "patient"})[["image", "patient", "report", "split"]]
    renamed.to_csv(folder / "moved.csv", index=False)
    leak = layouts.read("joined", folder, sets=[SETS[0], {"layout": "table", "name": "m", "root": "moved.csv"}])
    note = next(n for n in leak.notes if n.reason == "a picture is in several sets and in several splits")
    assert note.level == "error"
    assert len(note.ids) == 2 * int((layouts.read("table", folder / "own").frame["split"] != "test").sum())


PHANTOM = {"layout": "phantom", "studies": 1}


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([], r"layout_options.sets is \[\]; expected a list such as \[\{layout: nih"),
        (PHANTOM, r"layout_options.sets is \{'layout'.*expected a list"),
        (["nih"], r"sets: item 1 is 'nih'; expected layout, root and options"),
        ([PHANTOM, {"root": "x"}], r"sets: item 2 is \{'root': 'x'\}; expected layout"),
        ([PHANTOM, {"layout": "nhi"}], r"sets: item 2: layout 'nhi' does not exist; expected one of \['chexpert'"),
        ([PHANTOM, PHANTOM], r"sets: item 2: the name 'phantom' is that of item 1 too; give each its own"),
        ([PHANTOM | {"name": "a/b"}], r"sets: item 1: name 'a/b'; expected a word without blanks"),
        ([PHANTOM | {"name": ""}], r"sets: item 1: name ''; expected a word"),
        ([PHANTOM, {"layout": "nih"}], r"sets: item 2 \(nih\): no root; name the set's folder"),
        ([PHANTOM | {"colour": 1}], r"sets: item 1 \(phantom\): layout phantom has no option 'colour'"),
        ([PHANTOM | {"studies": 0}], r"sets: item 1 \(phantom\): the phantom data set needs studies >= 1"),
    ],
)
def test_wrong_sets(sets, message):
    with pytest.raises(ValueError, match=message):
        layouts.read("joined", None, sets=sets)


def test_a_missing_root_names_its_item(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"sets: item 2 \(openi\): layout openi: .*/none does not exist"):
        layouts.read("joined", folder, sets=[SETS[0], SETS[1] | {"root": "none"}])
    with pytest.raises(FileNotFoundError, match=r"layout joined: .*/nowhere does not exist"):
        layouts.read("joined", tmp_path / "nowhere", sets=SETS)


def test_no_folder_is_recognised(folder):
    assert not joined.recognise(folder)


def test_a_config_reaches_the_batches(folder, tmp_path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(CXRDataModule, "data")
    config = parser.parse_object(
        {
            "data": {
                "layout": "joined",
                "root": str(folder),
                "layout_options": {"sets": SETS},
                "cache_dir": str(tmp_path),
            }
        }
    )
    data = CXRDataModule(**config.data.as_dict())
    assert data.manifest.source == "own+openi"


@pytest.fixture(scope="module")
def stanford(tmp_path_factory):
    """CheXpert and CheXpert Plus of the same phantoms."""
    base = tmp_path_factory.mktemp("stanford")
    disk.write("chexpert", base / "a", studies=40, seed=2, size=16)
    disk.write("chexpert_plus", base / "plus", studies=40, seed=2, size=16)
    return base


def shared(manifest: Manifest) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {n.reason: (n.level, n.ids) for n in manifest.notes if "in several sets" in n.reason}


def test_the_two_of_chexpert_are_known_by_their_ids(stanford):
    """Other paths and other file types; the second has fewer rows, as half of the reports lack findings."""
    sets = [{"layout": "chexpert", "root": "a"}, {"layout": "chexpert_plus", "root": "plus"}]
    both = layouts.read("joined", stanford, sets=sets)
    alone, plus = (layouts.read(s["layout"], stanford / s["root"]).frame for s in sets)
    pictures = set(alone["image_id"]) & set(plus["image_id"])
    patients = set(alone["patient_id"]) & set(plus["patient_id"])
    found = shared(both)
    assert 0 < len(pictures) < len(alone)
    assert set(found) == {"a picture is in several sets", "its patient is in several sets"}
    assert {level for level, _ in found.values()} == {"warning"}
    assert sorted(found["a picture is in several sets"][1]) == sorted(
        f"{name}/{one}" for name in ("chexpert", "chexpert_plus") for one in pictures
    )
    others = alone["patient_id"].isin(patients) & ~alone["image_id"].isin(pictures)
    assert found["its patient is in several sets"][1] == tuple("chexpert/" + alone.loc[others, "image_id"])
    assert list(both.frame.columns) == list(COLUMNS)


def test_a_patient_in_two_splits_of_one_family_is_an_error(stanford):
    sets = [{"layout": "chexpert", "root": "a"}, {"layout": "chexpert", "name": "other", "root": "a", "seed": 9}]
    sets[0]["validate"] = sets[1]["validate"] = 0.4
    both = layouts.read("joined", stanford, sets=sets)
    frames = [layouts.read("chexpert", stanford / "a", validate=0.4, seed=seed).frame for seed in (0, 9)]
    moved = frames[0].loc[frames[0]["split"] != frames[1]["split"], "image_id"]
    level, ids = shared(both)["a picture is in several sets and in several splits"]
    assert level == "error"
    assert len(moved) > 0
    assert set(ids) == {f"{name}/{one}" for name in ("chexpert", "other") for one in moved}

    # Of the patients' other pictures, which the second set has not, it is an error too.
    plus = {"layout": "chexpert_plus", "root": "plus", "splits": "hashed", "seed": 3}
    both = layouts.read("joined", stanford, sets=[{"layout": "chexpert", "root": "a"}, plus])
    apart = shared(both)["its patient is in several sets and in several splits"]
    assert apart[0] == "error"
    assert all(one.startswith("chexpert/") for one in apart[1])


def test_ids_of_tables_and_phantoms_coincide_by_chance(tmp_path):
    """Two users' tables of the pictures 1.png and 2.png, and two data sets of phantoms."""
    for name in ("one", "two"):
        (tmp_path / name / "images").mkdir(parents=True)
        lines = [f"images/{i}.png,{i},No acute process.,{'train' if name == 'one' else 'test'}" for i in (1, 2)]
        (tmp_path / name / "t.csv").write_text("\n".join(["image,patient,report,split", *lines]))
        for i in (1, 2):
            (tmp_path / name / "images" / f"{i}.png").write_bytes(b"x")
    sets = [{"layout": "table", "root": name, "name": name} for name in ("one", "two")]
    sets += [{"layout": "phantom", "name": f"p{seed}", "studies": 4, "seed": seed} for seed in (0, 1)]
    both = layouts.read("joined", tmp_path, sets=sets)
    assert len(both) == 12
    assert shared(both) == {}
    again = layouts.read("joined", tmp_path, sets=[sets[2], sets[2] | {"name": "again"}])
    assert shared(again)["a picture is in several sets"] == ("warning", tuple(again.frame["image_id"]))
