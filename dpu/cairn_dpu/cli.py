"""The command `cairn-dpu`. Thin: reads the command line, calls the module that knows, prints what it returns.

Results go to stdout, progress and errors to stderr. No traceback reaches a person unless --debug asks for it.
"""

import inspect
import json
import os
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cairn_dpu import _native, drive_commands
from cairn_dpu.commands import Debug, Output, check_output, guarded
from cairn_dpu.config import SETTINGS, load
from cairn_dpu.drive_spec import DriveSpec, parse_drive
from cairn_dpu.drives import format_drive, readable
from cairn_dpu.errors import ConfigError, ExitCode
from cairn_dpu.flags import show_plain
from cairn_dpu.kinds import SWITCH
from cairn_dpu.quantities import Bytes, describe_size, parse_size

app = typer.Typer(
    name="cairn-dpu",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(drive_commands.app, name="drives")
ABOUT = """The Cairn service: keeps an LLM's attention state (KV cache) on NVMe drives.

Try it on any Linux, with a file in place of a drive:

    cairn-dpu serve --drive /tmp/cairn-drive:4GiB

Then, in another terminal: `cairn put hello README.md`, `cairn get hello copy.md`, and `curl localhost:8600/api/v1/system`.

Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 denied, 5 conflict, 6 timeout.
"""
DrivePath = Annotated[
    str, typer.Option("--drive", metavar="PATH", help="A namespace such as /dev/ng0n1 or /dev/nvme0n1, or a file.")
]


def _print_version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback(help=ABOUT)
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Only so that typer knows this is a command with sub-commands."""


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Gives `command` one option per row of the settings table."""
    parameters = list(inspect.signature(command).parameters.values())[:-1]  # all but **settings
    for row in SETTINGS:
        extra: dict[str, Any] = {"help": row.help, "rich_help_panel": row.group, "show_default": False}
        if row.default_text:
            extra["help"] += f" [default: {row.default_text}]"
        annotation: Any = list[str] if row.repeatable else str
        names = [row.flag]
        if row.kind is SWITCH:
            annotation, names = bool, [f"{row.flag}/--no-{row.flag.removeprefix('--')}" if row.default else row.flag]
        else:
            extra["metavar"] = row.kind.metavar
        option = typer.Option(*names, **extra)
        parameters.append(
            inspect.Parameter(
                row.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[annotation | None, option]
            )
        )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {}
    return command


@app.command()
@_with_settings
@guarded
def serve(
    *,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="TOML file with settings; see docs/configuration.md."),
    ] = None,
    debug: Debug = False,
    **settings: Any,
) -> None:
    """Serve blocks until SIGTERM or Ctrl-C, then drain and exit 0.

    A flag wins over the environment (CAIRN_DPU_…), which wins over the file, which wins over the default.

    Examples:

        cairn-dpu serve --drive /tmp/drive:4GiB                        a file, made on the spot

        cairn-dpu serve --drive /dev/nvme0n1 --drive /dev/nvme1n1      two formatted drives

        cairn-dpu serve --config /etc/cairn/cairn-dpu.toml --listen shm:///run/cairn/cairn.sock
    """
    from cairn_dpu import logs, service

    settled = load(settings, os.environ, config)
    logs.configure("debug" if debug else settled.log_level, settled.log_format)
    service.leave(service.run(settled))


def _drive(text: str) -> DriveSpec:
    try:
        return parse_drive(text)
    except ValueError as error:
        raise ConfigError(f"--drive: {error}") from None


def _size(text: str, flag: str) -> Bytes:
    try:
        return parse_size(text)
    except ValueError as error:
        raise ConfigError(f"{flag}: {error}") from None


def _fleet(text: str) -> bytes:
    try:
        return uuid.UUID(text).bytes if text else b""
    except ValueError:
        raise ConfigError(f"--fleet: '{text}' is not a UUID") from None


@app.command("format")
@guarded
def format_(
    *,
    drive: DrivePath,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without this nothing is written.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Also when the drive holds data: it is lost.")] = False,
    size: Annotated[str, typer.Option("--size", metavar="SIZE", help="Create the file, or grow it to this size.")] = "",
    segment_size: Annotated[
        str,
        typer.Option(
            "--segment-size", metavar="SIZE", help="A power of two, 1MiB to 1GiB. By default chosen from the drive."
        ),
    ] = "",
    fleet: Annotated[
        str,
        typer.Option("--fleet", metavar="UUID", help="The fleet it belongs to: services of another one refuse it."),
    ] = "",
    debug: Debug = False,
) -> None:
    """Put an empty store on a drive or file.

    Examples:

        cairn-dpu format --drive /dev/nvme0n1 --yes                  a drive that holds nothing

        cairn-dpu format --drive /var/lib/cairn/drive --size 64GiB --yes

        cairn-dpu format --drive /dev/nvme0n1 --yes --overwrite      destroys what the drive holds

        cairn-dpu format --drive /dev/nvme1n1 --yes --fleet 7c1d3c0e-5f0b-4f5e-9a35-0d7a6a1f2b11
    """
    spec = _drive(drive)
    if size:
        spec = DriveSpec(spec.path, _size(size, "--size"))
    segment_bytes = _size(segment_size, "--segment-size") if segment_size else 0
    if not yes:
        raise ConfigError(f"this would put an empty store on {spec.path}. Nothing was written; add --yes to do it")
    format_drive(spec, segment_bytes=segment_bytes, overwrite=overwrite, fleet=_fleet(fleet))
    report = json.loads(_native.inspect_drive(spec.path))
    held = f", {describe_size(report['bytes'])}" if isinstance(report.get("bytes"), int) else ""
    sys.stdout.write(f"{spec.path} now holds an empty store{held}\n")


@app.command("inspect")
@guarded
def inspect_(*, drive: DrivePath, output: Output = "table", debug: Debug = False) -> None:
    """Tell what lies on a drive: superblock, segments, counts. Reads only.

    Example:

        cairn-dpu inspect --drive /dev/nvme0n1 -o json
    """
    from cairn_dpu import reports

    check_output(output)
    reports.print_report(json.loads(_native.inspect_drive(readable(_drive(drive).path))), output)


@app.command()
@guarded
def check(*, drive: DrivePath, output: Output = "table", debug: Debug = False) -> None:
    """Read everything on a drive and verify every checksum. Reads only; exit code 1 when something is wrong.

    The drive must not be in use: stop the service first. A running service reads its drives in the background all the
    time; see `cairn-dpu drives list`.

    Example:

        cairn-dpu check --drive /dev/nvme0n1
    """
    _verify(drive, output)


@app.command()
@guarded
def scrub(*, drive: DrivePath, output: Output = "table", debug: Debug = False) -> None:
    """The same as `check`: read everything on a drive and verify every checksum.

    Example:

        cairn-dpu scrub --drive /dev/nvme0n1
    """
    _verify(drive, output)


def _verify(drive: str, output: str) -> None:
    from cairn_dpu import reports

    check_output(output)
    path = readable(_drive(drive).path)
    report = json.loads(reports.check_with_progress(path))
    reports.print_report(report, output)
    bad = report["bad_records"] or report["bad_segments"] or report["findings"]
    if bad:
        sys.stderr.write(f"cairn-dpu: {path} has damage; what is damaged counts as a miss, the rest is served\n")
        raise typer.Exit(ExitCode.FAILURE)


@app.command()
@guarded
def inventory(*, output: Output = "table", debug: Debug = False) -> None:
    """List this machine's RDMA devices (ports, addresses, limits) and NVMe namespaces (logical blocks, longest command, write
    cache, placement, deallocation). Changes nothing, reads no block, and asks drives that are in use as well.

    The limits of RDMA devices need the package python3-pyverbs; namespaces need root. Whether a machine is fit for use is what
    `cairn doctor --hardware` says.

    Example:

        sudo cairn-dpu inventory --output json
    """
    from cairn_dpu.inventory import machine, report

    check_output(output)
    found = machine.take()
    if output == "json":
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        report.show(found)


@app.command()
@guarded
def version(*, debug: Debug = False) -> None:
    """Print the version."""
    sys.stdout.write(f"cairn-dpu {_native.version()}\n")


show_plain(app)


def main() -> None:
    """The console script."""
    _native.end_when_out_of_memory(ExitCode.FAILURE)
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a drive must never become what a log line is written to
    os.close(spare)
    app()
