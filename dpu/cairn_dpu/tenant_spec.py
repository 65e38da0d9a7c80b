"""What `--tenant` says: a name, the number that lies on the drives, and limits."""

from dataclasses import dataclass

from cairn_dpu.quantities import Bytes, parse_size, show_size

DEFAULT_NAME = "default"
ID_MOST = 2**32 - 2
WEIGHT_MOST = 1000
SESSIONS_MOST = 1_000_000
NAME_BYTES_MOST = 256
IN_FLIGHT_LEAST = 1024**2
NONE = Bytes(0)
EXAMPLE = "team-a=id:7,quota:2TiB,weight:3"


@dataclass(frozen=True, slots=True)
class TenantSpec:
    """One tenant. `id` is what its blocks carry on the drives: never give it to another, and never change it."""

    name: str
    id: int
    quota: Bytes = NONE
    weight: int = 1
    in_flight: Bytes = NONE
    sessions: int = 0

    def __str__(self) -> str:
        parts = [f"id:{self.id}"] if self.id else []
        parts += [f"quota:{show_size(self.quota)}"] if self.quota else []
        parts += [f"weight:{self.weight}"] if self.weight != 1 else []
        parts += [f"in_flight:{show_size(self.in_flight)}"] if self.in_flight else []
        parts += [f"sessions:{self.sessions}"] if self.sessions else []
        return f"{self.name}={','.join(parts)}"


def parse_tenant(text: str) -> TenantSpec:
    """`NAME=KEY:VALUE,…` with the keys id, quota, weight, in_flight and sessions. Raises ValueError with a sentence."""
    name, _, rest = text.partition("=")
    name = name.strip()
    if not name or not name.isprintable() or len(name.encode()) > NAME_BYTES_MOST:
        raise ValueError(f"'{text}' does not begin with a tenant's name; write for example {EXAMPLE}")
    values: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        key, colon, value = (word.strip() for word in part.partition(":"))
        if not colon or key not in ("id", "quota", "weight", "in_flight", "sessions"):
            raise ValueError(f"'{part}' is none of id:N, quota:SIZE, weight:N, in_flight:SIZE and sessions:N")
        if key in values:
            raise ValueError(f"'{text}' tells {key} twice")
        values[key] = value
    in_flight = parse_size(values.get("in_flight", "0"))
    if 0 < in_flight < IN_FLIGHT_LEAST:
        raise ValueError(f"in_flight '{values['in_flight']}' is too small; the least is {show_size(IN_FLIGHT_LEAST)}")
    return TenantSpec(
        name,
        _id(name, values.get("id")),
        parse_size(values.get("quota", "0")),
        _number("weight", values.get("weight", "1"), WEIGHT_MOST),
        in_flight,
        _number("sessions", values["sessions"], SESSIONS_MOST) if "sessions" in values else 0,
    )


def _id(name: str, given: str | None) -> int:
    if name == DEFAULT_NAME:
        if given is not None:
            raise ValueError(f"the tenant '{DEFAULT_NAME}' takes no id: its own is 0, for ever")
        return 0
    if given is None:
        raise ValueError(f"the tenant '{name}' needs an id, which its blocks carry on the drives; such as {name}=id:1")
    return _number("id", given, ID_MOST)


def _number(key: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise ValueError(f"{key} '{text}' is not a whole number from 1 to {most}")
    return int(text)
