#!/bin/bash
# What `make` needs from the machine, checked and, where it may, installed.
#
#   tools/setup.sh system GROUP…   Debian packages: core, clang, coverage, bench, bare, testbed, emulated, qemu
#                                  (or qemu-x86_64). Root installs what is missing; anybody else is told the exact command
#                                  (exit 2).
#   tools/setup.sh venv            .venv with pip and the pinned uv
#   tools/setup.sh python          the locked Python packages into .venv
#   tools/setup.sh packages        both of our packages, editable, with the native core compiled in build/native
#   tools/setup.sh clang [LEAST]   prints the name of the C++ compiler for sanitizers, fuzzing and coverage
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
CLANG=19       # what Debian 12 and Debian 13 both offer
CLANG_LEAST=14 # for sanitizers and fuzzing
MCDC_LEAST=18  # the first clang that measures MC/DC

say() { echo "setup: $*" >&2; }
stop() { say "$*"; exit 2; }
installed() { dpkg-query -W -f '${Status}\n' "$1" 2>/dev/null | grep -q '^install ok installed'; }
on_offer() { apt-cache policy "$1" 2>/dev/null | grep -q 'Candidate: [^(]'; }

# The newest clang that is installed, else the newest that the distribution offers, from $1 on; empty without one.
clang_version() {
  versions=$(seq 21 -1 "${1:-$CLANG_LEAST}")
  for version in $versions; do
    if command -v "clang++-$version" >/dev/null; then echo "$version"; return; fi
  done
  for version in $versions; do
    if on_offer "clang-$version" && on_offer "libclang-rt-$version-dev"; then echo "$version"; return; fi
  done
}

packages_of() {
  case $1 in
    core)
      echo g++ liburing-dev libisal-dev libgtest-dev strace libibverbs-dev librdmacm-dev
      # The headers of Python itself, for a Python that came from the distribution without them.
      "$PYTHON" -c 'import os, sys, sysconfig
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    print("python%d.%d-dev" % sys.version_info[:2])'
      ;;
    bench) echo fio perftest redis-server ;;
    bare) echo mmdebstrap debian-archive-keyring util-linux tar ;; # tools/bare_root.py
    # No qemu-user and no binfmt: nothing of the guest's runs while it is built.
    qemu*)
      echo mmdebstrap debian-archive-keyring erofs-utils kmod
      case $1 in
        qemu | qemu-arm64) echo qemu-system-arm; [ "$(uname -m)" = aarch64 ] || echo g++-aarch64-linux-gnu ;;
        qemu-x86_64) echo qemu-system-x86; [ "$(uname -m)" = x86_64 ] || echo g++-x86-64-linux-gnu ;;
        *) stop "unknown group '$1': for qemu there are qemu-arm64 and qemu-x86_64" ;;
      esac
      ;;
    emulated) echo qemu-system-x86 mmdebstrap debian-archive-keyring kmod util-linux ;; # the testbed's other machine
    testbed) echo iproute2 rdma-core ibverbs-providers ibverbs-utils librdmacm1 python3-pyverbs nvme-cli e2fsprogs mount ;;
    clang) version=$(clang_version); echo "clang-${version:-$CLANG} libclang-rt-${version:-$CLANG}-dev" ;;
    coverage)
      version=$(clang_version $MCDC_LEAST)
      version=${version:-$CLANG}
      echo "clang-$version libclang-rt-$version-dev llvm-$version"
      ;;
    *) stop "unknown group '$1': core, clang, coverage, bench, bare, testbed, emulated, qemu or qemu-x86_64" ;;
  esac
}

system() {
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    say "this is not Debian or Ubuntu: make sure that the following, or what your system calls it, is installed:"
    for group in "$@"; do packages_of "$group" >&2; done
    return
  fi
  refreshed=
  missing=
  for group in "$@"; do
    case $group in
      clang) found=$(clang_version) ;;
      coverage) found=$(clang_version $MCDC_LEAST) ;;
      *) found=yes ;;
    esac
    if [ -z "$found" ] && [ -z "$refreshed" ] && [ "$(id -u)" = 0 ]; then
      apt-get update -qq
      refreshed=yes
    fi
    for package in $(packages_of "$group"); do
      installed "$package" || missing="$missing $package"
    done
  done
  [ -n "$missing" ] || return 0
  if [ "$(id -u)" != 0 ]; then
    say "these system packages are missing; install them and call make again:"
    echo "    sudo apt-get install -y --no-install-recommends$missing" >&2
    exit 2
  fi
  say "installing$missing"
  [ -n "$refreshed" ] || apt-get update -qq || stop "apt-get update failed: is the network up?"
  # shellcheck disable=SC2086 # a list of words
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >build/setup-apt.log 2>&1 ||
    { tail -n 20 build/setup-apt.log >&2; stop "apt-get install failed; all of its output: build/setup-apt.log"; }
}

venv() {
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    stop "$PYTHON must be Python 3.11 or newer; name another one: make PYTHON=python3.12 …"
  [ -x .venv/bin/python ] && .venv/bin/python -c 'import pip' 2>/dev/null || {
    say "making .venv with $("$PYTHON" --version)"
    "$PYTHON" -m venv .venv || stop "cannot make a virtual environment; on Debian: sudo apt-get install -y python3-venv"
  }
  say "installing uv"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
}

python() {
  say "installing the locked Python packages"
  # pip's settings for a mirror or a private certificate hold for uv as well.
  [ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"
  [ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"
  set -- --require-hashes -r requirements/build.txt -r requirements/run.txt -r requirements/dev.txt
  .venv/bin/uv pip install --python .venv/bin/python "$@" && return
  say "uv could not install them; trying pip"
  .venv/bin/python -m pip install --disable-pip-version-check "$@"
}

# One build folder for both extension modules and the native tests: the layers are compiled once.
packages() {
  say "compiling the native core; all of the output: build/setup-packages.log"
  : >build/setup-packages.log
  for folder in . dpu; do
    .venv/bin/python -m pip install --verbose --disable-pip-version-check --no-deps --no-build-isolation \
      --editable "$folder" --config-settings "build-dir=$PWD/build/native" --config-settings install.strip=false \
      --config-settings cmake.define.CAIRN_TESTS=ON 2>&1 | tee -a build/setup-packages.log |
      { grep --line-buffered -E '^ *(\[[0-9]+/[0-9]+\]|FAILED|.*error:|CMake Error)' || true; } ||
      { tail -n 30 build/setup-packages.log >&2; stop "the build failed; all of its output: build/setup-packages.log"; }
  done
}

word=${1:-}
[ -n "$word" ] && shift
mkdir -p build
case $word in
  system) system "$@" ;;
  venv) venv ;;
  python) python ;;
  packages) packages ;;
  clang) version=$(clang_version "${1:-}"); [ -n "$version" ] || stop "there is no clang"; echo "clang++-$version" ;;
  *) stop "usage: tools/setup.sh system GROUP… | venv | python | packages | clang" ;;
esac
