"""No test leans on the shell that it was started from."""

import os
import signal
import subprocess
import sys

import surroundings


def test_no_test_sees_what_a_shell_may_hold() -> None:
    assert not [name for name in os.environ if surroundings.OF_A_SHELL.fullmatch(name)]


def test_what_says_where_things_are_stays() -> None:
    kept = {"PATH": "/bin", "HOME": "/root", "CI": "true", "PYTHON": "python3", "CAIRN_TESTBED_ADDRESS": "10.77.0.1"}
    environment = {**kept, "PYTHONUNBUFFERED": "1", "CAIRN_SERVERS": "tcp://h", "CAIRN_DPU_SLAB": "1GiB", "LC_ALL": "C"}
    surroundings.clear(environment)
    assert environment == kept


def test_what_tests_start_can_be_interrupted_from_the_background_too() -> None:
    assert all(signal.getsignal(number) != signal.SIG_IGN for number in surroundings.OF_A_TERMINAL)
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); import surroundings; surroundings.hear_signals(); "
        "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', 'import os, signal; "
        "os.kill(os.getpid(), signal.SIGINT)'], stderr=subprocess.DEVNULL).returncode)"
    )
    folder = os.path.dirname(surroundings.__file__)
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, check=False)
    assert done.returncode == 256 - signal.SIGINT
