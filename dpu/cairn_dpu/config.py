"""Every setting of `cairn-dpu serve`, one row each. Flags, environment variables, file keys, `--help` and
docs/configuration.md all come from the rows of `Config`.

Precedence: flag, then environment, then file, then default. `python -m cairn_dpu.config --markdown` prints the document.
"""

import dataclasses
import difflib
import sys
import tomllib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cairn_dpu.addresses import (
    HostPort,
    ListenUrl,
    parse_admin,
    parse_host,
    parse_host_port,
    parse_listen_url,
    show_admin,
)
from cairn_dpu.drive_spec import DriveSpec, parse_drive
from cairn_dpu.errors import ConfigError
from cairn_dpu.kinds import FILE, IDENTITY, SWITCH, Kind, choice, count, duration, size
from cairn_dpu.limits import usable_memory
from cairn_dpu.quantities import Bytes, Milliseconds
from cairn_dpu.tenant_spec import SESSIONS_MOST, TenantSpec, parse_tenant

ENV_PREFIX = "CAIRN_DPU_"
ENV_CONFIG = "CAIRN_DPU_CONFIG"
MIB = 1024**2
GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Setting:
    """One row: everything that is known about a setting."""

    name: str
    kind: Kind
    group: str
    help: str
    repeatable: bool
    default: Any
    default_text: str

    @property
    def key(self) -> str:
        """The key in the file."""
        return self.name

    @property
    def env(self) -> str:
        """The environment variable; values of a repeatable setting are separated by commas."""
        return ENV_PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """The flag on the command line."""
        return "--" + self.name.replace("_", "-")


def default_slab() -> Bytes:
    """A quarter of the memory that this process may have (the machine's, or what its control group allows), but at least
    256 MiB and at most 1 GiB, in whole 2 MiB pages."""
    memory = usable_memory()
    return Bytes(min(max(memory // 4, 256 * MIB), GIB) // (2 * MIB) * (2 * MIB))


def _row(
    kind: Kind, default: Any, group: str, help: str, *, repeatable: bool = False, default_text: str | None = None
) -> Any:
    """A field of Config together with its row."""
    if default_text is None:
        shown = (
            [kind.show(value) for value in default] if repeatable else [] if default is None else [kind.show(default)]
        )
        default_text = ", ".join(shown)
    metadata = {"row": (kind, group, help, repeatable, default_text)}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one service, checked. The name of a field is the name of its setting."""

    drive: tuple[DriveSpec, ...] = _row(
        Kind("PATH[:SIZE]", parse_drive),
        (),
        "Drives",
        "A drive to keep blocks on: an NVMe namespace by its character device, such as /dev/ng0n1 (pass-through), a block"
        " device such as /dev/nvme0n1, or a file. PATH:SIZE creates the file if there is none. May be given more than"
        " once.",
        repeatable=True,
    )
    auto_format: bool = _row(
        SWITCH,
        True,
        "Drives",
        "Put an empty store on files that serve itself creates for PATH:SIZE. Devices and existing files are never"
        " formatted by serve: use 'cairn-dpu format'.",
    )
    read_only: bool = _row(SWITCH, False, "Drives", "Serve gets; refuse puts and deletes, and write to no drive.")
    queue_depth: int = _row(count(1, 4096), 128, "Drives", "Most requests in flight on one drive.")
    require_all_drives: bool = _row(
        SWITCH,
        False,
        "Drives",
        "Do not start when one of the drives cannot be opened. Otherwise it is logged, shown as absent, and done without"
        " as long as there is another.",
    )
    without_missing_drives: bool = _row(
        SWITCH,
        False,
        "Drives",
        "Go on with the drives that are there. A start on fewer than half of a store's drives waits for more of them, and"
        " one on half of them begins empty, because the others may know better what was deleted or replaced. This says"
        " that the missing drives are gone for good and were never used without these: if they were, deleted blocks may"
        " be back. For one start; a drive that is missing at this start is refused when it comes back.",
    )
    missing_drives_wait: Milliseconds = _row(
        duration(0),
        Milliseconds(60_000),
        "Drives",
        "How long a start on half of a store's drives waits for another one before it gives up what they hold and begins"
        " empty. Gets are misses meanwhile.",
    )
    wait_until_loaded: bool = _row(
        SWITCH,
        False,
        "Drives",
        "Be ready only when the index is whole. Otherwise gets are answered from what was read so far, and puts and"
        " deletes wait for the rest.",
    )
    fleet: uuid.UUID | None = _row(
        IDENTITY,
        None,
        "Drives",
        "Refuse drives that belong to another fleet than this, and give it to files that are created; empty: take any.",
    )
    reinsert_percent: int = _row(
        count(0, 50),
        4,
        "Store",
        "How much of what is put may be written again, in percent, to keep blocks that were hit when their segment is"
        " given up.",
    )
    reinsert_hits_least: int = _row(count(1, 255), 2, "Store", "How often such a block must have been hit.")
    admission_second_touch: bool = _row(
        SWITCH,
        False,
        "Store",
        "Store a block only when it is offered for the second time. Spares the drives, and costs hits.",
    )
    admission_bytes_per_day: Bytes = _row(
        size(GIB, or_none=True),
        Bytes(0),
        "Store",
        "Most payload to store a day, over all tenants, spread evenly. Spares the drives, and costs hits; 0: all that"
        " comes.",
    )
    lease_most: Milliseconds = _row(
        duration(1000, 3_600_000), Milliseconds(3_600_000), "Store", "The longest lease that is granted."
    )
    scrub_bytes_per_second: Bytes = _row(
        size(64 * 1024, or_none=True),
        Bytes(7 * MIB),
        "Store",
        "How fast each drive is read in the background to find damage early: 7MiB reads 4 TB in a week. 0: not at all.",
    )
    tenant: tuple[TenantSpec, ...] = _row(
        Kind("NAME=KEY:VALUE,…", parse_tenant, separator=";"),
        (),
        "Tenants",
        "A tenant and its limits, such as team-a=id:7,quota:2TiB,weight:3,in_flight:256MiB,sessions:200. `id` (1 to 4294967294) is what"
        " its blocks carry on the drives: required, never changed, never given to another; 'default' has none. `quota` is"
        " payload on the drives, `weight` (1 to 1000) its share of bandwidth, `in_flight` payload on its way; a single"
        " block may be larger; `sessions` how many it may have. May be given more than once; in the environment separated by semicolons.",
        repeatable=True,
    )
    unknown_tenants: str = _row(
        choice("accept", "refuse"),
        "accept",
        "Tenants",
        "What becomes of a client whose tenant is not configured. One that is accepted has weight 1 and no quota, and the"
        " checksum of its name for an id.",
    )
    listen: tuple[ListenUrl, ...] = _row(
        Kind("URL", parse_listen_url),
        (ListenUrl("tcp://127.0.0.1:9600", HostPort("127.0.0.1", 9600)),),
        "Network",
        "Where clients connect: rdma://HOST:PORT (the address of an RDMA device), tcp://HOST:PORT (port 0 picks a free one),"
        " or shm:///PATH for clients on this machine. May be given more than once, also for several devices.",
        repeatable=True,
    )
    admin: HostPort | None = _row(
        Kind("HOST:PORT|off", parse_admin, show_admin),
        parse_host_port("127.0.0.1:8600"),
        "Network",
        "Where the admin API and /metrics answer over HTTP; port 0 picks a free one, 'off' switches them off.",
    )
    admin_host: tuple[str, ...] = _row(
        Kind("NAME", parse_host),
        (),
        "Network",
        "A name beside localhost and the address it listens on by which the admin API may be asked (the HTTP header Host):"
        " for a proxy or a DNS name of this machine. Others are refused, so that no page in a browser can reach it by a name"
        " of its own. May be given more than once.",
        repeatable=True,
    )
    allow_remote_without_credentials: bool = _row(
        SWITCH,
        False,
        "Network",
        "Let other machines connect although this version has no credentials: whoever reaches the port can read and"
        " delete every block. Only for a network that is trusted as a whole.",
    )
    slab: Bytes = _row(
        size(256 * MIB),
        default_slab,
        "Memory",
        "Memory for transfers and for the read cache, taken at the start, in huge pages where the machine has them.",
        default_text="a quarter of the memory that the process may have, from 256MiB to 1GiB",
    )
    credits: int = _row(count(1, 65_535), 128, "Sessions", "Most requests in flight in one session.")
    session_window: Bytes = _row(
        size(MIB),
        Bytes(64 * MIB),
        "Sessions",
        "Most payload of one session that is on its way at a time; a single block may be larger.",
    )
    shared_window: Bytes = _row(
        size(MIB),
        Bytes(64 * MIB),
        "Sessions",
        "Most payload that is on its way for all tenants together while there are several; they share it by their weights.",
    )
    sessions_most: int = _row(count(1, SESSIONS_MOST), 1024, "Sessions", "Most sessions at a time; more are refused.")
    sessions_per_tenant_most: int = _row(
        count(0, SESSIONS_MOST),
        0,
        "Sessions",
        "Most of them of one tenant, unless its own `sessions` says otherwise; 0: three quarters of `sessions_most`.",
    )
    sessions_per_peer_most: int = _row(
        count(0, SESSIONS_MOST),
        0,
        "Sessions",
        "Most of them from one IP address, over TCP and RDMA; and so many connections that have not said hello. 0: three"
        " quarters of `sessions_most`. Clients over shm have no address, and no such limit.",
    )
    idle_timeout: Milliseconds = _row(
        duration(0), Milliseconds(0), "Sessions", "Close a session that asked nothing for this long; 0 means never."
    )
    stall_timeout: Milliseconds = _row(
        duration(100),
        Milliseconds(30_000),
        "Sessions",
        "Close a session whose client stops taking or sending bytes in the middle of a transfer for this long.",
    )
    handshake_timeout: Milliseconds = _row(
        duration(100),
        Milliseconds(5_000),
        "Sessions",
        "Close a connection that has not said who it is after this long.",
    )
    rdma_dscp: int | None = _row(
        count(0, 63),
        None,
        "RDMA",
        "Differentiated services code point of the packets that the service sends; empty: what the client's connection"
        " asked for.",
    )
    rdma_service_level: int | None = _row(
        count(0, 15), None, "RDMA", "Service level of those packets; empty: that of the path."
    )
    rdma_path_mtu: str | None = _row(
        choice("256", "512", "1024", "2048", "4096"),
        None,
        "RDMA",
        "Most payload of a packet, in bytes; empty: what the path has. More than that is never used.",
    )
    drain_timeout: Milliseconds = _row(
        duration(0), Milliseconds(20_000), "Process", "How long SIGTERM waits for what is in flight to end by itself."
    )
    seal_timeout: Milliseconds = _row(
        duration(0),
        Milliseconds(30_000),
        "Process",
        "How long after that the drives have to be sealed. Then the service ends all the same, and says which was not:"
        " nothing that was acknowledged as durable is lost, and the next start scans it.",
    )
    log_level: str = _row(choice("debug", "info", "warning", "error"), "info", "Process", "The least level to log.")
    log_format: str = _row(
        choice("text", "json"), "text", "Process", "Log lines on stderr: sentences, or one JSON object a line."
    )
    ready_file: Path | None = _row(
        FILE,
        None,
        "Process",
        "Write this file, at once and whole, when the service is ready: one JSON line with its URLs. It is removed at"
        " the end.",
    )
    lifeline_fd: int | None = _row(
        count(0, 1_048_575),
        None,
        "Process",
        "Drain and exit when this open file descriptor reaches its end: for a parent that must not outlive its service"
        " by accident.",
    )


def _settings() -> tuple[Setting, ...]:
    rows = []
    for field in dataclasses.fields(Config):
        kind, group, help_text, repeatable, default_text = field.metadata["row"]
        default = field.default_factory if field.default is dataclasses.MISSING else field.default
        rows.append(Setting(field.name, kind, group, help_text, repeatable, default, default_text))
    return tuple(rows)


SETTINGS = _settings()
_BY_NAME = {setting.name: setting for setting in SETTINGS}


def load(flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None) -> Config:
    """The settings in force. `flags` holds what the command line gave, by setting name: text, a list of texts, or a bool
    (None: not given). Raises ConfigError."""
    values: dict[str, Any] = {}
    if file is None and environ.get(ENV_CONFIG):
        file = Path(environ[ENV_CONFIG])
    if file is not None:
        values.update(_from_file(file))
    values.update(_from_environ(environ))
    for name, given in flags.items():
        if given is not None and given != []:
            setting = _BY_NAME[name]
            values[name] = _read(setting, given, setting.flag)
    config = Config(**values)
    _check_together(config)
    return config


def _read(setting: Setting, given: Any, origin: str) -> Any:
    """One value from whichever place; `origin` begins the sentence when it is wrong."""
    items = given if isinstance(given, list) else [given]
    if len(items) != 1 and not setting.repeatable:
        raise ConfigError(f"{origin}: takes one value, not a list")
    parsed = []
    for item in items:
        if isinstance(item, str):
            text = item
        elif type(item) is setting.kind.toml:
            text = str(item)
        else:
            raise ConfigError(f'{origin}: {item!r} is not text; write it as "{setting.kind.metavar}" in quotes')
        try:
            parsed.append(setting.kind.parse(text))
        except ValueError as error:
            raise ConfigError(f"{origin}: {error}") from None
    return tuple(parsed) if setting.repeatable else parsed[0]


def _nearest(word: str, words: list[str]) -> str:
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.0)
    return f"; the nearest is '{near[0]}'" if near else ""


def _from_file(file: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {file}: {error.strerror}") from None
    for key in table:
        if key not in _BY_NAME:
            near = _nearest(key, list(_BY_NAME))
            raise ConfigError(f"{file}: there is no setting '{key}'{near}. All of them: docs/configuration.md")
    return {key: _read(_BY_NAME[key], value, f"{file}: {key}") for key, value in table.items()}


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    by_env = {setting.env: setting for setting in SETTINGS}
    values = {}
    for name, text in environ.items():
        if not name.startswith(ENV_PREFIX) or name == ENV_CONFIG:
            continue
        if name not in by_env:
            raise ConfigError(f"the environment variable {name} is no setting{_nearest(name, list(by_env))}")
        setting = by_env[name]
        parts = [part.strip() for part in text.split(setting.kind.separator)]
        given: Any = [part for part in parts if part] if setting.repeatable else text
        values[setting.name] = _read(setting, given, name)
    return values


def _check_together(config: Config) -> None:
    """What no single value can tell."""
    if not config.drive:
        raise ConfigError(
            "no drive: name at least one, such as --drive /dev/nvme0n1, or --drive /var/lib/cairn/drive:64GiB to create"
            " a file"
        )
    paths = [spec.path for spec in config.drive]
    for path in paths:
        if paths.count(path) > 1:
            raise ConfigError(f"the drive {path} is given more than once")
    _check_tenants(config.tenant)
    if not config.listen:
        raise ConfigError("no listen URL: name at least one, such as --listen tcp://127.0.0.1:9600")
    if config.allow_remote_without_credentials:
        return
    remote = [f"listen = {item}" for item in config.listen if not item.local]
    if config.admin is not None and not config.admin.loopback:
        remote.append(f"admin = {config.admin}")
    if remote:
        raise ConfigError(
            f"{remote[0]} can be reached from other machines, and this version has no credentials yet: whoever connects"
            " could read and delete every block. Listen on 127.0.0.1, or, if the whole network is trusted, add"
            " --allow-remote-without-credentials"
        )


def _check_tenants(tenants: tuple[TenantSpec, ...]) -> None:
    names = [tenant.name for tenant in tenants]
    owners: dict[int, str] = {}
    for tenant in tenants:
        if names.count(tenant.name) > 1:
            raise ConfigError(f"the tenant '{tenant.name}' is given more than once")
        if tenant.id in owners:
            raise ConfigError(f"the tenants '{owners[tenant.id]}' and '{tenant.name}' have the same id {tenant.id}")
        owners[tenant.id] = tenant.name


def markdown() -> str:
    """The whole of docs/configuration.md."""
    lines = [
        "# Configuration of the service",
        "",
        "`cairn-dpu serve` takes every setting from four places. The first that names it wins:",
        "",
        "1. a flag on the command line;",
        f"2. an environment variable, `{ENV_PREFIX}…` (values of a repeatable setting are separated by commas);",
        f"3. a TOML file: `--config FILE`, or `{ENV_CONFIG}`; its keys are the names below, at the top level;",
        "4. the default.",
        "",
        "A size has a unit: `512MiB`, `2GiB` (or `512M`, `2G`, as `truncate` takes them), `1.6TB`. A duration has one too: `30s`, `500ms`; `0` stands alone.",
        "An unknown name or a bad value is an error that names the place; nothing is guessed.",
        "",
        "```toml",
        "# /etc/cairn/cairn-dpu.toml",
        'drive = ["/dev/nvme0n1", "/dev/nvme1n1"]',
        'listen = ["tcp://127.0.0.1:9600", "shm:///run/cairn/cairn.sock"]',
        'slab = "1GiB"',
        'tenant = ["team-a=id:7,quota:2TiB,weight:3", "team-b=id:8"]',
        "```",
        "",
        "This page is made from the table in `dpu/cairn_dpu/config.py` by `python -m cairn_dpu.config --markdown`; a test",
        "compares the two.",
    ]
    for group in dict.fromkeys(setting.group for setting in SETTINGS):
        lines += [
            "",
            f"## {group}",
            "",
            "| setting | value | default | flag | environment | meaning |",
            "|---|---|---|---|---|---|",
        ]
        for row in (setting for setting in SETTINGS if setting.group == group):
            value = row.kind.metavar.replace("|", " \\| ")
            default = (
                row.default_text if " " in row.default_text else f"`{row.default_text}`" if row.default_text else "none"
            )
            lines.append(f"| `{row.key}` | {value} | {default} | `{row.flag}` | `{row.env}` | {row.help} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:] != ["--markdown"]:
        sys.exit("usage: python -m cairn_dpu.config --markdown")
    sys.stdout.write(markdown())
