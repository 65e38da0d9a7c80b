"""Keys and layouts: the formulas are a promise, so their results are written down."""

from __future__ import annotations

import json
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairnkv import Key16, Layout, UsageError, raw_key
from cairnkv.keys import derive_group, derive_key, derive_keys, derive_scope, layout_id

LLAMA = Layout(
    model="llama-3-8b", revision="abc", dtype="bf16", tokens_per_block=16, page_layout="NHD", tp_size=2, tp_rank=1
)

# Written down once; a change here means that every stored block is lost.
GOLDEN_KEYS = [
    ("hello", 0, "46fb7408d4f285228f4af516ea25851b"),
    (b"hello", 0, "46fb7408d4f285228f4af516ea25851b"),
    ("hello", 1, "8c4860787a7601fb22b7ddfc2554e788"),
    ("größe", 2**64 - 1, "e4e182e0e640ee032ec027682d659e07"),
    (b"\x00" * 512, 7, "00b2614f8b4683da2214f81320912f6d"),
]


@pytest.mark.parametrize(("key", "layout", "expected"), GOLDEN_KEYS)
def test_golden_keys(key: bytes | str, layout: int, expected: str) -> None:
    assert derive_key(key, layout).hex() == expected


def test_golden_layout() -> None:
    assert LLAMA.canonical() == (
        b'{"cp_rank":0,"cp_size":1,"dtype":"bf16","extra":"","layer_group":"","model":"llama-3-8b","page_layout":"NHD",'
        b'"pp_rank":0,"pp_size":1,"revision":"abc","tokens_per_block":16,"tp_rank":1,"tp_size":2}'
    )
    assert LLAMA.id == 0x5F948A4E9EF6D5F3


def test_golden_group() -> None:
    assert derive_group("chunk-1", 5).hex() == "ce041d891d1e138a8d553fe65b1fd402"
    assert derive_group(None) == b""


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("a conversation", 0x35726F4BDC4A7941),
        (b"\x00bytes", 0x382A646AD42C492E),
        (7, 7),
        (2**64 - 1, 2**64 - 1),
        (None, 0),
    ],
)
def test_golden_scopes(scope: str | bytes | int | None, expected: int) -> None:
    assert derive_scope(scope) == expected


@given(st.binary(min_size=1, max_size=512))
def test_the_formula_of_a_scope(scope: bytes) -> None:
    digest = blake2b(scope, digest_size=8, person=b"cairn scope" + bytes(5)).digest()
    assert derive_scope(scope) == (int.from_bytes(digest, "little") or 1)


@pytest.mark.parametrize("wrong", ["", b"", "x" * 513, 0, -1, 2**64, 1.5, True, bytearray(b"x")])
def test_what_is_no_scope(wrong: object) -> None:
    with pytest.raises(UsageError, match="a scope"):
        derive_scope(wrong)  # type: ignore[arg-type]


@given(st.binary(min_size=1, max_size=512), st.integers(0, 2**64 - 1))
def test_the_formula_of_a_key(key: bytes, layout: int) -> None:
    person = layout.to_bytes(8, "little") + bytes(8)
    assert derive_key(key, layout) == blake2b(key, digest_size=16, person=person).digest()


@given(st.text(min_size=1, max_size=100).filter(lambda text: text.isascii()), st.integers(0, 2**64 - 1))
def test_text_is_its_utf_8_bytes(text: str, layout: int) -> None:
    assert derive_key(text, layout) == derive_key(text.encode(), layout)


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**64 - 1))
def test_a_raw_key_is_passed_through(key: bytes, layout: int) -> None:
    assert derive_key(raw_key(key), layout) == key
    assert derive_keys([raw_key(key), key], layout) == [key, derive_key(key, layout)]


def test_layouts_that_differ_in_anything_differ() -> None:
    changes = {"model": "m", "revision": "r", "dtype": "d", "tokens_per_block": 3, "page_layout": "p", "tp_size": 4}
    changes |= {"tp_rank": 5, "pp_size": 6, "pp_rank": 7, "cp_size": 8, "cp_rank": 9, "layer_group": "l", "extra": "e"}
    base = Layout(model="x")
    made = {base.id} | {Layout(**({"model": "x"} | {name: value})).id for name, value in changes.items()}
    assert len(made) == 1 + len(changes) == 1 + len(json.loads(base.canonical()))


def test_what_callers_pass_as_a_layout() -> None:
    assert layout_id(None) == layout_id(0) == 0
    assert layout_id(7) == 7
    assert layout_id(LLAMA) == LLAMA.id


@pytest.mark.parametrize("wrong", [-1, 2**64, "llama", 1.0, True])
def test_what_is_no_layout(wrong: object) -> None:
    with pytest.raises(UsageError, match="layout is a Layout"):
        layout_id(wrong)  # type: ignore[arg-type]


def test_fields_of_a_layout_have_their_types() -> None:
    with pytest.raises(UsageError, match="Layout.tp_size is int, not str"):
        Layout(model="x", tp_size="2")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["", b"", "x" * 513, b"x" * 513, "é" * 257])
def test_a_key_has_1_to_512_bytes(wrong: bytes | str) -> None:
    with pytest.raises(UsageError, match="a key has 1 to 512 bytes, not"):
        derive_key(wrong)


@pytest.mark.parametrize("wrong", [None, 5, bytearray(b"x"), ("a",)])
def test_a_key_is_bytes_or_text(wrong: object) -> None:
    with pytest.raises(UsageError, match="a key is bytes or str"):
        derive_key(wrong)  # type: ignore[arg-type]


def test_text_must_be_valid_unicode() -> None:
    with pytest.raises(UsageError, match="valid Unicode"):
        derive_key("\ud800")


@pytest.mark.parametrize("wrong", [b"", b"x" * 15, b"x" * 17, "x" * 16, bytearray(16)])
def test_a_raw_key_has_16_bytes(wrong: object) -> None:
    with pytest.raises(UsageError, match="a raw key is a bytes object of 16"):
        raw_key(wrong)  # type: ignore[arg-type]


def test_a_raw_key_is_bytes() -> None:
    assert isinstance(raw_key(b"x" * 16), Key16)
    assert raw_key(b"x" * 16) == b"x" * 16
