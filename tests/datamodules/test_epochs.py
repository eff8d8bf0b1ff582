"""What several processes see in an epoch, and what is left of it after a kill: real gloo ranks, real checkpoints."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.datamodules.pictures import write_pictures
from tests.processes import run_python

ROWS = 37  # divides by nothing
RARE = (10, 11, 12)  # rows of a rare finding; their grey is far from black and white, where changes would be cut off


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rows = [(p.name, f"report {n}", f"p{n}", "train") for n, p in enumerate(write_pictures(folder, ROWS))]
    rows += [(p.name, "report", f"v{n}", "validate") for n, p in enumerate(write_pictures(folder / "v", 4))]
    frame = pd.DataFrame(rows, columns=["image", "report", "patient", "split"])
    frame.loc[ROWS:, "image"] = "v/" + frame["image"]
    frame["Edema"] = [str(int(n in RARE)) for n in range(len(frame))]
    frame.to_csv(folder / "t.csv", index=False)
    return folder


def run(
    root: Path,
    out: Path,
    *,
    devices: int,
    batch: int,
    workers: int = 0,
    die_at: int = -1,
    save_first: bool = False,
    **more: float,
) -> int:
    out.mkdir(exist_ok=True)
    options = {"root": root, "out": out, "devices": devices, "batch-size": batch, "workers": workers, "die-at": die_at}
    options |= more
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    arguments += ["--save-first"] if save_first else []
    process = run_python(["-W", "ignore", "-m", "tests.datamodules.epoch_process", *arguments], timeout=200)
    if die_at < 0:
        assert process.returncode == 0, process.stderr[-3000:]
    return process.returncode


def seen(out: Path, *, ranks: int) -> dict[tuple[int, int, int], list[str]]:
    """(Epoch, step, rank) → image ids."""
    found: dict[tuple[int, int, int], list[str]] = {}
    for rank in range(ranks):
        for line in (out / f"seen-{rank}.jsonl").read_text().splitlines():
            epoch, step, ids = json.loads(line)
            assert (epoch, step, rank) not in found, "a step was done twice"
            found[epoch, step, rank] = ids
    return found


def rows_of(steps: dict[tuple[int, int, int], list[str]], *, epoch: int) -> list[str]:
    return sorted(i for (e, _, _), ids in steps.items() if e == epoch for i in ids)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("ranks", "workers"), [(1, 2), (2, 0), (4, 0)])
def test_every_row_once_and_after_a_kill_exactly_the_missing_ones(root, tmp_path, ranks, workers):
    everything = sorted(str(n) for n in range(ROWS))
    batch = 8 // ranks
    run(root, tmp_path / "whole", devices=ranks, batch=batch, workers=workers)
    whole = seen(tmp_path / "whole", ranks=ranks)
    assert rows_of(whole, epoch=0) == rows_of(whole, epoch=1) == everything
    assert [whole[0, s, 0] for s in range(5)] != [whole[1, s, 0] for s in range(5)]
    for die_at in (3, 7):  # in the middle of the first epoch, and of the second, which a resumed run is in
        assert run(root, tmp_path / "cut", devices=ranks, batch=batch, workers=workers, die_at=die_at) != 0
        assert len(seen(tmp_path / "cut", ranks=ranks)) == die_at * ranks
    before = seen(tmp_path / "cut", ranks=ranks)
    run(root, tmp_path / "cut", devices=ranks, batch=batch, workers=workers)
    after = {key: ids for key, ids in seen(tmp_path / "cut", ranks=ranks).items() if key not in before}
    missing = set(everything) - set(rows_of(before, epoch=1))
    assert rows_of(after, epoch=1) == sorted(missing)
    assert 0 < len(missing) < ROWS
    # Not only the same rows: the same batches on the same ranks as without a kill.
    assert before | after == whole


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_ranks_may_change_in_the_middle_if_the_whole_batch_does_not(root, tmp_path):
    run(root, tmp_path / "one", devices=1, batch=8, die_at=2)
    run(root, tmp_path / "one", devices=2, batch=4)
    both = seen(tmp_path / "one", ranks=2)
    assert rows_of(both, epoch=0) == rows_of(both, epoch=1) == sorted(str(n) for n in range(ROWS))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_checkpoint_in_the_middle_of_a_step_does_not_skip_its_batch(root, tmp_path, workers):
    run(root, tmp_path / "whole", devices=1, batch=8, workers=workers)
    run(root, tmp_path / "cut", devices=1, batch=8, workers=workers, die_at=7, save_first=True)
    run(root, tmp_path / "cut", devices=1, batch=8, workers=workers)
    assert seen(tmp_path / "cut", ranks=1) == seen(tmp_path / "whole", ranks=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [0, 2])
def test_repeated_rows_are_changed_alike_on_any_ranks_and_after_a_kill(root, tmp_path, workers):
    options = {"balance": 1.0, "augment": 1.0, "workers": workers}
    run(root, tmp_path / "one", devices=1, batch=8, **options)
    one = seen(tmp_path / "one", ranks=1)
    shown = [text for text in rows_of(one, epoch=0) if int(text.split()[0]) in RARE]
    assert len(set(shown)) == len(shown) > 10  # three rows, but each time another picture
    assert run(root, tmp_path / "cut", devices=1, batch=8, die_at=7, **options) != 0
    run(root, tmp_path / "cut", devices=1, batch=8, **options)
    assert seen(tmp_path / "cut", ranks=1) == one
    run(root, tmp_path / "two", devices=2, batch=4, **options)
    two = seen(tmp_path / "two", ranks=2)
    for epoch, step, _ in one:
        assert sorted(two[epoch, step, 0] + two[epoch, step, 1]) == sorted(one[epoch, step, 0])
