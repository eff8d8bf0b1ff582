"""ProgressLine: one line an epoch with the figures, and the time to go."""

import re
from pathlib import Path

import pytest

from callbacks.progress import ProgressLine, duration
from tests.callbacks.chain import TinyData, TinyStage, trainer


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3600, "1 h 00 min"),
        (7620, "2 h 07 min"),
    ],
)
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text


def test_one_line_an_epoch_with_its_loss_and_no_time_left_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture):
    t = trainer(tmp_path, [ProgressLine()], max_epochs=3)
    t.fit(TinyStage(), TinyData(10))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("TinyStage")]
    assert [re.search(r"epoch (\d/\d)  step (\d+)", line).groups() for line in lines] == [  # type: ignore[union-attr]
        ("1/3", "2"), ("2/3", "4"), ("3/3", "6"),
    ]  # fmt: skip
    assert f"tiny/loss {float(t.callback_metrics['tiny/loss']):.4g}" in lines[-1]
    assert lines[-1].endswith("to go 0 s")


def test_heartbeat_within_a_long_epoch_and_steps_as_bound(tmp_path: Path, capsys: pytest.CaptureFixture):
    t = trainer(tmp_path, [ProgressLine(heartbeat=0.0)], max_epochs=-1, max_steps=3)
    t.fit(TinyStage(), TinyData(20))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("TinyStage")]
    assert "epoch 1  step 1  batch 1/4" in lines[0]
    assert "epoch 1  step 3  batch 3/4  to go 0 s" in lines[2]


def test_a_test_says_how_much_it_took(tmp_path: Path, capsys: pytest.CaptureFixture):
    trainer(tmp_path, [ProgressLine()]).test(TinyStage(), TinyData(10), verbose=False)
    assert "TinyStage  tested 2 batches  0 s" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["test", "predict"])
def test_a_long_evaluation_says_how_far_it_is(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    getattr(trainer(tmp_path, [ProgressLine(heartbeat=0.0)]), verb)(TinyStage(), TinyData(10))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("TinyStage")]
    assert f"TinyStage  {verb}  batch 1/2  to go" in lines[0]
    assert lines[1] == f"TinyStage  {verb}  batch 2/2  to go 0 s"
    assert f"TinyStage  {verb}ed 2 batches" in lines[2]
