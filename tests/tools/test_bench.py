"""`make bench`: it builds what it runs, says where it is, and keeps what it measured when something behind that fails."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cairn_bench.figures import Figure, Figures
from cairn_bench.groups import Group, measure

ROOT = Path(__file__).parents[2]


def group(*figures: str, fails: BaseException | None = None) -> Group:
    def run(folder: Path, drives: Sequence[Path], rounds: int) -> Figures:
        for number, name in enumerate(figures):
            yield name, Figure(number)
        if fails is not None:
            raise fails

    return Group(run)


# What an engineer lost: two minutes of figures, because a program that came later had not been built.
@pytest.mark.parametrize(
    "fails", [SystemExit("fio is needed"), OSError(28, "No space left on device"), KeyError("p99")]
)
def test_a_group_that_fails_takes_nothing_from_the_others(
    fails: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = {"first": group("a", "b"), "second": group("c", fails=fails), "third": group("d")}
    values, failed, interrupted = measure(groups, list(groups), [], 1)
    assert (list(values), interrupted) == (["a", "b", "c", "d"], False)
    assert len(failed) == 1 and failed[0].startswith("second: ")
    assert str(fails.args[-1]) in failed[0]
    told = capsys.readouterr().err
    assert told.index("[1/3] first") < told.index("[2/3] second") < told.index("FAILED: second") < told.index("[3/3]")


def test_what_was_measured_before_an_interruption_is_kept() -> None:
    groups = {"first": group("a"), "second": group("b", fails=KeyboardInterrupt()), "third": group("c")}
    values, failed, interrupted = measure(groups, list(groups), [], 1)
    assert (list(values), failed, interrupted) == (["a", "b"], ["second: interrupted"], True)


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    """With nothing on PATH but what setup put into .venv: no fio."""
    path = str(Path(sys.executable).parent)
    command = [sys.executable, str(ROOT / "tools" / "bench.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": path}, cwd=ROOT)


def test_a_real_run_ends_with_the_figures_it_has_and_names_what_failed(tmp_path: Path) -> None:
    done = bench("--only", "shm,drive", "--rounds", "1", "--drive-size", str(512 << 20), "--dir", str(tmp_path))
    assert done.returncode == 1, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures.keys() == {"shm_get_hit_vs_memcpy", "exists_keys_per_second", "get_added_us_p50"}
    assert all(value > 0 for value in figures.values())
    assert done.stderr.splitlines()[-1].startswith("FAILED: drive: fio is needed")
    assert not list(tmp_path.iterdir())


def targets() -> set[str]:
    """The programs that CMake builds of native/testing."""
    text = (ROOT / "native" / "CMakeLists.txt").read_text()
    return {
        line.split("(")[1].split()[0] for line in text.splitlines() if line.strip().startswith("add_executable(cairn-")
    }


def test_every_program_that_a_benchmark_runs_is_built_before() -> None:
    import bench as of_files
    import bench_rdma as of_devices

    used = {
        node.value
        for path in (ROOT / "tools" / "cairn_bench").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in targets()
    }
    built = {name for one in (of_files, of_devices) for group in one.GROUPS.values() for name in group.programs}
    assert {"cairn-lookup-bench", "cairn-connect-storm"} <= used
    assert used == built
