"""Shows in a few minutes, on any Linux machine, what Cairn is for: real requests, a kill -9 in the middle, nothing lost.

    python tools/demo.py                     what `make demo` runs
    python tools/demo.py --requests 1000     a shorter one
    python tools/demo.py -o json             for scripts

A private service keeps blocks on a file in a temporary directory. A trace of an hour of chat requests is replayed as fast
as the machine goes: for each request the longest cached prefix is looked up and fetched, the rest is stored, and every byte is
checked. Half-way the service is killed and started again on the same file. The exit status is 0 only if no byte was wrong
and no acknowledged block was lost.
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

import cairnkv
from cairnkv.commands.output import print_json, print_pairs
from cairnkv.commands.progress import showing_progress
from cairnkv.process import ServiceProcess, socket_for
from cairnkv.quantities import parse_size, show_size
from cairnkv.replay import Options, Replay
from cairnkv.tally import Report, report_rows
from cairnkv.traces import SYNTHETIC, Request, read_trace, select, shipped

GIB = 1 << 30
SPARE_BYTES = GIB
DRIVE_BYTES_LEAST = 512 << 20
DRIVE_STEP_BYTES = 256 << 20
NEXT = (
    ("keep a service", "cairn-dpu serve --drive /var/tmp/cairn-drive:8GiB"),
    ("and use it", "cairn put hello README.md --server tcp://127.0.0.1:9600"),
    ("from Python", "README.md, the example"),
    ("what the numbers mean", "docs/replay.md"),
    ("something is wrong", "cairn doctor"),
)


def say(sentence: str) -> None:
    sys.stderr.write(f"demo: {sentence}\n")
    sys.stderr.flush()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dir", type=Path, help="where the drive file goes (default: a temporary directory in /var/tmp)"
    )
    parser.add_argument("--drive-size", default="4GiB", help="size of the drive file (default: %(default)s)")
    parser.add_argument("--block-size", default="64KiB", help="size every block is given (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=2, help="clients, each on a thread (default: %(default)s)")
    parser.add_argument("--requests", type=int, help="replay only so many requests")
    parser.add_argument(
        "--transport",
        choices=("both", "shm", "tcp"),
        default="both",
        help="how clients connect (default: half and half)",
    )
    parser.add_argument("--trace", help="another trace file (default: the conversation trace)")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    return parser.parse_args()


def choose_drive_bytes(folder: Path, wanted: int) -> int:
    """What the disk has room for; a person is told when that is less than was wanted."""
    free = shutil.disk_usage(folder).free
    if wanted + SPARE_BYTES <= free:
        return wanted
    fits = (free - SPARE_BYTES) // DRIVE_STEP_BYTES * DRIVE_STEP_BYTES
    if fits < DRIVE_BYTES_LEAST:
        sys.exit(
            f"demo: {folder} has {show_size(free)} free, and the demo needs {show_size(DRIVE_BYTES_LEAST + SPARE_BYTES)}: free "
            "some space, or name another place with --dir"
        )
    say(
        f"{folder} has only {show_size(free)} free: taking a drive of {show_size(fits)} in place of {show_size(wanted)}"
    )
    return fits


@contextlib.contextmanager
def work_folder(asked: Path | None) -> Iterator[Path]:
    """A fresh directory that vanishes at the end, inside the one that was asked for."""
    parent = asked or (Path("/var/tmp") if os.access("/var/tmp", os.W_OK) else Path(tempfile.gettempdir()))
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cairn-demo-", dir=parent.resolve()) as folder:
        yield Path(folder)


def free_port() -> int:
    """A port that was free a moment ago: the service needs the same one after its restart."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running_service(folder: Path, drive_bytes: int) -> Iterator[ServiceProcess]:
    """A service with both listeners; its urls are shm, tcp."""
    path, short = socket_for(folder)
    listen = [f"shm://{path}", f"tcp://127.0.0.1:{free_port()}"]
    service = ServiceProcess(folder, drive=f"{folder}/drive.cairn:{drive_bytes}B", listen=listen, slab="512MiB")
    try:
        service.start()
        yield service
    finally:
        service.kill()  # the drive file goes away anyway: there is nothing to seal
        if short is not None:
            shutil.rmtree(short, ignore_errors=True)


def choose_trace(asked: str | None) -> tuple[str, list[Request]]:
    name = asked or ("conversation" if shipped("conversation") else SYNTHETIC)
    if asked is None and name == SYNTHETIC:
        say("the conversation trace is not part of this checkout: replaying a made-up one of the same kind")
    return name, read_trace(name)


def run(arguments: argparse.Namespace) -> Report:
    """The whole demo but for printing."""
    name, requests = choose_trace(arguments.trace)
    requests = select(requests, 0, arguments.requests)
    schemes = {"both": ("shm", "tcp"), "shm": ("shm",), "tcp": ("tcp",)}[arguments.transport]
    options = Options(
        block_bytes=parse_size(arguments.block_size), clients=arguments.clients, disrupt_at=len(requests) // 2
    )
    with work_folder(arguments.dir) as folder:
        drive_bytes = choose_drive_bytes(folder, parse_size(arguments.drive_size))
        say(f"starting a service on a file of {show_size(drive_bytes)} in {folder}")
        with running_service(folder, drive_bytes) as service:
            urls = {url.partition(":")[0]: url for url in service.urls}
            say(f"replaying {len(requests):,} requests with {arguments.clients} clients over {' and '.join(schemes)}")

            def kill_and_restart() -> None:
                service.kill()
                service.start()

            with showing_progress("demo", Console(stderr=True)) as show:
                return Replay(
                    requests,
                    lambda at: cairnkv.connect(urls[schemes[at % len(schemes)]], name=f"demo client {at}"),
                    options,
                    trace=name,
                    disruption=kill_and_restart,
                    on_progress=show,
                ).run()


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: everything is cleaned up
    try:
        report = run(arguments)
    except cairnkv.CairnError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    if arguments.output == "json":
        print_json(report.as_dict())
    else:
        print_pairs(report_rows(report), "What happened")
        print_pairs(NEXT, "\nWhere to look next")
    if report.interrupted:
        say("interrupted: the table covers what was replayed until then")
        return 130
    if not report.good:
        say(
            "A PROMISE WAS BROKEN: wrong bytes, or acknowledged blocks are gone. Please report this with the table above"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
