"""Client of Cairn, the store that keeps an LLM's attention state (KV cache) on NVMe behind a DPU.

    with cairnkv.connect("local:/var/tmp/cairn") as client:
        client.put([("prompt-1/block-0", block)])

`connect` and `aconnect` give a client; `cairnkv.errors` draws the tree of errors; `cairnkv.testing` helps to test adapters.
"""

from cairnkv._native import Region
from cairnkv.aio import AsyncClient, aconnect
from cairnkv.client import Client, connect
from cairnkv.errors import (
    CairnError,
    ClosedError,
    ConnectError,
    GpuCopyWarning,
    InUseError,
    ProtocolError,
    StatusError,
    UsageError,
)
from cairnkv.events import Event, EventKind, Events, Missed
from cairnkv.keys import Key16, Layout, raw_key
from cairnkv.results import GetResult, ItemResult, PutResult
from cairnkv.status import Status
from cairnkv.version import __version__

__all__ = [
    "AsyncClient",
    "CairnError",
    "Client",
    "ClosedError",
    "ConnectError",
    "Event",
    "EventKind",
    "Events",
    "GetResult",
    "GpuCopyWarning",
    "InUseError",
    "ItemResult",
    "Key16",
    "Layout",
    "Missed",
    "ProtocolError",
    "PutResult",
    "Region",
    "Status",
    "StatusError",
    "UsageError",
    "__version__",
    "aconnect",
    "connect",
    "raw_key",
]
