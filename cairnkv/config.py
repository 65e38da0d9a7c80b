"""Every setting of a client, one row each: what `connect` and the command `cairn` do when they are not told."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from cairnkv.errors import UsageError

FORMS = "auto://HOST:PORT, rdma://HOST:PORT, tcp://HOST:PORT, shm:///PATH.sock or local:DIR"

DIGITS_MOST = 18


@dataclass(frozen=True, slots=True)
class Setting:
    """One row. The environment wins over the default; an argument or a flag wins over both."""

    name: str
    env: str
    default: str
    help: str


SETTINGS = (
    Setting("servers", "CAIRN_SERVERS", "", f"Where the service is: {FORMS}."),
    Setting("tenant", "CAIRN_TENANT", "default", "Whose keyspace."),
    Setting("token", "CAIRN_TOKEN", "", "The tenant's secret. This release has no credentials yet and ignores it."),
    Setting("deadline_ms", "CAIRN_DEADLINE_MS", "30000", "Milliseconds a call may take when it names no deadline."),
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}


def default_of(name: str) -> str:
    """The value when nobody says anything."""
    return _BY_NAME[name].default


def setting(name: str, given: str | None = None, environ: Mapping[str, str] | None = None) -> str:
    """The value in force."""
    row = _BY_NAME[name]
    if given is not None:
        return given
    return (os.environ if environ is None else environ).get(row.env) or row.default


def default_deadline_ms(environ: Mapping[str, str] | None = None) -> int:
    """From the environment or the default. Raises UsageError for what is no number."""
    text = setting("deadline_ms", None, environ)
    if not (text.isascii() and text.isdigit() and len(text) <= DIGITS_MOST and int(text) > 0):
        raise UsageError(f"CAIRN_DEADLINE_MS is a number of milliseconds, not '{text:.60}'")
    return int(text)
