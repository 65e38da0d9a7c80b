"""What a bare root gets from the machine around it: how to reach packages, and nothing else."""

from __future__ import annotations

from pathlib import Path

from cairn_guest.surroundings import apt_settings, debian_sources, surroundings

OS_RELEASE = 'ID=debian\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'


def etc(folder: Path, **sources: str) -> Path:
    (folder / "os-release").write_text(OS_RELEASE)
    (folder / "apt" / "sources.list.d").mkdir(parents=True)
    for name, text in sources.items():
        (folder / "apt" / "sources.list.d" / name.replace("_", ".")).write_text(text)
    return folder


def test_the_machines_mirror_serves_the_other_suite(tmp_path: Path) -> None:
    mirror = (
        "# a remark\nTypes: deb deb-src\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates bookworm-backports\n"
        "Components: main contrib\nSigned-By: /usr/share/keyrings/d.gpg\n\n"
        "Types: deb\nEnabled: no\nURIs: http://off/debian\nSuites: bookworm\nComponents: main\n"
    )
    vendor = "deb [arch=amd64 signed-by=/k.gpg] http://vendor/debian bookworm stable\n"
    security = "deb [signed-by=/s.gpg] http://mirror/security bookworm-security main # one more\n"
    folder = etc(tmp_path, debian_sources=mirror, vendor_list=vendor, security_list=security)
    assert debian_sources("trixie", folder) == (
        "Types: deb\nURIs: http://mirror/debian\nSuites: trixie trixie-updates\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/d.gpg\n\n"
        "Types: deb\nURIs: http://mirror/security\nSuites: trixie-security\nComponents: main\nSigned-By: /s.gpg\n"
    )


def test_another_distributions_mirror_is_not_taken_for_debians(tmp_path: Path) -> None:
    folder = etc(tmp_path, main_list="deb http://mirror/other bookworm main\n")
    (folder / "os-release").write_text("ID=other\nVERSION_CODENAME=bookworm\n")
    assert debian_sources("trixie", folder) == ""


def test_apts_settings_are_those_of_the_network_only() -> None:
    for line in apt_settings().splitlines():
        assert line.startswith("Acquire::") and "IndexTargets" not in line


def test_settings_reach_the_root_with_what_they_name(tmp_path: Path) -> None:
    home, wheels, index = tmp_path / "home", tmp_path / "wheels", tmp_path / "index"
    for folder in (home / ".config" / "pip", wheels, index / "simple"):
        folder.mkdir(parents=True)
    certificate = tmp_path / "ca.pem"
    certificate.touch()
    settings = home / ".config" / "pip" / "pip.conf"
    settings.write_text(
        f"[global]\nextra-index-url = file://{index}/simple http://there/simple\ncert = {certificate}\n"
    )
    environ = {
        "HTTPS_PROXY": "http://proxy:3128",
        "PIP_FIND_LINKS": str(wheels),
        "SSL_CERT_FILE": str(certificate),
        "CURL_CA_BUNDLE": "/nowhere/ca.pem",
        "PYTHONUNBUFFERED": "1",
        "SECRET": "kept back",
    }
    found = surroundings(environ, home)
    assert found.environment == {name: environ[name] for name in ("HTTPS_PROXY", "PIP_FIND_LINKS", "SSL_CERT_FILE")}
    assert dict(found.files)[str(settings)] == "/root/" + ".config/pip/pip.conf"
    assert dict(found.files)[str(certificate)] == str(certificate)
    assert set(found.folders) >= {str(wheels), str(index)}
