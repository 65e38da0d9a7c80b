"""Which block a number stands for. Host and guest compute it alike, so that only numbers have to travel between them.

It shares no code with Cairn: a fault of ours cannot hide itself here. Standard library only, because the guest runs it too.
"""

from __future__ import annotations

import hashlib
import random

# Around the edges of pages and checksummed chunks, and large ones, which a power cut tears more often.
SIZES_BYTES = (1, 4096, 5000, 65_536, 65_537, 300_000, 1 << 20, 2 << 20)
LARGEST_BYTES = max(SIZES_BYTES)


def key_of(seed: int, number: int) -> str:
    return f"qemu/{seed}/{number}"


def nbytes_of(seed: int, number: int) -> int:
    return random.Random(f"size/{seed}/{number}").choice(SIZES_BYTES)


def payload_of(seed: int, number: int) -> bytes:
    return random.Random(f"payload/{seed}/{number}").randbytes(nbytes_of(seed, number))


def digest_of(payload: bytes | memoryview) -> str:
    return hashlib.blake2b(payload, digest_size=16).hexdigest()
