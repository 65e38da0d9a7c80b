"""Addresses, and which of them other machines can reach."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_dpu.addresses import HostPort, parse_admin, parse_host_port, parse_listen_url, show_admin


@pytest.mark.parametrize(
    "text", ["127.0.0.1:8600", "[::1]:0", "localhost:1", "dpu-3.example:65535", "0.0.0.0:9600", "[::]:80"]
)
def test_an_address_shown_reads_back(text: str) -> None:
    assert str(parse_host_port(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "8600", ":8600", "host", "host:", "host:x", "host:-1", "host:65536", "::1:80", "[::1:80", "[]:80", "[x]:80", "a b:80", "-a:80",
     "host:٣"],
)  # fmt: skip
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="'"):
        parse_host_port(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST"])
def test_loopback(host: str) -> None:
    assert HostPort(host, 1).loopback


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example", "ip6-localhost", "::ffff:10.0.0.1", "fe80::1"]
)
def test_remote(host: str) -> None:
    assert not HostPort(host, 1).loopback


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("tcp://127.0.0.1:9600", True),
        ("tcp://[::1]:0", True),
        ("tcp://0.0.0.0:9600", False),
        ("shm:///run/c.sock", True),
        ("rdma://10.0.0.1:9600", False),
    ],
)
def test_listen_urls(url: str, local: bool) -> None:
    parsed = parse_listen_url(url)
    assert (str(parsed), parsed.local) == (url, local)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:80", "tcp://HOST:PORT"),
        ("tcp:127.0.0.1:80", "tcp://HOST:PORT"),
        ("tcp://127.0.0.1", "HOST:PORT"),
        ("shm://relative.sock", "absolute"),
        ("shm:///" + "x" * 107, "107 bytes"),
        ("rdma://10.0.0.1", "HOST:PORT"),
        ("rdma:///run/c.sock", "HOST:PORT"),
        ("", "tcp://HOST:PORT"),
    ],
)
def test_bad_listen_urls(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_listen_url(url)


def test_admin_may_be_off() -> None:
    assert parse_admin("off") is None
    assert show_admin(None) == "off"
    assert show_admin(parse_admin("127.0.0.1:0")) == "127.0.0.1:0"


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    try:
        address = parse_host_port(text)
    except ValueError:
        return
    assert parse_host_port(str(address)) == address


@pytest.mark.parametrize("text", ["127.0.0.1:8600", "http://127.0.0.1:8600", "HTTP://127.0.0.1:8600/"])
def test_the_admin_address_may_be_what_the_ready_file_says(text: str) -> None:
    assert str(parse_admin(text)) == "127.0.0.1:8600"


@pytest.mark.parametrize("text", ["https://127.0.0.1:8600", "http://", "http://127.0.0.1:8600/api", "http://127.0.0.1"])
def test_what_is_no_admin_address(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT|host name or address|the port|brackets"):
        parse_admin(text)
