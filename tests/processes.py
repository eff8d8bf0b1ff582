"""Programs of several processes, run as users run them, none of which outlives its test."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from tests.chain import ROOT


def run_python(arguments: Sequence[str], *, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run `python *arguments` in the repository's root with all processes that it starts; its output as text.

    Each may use one thread: several ranks share the machine's cores. Where they do not end in time, each is asked
    where it stands, and all of them are killed: a rank left over would hold its port, its memory and its core.

    Raises:
        AssertionError: after `timeout` seconds, with what was printed and where each Python process stood.
    """
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)  # faulthandler prints the stack of each and lets it die
        try:
            stdout, stderr = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
        command = " ".join(arguments)
        raise AssertionError(f"not done in {timeout:.0f} s: {command}\n{stdout[-2000:]}\n{stderr[-8000:]}") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
