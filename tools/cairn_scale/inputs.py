"""What the arithmetic rests on. Every number says where it is from: measured here, a data sheet, an
announcement, or a guess to be checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

MEASURED, SHEET, ANNOUNCED, GUESS, GIVEN = "measured", "data sheet", "announced", "guess", "given"
VM = "x86-64 virtual machine"
BF3_MANUAL = "the user manual of B3220: "


class InputsError(Exception):
    """args[0] is a sentence."""


@dataclass(frozen=True)
class Input:
    """One number. origin: MEASURED, SHEET, ANNOUNCED, GUESS or GIVEN; why: the command, the document, or the reasoning."""

    value: float
    unit: str
    origin: str
    why: str


@dataclass(frozen=True)
class Inputs:
    """A card, its drives and its processor."""

    cores: Input
    link_gbit: Input
    link_share: Input
    drives: Input
    drive_read_gb_s: Input
    drive_write_gb_s: Input
    lanes: Input
    lane_gb_s: Input
    dram_gb_s: Input
    dram_share: Input
    crossings_get: Input
    crossings_hit: Input
    crossings_put: Input
    crc_gb_s: Input
    get_us: Input
    put_us: Input
    hit_us: Input
    item_us: Input
    request_us: Input
    command_us: Input
    mib_us: Input
    command_bytes: Input
    rdma_us: Input
    index_bytes: Input

    def changed(self, name: str, value: float, why: str) -> Inputs:
        """The same with one number of somebody's own. Raises InputsError."""
        names = [field.name for field in dataclasses.fields(self)]
        if name not in names:
            raise InputsError(f"there is no input '{name}'; there are {', '.join(names)}")
        if not value > 0:
            raise InputsError(f"{name}={value:g}: every input is larger than 0")
        before: Input = getattr(self, name)
        return dataclasses.replace(self, **{name: Input(value, before.unit, GIVEN, why)})

    def rows(self) -> list[tuple[str, Input]]:
        """Every input by its name."""
        return [(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)]


def _measured(value: float, unit: str, what: str) -> Input:
    return Input(value, unit, MEASURED, f"{what}, on an {VM}")


# What a core costs, on the machine where it was measured: medians of three runs, rounded.
PROCESSOR = {
    "crc_gb_s": _measured(14.8, "GB/s", "cairn-parts-bench, crc32c_2mib_cold_gb_s"),
    "get_us": _measured(3.7, "µs", "cairn-parts-bench, store_get_4kib_us"),
    "put_us": _measured(4.2, "µs", "cairn-parts-bench, store_put_4kib_us"),
    "hit_us": _measured(0.09, "µs", "cairn-parts-bench, store_hit_4kib_us"),
    "item_us": _measured(0.018, "µs", "cairn-parts-bench, 1 / decode_items + 1 / answer_items"),
    "command_us": _measured(
        3.4, "µs", "cairn-drive-bench read --depth 16 of 4 KiB and 64 KiB on a file, processor_us_per_request"
    ),
    "mib_us": _measured(6, "µs", "cairn-drive-bench as before, of 1 MiB: more than a command, for a mebibyte of pages"),
}
# No such core was at hand. How much slower a fixed piece of work is taken to be, and how fast CRC32C.
A78_SLOWER, GRACE_SLOWER = 2.0, 1.25


def _guessed(slower: float, crc_gb_s: float, core: str) -> dict[str, Input]:
    fixed = {
        name: Input(
            measured.value * slower, measured.unit, GUESS, f"{slower:g} times what the {VM} takes, for a {core}"
        )
        for name, measured in PROCESSOR.items()
        if name != "crc_gb_s"
    }
    why = f"a {core} does 8 bytes a cycle at best, with crc32 instructions in three streams; half of it left for memory"
    return {"crc_gb_s": Input(crc_gb_s, "GB/s", GUESS, why), **fixed}


# The same for every card.
COMMON = {
    "link_share": Input(0.95, "of the link", GUESS, "headers of 82 bytes to 4096 leave 0.98; the rest is the project's target"),
    "drive_read_gb_s": Input(13, "GB/s", GUESS, "a PCIe Gen5 x4 drive of TLC; put in your drive's data sheet"),
    "drive_write_gb_s": Input(7, "GB/s", GUESS, "the same, writing without pause"),
    "dram_share": Input(0.8, "of the peak", GUESS, "what streams of several devices reach of a memory's peak"),
    "crossings_get": Input(3, "times", GUESS, "counted: the drive writes, CRC32C reads, the network card reads; none stays in a cache"),
    "crossings_hit": Input(1, "times", GUESS, "counted: the network card reads"),
    "crossings_put": Input(3, "times", GUESS, "counted: the network card writes, CRC32C reads, the drive reads; none stays in a cache"),
    "request_us": Input(5, "µs", GUESS, "a request of one block through the reactor: session, shares, waking up"),
    "command_bytes": Input(1 << 20, "B", GUESS, "what common drives take; cairn-dpu inventory tells yours"),
    "rdma_us": Input(0.5, "µs", GUESS, "a work request, posted and completed; a get or put has two"),
    "index_bytes": _measured(59.2, "B", "cairn-parts-bench, index_bytes / index_entries"),
}  # fmt: skip

CARDS = {
    "bluefield-3": Inputs(
        cores=Input(16, "", SHEET, BF3_MANUAL + "16 Arm Cortex-A78"),
        link_gbit=Input(400, "Gb/s", SHEET, BF3_MANUAL + "two ports of 200 Gb/s"),
        drives=Input(8, "", GUESS, "as many x4 drives as the lanes take"),
        lanes=Input(32, "", SHEET, BF3_MANUAL + "x16, and x16 of the extension; all of them to drives"),
        lane_gb_s=Input(3.9, "GB/s", SHEET, "PCIe Gen5: 32 GT/s"),
        dram_gb_s=Input(89.6, "GB/s", SHEET, BF3_MANUAL + "DDR5, 128 bits at 5600 MT/s; some are 5200"),
        **COMMON,
        **_guessed(A78_SLOWER, 8, "Cortex-A78 at 2 GHz"),
    ),
    "bluefield-4": Inputs(
        cores=Input(64, "", ANNOUNCED, "64 cores of the Grace class"),
        link_gbit=Input(800, "Gb/s", ANNOUNCED, "ConnectX-9"),
        drives=Input(12, "", GUESS, "an STX server was shown with 24 drives on two cards"),
        lanes=Input(48, "", GUESS, "four for each drive"),
        lane_gb_s=Input(3.9, "GB/s", SHEET, "PCIe Gen5, the drives'; the card itself has Gen6"),
        dram_gb_s=Input(
            400, "GB/s", GUESS, "LPDDR5X; a Grace of 72 cores has up to 500, this one 128 GB and fewer cores"
        ),
        **COMMON,
        **_guessed(GRACE_SLOWER, 12, "core of the Grace class at 3 GHz"),
    ),
}


def with_parts(inputs: Inputs, parts: Mapping[str, float]) -> Inputs:
    """The processor's numbers from a run of cairn-parts-bench. Raises InputsError when it is none."""
    try:
        found = {
            "crc_gb_s": parts["crc32c_2mib_cold_gb_s"],
            "get_us": parts["store_get_4kib_us"],
            "put_us": parts["store_put_4kib_us"],
            "hit_us": parts["store_hit_4kib_us"],
            "item_us": 1e6 / parts["decode_items_per_second"] + 1e6 / parts["answer_items_per_second"],
            "index_bytes": parts["index_bytes"] / parts["index_entries"],
        }
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise InputsError(f"this is not what cairn-parts-bench prints: {error}") from error
    for name, value in found.items():
        inputs = inputs.changed(name, value, "given with --parts")
    return inputs
