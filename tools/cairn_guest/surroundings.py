"""What a machine needs from the one around it to reach packages: where apt takes Debian from, proxies, certificates, and what pip and uv
are told. Nothing else of it is handed on."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
OWN_CERTIFICATES = Path("/usr/local/share/ca-certificates")
# Of apt's own settings those that say how to reach a mirror and how much to believe it.
APT_SETTING = re.compile(r'^Acquire::(?:(?:https?|ftp)::(?!Proxy-Auto)\S+|Check-\S+|Retries|ForceIPv[46]) "[^"]*";$')
CARRIED = re.compile(
    r"(?:https?|ftp|all|no)_proxy|PIP_\w+|UV_\w+|SSL_CERT_(?:FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|GIT_SSL_CAINFO"
    r"|NODE_EXTRA_CA_CERTS",
    re.IGNORECASE,
)
# Where this machine's files of settings go to in the root.
SETTINGS = (
    ("/etc/pip.conf", "/etc/pip.conf"),
    ("/etc/xdg/pip/pip.conf", "/etc/xdg/pip/pip.conf"),
    ("~/.pip/pip.conf", "~/.pip/pip.conf"),
    ("~/.config/pip/pip.conf", "~/.config/pip/pip.conf"),
    ("/etc/uv/uv.toml", "/etc/uv/uv.toml"),
    ("~/.config/uv/uv.toml", "~/.config/uv/uv.toml"),
)
PLAIN = ("/etc/resolv.conf", "/etc/hosts")


@dataclass(frozen=True)
class Surroundings:
    """environment: variables. files: (here, there). folders: of packages, with the same name there, only to be read."""

    environment: dict[str, str]
    files: tuple[tuple[str, str], ...]
    folders: tuple[str, ...]


def surroundings(environ: Mapping[str, str] = os.environ, home: Path | None = None) -> Surroundings:
    home = home or Path.home()
    files = {name: name for name in PLAIN if Path(name).is_file()}
    named: list[str] = []
    for here, there in SETTINGS:
        source = Path(here.replace("~", str(home), 1))
        if source.is_file():
            files[str(source)] = there.replace("~", "/root", 1)
            named += words_of_settings(source)
    carried = {name: value for name, value in environ.items() if CARRIED.fullmatch(name)}
    named += [word for value in carried.values() for word in value.split()]
    folders = set()
    for path in filter(None, map(local_path, named)):
        if path.is_dir() and str(path) != str(Path(CERTIFICATES).parent):
            folders.add(str(path))
        elif path.is_file():
            files[str(path)] = str(path)
    for path in OWN_CERTIFICATES.glob("*.crt"):
        files[str(path)] = str(path)
        files[CERTIFICATES] = CERTIFICATES
    places = set(files.values()) | folders

    def is_there(word: str) -> bool:
        return not word.startswith("/") or any(word == place or place.startswith(f"{word}/") for place in places)

    # What names a place that the root does not have would break what it is to mend.
    kept = {name: value for name, value in carried.items() if all(map(is_there, value.split()))}
    return Surroundings(kept, tuple(sorted(files.items())), tuple(sorted(outermost(folders))))


def words_of_settings(file: Path) -> list[str]:
    """The values in a file of pip's or uv's, word by word; of one that cannot be read, none."""
    if file.suffix == ".toml":
        return re.findall(r'"([^"]+)"', file.read_text(errors="replace"))
    parser = configparser.RawConfigParser()
    try:
        parser.read(file)
    except configparser.Error:
        return []
    return [word for section in parser.sections() for _, value in parser.items(section) for word in value.split()]


def local_path(word: str) -> Path | None:
    """The path that the word names, as such or as file://…; of an index, the folder around it, which has the packages."""
    if word.startswith("file:"):
        path = Path(unquote(urlparse(word).path))
        return path.parent if path.name == "simple" else path
    return Path(word) if word.startswith("/") else None


def outermost(folders: set[str]) -> set[str]:
    return {one for one in folders if not any(one.startswith(f"{other}/") for other in folders)}


# --- apt ---------------------------------------------------------------------------------------------------------


def apt_settings() -> str:
    """Lines of a configuration file."""
    dumped = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    return "".join(f"{line}\n" for line in dumped.splitlines() if APT_SETTING.match(line))


def debian_sources(suite: str, etc: Path = Path("/etc")) -> str:
    """The places of this machine's own Debian, for another of its suites, as paragraphs of a .sources file; empty where this machine is no
    Debian, or names none."""
    facts = dict(
        line.split("=", 1) for line in (etc / "os-release").read_text().splitlines() if "=" in line
    )  # fmt: skip
    own = facts.get("VERSION_CODENAME", "").strip('"')
    if facts.get("ID", "").strip('"') != "debian" or not own:
        return ""
    found = []
    for file in sorted([etc / "apt" / "sources.list", *(etc / "apt" / "sources.list.d").glob("*")]):
        if file.is_file():
            read = paragraphs if file.suffix == ".sources" else one_liners if file.suffix == ".list" else None
            found += list(read(file.read_text(errors="replace"))) if read else []
    lines = []
    for source in found:
        suites = [one for one in source.get("suites", "").split() if one in (own, f"{own}-updates", f"{own}-security")]
        if suites and "main" in source.get("components", "").split():
            lines.append("Types: deb")
            lines.append(f"URIs: {source['uris']}")
            lines.append(f"Suites: {' '.join(one.replace(own, suite, 1) for one in suites)}")
            lines.append("Components: main")
            if source.get("signed-by", "").startswith("/"):
                lines.append(f"Signed-By: {source['signed-by']}")
            lines.append("")
    return "\n".join(lines)


def paragraphs(text: str) -> Iterator[dict[str, str]]:
    """Of a .sources file, those that are in force."""
    for paragraph in re.split(r"\n\s*\n", re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)):
        fields = dict(re.findall(r"^(\S+?):[ \t]*(.*(?:\n[ \t]+.*)*)", paragraph, re.MULTILINE))
        source = {name.lower(): " ".join(value.split()) for name, value in fields.items()}
        if "deb" in source.get("types", "").split() and source.get("enabled", "yes").lower() != "no":
            yield source


def one_liners(text: str) -> Iterator[dict[str, str]]:
    """Of a .list file."""
    for options, place, suite, components in re.findall(
        r"^deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s+(.+)$", text, re.MULTILINE
    ):
        signed = re.search(r"signed-by=(\S+)", options)
        source = {"uris": place, "suites": suite, "components": components.partition("#")[0]}
        yield source | ({"signed-by": signed.group(1)} if signed else {})
