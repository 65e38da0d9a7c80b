"""The arrows between the parts of the tree point one way: base ← wire ← {transport, drive} ← store ← server, client over
transport, bindings over {client, server}. Client and service never import each other."""

import ast
import re
from pathlib import Path

import pytest

# layer: the layers it may include besides itself.
BELOW = {
    "base": set(),
    "wire": {"base"},
    "transport": {"base", "wire"},
    "drive": {"base", "wire"},
    "store": {"base", "wire", "drive"},
    "server": {"base", "wire", "drive", "store", "transport"},
    "client": {"base", "wire", "transport"},
}
LAYERS = set(BELOW)
BINDINGS = {
    "cairnkv.cc": {"bindings", "client", *BELOW["client"]},
    "cairnkv_gil.h": {"base"},
    "cairnkv_gpu.h": {"bindings", "base", "client"},
    "cairnkv_memory.h": {"bindings", "base", "client"},
    "cairnkv_region.h": {"bindings", "base", "client"},
    "cairn_dpu.cc": {"server", *BELOW["server"]},
}
PACKAGES = {"cairnkv": "cairnkv", "cairn_dpu": "dpu/cairn_dpu"}
FOLDERS_NOT_PACKAGES = {"dpu", "host_agent", "image", "native", "tests", "tools"}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def allowed(path: Path) -> set[str]:
    """The folders of native/ that the file may include from."""
    folder = path.parts[1]
    if folder == "bindings":
        return BINDINGS[path.name]
    if folder in ("testing", "fuzz", "bench", "plugins"):
        return LAYERS | {"testing", folder}
    own = BELOW[folder] | {folder}
    # A test may use the fakes, and what the fakes are made of.
    return LAYERS | {"testing"} if path.stem.endswith("_test") else own


def test_includes_point_down(root: Path, files: tuple[Path, ...]) -> None:
    turned = []
    for path in files:
        if path.parts[0] != "native" or path.suffix not in (".h", ".cc"):
            continue
        for included in INCLUDE.findall((root / path).read_text()):
            assert (root / "native" / included).is_file(), f"{path} includes {included}: write it from native/"
            if included.partition("/")[0] not in allowed(path):
                turned.append(f"{path} → {included}")
    assert not turned, "these includes point the wrong way:\n" + "\n".join(turned)


def imports_of(path: Path) -> set[str]:
    """Every module that the file imports, by its full name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def modules_of(package: str, root: Path) -> dict[str, set[str]]:
    """The imports of every module of the package."""
    folder = root / PACKAGES[package]
    modules = {}
    for path in folder.rglob("*.py"):
        words = [package, *path.relative_to(folder).with_suffix("").parts]
        modules[".".join(word for word in words if word != "__init__")] = imports_of(path)
    return modules


@pytest.mark.parametrize(("package", "other"), [("cairnkv", "cairn_dpu"), ("cairn_dpu", "cairnkv")])
def test_client_and_service_never_meet(package: str, other: str, root: Path) -> None:
    for module, imports in modules_of(package, root).items():
        assert not {name for name in imports if name.partition(".")[0] == other}, module


def test_nothing_imports_folders_that_are_no_packages(root: Path, files: tuple[Path, ...]) -> None:
    for path in files:
        if path.suffix == ".py":
            tops = {name.partition(".")[0] for name in imports_of(root / path)}
            assert not tops & FOLDERS_NOT_PACKAGES, path


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_goes_in_a_circle(package: str, root: Path) -> None:
    modules = modules_of(package, root)
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        assert module not in trail, " → ".join([*trail[trail.index(module) :], module])
        if module in done:
            return
        for name in sorted(modules[module] & modules.keys() - {module, package}):
            visit(name, [*trail, module])
        done.add(module)

    for module in sorted(modules):
        visit(module, [])


def test_the_admin_plane_sees_only_a_view_of_the_service(root: Path) -> None:
    for module, imports in modules_of("cairn_dpu", root).items():
        if module.startswith("cairn_dpu.admin"):
            for hidden in ("service", "config", "cli", "drives", "stopping"):
                assert f"cairn_dpu.{hidden}" not in imports, module


def test_adapters_are_imported_by_nobody(root: Path) -> None:
    for module, imports in modules_of("cairnkv", root).items():
        if not module.startswith("cairnkv.adapters"):
            assert not {name for name in imports if name.startswith("cairnkv.adapters")}, module
