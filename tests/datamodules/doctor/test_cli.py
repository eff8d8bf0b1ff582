"""The command: exit status, the table for people, JSON, options, resuming, roots that are no data set."""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path

import pandas as pd
import pytest

from datamodules import layouts
from datamodules.doctor import pictures
from datamodules.doctor.cli import add_arguments, run
from datamodules.doctor.examine import examine
from datamodules.doctor.recognise import recognise
from datamodules.doctor.state import Writer
from datamodules.layout_options import parse_options
from datamodules.prepare import prepare
from tests.datamodules.doctor.damage import cut, noise, save

STUDIES = 40


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "set"
    rows = []
    for n in range(STUDIES):
        save(noise(seed=n), folder / "images" / f"{n}.png")
        split = ("validate", "test")[n] if n < 2 else "train"
        rows.append({"image": f"images/{n}.png", "patient": f"p{n}", "view": "PA", "split": split, "Edema": n % 2})
        rows[-1]["report"] = f"The lungs are clear. Study {n}."
    pd.DataFrame(rows).to_csv(folder / "studies.csv", index=False)
    return folder


def doctor(*words, state: Path | None = None) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    texts = [str(word) for word in words]
    return run(parser.parse_args([*texts, "--state", str(state or Path(texts[0]).parent / "state")]))


def levels(diagnosis) -> list[tuple[str, str]]:
    return [(f.level, f.what) for f in diagnosis.findings]


def test_a_clean_set(root, capsys):
    assert doctor(root) == 0
    out = capsys.readouterr().out
    assert "table: 40 rows, 40 studies, 40 patients, digest " in out
    assert "images: 40 of 40 can be read; 0 cannot" in out
    assert "looked at 40 in" in out
    assert "0 × error, 0 × warning" in out
    assert f"next: python -m datamodules prepare --layout table --root {root} --size 256 --out runs/shards/table" in out
    assert doctor(root) == 0
    assert "40 have not changed since an earlier pass" in capsys.readouterr().out


def test_errors_give_status_1_with_examples_and_mend(root, capsys):
    for number in range(4):
        cut(root / "images" / f"{number}.png")
    (root / "images" / "9.png").write_bytes(b"")
    assert doctor(root, "--option", "section=null") == 1
    out = capsys.readouterr().out
    assert "images: 35 of 40 can be read; 5 cannot" in out
    assert "error           4  the picture is cut off" in out
    assert "e.g. images/0.png, images/1.png, images/2.png, …" in out
    assert "mend: fetch the file again from where the data set came from" in out
    assert out.index("the picture is cut off") < out.index("findings that this data set never labels")
    assert "mend the errors and run the doctor again; then: python -m datamodules prepare" in out
    assert "--option section=null" in out


def test_json(root, tmp_path, capsys):
    cut(root / "images" / "3.png")
    assert doctor(root, "--json", tmp_path / "out" / "report.json") == 1
    assert "images: 39 of 40" in capsys.readouterr().out
    saved = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (saved["schema"], saved["layout"], saved["root"], saved["rows"]) == (1, "table", str(root), 40)
    assert saved["counts"]["train"] == 38
    first = saved["findings"][0]
    assert set(first) == {"level", "what", "count", "ids", "mend"}
    assert (first["level"], first["count"], first["ids"]) == ("error", 1, ["images/3.png"])
    assert saved["levels"]["error"] == 1
    assert saved["pictures"]["examined"] == 40
    assert saved["rate"] > 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.json"]
    # Alone on standard output, so that it can be piped.
    assert doctor(root, "--json", "-") == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["findings"] == saved["findings"]
    assert (printed["rate"], printed["pictures"]["unchanged"]) == (None, 40)


def test_all_ids_are_in_the_json(root, tmp_path, capsys):
    for number in range(30):
        (root / "images" / f"{number}.png").write_bytes(b"")
    doctor(root, "--json", "-")
    first = json.loads(capsys.readouterr().out)["findings"][0]
    assert (first["count"], len(first["ids"])) == (30, 30)


def test_ctrl_c_says_how_to_go_on(root, capsys, monkeypatch):
    monkeypatch.setattr(pictures, "BATCH", 10)
    write = Writer.write

    def interrupt(self, looks):
        write(self, looks)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write", interrupt)
        assert doctor(root, "--workers", 1) == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    assert doctor(root) == 0
    assert "10 have not changed" in capsys.readouterr().out


def test_decode(root, capsys):
    path = root / "images" / "5.png"
    save(noise(300), path)
    data = bytearray(path.read_bytes())
    data[40_000:60_000] = bytes(20_000)
    path.write_bytes(data)
    assert doctor(root) == 0
    assert doctor(root, "--decode") == 1
    assert "the pixels cannot be decoded" in capsys.readouterr().out


def test_a_readers_error_is_a_finding(root, tmp_path):
    table = pd.read_csv(root / "studies.csv").rename(columns={"patient": "person"})
    table.to_csv(root / "studies.csv", index=False)
    diagnosis = examine(str(root), state=tmp_path)
    assert diagnosis.manifest is None
    (finding,) = diagnosis.findings
    assert finding.level == "error"
    assert "studies.csv: column 'patient' is missing" in finding.what
    assert "--option patient_column=" in finding.mend
    assert "what is behind it has not been looked at" in finding.mend
    assert examine(str(root), options={"patient_column": "person"}, state=tmp_path).count("error") == 0


def test_wrong_use_is_no_finding(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        examine(str(root / "none"), state=tmp_path)
    with pytest.raises(ValueError, match="layout table has no option 'pages'"):
        examine(str(root), options={"pages": 3}, state=tmp_path)
    with pytest.raises(ValueError, match="expected NAME=VALUE"):
        parse_options(["pages"])
    assert parse_options(["a=1", "b=x", "c=null", "d=x=y"]) == {"a": 1, "b": "x", "c": None, "d": "x=y"}


def test_a_folder_that_no_layout_knows(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert doctor(tmp_path / "empty") == 1
    out = " ".join(capsys.readouterr().out.split())  # a long path is wrapped to the next line
    assert f"no layout knows {tmp_path / 'empty'}" in out
    assert "nih: Data_Entry_2017" in out
    assert "--layout" in out


def test_the_folder_above(root, tmp_path):
    (finding,) = examine(str(root.parent), state=tmp_path / "state").findings
    assert finding.level == "error"
    assert f"{root} (table)" in finding.ids
    assert finding.mend == "name one of these folders"


def test_what_prepare_wrote_is_no_data_set(root, tmp_path, capsys):
    shards = tmp_path / "own shards"
    prepare(layouts.read("table", root), sizes=[16], out=shards)
    for given in (shards, shards / "16", shards / "manifest.parquet"):
        assert recognise(given) == []
        assert doctor(given, state=tmp_path / "state") == 1
        out = " ".join(capsys.readouterr().out.split())
        assert f"error 1 {given} is what `prepare` wrote, not a data set mend: run the doctor on the data set" in out
        assert f"python -m datamodules verify '{shards}'" in out
    # Also where it was stopped before its end.
    (shards / "manifest.parquet").unlink()
    (finding,) = examine(str(shards), state=tmp_path / "state").findings
    assert "is what `prepare` wrote" in finding.what
    (finding,) = examine(str(tmp_path), state=tmp_path / "state").findings
    assert finding.ids == (f"{root} (table)",)
    # Shards beside the data set's own files leave it what it is.
    shutil.copy(root / "studies.csv", shards)
    assert recognise(shards) == ["table"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_folders_that_may_not_be_read(tmp_path, request):
    # Not under pytest's folder, which nobody else may enter.
    base = Path(tempfile.mkdtemp())
    request.addfinalizer(lambda: shutil.rmtree(base))
    # The last that is added is the first to run.
    request.addfinalizer(lambda: os.seteuid(0))
    (base / "x" / "y").mkdir(parents=True)
    (base / "x" / "y" / "a.txt").write_text("a")
    base.chmod(0o755)

    def told(place: Path, *, x: int, y: int) -> str:
        os.seteuid(0)
        (base / "x").chmod(x)
        (base / "x" / "y").chmod(y)
        os.seteuid(65534)
        (finding,) = examine(str(place), state=tmp_path / "none").findings
        return finding.what

    denied = f"{base / 'x' / 'y'} may not be read (permissions)"
    assert [told(base / "x" / "y", x=0o755, y=mode) for mode in (0o000, 0o444, 0o711)] == [denied] * 3
    assert told(base / "x" / "y", x=0o000, y=0o755) == denied
    # Nothing is said of a folder above or below that may not be looked into.
    assert told(base / "x", x=0o755, y=0o000) == f"no layout knows {base / 'x'}"
    assert told(base / "x" / "y", x=0o711, y=0o755) == f"no layout knows {base / 'x' / 'y'}"


def test_text_only_sets_have_no_pass(root, tmp_path, capsys):
    assert doctor(root, "--layout", "table", "--option", "image_column=null") == 0
    out = capsys.readouterr().out
    assert "images:" not in out
    assert "next: python -m datamodules vocabulary --layout table" in out


def test_a_remote_root(root, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("upath")
    for path in [root / "studies.csv", *(root / "images").iterdir()]:
        with fsspec.open(f"memory://doctor-set/{path.relative_to(root)}", "wb") as file:
            file.write(path.read_bytes() if path.name != "7.png" else path.read_bytes()[:500])
    diagnosis = examine("memory://doctor-set", state=tmp_path)
    assert diagnosis.layout == "table"
    assert [(f.level, f.ids) for f in diagnosis.findings if f.level == "error"] == [("error", ("images/7.png",))]


def test_the_table_wraps_and_names_the_mend_of_every_error(root, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    (root / "images" / "1.png").write_bytes(b"\x00\x01 nothing that anyone knows " * 20)
    assert doctor(root) == 1
    assert all(len(line) <= 80 or str(root) in line for line in capsys.readouterr().out.splitlines())
