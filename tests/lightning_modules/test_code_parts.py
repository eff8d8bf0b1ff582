"""Parts of a token cache on two ranks: what either was killed with is taken over by both."""

from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from lightning_modules.networks.code_parts import CodeParts

FACTS = {"checkpoint": "c", "precision": "32-true"}


def codes(*values: int) -> np.ndarray:
    return np.full((len(values), 2, 2), 0) + np.array(values)[:, None, None]


def parts(folder: str | Path, *, rank: int = 0, seconds: float = 0.0, **facts: str) -> CodeParts:
    return CodeParts(Path(folder) / "tokens.safetensors", rank=rank, facts=FACTS | facts, seconds=seconds)


def go_on(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    mine = parts(folder, rank=rank)
    mine.resume()
    batch = [["a", "e"], ["b", "f"]][rank]
    places = mine.missing(batch)
    assert places == [1], places
    mine.add([batch[1]], codes(5 + rank))
    image_ids, found = mine.gather()
    assert image_ids == ["a", "b", "e", "f"]
    assert found[:, 0, 0].tolist() == [1, 2, 5, 6]
    assert found.dtype == np.int64
    (Path(folder) / f"{rank}.done").touch()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_take_over_what_each_of_them_left(tmp_path):
    for rank, name in enumerate("ab"):
        left = parts(tmp_path, rank=rank)
        left.add([name], codes(rank + 1))
    mp.spawn(go_on, args=(str(tmp_path),), nprocs=2)
    assert {file.name for file in tmp_path.glob("*.done")} == {"0.done", "1.done"}
    # Nothing of the earlier run is overwritten: a second kill loses neither.
    again = parts(tmp_path)
    again.resume()
    assert {name: int(one[0, 0]) for name, one in again.rows.items()} == {"a": 1, "b": 2, "e": 5, "f": 6}
    again.remove()
    assert not list(tmp_path.glob("tokens.partial-*"))


def test_parts_are_written_when_their_time_has_come_and_not_before(tmp_path):
    slow = parts(tmp_path, seconds=3600.0)
    slow.add(["a"], codes(1))
    assert not list(tmp_path.iterdir())
    slow.seconds = 0.0
    slow.add(["b"], codes(2))
    assert [file.name[-11:] for file in tmp_path.iterdir()] == ["0-00000.npz"]
    again = parts(tmp_path)
    again.resume()
    assert sorted(again.rows) == ["a", "b"]


def test_other_facts_are_named_and_their_parts_stay(tmp_path, capsys):
    parts(tmp_path).add(["a"], codes(1))
    other = parts(tmp_path, precision="bf16-mixed")
    other.resume()
    assert other.missing(["a"]) == [0]
    assert "with other precision (" in capsys.readouterr().out
    other.remove()
    assert len(list(tmp_path.glob("tokens.partial-*"))) == 1
