"""Cairn for the guest: both packages, their native cores compiled across, and what they need from the locked list of Python packages."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from cairn_guest.building import ROOT, run, step
from cairn_qemu.architectures import Architecture
from cairn_qemu.base_image import BaseImage, compile_python, make_erofs
from cairn_qemu.building import BUILD, HERE

PACKAGES = {"cairnkv": ROOT / "cairnkv", "cairn_dpu": ROOT / "dpu" / "cairn_dpu"}
GUEST_MODULES = ("__init__.py", "agent.py", "blocks.py")
REQUIREMENTS = ROOT / "requirements" / "run.txt"
SITE = "/opt/cairn/site"
TOOLCHAIN = """\
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR {name})
set(CMAKE_C_COMPILER {triple}-gcc)
set(CMAKE_CXX_COMPILER {triple}-g++)
set(CMAKE_LIBRARY_ARCHITECTURE {triple})
set(CMAKE_SYSROOT {root})
set(CMAKE_FIND_ROOT_PATH {root})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
# The compiler may be newer than the guest: its library of C++ goes along.
set(CMAKE_MODULE_LINKER_FLAGS_INIT "-static-libstdc++ -static-libgcc")
"""


class ProductImage:
    """The second, small image; what a change of ours makes anew."""

    def __init__(self, architecture: Architecture, base: BaseImage) -> None:
        self.architecture = architecture
        self.base = base
        self.folder = BUILD / architecture.debian
        self.image = self.folder / "product.erofs"
        self.log = self.folder / "product.log"
        self.wheels = self.folder / "wheels"
        self.native = self.folder / "native"

    def make(self) -> None:
        own = [HERE, *sorted(HERE.parent.glob("*.sh"))]
        base = self.folder / "base.stamp"
        native: list[str | Path] = [ROOT / "native", base, TOOLCHAIN]
        self.log.unlink(missing_ok=True)
        step("the native cores, compiled across", self.folder / "native.stamp", native, self._compile)
        step(
            "the Python packages",
            self.folder / "wheels.stamp",
            [REQUIREMENTS, *self.architecture.platforms],
            self._fetch_wheels,
        )
        stamps = [self.folder / "native.stamp", self.folder / "wheels.stamp"]
        step("Cairn's image", self.folder / "product.stamp", [*PACKAGES.values(), *own, *stamps], self._make_image)

    def _compile(self) -> None:
        """Ninja compiles what changed; a build folder of another base is of no use."""
        toolchain = self.folder / "toolchain.cmake"
        text = TOOLCHAIN.format(name=self.architecture.name, triple=self.architecture.triple, root=self.base.root)
        tied_to = (self.folder / "base.stamp").read_text() + text
        remembered = self.native / "tied-to"
        if not remembered.exists() or remembered.read_text() != tied_to:
            shutil.rmtree(self.native, ignore_errors=True)
            self.native.mkdir(parents=True)
        toolchain.write_text(text)
        run(
            self.log,
            *(
                "cmake",
                "-S",
                ROOT / "native",
                "-B",
                self.native,
                "-G",
                "Ninja",
                f"-DCMAKE_TOOLCHAIN_FILE={toolchain}",
                "-DSKBUILD=1",
            ),
            *(f"-Dnanobind_DIR={nanobind_folder()}", f"-DPython_EXECUTABLE={sys.executable}"),
            f"-DPython_INCLUDE_DIR={self.base.root / 'usr' / 'include' / 'python3.11'}",
        )
        run(self.log, "cmake", "--build", self.native, "--target", *(f"{package}_native" for package in PACKAGES))
        remembered.write_text(tied_to)

    def _fetch_wheels(self) -> None:
        shutil.rmtree(self.wheels, ignore_errors=True)
        platforms = [word for platform in self.architecture.platforms for word in ("--platform", platform)]
        run(
            self.log,
            *(sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--target", self.wheels),
            *(*platforms, "--implementation", "cp", "--python-version", "3.11", "--abi", "cp311", "--no-compile"),
            *("--only-binary", ":all:", "--require-hashes", "-r", REQUIREMENTS),
        )

    def _make_image(self) -> None:
        product = self.folder / "product"
        shutil.rmtree(product, ignore_errors=True)
        site = product / "site"
        shutil.copytree(self.wheels, site)
        for package, folder in PACKAGES.items():
            shutil.copytree(folder, site / package, ignore=shutil.ignore_patterns("__pycache__", "_native*.so"))
            (core,) = (self.native / "python" / package).glob("_native*.so")
            run(self.log, f"{self.architecture.triple}-strip", "-o", site / package / "_native.so", core)
        (site / "cairn_qemu").mkdir()
        for name in GUEST_MODULES:
            shutil.copyfile(HERE / name, site / "cairn_qemu" / name)
        shutil.copy(HERE.parent / "guest-init.sh", product / "guest-init.sh")
        compile_python(self.log, site, SITE)
        make_erofs(self.log, self.image, product)


def nanobind_folder() -> str:
    words = [sys.executable, "-m", "nanobind", "--cmake_dir"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
