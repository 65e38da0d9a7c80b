"""How a caller's key and layout become what is on the wire. Pure; the formulas are a promise: clients in other languages
and other releases must come to the same 16 bytes.

    layout id = 0                                                        without a layout
              = BLAKE2b-64(canonical JSON of the Layout)                 as a little-endian integer; 0 becomes 1
    key       = BLAKE2b-128(caller's key, person = layout id as 8 little-endian bytes + 8 zero bytes)
    group     = BLAKE2b-128(caller's group, person = the same 8 bytes + b"group" + 3 zero bytes)
    scope     = BLAKE2b-64(caller's label, person = b"cairn scope" + 5 zero bytes)
                                                                         as a little-endian integer; 0 becomes 1
              = the caller's number                                      when it is a number from 1 to 2^64-1

A caller's key is 1 to 512 bytes; text is its UTF-8 bytes. `raw_key` passes 16 bytes of the caller's own hash through
as they are; the layout still separates them, because the store keeps it beside the key. Canonical JSON: UTF-8, names
sorted, no spaces, non-ASCII characters written as themselves, every field present.
"""

import dataclasses
import json
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from cairnkv.arguments import number, shown, text
from cairnkv.errors import UsageError

KEY_BYTES = 16
CALLER_KEY_BYTES_MOST = 512
LAYOUT_NUMBER_MOST = 2**63 - 1
LAYOUT_TEXT_BYTES_MOST = 64 * 1024


class Key16(bytes):
    """A finished 16-byte key; see `raw_key`."""

    __slots__ = ()


Key = bytes | str | Key16


def raw_key(key: bytes) -> Key16:
    """Takes 16 bytes as the key itself, for callers that already have hashes. Raises UsageError for another length."""
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        raise UsageError(f"a raw key is a bytes object of {KEY_BYTES}, not {shown(key)}")
    return Key16(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What makes two blocks interchangeable. A get under another layout is a miss.

    tokens_per_block: tokens of one block. page_layout: the engine's name for how K and V lie in a block. *_size and *_rank:
    tensor, pipeline and context parallelism. layer_group: which layers, when a token chunk is stored in several blocks.
    extra: anything else that must agree, such as a LoRA or a quantisation scheme.
    """

    model: str
    revision: str = ""
    dtype: str = ""
    tokens_per_block: int = 0
    page_layout: str = ""
    tp_size: int = 1
    tp_rank: int = 0
    pp_size: int = 1
    pp_rank: int = 0
    cp_size: int = 1
    cp_rank: int = 0
    layer_group: str = ""
    extra: str = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is not field.type:
                wanted = getattr(field.type, "__name__", field.type)
                raise UsageError(f"Layout.{field.name} is {wanted}, not {shown(value)}")
            if field.type is int:
                number(f"Layout.{field.name}", value, 0, LAYOUT_NUMBER_MOST)
            else:
                text(f"Layout.{field.name}", value, LAYOUT_TEXT_BYTES_MOST)

    def canonical(self) -> bytes:
        """The JSON that is hashed."""
        fields = dataclasses.asdict(self)
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @property
    def id(self) -> int:
        """The 64-bit number that stands for the layout; never 0, which stands for no layout."""
        return _identify(self)


@lru_cache(maxsize=1024)
def _identify(layout: Layout) -> int:
    return int.from_bytes(blake2b(layout.canonical(), digest_size=8).digest(), "little") or 1


def layout_id(layout: Layout | int | None) -> int:
    """The 64-bit id of what callers pass as `layout=`. Raises UsageError."""
    if layout is None:
        return 0
    if isinstance(layout, Layout):
        return layout.id
    if type(layout) is int and 0 <= layout < 1 << 64:
        return layout
    raise UsageError(f"layout is a Layout, a number from 0 to 2^64-1, or None, not {shown(layout)}")


def derive_key(key: Key, layout: int = 0) -> bytes:
    """The 16 bytes on the wire. Raises UsageError for anything but 1 to 512 bytes or their text."""
    return derive_keys([key], layout)[0]


def derive_keys(keys: list[Key], layout: int) -> list[bytes]:
    """`derive_key` for many."""
    hasher = blake2b(digest_size=KEY_BYTES, person=layout.to_bytes(8, "little"))
    return [key if type(key) is Key16 else _derive(key, hasher, "key") for key in keys]


def derive_group(group: Key | None, layout: int = 0) -> bytes:
    """The 16 bytes of a group, or none. Raises UsageError."""
    if group is None:
        return b""
    if type(group) is Key16:
        return group
    return _derive(group, blake2b(digest_size=KEY_BYTES, person=layout.to_bytes(8, "little") + b"group"), "group")


Scope = bytes | str | int


def derive_scope(scope: Scope | None) -> int:
    """The 64 bits of a label; 0 without one. The layout has no part in it: a scope may hold blocks of several. Raises
    UsageError."""
    if scope is None:
        return 0
    if type(scope) is int:
        if not 1 <= scope < 1 << 64:
            raise UsageError(f"a scope that is a number is one from 1 to 2^64-1, not {shown(scope)}")
        return scope
    if not isinstance(scope, str | bytes):
        raise UsageError(f"a scope is bytes, str or int, not {shown(scope)}")
    digest = _derive(scope, blake2b(digest_size=8, person=b"cairn scope"), "scope")
    return int.from_bytes(digest, "little") or 1


def _derive(name: bytes | str, hasher: blake2b, noun: str) -> bytes:
    if isinstance(name, str):
        try:
            name = name.encode()
        except UnicodeEncodeError:
            raise UsageError(f"a {noun} that is text must be valid Unicode, not {shown(name)}") from None
    elif not isinstance(name, bytes):
        raise UsageError(f"a {noun} is bytes or str, not {shown(name)}")
    if not 1 <= len(name) <= CALLER_KEY_BYTES_MOST:
        raise UsageError(f"a {noun} has 1 to {CALLER_KEY_BYTES_MOST} bytes, not {len(name)}")
    mine = hasher.copy()  # cheaper than a new one
    mine.update(name)
    return mine.digest()
