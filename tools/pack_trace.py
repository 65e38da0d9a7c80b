"""Puts the conversation trace where `cairn replay conversation` and `make demo` find it.

    python tools/pack_trace.py conversation_trace.jsonl

The source is FAST25-release/traces/conversation_trace.jsonl of kvcache-ai/Mooncake (Apache-2.0). It is checked against its
SHA-256, compressed, and written with its attribution (cairnkv/data/README.md) to cairnkv/data/.
"""

import hashlib
import lzma
import sys
from pathlib import Path

SHA256 = "b8cbb061a85206d729d91cdc2981f43c9e0d99209dce588d3af5f7934408b9df"
TARGET = Path(__file__).resolve().parent.parent / "cairnkv" / "data" / "mooncake_conversation.jsonl.xz"
ATTRIBUTION = f"""# Data that is not ours

`mooncake_conversation.jsonl.xz`: 12,031 requests of one hour of an online chat service; the file
`FAST25-release/traces/conversation_trace.jsonl` of https://github.com/kvcache-ai/Mooncake, published with the paper
"Mooncake: Trading More Storage for Less Computation" (FAST '25). Licence: Apache-2.0, that of its repository. Compressed with
xz, otherwise unchanged; SHA-256 of the original: `{SHA256}`.

Known facts, held by a test: 288,500 block references, 182,790 unique, 3,537 seconds, prefix-hit ratio with an infinite cache
0.366.
"""


def main() -> int:
    if len(sys.argv) != 2:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    data = Path(sys.argv[1]).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        sys.stderr.write(f"pack_trace: {sys.argv[1]} is another file: SHA-256 {found}, expected {SHA256}\n")
        return 1
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    TARGET.with_name("README.md").write_text(ATTRIBUTION, encoding="utf-8")
    sys.stdout.write(f"{TARGET}: {TARGET.stat().st_size:,} bytes, from {len(data):,}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
