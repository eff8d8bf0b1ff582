"""What the other tests stand on: programs of several processes end with their test, and say where they stood."""

import os
import time

import pytest

from tests.processes import run_python

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
print(child.pid, flush=True)
{rest}
"""


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int) -> bool:
    for _ in range(50):
        if not alive(pid):
            return True
        time.sleep(0.1)
    return False


def test_a_program_that_hangs_is_killed_with_its_children_and_says_where_it_stood():
    stands = r"(?s)not done in 3 s: -c .*\n\d+\n.*most recent call first.*wait"
    with pytest.raises(AssertionError, match=stands) as told:
        run_python(["-c", PARENT.format(rest="child.wait()")], timeout=3)
    child = next(int(line) for line in str(told.value).splitlines() if line.isdigit())
    assert gone(child)


def test_what_a_program_printed_and_returned():
    done = run_python(["-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"], timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_variables_set_by_a_test_are_taken_away():
    os.environ["MASTER_PORT"] = "1"


def test_variables_set_by_the_test_before_are_gone():
    assert "MASTER_PORT" not in os.environ
