"""`cairn put | get | exists | match`: single blocks, from and to files."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cairnkv.commands.options import (
    Deadline,
    KeysArgument,
    LayoutOption,
    Output,
    OutputError,
    OutputOption,
    Server,
    Tenant,
    exit_code,
    fail,
    guarded,
    open_client,
    say,
)
from cairnkv.commands.output import print_json, print_lines, tell_items
from cairnkv.errors import UsageError
from cairnkv.memory import BLOCK_BYTES_MOST
from cairnkv.quantities import parse_duration
from cairnkv.status import Status

KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="1 to 512 bytes of text.")]
TtlOption = Annotated[
    str | None,
    typer.Option(
        "--ttl", metavar="TIME", show_default=False, help="Forget the block after so long: 500ms, 30s, 5m, 1h, 2d."
    ),
]
GroupOption = Annotated[
    str | None,
    typer.Option("--group", metavar="NAME", show_default=False, help="Blocks that are useful only together."),
]
MembersOption = Annotated[
    int | None,
    typer.Option(
        "--group-members",
        metavar="N",
        min=1,
        show_default=False,
        help="How many blocks the group has; it is found once all are there.",
    ),
]
ScopeOption = Annotated[
    str | None,
    typer.Option("--scope", metavar="LABEL", show_default=False, help="A label for cairn rm --scope."),
]


@guarded
def put(
    key: KeyArgument,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What to store; - is standard input.")],
    *,
    relaxed: Annotated[
        bool,
        typer.Option("--relaxed", help="Return when the service has the bytes, before they are safe from power loss."),
    ] = False,
    ttl: TtlOption = None,
    group: GroupOption = None,
    group_members: MembersOption = None,
    scope: ScopeOption = None,
    exist_ok: Annotated[bool, typer.Option("--exist-ok", help="A key that holds a block already is no error.")] = False,
    layout: LayoutOption = 0,
    server: Server = None,
    tenant: Tenant = None,
    deadline: Deadline = None,
    output: OutputOption = Output.table,
) -> None:
    """Store a file as a block. The first writer wins: a key that holds a block keeps it (exit code 5).

    Examples:

        cairn put hello README.md

        head -c 1000000 /dev/urandom | cairn put noise - --ttl 1h --scope trial

        cairn put chunk/rank-0 rank-0.bin --group chunk --group-members 2
    """
    data = _read(file)
    ttl_ms = None if ttl is None else parse_duration(ttl)
    with open_client(server, tenant, deadline) as client:
        result = client.put_one(
            key,
            data,
            layout=layout,
            durability="relaxed" if relaxed else "durable",
            ttl_ms=ttl_ms,
            group=group,
            group_members=group_members,
            scope=scope,
        )
    if output is Output.json:
        print_json({"key": key, "status": result.status.name, "nbytes": result.nbytes, "sequence": result.sequence})
    elif result.status == Status.ok:
        print_lines([f"stored {key} ({len(data)} bytes)"])
    elif result.existed and exist_ok:
        print_lines([f"{key} is there already; its first bytes are kept"])
    if not (result.ok if exist_ok else result.status == Status.ok):
        fail(f"{key}: {result.status.sentence}", exit_code(result.status))


@guarded
def get(
    key: KeyArgument,
    file: Annotated[str, typer.Argument(metavar="[FILE]", help="Where to write it; - is standard output.")] = "-",
    *,
    force: Annotated[bool, typer.Option("--force", help="Write to the terminal even what is not text.")] = False,
    layout: LayoutOption = 0,
    server: Server = None,
    tenant: Tenant = None,
    deadline: Deadline = None,
    output: OutputOption = Output.table,
) -> None:
    """Fetch a block into a file, all or nothing: a file appears, or is replaced, only when the whole block is there.

    Examples:

        cairn get hello copy.md

        cairn get hello | sha256sum
    """
    if output is Output.json and file == "-":
        raise UsageError("with -o json the block needs a file of its own: cairn get KEY FILE -o json")
    with open_client(server, tenant, deadline) as client:
        result, data = client.get_bytes(key, layout=layout)
    if output is Output.json:
        print_json({"key": key, "status": result.status.name, "nbytes": result.nbytes, "file": file})
    if not result.hit:
        fail(f"{key}: {result.status.sentence}", exit_code(result.status))
    if file == "-":
        _write_stdout(data, force)
        return
    _write_file(Path(file), data)
    if output is Output.table:
        say(f"wrote {len(data)} bytes to {file}")


@guarded
def exists(
    keys: KeysArgument,
    *,
    layout: LayoutOption = 0,
    server: Server = None,
    tenant: Tenant = None,
    deadline: Deadline = None,
    output: OutputOption = Output.table,
) -> None:
    """Tell which keys hold a block. Exit code 0 when all do, 3 when one does not.

    Example:

        cairn exists hello noise
    """
    with open_client(server, tenant, deadline) as client:
        results = client.exists(keys, layout=layout)
    tell_items(keys, results, {Status.ok: "yes", Status.not_found: "no"}, "exists", output)


@guarded
def match(
    keys: KeysArgument,
    *,
    layout: LayoutOption = 0,
    server: Server = None,
    tenant: Tenant = None,
    deadline: Deadline = None,
    output: OutputOption = Output.table,
) -> None:
    """Count how many of the leading keys hold a block: the longest cached prefix.

    Example:

        cairn match block-0 block-1 block-2
    """
    with open_client(server, tenant, deadline) as client:
        client.stats()  # a service that cannot be asked is an error here, not a prefix of 0
        matched = client.match(keys, layout=layout)
    if output is Output.json:
        print_json({"matched": matched, "keys": len(keys)})
    else:
        print_lines([str(matched)])


def _read(file: str) -> bytes:
    if file == "-":
        data = sys.stdin.buffer.read(BLOCK_BYTES_MOST + 1)
    else:
        path = Path(file)
        if path.is_dir():
            raise UsageError(f"{file} is a directory; a block is one file")
        with path.open("rb") as opened:
            data = opened.read(BLOCK_BYTES_MOST + 1)
    name = "standard input" if file == "-" else file
    if not data:
        raise UsageError(f"{name} is empty; a block has at least 1 byte")
    if len(data) > BLOCK_BYTES_MOST:
        raise UsageError(
            f"{name} is larger than a block may be ({BLOCK_BYTES_MOST >> 20} MiB); split it, for example with split -b 64M"
        )
    return data


def _write_stdout(data: bytes, force: bool) -> None:
    if sys.stdout.isatty() and not force and not _is_text(data):
        raise UsageError(
            "the block is not text and would disturb the terminal; name a file (cairn get KEY FILE), or add --force"
        )
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _is_text(data: bytes) -> bool:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\n\r\t" for letter in text)


def _write_file(path: Path, data: bytes) -> None:
    """Raises OutputError: an exit code of 3 would say that there is no block."""
    try:
        _replace_file(path, data)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None


def _replace_file(path: Path, data: bytes) -> None:
    if path.exists() and not path.is_file():
        path.write_bytes(data)  # a device or a pipe: there is nothing to replace
        return
    descriptor, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(unfinished, path.stat().st_mode & 0o7777 if path.exists() else 0o666 & ~umask)
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise
