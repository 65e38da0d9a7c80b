"""Where the service listens: data URLs, the admin address, and whether an address can be reached from other machines."""

import ipaddress
import os
import re
from dataclasses import dataclass

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class HostPort:
    """A TCP address. `host` is without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.bracketed}:{self.port}"

    @property
    def bracketed(self) -> str:
        """The host as URLs write it: an IPv6 address in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def any_address(self) -> bool:
        """True when it stands for every address of this machine."""
        return self.host in ("0.0.0.0", "::")

    @property
    def loopback(self) -> bool:
        """True when only this machine can reach it. A name other than localhost counts as remote: what it resolves to
        can change while the service runs."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


def parse_host_port(text: str) -> HostPort:
    """`127.0.0.1:8600`, `[::1]:8600`, `name:0`. Raises ValueError with a sentence."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"'{text}' is not HOST:PORT, such as 127.0.0.1:8600")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"'{text}' holds no IPv6 address between its brackets") from None
    elif ":" in host:
        raise ValueError(f"'{text}': an IPv6 address needs brackets, such as [::1]:8600")
    elif not _HOST.fullmatch(host):
        raise ValueError(f"'{text}' holds no host name or address")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError(f"'{text}': the port is a number from 0 to 65535")
    return HostPort(host, int(port))


def parse_host(text: str) -> str:
    """A host name or address without a port, IPv6 with or without brackets. Raises ValueError with a sentence."""
    host = text.removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        if not _HOST.fullmatch(text):
            raise ValueError(f"'{text}' is no host name or address; write it without a port") from None
    return text


@dataclass(frozen=True, slots=True)
class ListenUrl:
    """A data URL: `rdma://HOST:PORT`, `tcp://HOST:PORT` or `shm:///PATH`."""

    url: str
    address: HostPort | None

    def __str__(self) -> str:
        return self.url

    @property
    def local(self) -> bool:
        """True when only this machine can reach it."""
        return self.address is None or self.address.loopback


def parse_listen_url(text: str) -> ListenUrl:
    """Raises ValueError with a sentence."""
    scheme, separator, rest = text.partition("://")
    if scheme in ("rdma", "tcp") and separator:
        address = parse_host_port(rest)
        return ListenUrl(f"{scheme}://{address}", address)
    if scheme == "shm" and separator:
        if not rest.startswith("/"):
            raise ValueError(f"'{text}': the path of a socket is absolute, such as shm:///run/cairn/cairn.sock")
        if len(os.fsencode(rest)) > 107:
            raise ValueError(f"'{text}': the path of a socket has at most 107 bytes")
        return ListenUrl(text, None)
    raise ValueError(f"'{text}' is not a URL to listen on; write rdma://HOST:PORT, tcp://HOST:PORT or shm:///PATH")


def parse_admin(text: str) -> HostPort | None:
    """HOST:PORT, also as `http://HOST:PORT`, or None for `off`. Raises ValueError with a sentence."""
    if text[:7].lower() == "http://":
        text = text[7:].removesuffix("/")
    return None if text == "off" else parse_host_port(text)


def show_admin(admin: HostPort | None) -> str:
    """What `parse_admin` reads."""
    return "off" if admin is None else str(admin)
