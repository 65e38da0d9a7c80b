"""The settings table: where values come from, which one wins, and what a mistake says."""

import dataclasses
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn_dpu.config import SETTINGS, Config, default_slab, load
from cairn_dpu.drive_spec import DriveSpec, parse_drive
from cairn_dpu.errors import ConfigError, ExitCode
from cairn_dpu.kinds import SWITCH
from cairn_dpu.quantities import Bytes, show_size
from cairn_dpu.tenant_spec import TenantSpec, parse_tenant

DRIVE = {"drive": ["/data/a"]}
GIB = Bytes(1024**3)


def write(folder: Path, text: str) -> Path:
    file = folder / "cairn-dpu.toml"
    file.write_text(text)
    return file


def test_the_defaults() -> None:
    config = load(DRIVE, {}, None)
    assert config.drive == (DriveSpec("/data/a"),)
    assert [str(url) for url in config.listen] == ["tcp://127.0.0.1:9600"]
    assert str(config.admin) == "127.0.0.1:8600"
    assert (config.credits, config.session_window, config.sessions_most) == (128, 64 * 1024**2, 1024)
    assert (config.idle_timeout, config.stall_timeout, config.handshake_timeout) == (0, 30_000, 5_000)
    assert (config.drain_timeout, config.queue_depth) == (20_000, 128)
    assert (config.auto_format, config.read_only, config.allow_remote_without_credentials) == (True, False, False)
    assert config.slab == default_slab()


def test_the_default_slab_fits_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for memory, slab in ((512, 256), (2048, 512), (2050, 512), (64 * 1024, 1024)):
        monkeypatch.setattr("cairn_dpu.config.usable_memory", lambda memory=memory: memory * 1024**2)
        assert default_slab() == slab * 1024**2


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = write(tmp_path, 'drive = "/file"\ncredits = 1\nqueue_depth = 1\nsessions_most = 1\n')
    environ = {"CAIRN_DPU_CREDITS": "2", "CAIRN_DPU_QUEUE_DEPTH": "2"}
    config = load({"credits": "3"}, environ, file)
    assert (config.credits, config.queue_depth, config.sessions_most, config.log_level) == (3, 2, 1, "info")


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, 'drive = ["/file"]\n')
    assert load({}, {"CAIRN_DPU_CONFIG": str(file)}, None).drive == (DriveSpec("/file"),)


def test_a_repeatable_setting_is_replaced_not_extended(tmp_path: Path) -> None:
    file = write(tmp_path, 'drive = ["/a", "/b"]\n')
    assert load({"drive": ["/c"]}, {}, file).drive == (DriveSpec("/c"),)
    assert load({}, {"CAIRN_DPU_DRIVE": "/d, /e"}, file).drive == (DriveSpec("/d"), DriveSpec("/e"))


# One good value of every setting in each of the three places: as text, and as what Config holds then.
GOOD: dict[str, tuple[Any, Any]] = {
    "drive": ("/data/a:2GiB", (DriveSpec("/data/a", Bytes(2 * 1024**3)),)),
    "listen": ("shm:///run/a.sock", None),
    "admin": ("off", None),
    "admin_host": ("cairn.example", ("cairn.example",)),
    "slab": ("512MiB", 512 * 1024**2),
    "session_window": ("8MiB", 8 * 1024**2),
    "idle_timeout": ("5m", 300_000),
    "stall_timeout": ("750ms", 750),
    "handshake_timeout": ("1s", 1000),
    "drain_timeout": ("0", 0),
    "seal_timeout": ("5s", 5000),
    "missing_drives_wait": ("2m", 120_000),
    "shared_window": ("8MiB", 8 * 1024**2),
    "fleet": ("01234567-89ab-cdef-0123-456789abcdef", uuid.UUID("01234567-89ab-cdef-0123-456789abcdef")),
    "admission_bytes_per_day": ("4TiB", 4 * 1024**4),
    "lease_most": ("10m", 600_000),
    "scrub_bytes_per_second": ("1MiB", 1024**2),
    "tenant": (
        "a=id:7,quota:1GiB,weight:3,in_flight:8MiB,sessions:5",
        (TenantSpec("a", 7, GIB, 3, Bytes(8 * 1024**2), 5),),
    ),
    "unknown_tenants": ("refuse", "refuse"),
    "rdma_path_mtu": ("1024", "1024"),
    "log_level": ("debug", "debug"),
    "log_format": ("json", "json"),
    "ready_file": ("/run/ready", Path("/run/ready")),
}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_from_every_place(setting: Any, tmp_path: Path) -> None:
    if setting.kind is SWITCH:
        text, expected = "true", True
    else:
        text, expected = GOOD.get(setting.name, ("7", 7))
    base = {} if setting.name == "drive" else DRIVE
    places = [
        load({**base, setting.name: text}, {}, None),
        load(base, {setting.env: text}, None),
        load(base, {}, write(tmp_path, f'{setting.key} = "{text}"\n')),
    ]
    for config in places:
        value = getattr(config, setting.name)
        shown = [setting.kind.show(item) for item in value] if setting.repeatable else [setting.kind.show(value)]
        assert shown == [text]
        assert expected is None or value == expected


BAD = [
    ("drive", "", "needs a path"),
    ("drive", "/a:0MiB", "more than 0 bytes"),
    ("listen", "9600", "tcp://HOST:PORT"),
    ("admin", "localhost", "HOST:PORT"),
    ("admin_host", "cairn.example:80", "without a port"),
    ("slab", "512", "unit"),
    ("slab", "1MiB", "least is 256MiB"),
    ("session_window", "1KiB", "least is 1MiB"),
    ("credits", "0", "from 1 to"),
    ("credits", "many", "whole number"),
    ("queue_depth", "4097", "from 1 to 4096"),
    ("sessions_most", "-1", "whole number"),
    ("sessions_per_tenant_most", "1000001", "from 0 to 1000000"),
    ("sessions_per_peer_most", "few", "whole number"),
    ("idle_timeout", "forever", "duration"),
    ("stall_timeout", "1ms", "least is 100ms"),
    ("handshake_timeout", "5", "unit"),
    ("drain_timeout", "soon", "duration"),
    ("seal_timeout", "5", "unit"),
    ("read_only", "maybe", "neither true nor false"),
    ("auto_format", "2", "neither true nor false"),
    ("allow_remote_without_credentials", "si", "neither true nor false"),
    ("require_all_drives", "maybe", "neither true nor false"),
    ("without_missing_drives", "maybe", "neither true nor false"),
    ("missing_drives_wait", "7", "no unit"),
    ("wait_until_loaded", "maybe", "neither true nor false"),
    ("fleet", "mine", "not a UUID"),
    ("reinsert_percent", "51", "from 0 to 50"),
    ("reinsert_hits_least", "0", "from 1 to"),
    ("admission_second_touch", "often", "neither true nor false"),
    ("admission_bytes_per_day", "1MiB", "least is 1GiB"),
    ("lease_most", "2h", "most is 1h"),
    ("scrub_bytes_per_second", "7", "unit"),
    ("shared_window", "1KiB", "least is 1MiB"),
    ("tenant", "a", "needs an id"),
    ("unknown_tenants", "greet", "accept, refuse"),
    ("rdma_dscp", "64", "from 0 to 63"),
    ("rdma_service_level", "16", "from 0 to 15"),
    ("rdma_path_mtu", "1500", "1024, 2048, 4096"),
    ("log_level", "loud", "debug, info"),
    ("log_format", "xml", "text, json"),
    ("ready_file", "", "empty"),
    ("lifeline_fd", "-1", "whole number"),
]


def test_every_setting_has_a_bad_value_in_the_table() -> None:
    assert {name for name, _, _ in BAD} == {setting.name for setting in SETTINGS}


@pytest.mark.parametrize(("name", "text", "reason"), BAD, ids=lambda value: str(value)[:20])
def test_a_bad_value_names_its_place(name: str, text: str, reason: str, tmp_path: Path) -> None:
    setting = next(setting for setting in SETTINGS if setting.name == name)
    file = write(tmp_path, f'{name} = "{text}"\n')
    given: Any = [text] if setting.repeatable else text
    for origin, arguments in ((setting.flag, ({name: given}, {}, None)), (f"{file}: {name}", ({}, {}, file))):
        with pytest.raises(ConfigError, match=reason) as caught:
            load(*arguments)
        assert str(caught.value).startswith(origin + ": ")
        assert caught.value.exit_code == ExitCode.USAGE
    if text:
        with pytest.raises(ConfigError, match=reason) as caught:
            load({}, {setting.env: text}, None)
        assert str(caught.value).startswith(setting.env + ": ")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('listne = ["tcp://127.0.0.1:1"]', "no setting 'listne'; the nearest is 'listen'"),
        ("[slab]\nsize = 1", "slab: .* is not text"),
        ('slab = ["1GiB", "2GiB"]', "takes one value"),
        ("slab = 1073741824", "is not text"),
        ("credits = true", "is not text"),
        ("credits = 1.5", "is not text"),
        ("read_only = 1", "is not text"),
        ("drive = [1]", "is not text"),
        ("slab = ", "not valid TOML"),
        ("a = 1\na = 2", "not valid TOML"),
    ],
)
def test_a_bad_file_is_named(text: str, reason: str, tmp_path: Path) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError, match=reason) as caught:
        load(DRIVE, {}, file)
    assert str(file) in str(caught.value)


def test_typed_toml_values_are_fine(tmp_path: Path) -> None:
    config = load(DRIVE, {}, write(tmp_path, "credits = 5\nread_only = true\n"))
    assert (config.credits, config.read_only) == (5, True)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration file"):
        load(DRIVE, {}, tmp_path / "missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(DRIVE, {}, tmp_path / "binary.toml")


def test_a_misspelt_variable_is_an_error() -> None:
    with pytest.raises(ConfigError, match="CAIRN_DPU_SLAP is no setting; the nearest is 'CAIRN_DPU_SLAB'"):
        load(DRIVE, {"CAIRN_DPU_SLAP": "1GiB", "HOME": "/root"}, None)


def test_no_drive_says_what_to_add() -> None:
    with pytest.raises(ConfigError, match="--drive /dev/nvme0n1"):
        load({}, {}, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("=id:1", "name"),
        ("a\x00=id:1", "name"),
        ("x" * 257 + "=id:1", "name"),
        ("a=id:0", "from 1 to 4294967294"),
        ("a=id:4294967295", "from 1 to 4294967294"),
        ("a=id:one", "whole number"),
        ("a=id:1,id:2", "twice"),
        ("a=id:1,colour:red", "none of"),
        ("a=id:1,weight", "none of"),
        ("a=id:1,weight:0", "from 1 to 1000"),
        ("a=id:1,weight:1001", "from 1 to 1000"),
        ("a=id:1,sessions:0", "from 1 to 1000000"),
        ("a=id:1,quota:5", "unit"),
        ("a=id:1,in_flight:1KiB", "least is 1MiB"),
        ("default=id:1", "takes no id"),
    ],
)
def test_a_tenant_that_makes_no_sense(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load({**DRIVE, "tenant": [text]}, {}, None)


def test_tenants() -> None:
    texts = ["team a=id:4294967294", " default = weight:2 , quota:1GiB ", "ü=id:1"]
    tenants = load({**DRIVE, "tenant": texts}, {}, None).tenant
    assert tenants == (TenantSpec("team a", 2**32 - 2), TenantSpec("default", 0, GIB, 2), TenantSpec("ü", 1))
    assert tuple(parse_tenant(str(tenant)) for tenant in tenants) == tenants
    environ = {"CAIRN_DPU_TENANT": "a=id:1,weight:2; b=id:2"}
    assert load(DRIVE, environ, None).tenant == (TenantSpec("a", 1, weight=2), TenantSpec("b", 2))


def test_tenants_that_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="'a' is given more than once"):
        load({**DRIVE, "tenant": ["a=id:1", "a=id:2"]}, {}, None)
    with pytest.raises(ConfigError, match="'a' and 'b' have the same id 1"):
        load({**DRIVE, "tenant": ["a=id:1", "b=id:1"]}, {}, None)


def test_defaults_that_the_store_has_as_well() -> None:
    header = (Path(__file__).parents[2] / "native" / "store" / "store.h").read_text()
    config = load(DRIVE, {}, None)
    for name in ("reinsert_percent", "reinsert_hits_least"):
        found = re.search(rf"uint32_t {name} = (\d+);", header)
        assert found
        assert int(found.group(1)) == getattr(config, name)


def test_the_same_drive_twice() -> None:
    with pytest.raises(ConfigError, match="/data/a is given more than once"):
        load({"drive": ["/data/a", "/data/x/../a:1GiB"]}, {}, None)


@pytest.mark.parametrize(
    ("name", "value"),
    [("listen", ["tcp://0.0.0.0:9600"]), ("listen", ["tcp://127.0.0.1:0", "tcp://dpu:9600"]), ("admin", "[::]:8600")],
)
def test_other_machines_are_kept_out_unless_told(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"no credentials yet.*--allow-remote-without-credentials"):
        load({**DRIVE, name: value}, {}, None)
    allowed = load({**DRIVE, name: value, "allow_remote_without_credentials": True}, {}, None)
    assert allowed.allow_remote_without_credentials


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("/dev/nvme0n1", DriveSpec("/dev/nvme0n1")),
        ("/data/a:64GiB", DriveSpec("/data/a", Bytes(64 * 1024**3))),
        ("/dev/disk/by-path/pci-0000:3b:00.0-nvme-1", DriveSpec("/dev/disk/by-path/pci-0000:3b:00.0-nvme-1")),
        ("/dev/disk/by-path/pci-0000:3b:00.0", DriveSpec("/dev/disk/by-path/pci-0000:3b:00.0")),
        ("/data/a:b", DriveSpec("/data/a:b")),
        ("/data/a:64", DriveSpec("/data/a:64")),
    ],
)
def test_a_colon_in_a_path_is_not_a_size(text: str, spec: DriveSpec) -> None:
    assert parse_drive(text) == spec


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_drive("a:1GiB").path == str(tmp_path / "a")


@given(st.integers(1, 2**50))
def test_a_drive_shown_reads_back(size: int) -> None:
    spec = DriveSpec("/data/a", Bytes(size))
    assert parse_drive(str(spec)) == spec
    assert str(spec) == f"/data/a:{show_size(size)}"


@given(st.text(max_size=30))
def test_any_text_is_a_drive_or_an_error(text: str) -> None:
    try:
        spec = parse_drive(text)
    except ValueError:
        return
    assert spec.path.startswith("/")


@given(st.dictionaries(st.text(max_size=8), st.one_of(st.text(max_size=8), st.integers(), st.booleans()), max_size=3))
def test_any_table_is_settings_or_a_config_error(table: dict[str, Any]) -> None:
    known = {setting.name: value for setting, value in zip(SETTINGS, table.values(), strict=False)}
    try:
        config = load(known, {}, None)
    except ConfigError as error:
        assert str(error)  # noqa: PT017
    else:
        assert isinstance(config, Config)


def test_the_table_is_whole() -> None:
    assert [setting.name for setting in SETTINGS] == [field.name for field in dataclasses.fields(Config)]
    for setting in SETTINGS:
        assert setting.help.endswith("."), setting.name
        assert setting.env == "CAIRN_DPU_" + setting.name.upper()
        assert setting.flag == "--" + setting.name.replace("_", "-")
