"""Every argument of the wrong type or out of range is a UsageError with a sentence, in every public call, and nothing else:
no TypeError, OverflowError or AttributeError from somewhere inside. And what a service answers is never one."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cairnkv
import cairnkv.testing
from cairnkv import AsyncClient, Client, Layout, Status, UsageError, calls
from cairnkv.testing import Faults, MemoryClient, MemoryStore, memory_connection


class Unshowable:
    """Its own repr raises, and so does a comparison with it."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None  # type: ignore[assignment]


class Interface:
    """Shows an interface that is none."""

    def __init__(self, **faces: Any) -> None:
        self.__dict__.update(faces)


SURROGATE = "\ud800"
NUMBERS = (None, True, 1.5, "1", b"1", [], -1, 0, 2**64, 2**200, Unshowable())
TEXTS = (5, b"bytes", [], "x" * 300, SURROGATE, Unshowable())
KEYS = (None, 5, "", b"", "x" * 513, SURROGATE, bytearray(b"x"), ["k"], Unshowable())
LISTS = (None, 5, "text", b"bytes", Unshowable(), [None])
MEMORY = (
    None, 5, "text", object(), Unshowable(), [], [b"x"] * 10_000, [None], (0, 5), (-5, 5), (2**64 - 2, 5), (1, 2**63), (1, -1),
    (4096, 4096, "tpu"), (4096, 4096, 2**40), (4096, 4096, -1), (4096, 4096, "cuda:99999999999"), (4096, 4096, Unshowable()),
    memoryview(bytearray(8))[::2], Interface(__array_interface__={}), Interface(__array_interface__={"data": 5}),
    Interface(__array_interface__={"data": (5, False)}), Interface(__cuda_array_interface__={}),
    Interface(__cuda_array_interface__={"version": 3, "data": "x", "shape": 5, "typestr": ""}),
    Interface(__dlpack__=lambda **_: None, __dlpack_device__=lambda: 5),
)  # fmt: skip
# The wrong values of every parameter, by its name: one name means one thing everywhere.
WRONG: dict[str, tuple[Any, ...]] = {
    "url": (5, b"tcp://127.0.0.1:1", "", "  ", "nothing", "http://127.0.0.1:1", "tcp://127.0.0.1", "tcp://127.0.0.1:70000", "tcp://:1",
            "tcp://::1:1", "shm://relative", "shm://", f"shm:///{'x' * 200}", "tcp://a:1,tcp://b:1", "local:", "local://tmp",
            "local:/tmp/x?size=1", "tcp://127.0.0.1:1\0", SURROGATE, "x" * 5000, Unshowable()),
    "tenant": TEXTS,
    "token": TEXTS,
    "name": TEXTS,
    "deadline_ms": tuple(value for value in NUMBERS if value is not None),
    "lanes": NUMBERS,
    "verify": (None, 1, "yes", Unshowable()),
    "connect_timeout_ms": (*NUMBERS, 600_001),
    "items": (*LISTS, [5], [("key",)], [["key", b"x"]], [("key", b"x", 1)], *([(key, bytearray(1))] for key in KEYS),
              *([("key", memory)] for memory in MEMORY)),
    "keys": (*LISTS, *([key] for key in KEYS)),
    "key": KEYS,
    "memory": MEMORY,
    "layout": (-1, 2**64, "model", b"x", 1.5, True, [], Unshowable()),
    "durability": (None, 5, "Durable", b"durable", [], Unshowable()),
    "ttl_ms": tuple(value for value in NUMBERS if value is not None),
    "group": KEYS[1:],
    "group_members": (True, 1.5, "1", -1, 0, [], Unshowable(), 3),  # 3: without a group
    "scope": (0, -1, 2**64, True, 1.5, "", b"", "x" * 513, SURROGATE, [], Unshowable()),
    "ranges": (5, [], [(0, 0), (0, 0)], [5], [(0,)], [(0, 0, 0)], [("0", 0)], [(-1, 0)], [(0, -1)], [(2**64, 0)], [(0, 2**64)],
               [(0.0, 0)], [(True, 0)], "ab", Unshowable(), [Unshowable()]),
    "duration_ms": NUMBERS,
    "confirm": (None, 5, "other", b"default", [], Unshowable()),
    "after": (True, -1, 2**64 - 1, 2**64, 1.5, "1", [], Unshowable()),
    "events_most": (True, 0, -1, 10**9, 1.5, "1", [], Unshowable()),
    "nbytes_most": NUMBERS,
    "nbytes": NUMBERS,
    "connection": (None, 5, "tcp://127.0.0.1:1", Unshowable()),
    "store": (5, "store", {}, Unshowable()),
    "folder": (None, 5, b"/tmp", Unshowable()),
    "size": TEXTS,
    "slab": TEXTS,
    "admin": TEXTS,
    "nth": NUMBERS,
    "status": (None, 5, "corrupt", Unshowable()),
    **dict.fromkeys(("model", "revision", "dtype", "page_layout", "layer_group", "extra"), (None, 5, b"x", SURROGATE, [], Unshowable())),
    **dict.fromkeys(
        ("tokens_per_block", "tp_size", "tp_rank", "pp_size", "pp_rank", "cp_size", "cp_rank"),
        (None, True, 1.5, "1", -1, 2**63, 2**20_000, [], Unshowable()),
    ),
}  # fmt: skip
# A scope and a group are needed where they are what is deleted.
MORE = {
    ("delete_group", "group"): (None,),
    ("delete_scope", "scope"): (None,),
    ("register", "memory"): (b"read-only", [bytearray(1)] * 2, bytearray()),
}
LESS = {("register", "memory"): ()}
RIGHT: dict[str, Any] = {
    "items": [("key", bytearray(4))], "keys": ["key"], "key": "key", "memory": bytearray(4), "duration_ms": 1000, "group": "group",
    "scope": "scope", "layout": None, "confirm": "default", "nbytes": 4096, "nth": 1, "status": Status.corrupt, "model": "model",
}  # fmt: skip


def methods_of(kind: type) -> Iterator[str]:
    for name, member in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_") and set(parameters_of(member)) - {"self"}:
            yield name


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def wrong_calls(function: Callable[..., Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every parameter with each of its wrong values, all others being right."""
    parameters = {key: one for key, one in parameters_of(function).items() if key != "self"}
    needed = {
        key: RIGHT[key] for key, one in parameters.items() if one.default is inspect.Parameter.empty and key in RIGHT
    }
    for parameter in parameters:
        assert parameter in WRONG, f"{name}({parameter}=…): nobody has said yet what is wrong there"
        for value in (*WRONG[parameter], *MORE.get((name, parameter), ())):
            yield parameter, {**needed, parameter: value}


def assert_told(call: Callable[[], Any], what: str) -> None:
    try:
        call()
    except UsageError as error:
        sentence = str(error)
        assert len(sentence) > 15 and "object at 0x" not in sentence.split("not")[0], (what, sentence)
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    else:
        raise AssertionError(f"{what}: it was taken")


def shown(arguments: dict[str, Any], parameter: str) -> str:
    try:
        return f"{parameter}={arguments[parameter]!r:.80}"
    except (RuntimeError, ValueError):
        return f"{parameter}=what cannot be shown"


@pytest.fixture(params=["memory", "service"])
def client(request: pytest.FixtureRequest, short_dir: Path) -> Iterator[Client]:
    if request.param == "memory":
        yield MemoryClient()
        return
    with cairnkv.testing.service(short_dir) as running, cairnkv.connect(running.tcp_url) as connected:
        yield connected


def test_every_argument_of_a_client(client: Client) -> None:
    count = 0
    for name in methods_of(Client):
        method = getattr(client, name)
        for parameter, arguments in wrong_calls(getattr(Client, name), name):
            assert_told(
                lambda method=method, arguments=arguments: method(**arguments), f"{name}({shown(arguments, parameter)})"
            )
            count += 1
    assert count > 500
    assert client.put_one("after", b"all of that").ok


def test_every_argument_of_an_async_client() -> None:
    async def main() -> None:
        client = AsyncClient(memory_connection(MemoryStore()))
        for name in methods_of(AsyncClient):
            for parameter, arguments in wrong_calls(getattr(AsyncClient, name), name):
                what = f"{name}({shown(arguments, parameter)})"
                try:
                    called = getattr(client, name)(**arguments)
                    if inspect.isawaitable(called):
                        await called
                except UsageError:
                    continue
                except Exception as error:
                    raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
                raise AssertionError(f"{what}: it was taken")
        await client.close()

    asyncio.run(main())


def test_both_clients_take_the_same() -> None:
    for name in methods_of(Client):
        assert list(parameters_of(getattr(Client, name))) == list(parameters_of(getattr(AsyncClient, name))), name


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("connect", cairnkv.connect),
        ("aconnect", cairnkv.aconnect),
        ("Client", Client),
        ("AsyncClient", AsyncClient),
        ("Layout", Layout),
        ("raw_key", cairnkv.raw_key),
        ("MemoryClient", MemoryClient),
        ("service", cairnkv.testing.service),
        ("fail_get", Faults().fail_get),
    ],
)
def test_every_argument_of_the_other_calls(name: str, function: Callable[..., Any]) -> None:
    def call(arguments: dict[str, Any]) -> None:
        if name in ("connect", "aconnect"):
            arguments = {"url": "tcp://127.0.0.1:1", **arguments}
        called = function(**arguments)
        if inspect.isawaitable(called):
            asyncio.run(called)  # type: ignore[arg-type]
        if name == "service":
            called.__enter__()

    if name == "service":
        WRONG_SERVICE = {"folder": WRONG["folder"]}
        for value in WRONG_SERVICE["folder"]:
            assert_told(lambda value=value: call({"folder": value}), f"service({type(value)})")
        return
    for parameter, arguments in wrong_calls(function, name):
        if (name, parameter) in ((name, "url"),) and arguments[parameter] is None:
            continue
        assert_told(lambda arguments=arguments: call(arguments), f"{name}({shown(arguments, parameter)})")


def test_a_setting_of_the_environment_is_told_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CAIRN_DEADLINE_MS", "9" * 5000), ("CAIRN_DEADLINE_MS", "0"), ("CAIRN_TENANT", "x" * 300)):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(UsageError):
                cairnkv.connect("tcp://127.0.0.1:1")


class Answers:
    """An operation that a service answered with nonsense."""

    def __init__(self, **fields: Any) -> None:
        self.statuses = [0]
        self.__dict__.update(fields)


def answered(flow: Any, answer: Any) -> Any:
    next(flow)
    try:
        flow.send(answer)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it asks again")


def test_what_a_service_answers_is_never_the_callers_fault() -> None:
    for text in ("", "nonsense", "[1]", "7", "[" * 100_000, "9" * 10_000, '{"a":'):
        with pytest.raises(cairnkv.ProtocolError):
            answered(calls.stats(1000), Answers(text=text))
    assert answered(calls.stats(1000), Answers(text=json.dumps({"store": {}}))) == {"store": {}}
    row = (7, 1, 0, 0, bytes(16), bytes(16), 0, 0)
    for oldest, newest, number in (
        (0, 2**64 - 1, 7),
        (9, 7, 7),
        (1, 7, 2**64 - 1),
        (2**64 - 1, 7, 7),
        (1, 7, 0),
        (1, 6, 7),
    ):
        told = Answers(events_range=(oldest, newest, "id"), events=[(number, *row[1:])])
        for after in (None, 3):
            events = answered(calls.watch(after, None, 1000), told)
            assert (events.status, events.next_after) == (Status.invalid, after)
