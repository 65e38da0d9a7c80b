"""The service copies payload in one place, which counts it (`copied_bytes`). Whoever adds a copy says here what it moves."""

from __future__ import annotations

import re
from pathlib import Path

NATIVE = Path(__file__).parents[2] / "native"
LAYERS = ("store", "drive", "server", "transport")
COPY = re.compile(r"\b(?:std::|__builtin_)?(?:memcpy|memmove|copy_n|copy|copy_backward)\(")

# How often, and what: none of it is payload.
OTHERS = {
    "drive/nvme_drive.cc": (1, "a command of the drive, into its ring"),
    "store/loader.cc": (1, "the summary of a segment"),
    "store/recovery.cc": (1, "a tombstone"),
    "store/removes.cc": (1, "tombstones, into the page that is written"),
    "store/segments.cc": (1, "the summary of a segment"),
    "transport/connect.cc": (1, "a descriptor of a file"),
    "transport/rdma_connect.cc": (1, "what came with the answer to a request to connect"),
    "transport/rdma_end.cc": (1, "a piece of a frame, into a message"),
    "transport/rdma_hold.cc": (1, "an address"),
    "transport/rdma_listener.cc": (2, "what came with a request to connect, and an address"),
    "transport/ring_channel.cc": (1, "a descriptor of a file"),
    "transport/sockets.cc": (2, "the path of a socket, and an address"),
    "transport/stream_io.cc": (2, "header and body of a frame"),
}


def test_whatever_else_is_copied_is_no_payload() -> None:
    found = {}
    for layer in LAYERS:
        for path in sorted(NATIVE.glob(f"{layer}/*.*")):
            if path.suffix in (".cc", ".h") and not path.stem.endswith("_test"):
                count = len(COPY.findall(path.read_text(encoding="utf-8")))
                if count:
                    found[str(path.relative_to(NATIVE))] = count
    assert found == {name: count for name, (count, _) in OTHERS.items()}
