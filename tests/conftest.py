"""Fixtures that all tests share."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.record import FOLDER
from tests.chain import Chain

BEGAN = time.time()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the ratios that the benchmarks of this session measured: the log of a machine then says what it reaches."""
    for path in sorted(FOLDER.glob("*.json")):
        if path.stat().st_mtime < BEGAN:
            continue
        try:
            figures = json.loads(path.read_text())
        except json.JSONDecodeError:  # another process is writing it
            continue
        ratios = {key: value for key, value in figures.items() if "ratio" in key or key.endswith("_share")}
        told = "  ".join(f"{key} {value:.3g}" for key, value in ratios.items() if isinstance(value, float))
        terminalreporter.write_line(f"{path.stem}: {told}")


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """Environment variables that a test leaves behind are taken away.

    Lightning's launchers set MASTER_PORT in the process that starts the ranks: all later runs would share that port.
    """
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real radiographs and reports, or a skip that says how to name it."""
    folder = os.environ.get("CXR_REAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs real radiographs: set CXR_REAL_DATA to the folder that holds nih_sample/ and openi/")
    return Path(folder)


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """All five stages, trained for one epoch at the smallest sizes, with their artefacts. Read-only for tests."""
    return Chain(tmp_path_factory.mktemp("chain")).build()
