"""What the Makefile names exists: make refuses a target one of whose sources has been renamed."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NIH = "NIH=tests"  # any folder: nothing is read in a dry run
TARGETS = [
    ("runs/demo/demo.done",),
    ("runs/nih/metrics.json", NIH),
    ("runs/codebook-1024/phantom-fresh/metrics.json",),
    ("runs/codebook-1024/nih/metrics.json", NIH),
    ("runs/nih-openi/metrics.json", NIH, "OPENI=tests"),
    ("runs/evaluation/demo/evaluation.done",),
    ("runs/evaluation/nih/evaluation.done", NIH),
]


@pytest.mark.parametrize("arguments", TARGETS, ids=lambda arguments: arguments[0])
def test_a_chain_can_be_planned(arguments: tuple[str, ...]) -> None:
    ran = subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert "main.py fit" in ran.stdout or "is up to date" in ran.stdout or "main.py test" in ran.stdout
