"""The systemd unit fits the service: its command exists, it is given time to drain, and it is locked down."""

import configparser
import shlex
from pathlib import Path

import pytest

from cairn_dpu.config import Config
from cairn_dpu.quantities import parse_duration

UNIT = Path(__file__).parents[2] / "dpu" / "systemd" / "cairn-dpu.service"


@pytest.fixture
def service() -> configparser.SectionProxy:
    # A unit may give a key twice (DeviceAllow).
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser["Service"]


def test_it_starts_the_service(service: configparser.SectionProxy) -> None:
    assert shlex.split(service["ExecStart"])[0].endswith("/cairn-dpu")
    assert shlex.split(service["ExecStart"])[1:3] == ["serve", "--config"]
    assert service["Type"] == "notify"


def test_it_waits_for_the_drain(service: configparser.SectionProxy) -> None:
    fields = Config.__dataclass_fields__
    longest = fields["drain_timeout"].default + fields["seal_timeout"].default
    assert service["KillSignal"] == "SIGTERM"
    assert parse_duration(service["TimeoutStopSec"]) >= longest + 5_000


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("CapabilityBoundingSet", ""),
        ("DevicePolicy", "closed"),
        ("LimitMEMLOCK", "infinity"),
        ("RestrictNamespaces", "yes"),
    ],
)
def test_it_is_locked_down(service: configparser.SectionProxy, key: str, value: str) -> None:
    assert service[key] == value
