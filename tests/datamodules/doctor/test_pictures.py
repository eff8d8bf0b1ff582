"""The pass over many pictures: resumed after any end, whatever the state file looks like; duplicates."""

import json
import os
import shutil

import numpy as np
import pytest

from datamodules.doctor import headers, pictures
from datamodules.doctor.duplicates import duplicates
from datamodules.doctor.headers import Look
from datamodules.doctor.pictures import BATCH, look_at
from datamodules.doctor.state import RULES, Writer, load, state_file
from datamodules.manifest import make_manifest
from tests.datamodules.doctor.damage import cut, noise, save


@pytest.fixture
def files(tmp_path):
    paths = [str(save(noise(seed=seed), tmp_path / "images" / f"{seed:03d}.png")) for seed in range(10)]
    cut(tmp_path / "images" / "003.png")
    return paths


def columns(found):
    return (found.images, found.size.tolist(), found.mark.tolist(), found.width.tolist(), found.issues)


def test_a_second_pass_reads_nothing(files, tmp_path):
    state = tmp_path / "state.jsonl"
    first = look_at(files, state=state)
    assert (first.examined, len(first.images)) == (10, 10)
    assert first.rate > 0
    assert first.issues == {3: (("cut", ""),)}
    second = look_at(files, state=state)
    assert (second.examined, second.rate) == (0, 0.0)
    assert columns(second) == columns(first)


def test_what_changed_is_looked_at_again(files, tmp_path):
    state = tmp_path / "state.jsonl"
    look_at(files, state=state)
    save(noise(seed=77), tmp_path / "images" / "003.png")
    os.utime(tmp_path / "images" / "005.png", ns=(1, 1))
    os.remove(tmp_path / "images" / "009.png")
    found = look_at(files, state=state)
    assert found.examined == 3
    assert found.issues == {9: (("gone", ""),)}
    # What may come back is never taken from the state.
    found = look_at(files, state=state)
    assert (found.examined, found.issues) == (1, {9: (("gone", ""),)})


def test_decoding_looks_again_once(files, tmp_path):
    state = tmp_path / "state.jsonl"
    look_at(files, state=state)
    # Of the one that is cut off nothing new can be learnt, but it is recorded as done.
    assert look_at(files, state=state, decode=True).examined == 10
    assert look_at(files, state=state, decode=True).examined == 0
    assert look_at(files, state=state).examined == 0


@pytest.mark.parametrize("keep", [1, 3, 9.5, 10.5])
def test_a_killed_pass_goes_on(files, tmp_path, keep):
    state = tmp_path / "state.jsonl"
    whole = look_at(files, state=state)
    lines = state.read_bytes().splitlines(keepends=True)
    half = lines[int(keep)][: len(lines[int(keep)]) // 2] if keep % 1 else b""
    # The first line is the file's own.
    state.write_bytes(b"".join(lines[: int(keep)]) + half)
    found = look_at(files, state=state)
    assert found.examined == 10 - (int(keep) - 1)
    assert columns(found) == columns(whole)
    assert look_at(files, state=state).examined == 0
    assert all(json.loads(line) for line in state.read_bytes().splitlines())


@pytest.mark.parametrize("junk", [b"", b"\n", b"nonsense", b"{}\n", b'{"rules": 0}\n{"image": "x"}\n'])
def test_a_state_of_other_rules_is_begun_anew(files, tmp_path, junk):
    state = tmp_path / "state.jsonl"
    state.write_bytes(junk)
    assert look_at(files, state=state).examined == 10
    assert look_at(files, state=state).examined == 0


@pytest.mark.parametrize(
    "line",
    [
        b'{"rules": 1}\n',
        b'{"rules": 0}\n',
        b"{}\n",
        b"\n",
        b"nonsense\n",
        b"[1, 2]\n",
        b'{"image": "no look"}\n',
        b'{"image": "x", "issues": [], "decoded": false, "look": [1, 2]}\n',
        b'{"image": "x", "issues": [["cut"]], "decoded": false, "look": [1, 2, 3, 4, 5]}\n',
        b'{"image": "x", "issues": null, "decoded": false, "look": [1, 2, 3, 4, 5]}\n',
        b'{"image": "x", "issues": [["of another version", ""]], "decoded": false, "look": [1, 2, 3, 4, 5]}\n',
        b"\xff\xfe\n",
    ],
)
@pytest.mark.parametrize("place", [1, 4, 11])
def test_a_line_that_is_no_look_is_passed_over(files, tmp_path, line, place):
    # A doubled first line is what two passes that began at once leave, others what another version wrote.
    state = tmp_path / "state.jsonl"
    whole = look_at(files, state=state)
    lines = state.read_bytes().splitlines(keepends=True)
    state.write_bytes(b"".join([*lines[:place], line, *lines[place:]]))
    assert [image for image, _ in load(state)] == [json.loads(line)["image"] for line in lines[1:]]
    found = look_at(files, state=state)
    assert found.examined == 0
    assert columns(found) == columns(whole)


def test_two_passes_that_begin_at_once(files, tmp_path):
    # Each finds no file and writes the first line, then its looks.
    state = tmp_path / "state.jsonl"
    looks = [(image, headers.look(image)) for image in files]
    first, second = Writer(state), Writer(state)
    first.write(looks[:6])
    second.write(looks[4:])
    second.close()
    first.close()
    assert state.read_text().splitlines().count(json.dumps({"rules": RULES})) == 2
    assert dict(load(state)) == dict(looks)
    # The last line is cut, as by a kill.
    cut(state, share=0.99)
    assert look_at(files, state=state).examined == 1
    assert look_at(files, state=state).examined == 0


def test_the_writer_cuts_a_long_half_line(tmp_path):
    state = tmp_path / "state.jsonl"
    for image, look in (("a", Look(1)), ("b", Look(2, issues=(("cut", "x"),)))):
        writer = Writer(state)
        writer.write([(image, look)])
        writer.close()
        with state.open("ab") as file:
            file.write(b'{"image": "' + b"x" * 10_000)
    assert list(load(state)) == [("a", Look(1)), ("b", Look(2, issues=(("cut", "x"),)))]


def test_interrupted_in_the_middle(files, tmp_path, monkeypatch):
    state = tmp_path / "state.jsonl"
    monkeypatch.setattr(pictures, "BATCH", 2)
    write, written = Writer.write, []

    def interrupt(self, looks):
        write(self, looks)
        written.append(1)
        if len(written) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            look_at(files, state=state, workers=1)
    assert len(list(load(state))) == 6
    assert look_at(files, state=state).examined == 4


def test_many_batches_keep_their_order(tmp_path):
    path = save(noise(16), tmp_path / "a.png")
    # The same file by many names.
    names = [str(tmp_path) + "/" + "./" * number + "a.png" for number in range(3 * BATCH + 5)]
    found = look_at([*names, *names], state=tmp_path / "s", workers=3)
    assert found.images == names
    assert (found.size == path.stat().st_size).all()
    assert sorted(found.issues) == list(range(len(names)))


def test_roots_have_their_own_states(tmp_path):
    a, b = state_file(tmp_path, str(tmp_path / "a")), state_file(tmp_path, str(tmp_path / "b"))
    assert a != b
    assert a == state_file(tmp_path, str(tmp_path / "x" / ".." / "a"))
    assert state_file(tmp_path, "s3://bucket/a").parent == tmp_path


def manifest_of(paths, patients, splits):
    rows = [
        {"image": path, "image_id": f"i{n}", "study_id": f"s{n}", "patient_id": patient, "view": "PA", "split": split}
        for n, (path, patient, split) in enumerate(zip(paths, patients, splits, strict=True))
    ]
    return make_manifest(rows, source="test")


def test_duplicates_by_where_they_are(files, tmp_path):
    for source, target in ((0, 1), (4, 5), (4, 6), (7, 8)):
        shutil.copy(files[source], files[target])
    patients = ["a", "b", "c", "d", "e", "f", "g", "h", "h", "i"]
    splits = ["train", "test", *["train"] * 8]
    manifest = manifest_of(files, patients, splits)
    looked = look_at(files, state=tmp_path / "s")
    found = duplicates(manifest, looked, name=lambda path: path[-7:-4])
    assert [(f.level, f.what, f.ids) for f in found] == [
        ("error", "the same picture in several splits: a leak", ("000 = 001",)),
        ("error", "the same picture for several patients", ("004 = 005 = 006",)),
        ("warning", "the same picture more than once for one patient", ("007 = 008",)),
    ]
    assert all(f.mend for f in found)


def test_equal_ends_are_no_duplicates(tmp_path):
    # Size, first and last kB are equal: only the middle differs.
    paths = []
    for number in range(2):
        data = bytearray(np.random.default_rng(0).bytes(9000))
        data[4000] = number
        paths.append(str(tmp_path / f"{number}.png"))
        (tmp_path / f"{number}.png").write_bytes(data)
    looked = look_at(paths, state=tmp_path / "s")
    assert looked.mark[0] == looked.mark[1]
    assert duplicates(manifest_of(paths, ["a", "b"], ["train", "test"]), looked, name=str) == []


def test_one_file_in_two_rows(files, tmp_path):
    paths = [files[0], files[1], files[0]]
    found = duplicates(
        manifest_of(paths, ["a", "b", "c"], ["train", "train", "test"]), look_at(paths, state=tmp_path / "s"), name=str
    )
    assert [(f.level, f.ids) for f in found] == [("error", (f"{files[0]} = {files[0]}",))]


def test_missing_and_empty_files_are_no_duplicates(tmp_path):
    paths = [str(tmp_path / name) for name in ("none1.png", "none2.png", "empty1.png", "empty2.png")]
    for path in paths[2:]:
        open(path, "w").close()
    manifest = manifest_of(paths, list("abcd"), ["train"] * 4)
    assert duplicates(manifest, look_at(paths, state=tmp_path / "s"), name=str) == []
