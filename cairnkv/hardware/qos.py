"""What `mlnx_qos` tells of a network device: by what packets are sorted, and which priorities can be paused."""

import re
import shutil
import subprocess
from dataclasses import dataclass

PROGRAM = "mlnx_qos"
SECONDS_MOST = 10


@dataclass(frozen=True, slots=True)
class Qos:
    """trust: dscp or pcp. paused: the priorities with flow control (PFC)."""

    trust: str
    paused: tuple[int, ...]


def ask(network: str) -> Qos | str:
    """Asks about a network device, changes nothing. Or why nothing is known."""
    program = shutil.which(PROGRAM)
    if program is None:
        return f"{PROGRAM} is not installed"
    try:
        done = subprocess.run(
            [program, "-i", network], capture_output=True, text=True, timeout=SECONDS_MOST, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{PROGRAM} does not run: {error}"
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        return f"{PROGRAM} fails: {' '.join(last) or f'exit status {done.returncode}'}"
    return read(done.stdout)


def read(text: str) -> Qos | str:
    """What it printed."""
    trust = re.search(r"^Priority trust state: (\w+)", text, re.MULTILINE)
    enabled = re.search(r"^PFC configuration:.*?^\s*enabled((?:\s+[01])+)\s*$", text, re.MULTILINE | re.DOTALL)
    if trust is None or enabled is None:
        return f"{PROGRAM} prints something else than is known of it"
    return Qos(trust.group(1), tuple(at for at, flag in enumerate(enabled.group(1).split()) if flag == "1"))
