"""The command `cairn`: assembles the sub-commands of `cairnkv.commands`."""

import sys
from typing import Annotated

import typer

from cairnkv.commands import bench, blocks, deletes, doctor, events, leases, replay, stats
from cairnkv.commands.flags import show_plain
from cairnkv.commands.options import guarded
from cairnkv.version import __version__

ABOUT = """Keep blocks of attention state (KV cache) in Cairn, and look at how it does.

Name the service once, or with --server each time. Without one, local:DIR starts a private service for the command:

    export CAIRN_SERVERS=tcp://127.0.0.1:9600

    cairn put hello README.md && cairn get hello | wc -c

    cairn stats --server local:/var/tmp/cairn

Results go to stdout, everything else to stderr. Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 denied, 5 conflict,
6 timeout. When something does not work: cairn doctor.
"""

app = typer.Typer(
    name="cairn",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


@guarded
def version() -> None:
    """Print the version."""
    sys.stdout.write(f"cairn {__version__}\n")


app.command()(blocks.put)
app.command()(blocks.get)
app.command()(blocks.exists)
app.command()(blocks.match)
app.command()(deletes.rm)
app.command()(leases.lease)
app.command()(leases.release)
app.command()(events.events)
app.command()(stats.stats)
app.command()(bench.bench)
app.command()(replay.replay)
app.command()(doctor.doctor)
app.command()(version)
show_plain(app)


def main() -> None:
    """The console script."""
    app()
