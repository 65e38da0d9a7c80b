"""`tools/scale.py`: the arithmetic, checked by hand on round numbers, and the page that it fills."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cairn_scale import model
from cairn_scale.inputs import CARDS, GIVEN, GUESS, MEASURED, PROCESSOR, Input, Inputs, InputsError, with_parts

ROOT = Path(__file__).parents[2]
SCALE = ROOT / "tools" / "scale.py"
PAGE = ROOT / "docs" / "performance.md"
MIB = 1 << 20
PARTS = {
    "crc32c_2mib_cold_gb_s": 10.0, "store_get_4kib_us": 5.0, "store_put_4kib_us": 6.0, "store_hit_4kib_us": 0.5,
    "decode_items_per_second": 1e6, "answer_items_per_second": 5e5, "index_bytes": 600, "index_entries": 10,
}  # fmt: skip


def scale(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCALE), *words], capture_output=True, text=True, check=False)


@pytest.fixture
def round_card() -> Inputs:
    """Numbers that can be followed in the head."""
    values = {
        "cores": 4, "link_gbit": 80, "link_share": 1, "drives": 2, "drive_read_gb_s": 6, "drive_write_gb_s": 3, "lanes": 8,
        "lane_gb_s": 2, "dram_gb_s": 30, "dram_share": 0.5, "crossings_get": 3, "crossings_hit": 1, "crossings_put": 5,
        "crc_gb_s": 10, "get_us": 10, "put_us": 20, "hit_us": 1, "item_us": 1, "request_us": 2, "command_us": 4, "mib_us": 8,
        "command_bytes": MIB, "rdma_us": 0.5, "index_bytes": 50,
    }  # fmt: skip
    return Inputs(**{name: Input(value, "", GIVEN, "") for name, value in values.items()})


def test_the_time_of_a_block(round_card: Inputs) -> None:
    # item 1, request 2, two work requests 1; then the store, two commands of 4, and 8 for each of two mebibytes.
    assert model.block_us(round_card, model.GET, 2 * MIB) == 4 + 10 + 8 + 16
    assert model.block_us(round_card, model.PUT, 2 * MIB) == 4 + 20 + 8 + 16
    assert model.block_us(round_card, model.HIT, 2 * MIB) == 4 + 1
    # A byte more is a command more.
    assert model.block_us(round_card, model.GET, 2 * MIB + 1) == pytest.approx(38 + 4, abs=0.001)


def test_the_cores_of_a_gigabyte(round_card: Inputs) -> None:
    # 10^9 / (2 MiB) blocks a second of 38 µs each, and a tenth of a core for the checksum.
    assert model.cores_per_gb_s(round_card, model.GET, 2 * MIB) == pytest.approx(0.1 + 38e-6 * 1e9 / (2 * MIB))
    assert model.cores_per_gb_s(round_card, model.HIT, 2 * MIB) == pytest.approx(5e-6 * 1e9 / (2 * MIB))


def test_what_each_part_could_move(round_card: Inputs) -> None:
    get = model.bounds_gb_s(round_card, model.GET, 2 * MIB)
    assert (get["network"], get["drives"], get["lanes"], get["memory"]) == (10, 12, 16, 5)
    assert get["one reactor"] == pytest.approx(1 / model.cores_per_gb_s(round_card, model.GET, 2 * MIB))
    assert get["all cores"] == pytest.approx(4 * get["one reactor"])
    assert model.bound_of(get, one_reactor=False) == ("memory", 5)
    put = model.bounds_gb_s(round_card, model.PUT, 2 * MIB)
    assert (put["drives"], put["memory"]) == (6, 3)
    hit = model.bounds_gb_s(round_card, model.HIT, 2 * MIB)
    assert "drives" not in hit and hit["memory"] == 15
    assert model.bound_of(hit, one_reactor=False) == ("network", 10)


def test_one_reactor_counts_only_today(round_card: Inputs) -> None:
    slow = round_card.changed("crc_gb_s", 1, "")
    bounds = model.bounds_gb_s(slow, model.GET, 2 * MIB)
    assert model.bound_of(bounds, one_reactor=True)[0] == "one reactor"
    assert model.bound_of(bounds, one_reactor=False)[0] == "all cores"


def test_every_input_matters(round_card: Inputs) -> None:
    """A number that changes nothing is no input."""

    def all_of(inputs: Inputs) -> list[object]:
        found: list[object] = [model.index_gb_per_tb(inputs, MIB)]
        return found + [model.bounds_gb_s(inputs, operation, 2 * MIB) for operation in model.OPERATIONS]

    before = all_of(round_card)
    for name, one in round_card.rows():
        assert all_of(round_card.changed(name, one.value * 4, "")) != before, name


def test_every_input_says_where_it_is_from() -> None:
    for card in CARDS.values():
        for name, one in card.rows():
            assert one.origin != GIVEN and one.why, name
        # Nothing was measured on a core of a card.
        assert {one.origin for name, one in card.rows() if name in PROCESSOR} == {GUESS}
    assert {one.origin for one in PROCESSOR.values()} == {MEASURED}


def test_a_run_on_the_card_replaces_the_guesses(round_card: Inputs) -> None:
    found = with_parts(round_card, PARTS)
    values = {name: one.value for name, one in found.rows() if one != dict(round_card.rows())[name]}
    assert values == {
        "crc_gb_s": 10.0, "get_us": 5.0, "put_us": 6.0, "hit_us": 0.5, "item_us": 3.0, "index_bytes": 60.0,
    }  # fmt: skip
    with pytest.raises(InputsError, match="not what cairn-parts-bench prints"):
        with_parts(round_card, {"crc32c_2mib_cold_gb_s": 10.0})


def test_the_bench_prints_what_is_read_here() -> None:
    source = (ROOT / "native" / "testing" / "parts_bench.cc").read_text()
    printed = set(re.findall(r'json\.(?:real|number)\("(\w+)"', source)) | set(re.findall(r'\.number\("(\w+)"', source))
    composed = {f"{found}4kib_us" for found in re.findall(r'"(store_\w+_)" \+ size \+ "_us"', source)}
    assert printed | composed >= PARTS.keys()


def test_the_command(tmp_path: Path) -> None:
    parts = tmp_path / "parts.json"
    parts.write_text(json.dumps(PARTS))
    done = scale("--card", "bluefield-3", "--block", "64KiB", "--parts", str(parts), "--set", "link_gbit=8")
    assert done.returncode == 0, done.stderr
    assert re.search(r"bluefield-3 +0.95 .*0.95, network +0.95, network", done.stdout)
    assert "bluefield-4" not in done.stdout
    listed = scale("--inputs", "--set", "crc_gb_s=99").stdout
    assert re.search(r"crc_gb_s +all +99 GB/s +given", listed)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "speed=1"], "there is no input 'speed'; there are cores, link_gbit"),
        (["--set", "cores=0"], "every input is larger than 0"),
        (["--set", "cores"], "write NAME=NUMBER"),
        (["--block", "1GiB"], "is no block"),
        (["--parts", "/nowhere.json"], "/nowhere.json"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], told: str) -> None:
    done = scale(*words)
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr


def test_the_page_has_the_tables_of_the_program() -> None:
    found = re.search(r"<!-- from tools/scale.py --markdown -->\n\n(.*)\n<!-- to here -->", PAGE.read_text(), re.DOTALL)
    assert found is not None
    assert found.group(1) == scale("--markdown").stdout, (
        "put into docs/performance.md what tools/scale.py --markdown prints"
    )


def test_the_words_before_the_tables_agree_with_them() -> None:
    """What "In short" claims of memory, cores and reactors is what comes out."""
    get = {name: model.bounds_gb_s(card, model.GET, 2 * MIB) for name, card in CARDS.items()}
    put = {name: model.bounds_gb_s(card, model.PUT, 2 * MIB) for name, card in CARDS.items()}
    assert model.bound_of(get["bluefield-3"], False)[0] == model.bound_of(put["bluefield-3"], False)[0] == "memory"
    assert (round(get["bluefield-3"]["memory"]), round(get["bluefield-3"]["one reactor"])) == (24, 7)
    assert round(get["bluefield-4"]["one reactor"]) == 10
    assert (model.bound_of(get["bluefield-4"], False)[0], model.bound_of(put["bluefield-4"], False)[0]) == (
        "network",
        "drives",
    )
    cores = model.cores_per_gb_s(CARDS["bluefield-3"], model.GET, 2 * MIB) * get["bluefield-3"]["memory"]
    assert 3 < cores < 4
    small, large = (model.cores_per_gb_s(CARDS["bluefield-3"], model.GET, size) for size in (64 << 10, 2 * MIB))
    assert round(small / large) == 3
    for name, card in CARDS.items():
        hit = model.bounds_gb_s(card, model.HIT, 2 * MIB)
        assert hit["one reactor"] > hit["network"], name
    assert dataclasses.asdict(CARDS["bluefield-3"]) != dataclasses.asdict(CARDS["bluefield-4"])
