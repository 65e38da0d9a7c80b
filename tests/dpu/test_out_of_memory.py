"""What is left of the service when its heap is exhausted: a sentence, and a status that systemd starts it again for."""

import subprocess
import sys

from cairn_dpu.errors import ExitCode

# The command as a person calls it; then the native core is asked for a copy of something that no memory is left for.
PROGRAM = """
import contextlib, resource, sys
from cairn_dpu import _native, cli

sys.argv = ["cairn-dpu", "version"]
with contextlib.suppress(SystemExit):
    cli.main()
sys.stdout.flush()  # as the interpreter does when a command ends; this one goes on
path = "x" * (64 << 20)
with open("/proc/self/statm") as statm:
    used = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), resource.RLIM_INFINITY))
_native.is_formatted(path)
"""


# An operator would have lost the reason: the process ended with an abort in the middle of a turn, or went on without what
# it had begun.
def test_an_exhausted_heap_ends_the_service_with_a_sentence() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.FAILURE, done.stderr
    assert done.stdout.startswith("cairn-dpu ")
    assert done.stderr.startswith("cairn: out of memory: ")
    assert "give it more" in done.stderr
    assert done.stderr.count("\n") == 1
