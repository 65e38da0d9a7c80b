"""URLs, settings, and what happens when there is nobody to connect to."""

from __future__ import annotations

import os
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import cairnkv
from cairnkv import ConnectError, Status, UsageError
from cairnkv.config import FORMS, SETTINGS, default_deadline_ms, setting
from cairnkv.connecting import check_url
from cairnkv.testing import RunningService


@pytest.mark.parametrize(
    "url",
    [
        "auto://host:9600",
        "rdma://host:9600",
        "tcp://host:9600",
        "shm:///run/cairn.sock",
        "local:/var/tmp/cairn",
        "local:here",
    ],
)
def test_urls_that_are_known(url: str) -> None:
    assert check_url(f" {url}\n") == url


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "no service is named: pass a URL or set CAIRN_SERVERS"),
        ("tcp://a:1,tcp://b:1", "names several services; this release knows one"),
        ("http://host", "is no URL of a service"),
        ("host:9600", "is no URL of a service"),
        ("localhost", "is no URL of a service"),
        ("local:///var/tmp/cairn", "write local:DIR without //, such as local:/var/tmp/cairn"),
    ],
)
def test_urls_that_are_not(url: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        check_url(url)


@pytest.mark.parametrize(
    "url",
    ["tcp://host", "tcp://host:port", "auto://host", "auto:host:9600", "shm://relative.sock", f"shm:///{'x' * 120}"],
)
def test_urls_that_the_native_client_refuses(url: str) -> None:
    with pytest.raises(
        UsageError, match=rf"cannot use the URL '{re.escape(url)}'.*expected auto://HOST:PORT, rdma://HOST:PORT"
    ):
        cairnkv.connect(url)


def test_every_text_knows_every_form() -> None:
    root = Path(__file__).parents[2]
    for form in FORMS.replace(" or ", ", ").split(", "):
        scheme = form.partition(":")[0] + ":"
        assert scheme in (root / "docs" / "cli.md").read_text(), form
        assert scheme in str(cairnkv.connect.__doc__), form
        assert any(scheme in row.help for row in SETTINGS), form


def test_nobody_listens() -> None:
    with pytest.raises(
        ConnectError, match="cannot reach the service at tcp://127.0.0.1:1.*is the service running"
    ) as caught:
        cairnkv.connect("tcp://127.0.0.1:1", connect_timeout_ms=500)
    assert caught.value.status == Status.unreachable


def test_nobody_listens_either_way() -> None:
    with pytest.raises(ConnectError, match=r"auto://127.0.0.1:1: cannot connect to tcp://127.0.0.1:1.*; .*(RDMA|rdma)"):
        cairnkv.connect("auto://127.0.0.1:1", connect_timeout_ms=500)


def test_a_host_that_has_no_rdma_is_served_by_tcp(running: RunningService, fresh: Callable[[], bytes]) -> None:
    with cairnkv.connect(running.tcp_url.replace("tcp:", "auto:"), lanes=2) as client:
        key, data = fresh(), os.urandom(100_000)
        region = client.register(bytearray(data))
        assert client.put_one(key, region).ok
        assert client.get_bytes(key)[1] == data
        info = client.info()
        assert (info["transport"], info["returns"], info["reconnects"], info["lanes"]) == ("tcp", 0, 0, 2)
        assert info["last_error"], "it does not say why this is not RDMA"


@pytest.mark.parametrize(
    "wrong", [{"lanes": 0}, {"lanes": 17}, {"connect_timeout_ms": 0}, {"deadline_ms": 0}, {"deadline_ms": 600_001}]
)
def test_wrong_settings(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} is a number from 1"):
        cairnkv.connect("tcp://127.0.0.1:1", **wrong)  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_settings")
def test_the_environment(running: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="set CAIRN_SERVERS"):
        cairnkv.connect()
    monkeypatch.setenv("CAIRN_SERVERS", running.tcp_url)
    monkeypatch.setenv("CAIRN_TENANT", "red")
    with cairnkv.connect() as red, cairnkv.connect(running.shm_url, tenant="blue") as blue:
        assert red.info()["transport"] == "tcp" and blue.info()["transport"] == "shm"
        assert red.put_one("whose", b"red").status == blue.put_one("whose", b"blue").status == Status.ok
        assert red.get_bytes("whose")[1] == b"red"


@pytest.fixture
def fickle(running: RunningService) -> Iterator[tuple[str, list[float]]]:
    """A way to the service on which each connection ends as soon as the service has welcomed it; when each began."""
    began: list[float] = []
    place = urlsplit(running.tcp_url)
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                near, _ = server.accept()
            except OSError:
                return
            began.append(time.monotonic())
            with near, socket.create_connection((str(place.hostname), int(place.port or 0))) as far:
                far.sendall(near.recv(4096))
                near.sendall(far.recv(4096))

    thread = threading.Thread(target=serve, name="fickle", daemon=True)
    thread.start()
    yield f"//127.0.0.1:{server.getsockname()[1]}", began
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(10)


@pytest.mark.parametrize("scheme", ["tcp", "auto"])
def test_sessions_that_end_at_once_are_made_again_at_ever_longer_intervals(
    scheme: str, fickle: tuple[str, list[float]]
) -> None:
    place, began = fickle
    with cairnkv.connect(f"{scheme}:{place}") as client:
        until = time.monotonic() + 60
        while len(began) < 6 and time.monotonic() < until:
            assert client.exists(["block"])[0].status in (Status.disconnected, Status.unreachable)
        pauses = [later - earlier for earlier, later in pairwise(began)]
    # 50 ms, 100 ms, … each three quarters of it at least.
    assert len(pauses) == 5
    assert all(pause > 0.75 * 0.05 * 2**number for number, pause in enumerate(pauses)), pauses


@pytest.fixture
def garbled(running: RunningService) -> Iterator[tuple[str, threading.Event]]:
    """A way to the service; while the event is set, it changes a bit of the header of whatever goes to the service."""
    place = urlsplit(running.tcp_url)
    server = socket.create_server(("127.0.0.1", 0))
    changes = threading.Event()

    def serve() -> None:
        while True:
            try:
                near, _ = server.accept()
            except OSError:
                return
            with near, socket.create_connection((str(place.hostname), int(place.port or 0))) as far:
                while ready := select.select([near, far], [], [])[0]:
                    data = bytearray(ready[0].recv(65536))
                    if not data:
                        break
                    if ready[0] is near and changes.is_set():
                        data[8] ^= 1
                    (far if ready[0] is near else near).sendall(data)

    thread = threading.Thread(target=serve, name="garbled", daemon=True)
    thread.start()
    yield f"tcp://127.0.0.1:{server.getsockname()[1]}", changes
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(10)


# What an operator would have lost: why sessions end. The service closed the connection without a word.
def test_a_client_shows_why_the_service_ended_its_session(garbled: tuple[str, threading.Event]) -> None:
    url, changes = garbled
    with cairnkv.connect(url) as client:
        assert client.put_one("why", b"bytes").ok
        changes.set()
        assert client.exists(["why"])[0].status == Status.disconnected
        assert client.info()["last_error"] == "the service ended the session: the frame header fails its checksum"
        changes.clear()
        until = time.monotonic() + 20
        while client.get_bytes("why")[1] != b"bytes":
            assert time.monotonic() < until, client.info()["last_error"]


def test_which_setting_wins() -> None:
    assert setting("tenant", None, {}) == "default"
    assert setting("tenant", None, {"CAIRN_TENANT": "red"}) == "red"
    assert setting("tenant", "blue", {"CAIRN_TENANT": "red"}) == "blue"
    assert default_deadline_ms({}) == 30_000
    assert default_deadline_ms({"CAIRN_DEADLINE_MS": "50"}) == 50
    for wrong in ("soon", "-1", "0", "1.5"):
        with pytest.raises(UsageError, match="CAIRN_DEADLINE_MS is a number of milliseconds"):
            default_deadline_ms({"CAIRN_DEADLINE_MS": wrong})


def test_the_deadline_of_a_client_holds_for_its_calls(running: RunningService) -> None:
    with cairnkv.connect(running.tcp_url, deadline_ms=1234, lanes=4, name="a test", verify=False) as client:
        assert client.info()["lanes"] == 4
        assert client.put_one(b"deadline", b"x", deadline_ms=5000)
    assert len({row.env for row in SETTINGS}) == len(SETTINGS)
