"""Fixtures that all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chain import Chain


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
