#!/usr/bin/env python3
"""Runs a command on a bare machine: a Debian that has git, make, g++, python3 and python3-venv, and nothing else.

    tools/bare_root.py -- make test                        in Debian 12
    tools/bare_root.py --suite trixie -- make demo         in Debian 13
    tools/bare_root.py --keep -- bash                      … and look around; the next --keep goes on in the same root

It makes a root file system in build/bare_root, clones the commit that is checked out here into its /src, and runs the command
there, as root and without the environment of this shell. Changes that are not committed are not in there. The first run
of a suite fetches half a gigabyte, which is kept for the next ones.

What this machine needs to reach its packages reaches the root as well: where apt takes Debian from, proxies,
certificates, and the settings of pip and uv, with the folders of packages that they name, which can only be read there.

It needs to be root, and allowed to mount. Whatever is mounted is seen by the command's processes only and goes with them; these
end with this program, however that ends. The root is removed at the end; one that an earlier run could not remove, by the next
run. With --keep it stays, until --clean.

The exit status is the command's own; 125: there was no root to run it in.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent))

from cairn_guest.surroundings import Surroundings, apt_settings, debian_sources, surroundings

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / "build" / "bare_root"
SUITES = {"bookworm": "Debian 12", "trixie": "Debian 13"}
PACKAGES = ("git", "make", "g++", "python3", "python3-venv")  # what README.md asks for
SOURCE = "src"  # in the root
BASE_DAYS_MOST = 7  # then it is fetched again: a machine of today has today's packages
FREE_BYTES_LEAST = 12 << 30  # what everything takes in there, the testbed's kernel and the drives of tests included
NO_ROOT = 125
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# In namespaces of its own: process 1 is this shell, which waits for what lost its parent, as a machine's first process does.
INSIDE = """
root=$1 folders=$2; shift 2
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
while [ "$folders" -gt 0 ]; do
  mount --bind "$1" "$root$1"
  mount -o remount,bind,ro "$root$1"
  shift
  folders=$((folders - 1))
done
chroot "$root" "$@" && status=0 || status=$?
exit $status
"""


def say(sentence: str) -> None:
    sys.stderr.write(f"bare_root: {sentence}\n")
    sys.stderr.flush()


def stop(sentence: str) -> NoReturn:
    say(sentence)
    raise SystemExit(NO_ROOT)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/bare_root.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--suite",
        choices=SUITES,
        default="bookworm",
        help=f"{', '.join(f'{suite} ({name})' for suite, name in SUITES.items())}; default: %(default)s",
    )
    parser.add_argument(
        "--copy",
        action="append",
        default=[],
        metavar="FILE:PATH",
        help=f"also put this file there, below /{SOURCE}; may be given more than once",
    )
    parser.add_argument("--keep", action="store_true", help="leave the root, or take the one that was left")
    parser.add_argument("--fetch", action="store_true", help="only fetch what a root of the suite is made of")
    parser.add_argument("--check", action="store_true", help="only say whether a root can be made here (exit status)")
    parser.add_argument("--clean", action="store_true", help="remove everything that was fetched or left, and end")
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="and its arguments, behind --")
    arguments = parser.parse_args()
    if not (arguments.command or arguments.check or arguments.clean or arguments.fetch):
        parser.error("the following arguments are required: COMMAND")
    arguments.copy = [one.partition(":")[::2] for one in arguments.copy]
    for source, target in arguments.copy:
        if not target or Path(target).is_absolute() or ".." in Path(target).parts:
            parser.error(f"--copy is FILE:PATH, and PATH is relative to /{SOURCE}")
        if not Path(source).is_file():
            parser.error(f"--copy: there is no file {source}")
    return arguments


def why_not() -> str:
    """Why no root can be made here; empty when one can."""
    if os.geteuid() != 0:
        return "making a bare root needs root"
    if shutil.which("apt-get") is None:
        return "making a bare root needs apt, on Debian or a system of its family"
    namespaces = ["unshare", "--mount", "--pid", "--fork", "mount", "-t", "proc", "proc", "/proc"]
    tried = subprocess.run(namespaces, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return f"this machine does not let root mount anything, as in many containers: {tried.stderr.strip()}"
    return ""


# --- what is kept ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until no other process has this lock; the kernel takes it from one that was killed."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_locked(path: Path) -> bool:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def remove(folder: Path) -> None:
    """Never across a mount: nothing is mounted here for us to see, and what somebody else mounted is theirs. Processes that were killed may
    still be about to write a file."""
    for _ in range(10):
        if subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=False).returncode == 0:
            return
        time.sleep(0.5)
    say(f"{folder} could not be removed")


def remove_what_was_left(place: Path) -> None:
    """Roots of runs that were killed: nobody holds their locks any more."""
    for lock in place.glob("root.*.lock"):
        folder = lock.with_suffix("")
        if not is_locked(lock):
            say(f"removing {folder}, which an earlier run left")
            remove(folder)
            lock.unlink(missing_ok=True)


def base_of(suite: str) -> Path:
    """The archive of an untouched root, made first where there is none that fits and is new enough."""
    sources, settings = debian_sources(suite), apt_settings()
    wanted = hashlib.sha256("\0".join([suite, *PACKAGES, sources, settings]).encode()).hexdigest()[:12]
    base = PLACE / f"{suite}-{wanted}.tar"
    with locked(PLACE / f"{suite}.lock"):
        if base.exists() and time.time() - base.stat().st_mtime < BASE_DAYS_MOST * 86_400:
            return base
        for old in PLACE.glob(f"{suite}-*.tar*"):
            old.unlink()
        make_base(suite, sources, settings, base)
    return base


def make_base(suite: str, sources: str, settings: str, base: Path) -> None:
    with locked(PLACE / "packages.lock"):  # apt serves one at a time, and another suite may be fetched as well
        done = subprocess.run([str(ROOT / "tools" / "setup.sh"), "system", "bare"], check=False)
    if done.returncode != 0:
        stop("a package that it needs could not be installed")
    say(f"fetching {SUITES[suite]} with {', '.join(PACKAGES)}; all of the output: {base.with_suffix('.log')}")
    unfinished = base.with_suffix(".tar.part")
    with tempfile.TemporaryDirectory() as folder, base.with_suffix(".log").open("wb") as log:
        apt, mirrors = Path(folder) / "apt.conf", Path(folder) / "debian.sources"
        apt.write_text(settings)
        mirrors.write_text(sources)
        words = ["mmdebstrap", "--variant=apt", "--format=tar", f"--include={','.join(PACKAGES)}"]
        words += [f"--aptopt={apt}"] if settings else []
        words += [suite, str(unfinished)]
        words += [str(mirrors)] if sources else []  # else Debian's own
        done = subprocess.run(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        unfinished.unlink(missing_ok=True)
        lines = base.with_suffix(".log").read_text(errors="replace").splitlines()[-15:]
        stop("mmdebstrap failed; the end of its output:\n" + "\n".join(f"  {line}" for line in lines))
    unfinished.rename(base)


# --- one root ----------------------------------------------------------------------------------------------------


def git(*words: str, root: Path) -> None:
    """Reads this checkout, whoever owns it."""
    with tempfile.NamedTemporaryFile("w", suffix=".gitconfig") as config:
        config.write("[safe]\n\tdirectory = *\n[advice]\n\tdetachedHead = false\n")
        config.flush()
        environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": config.name}
        done = subprocess.run(["git", *words], env=environment, cwd=root, check=False)
    if done.returncode != 0:
        stop("the commit that is checked out could not be cloned")


def clone(root: Path) -> None:
    """The commit that is checked out here, into a root that has none yet or an older one."""
    source = root / SOURCE
    if not source.exists():
        git("clone", "--quiet", "--no-hardlinks", str(ROOT), str(source), root=root)
        return
    git("fetch", "--quiet", str(ROOT), "HEAD", root=source)
    git("reset", "--quiet", "--hard", "FETCH_HEAD", root=source)


def say_what_is_missing() -> None:
    changed = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.splitlines()
    if changed:
        say(f"{len(changed)} files here have changes that are not committed, and are not in there")


def fill(root: Path, around: Surroundings, copies: Sequence[tuple[str, str]]) -> None:
    for source, target in around.files:
        (root / target.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, root / target.lstrip("/"))
    for folder in around.folders:
        (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
    clone(root)
    for source, target in copies:
        place = root / SOURCE / target
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)


@contextlib.contextmanager
def fresh_root(suite: str, *, keep: bool) -> Iterator[Path]:
    name = f"{suite}.kept" if keep else f"root.{suite}.{os.getpid()}"
    root, lock = PLACE / name, PLACE / f"{name}.lock"
    with locked(lock):
        try:
            if not (root / "etc").exists():
                base = base_of(suite)
                free = shutil.disk_usage(PLACE).free
                if free < FREE_BYTES_LEAST:
                    stop(f"{PLACE} has {free >> 30} GiB free, and a root may take {FREE_BYTES_LEAST >> 30}")
                root.mkdir()
                if subprocess.run(["tar", "-xf", str(base), "-C", str(root)], check=False).returncode != 0:
                    stop(f"{base} could not be unpacked: remove it, and start again")
            yield root
        finally:
            if keep:
                say(f"left: {root}")
            else:
                remove(root)
                lock.unlink(missing_ok=True)


def run(root: Path, around: Surroundings, command: Sequence[str]) -> int:
    environment = {"PATH": PATH, "HOME": "/root", **around.environment}
    # The kernel kills it when this program ends, even by SIGKILL, and with it everything in its namespaces.
    words = ["setpriv", "--pdeathsig", "KILL"]
    words += ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    words += ["bash", "-ec", INSIDE, "bare_root", str(root), str(len(around.folders)), *around.folders]
    words += ["env", "-C", f"/{SOURCE}", *command]
    # Not on the command line, which everybody may read: an index's address may hold a password.
    process = subprocess.Popen(words, env=environment)
    try:
        return process.wait()
    finally:
        process.kill()
        process.wait()


def main() -> int:
    arguments = parse_arguments()
    if arguments.clean:
        remove(PLACE)
        return 0
    if why := why_not():
        stop(why)
    if arguments.check:
        return 0
    # Whoever ends this program gets what it made removed.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    signal.signal(signal.SIGHUP, lambda number, _: sys.exit(128 + number))
    PLACE.mkdir(parents=True, exist_ok=True)
    remove_what_was_left(PLACE)
    if arguments.fetch:
        base_of(arguments.suite)
        return 0
    say_what_is_missing()
    around = surroundings()
    try:
        with fresh_root(arguments.suite, keep=arguments.keep) as root:
            fill(root, around, arguments.copy)
            return run(root, around, arguments.command)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
