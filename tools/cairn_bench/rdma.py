"""RDMA against perftest, NVMe pass-through against fio, and both together: between a client's memory and namespaces."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from cairn_bench import perftest, raw
from cairn_bench.blocks import Blocks, fresh_keys, settle
from cairn_bench.drives import DEPTHS, SLAB, WARM_BYTES, bench_drive, footprint, get_all, put_all
from cairn_bench.figures import Figure, Figures, Pair, alternate, ratio_of
from cairn_bench.programs import BUILT, run_program
from cairn_bench.services import MIB, format_drive, serving
from cairn_bench.transports import small_get_us_p50
from cairnkv import _native
from cairnkv.process import ServiceProcess

ADDRESS = os.environ.get("CAIRN_TESTBED_ADDRESS", "")
SMALL_BYTES = 65_536
IN_DRAM_BYTES = 1024 * MIB
SLAB_BYTES = 512 * MIB  # where blocks are to be in DRAM
BURST_BYTES = 192 * MIB  # of relaxed puts: what the slab takes in before the drives have to
IDLE_SESSIONS = 1000
CYCLES = 1000
RDMA = 2  # which of the service's URLs


def demand_testbed() -> None:
    if not ADDRESS:
        raise SystemExit("there is no RDMA device to measure on: make bench-rdma, or tools/testbed/run --nvme 2 -- …")
    perftest.demand_perftest()
    raw.demand_fio()


def serving_rdma(folder: Path, drives: Sequence[Path], slab: str) -> contextlib.AbstractContextManager[ServiceProcess]:
    limits = ("sessions-most", "sessions-per-peer-most", "sessions-per-tenant-most")
    words = ["--allow-remote-without-credentials", *(f"--{limit}={IDLE_SESSIONS + 64}" for limit in limits)]
    return serving(folder, drives, slab, words, listen=[f"rdma://{ADDRESS}:0"])


def wire_rate(program: str, block_bytes: int, depth: int, *, spread: bool) -> float:
    return perftest.bytes_per_second(program, ADDRESS, block_bytes, depth, IN_DRAM_BYTES, spread=spread)


def bench_rdma(folder: Path, drives: Sequence[Path], rounds: int) -> Figures:
    demand_testbed()
    for block_mib, depth in DEPTHS.items():
        format_drive(*drives)
        with serving_rdma(folder, drives, f"{SLAB_BYTES // MIB}MiB") as service:
            for name, pairs in transfers(service.urls[RDMA], block_mib * MIB, depth, rounds):
                yield f"rdma_{name}_{block_mib}mib", ratio_of(pairs)


def transfers(url: str, block_bytes: int, depth: int, rounds: int) -> Iterator[tuple[str, list[Pair]]]:
    """By name, against perftest's messages of that size, as many in flight: from and to one piece of memory, which lies in a cache, or
    spread at both ends over as much memory as is in flight (perftest) and 64 MiB (ours). What puts write in the slab is always spread."""
    client = _native.Client(url)
    one, spread = (Blocks(client, pieces, block_bytes, depth) for pieces in (1, 64 * MIB // block_bytes))
    spread.put(fresh_keys(SLAB_BYTES * 5 // 4 // block_bytes), relaxed=True)  # every page of the slab has been touched
    keys = {blocks: blocks.stored(len(blocks.pieces)) for blocks in (one, spread)}
    settle(client)
    count = IN_DRAM_BYTES // block_bytes

    def get(blocks: Blocks) -> float:
        return blocks.get(keys[blocks], count)

    def burst(blocks: Blocks) -> float:
        settle(client)
        return blocks.put(fresh_keys(BURST_BYTES // block_bytes), relaxed=True)

    for name, blocks in (("", one), ("spread_", spread)):

        def wire(program: str, wide: bool = blocks is spread) -> float:
            return wire_rate(program, block_bytes, depth, spread=wide)

        yield f"{name}get_vs_ib_write_bw", alternate(rounds, partial(get, blocks), partial(wire, perftest.WRITE))
        yield f"{name}put_vs_ib_read_bw", alternate(rounds, partial(burst, blocks), partial(wire, perftest.READ))
    client.close()


def bench_rdma_small(folder: Path, drives: Sequence[Path], rounds: int) -> Figures:
    """One get of 64 KiB at a time, as a user calls it."""
    demand_testbed()
    format_drive(drives[0])
    with serving_rdma(folder, drives[:1], "256MiB") as service:
        ours = statistics.median(small_get_us_p50(service.urls[RDMA]) for _ in range(rounds))
    details: dict[str, float | int | str] = {"get_us_p50": round(ours, 1)}
    polled = statistics.median(
        perftest.one_way_us(perftest.WRITE_LATENCY, ADDRESS, SMALL_BYTES, events=False) for _ in range(rounds)
    )
    woken = statistics.median(
        perftest.one_way_us(perftest.SEND_LATENCY, ADDRESS, SMALL_BYTES, events=True) for _ in range(rounds)
    )
    details |= {"ib_write_lat_us": round(polled, 1), "ib_send_lat_events_us": round(woken, 1)}
    # ib_write_lat polls at both ends: where these share one processor, it measures the scheduler's time slices.
    yield "rdma_get_added_us_p50", Figure(round(ours - polled, 1), details)
    yield "rdma_get_added_over_send_lat_us_p50", Figure(round(ours - woken, 1), details)


def bench_connections(folder: Path, drives: Sequence[Path], rounds: int) -> Figures:
    demand_testbed()
    format_drive(drives[0])
    with serving_rdma(folder, drives[:1], "256MiB") as service:
        url = service.urls[RDMA]
        rates = [
            run_program("cairn-connect-storm", [url, "--cycles", str(CYCLES)])["connects_per_second"]
            for _ in range(rounds)
        ]
        yield "connects_per_second", Figure(round(statistics.median(rates), 1), {"cycles": CYCLES})
        before = resident_bytes(service.pid)
        with idle_sessions(url):
            grown = resident_bytes(service.pid) - before
    yield "bytes_per_idle_connection", Figure(round(grown / IDLE_SESSIONS), {"sessions": IDLE_SESSIONS})


@contextlib.contextmanager
def idle_sessions(url: str) -> Iterator[None]:
    """IDLE_SESSIONS sessions that do nothing while the block runs."""
    command = [str(BUILT / "cairn-connect-storm"), url, "--cycles", "0", "--idle", str(IDLE_SESSIONS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:
        assert clients.stdin is not None
        assert clients.stdout is not None
        if not clients.stdout.readline():
            raise SystemExit(f"{' '.join(command)} ended with exit status {clients.wait()}")
        yield
        clients.stdin.write("\n")
        clients.stdin.flush()


def resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024


def bench_ng(folder: Path, drives: Sequence[Path], rounds: int) -> Figures:
    demand_testbed()
    yield from bench_drive(folder, drives, rounds, kind="ng")
    for block_mib, depth in DEPTHS.items():
        for mode in ("read", "write"):
            figure = drive_alone(drives[0], mode, block_mib * MIB, depth, rounds)
            yield f"ng_drive_{mode}_vs_fio_{block_mib}mib", figure
        pairs = [store_round(drives, block_mib * MIB, depth, ours_first=number % 2 == 1) for number in range(rounds)]
        yield f"ng_store_put_vs_fio_{block_mib}mib", ratio_of([put for put, _ in pairs])
        yield f"ng_store_get_vs_fio_{block_mib}mib", ratio_of([get for _, get in pairs])


def store_round(drives: Sequence[Path], block_bytes: int, depth: int, *, ours_first: bool) -> tuple[Pair, Pair]:
    """(put, get) of the store without a client, which costs a processor of its own elsewhere, against fio."""
    total, span = footprint(drives)
    words = [*map(str, drives), "--bytes", str(block_bytes), "--depth", str(depth)]
    words += ["--count", str(total // block_bytes), "--warm", str(WARM_BYTES // block_bytes)]

    def ours(what: str) -> float:
        return float(run_program("cairn-store-bench", [what, *words])["bytes_per_second"])

    def fio() -> tuple[float, float]:
        put = raw.fio_bytes_per_second(drives, "write", total, block_bytes, depth, span)
        return put, raw.fio_bytes_per_second(drives, "randread", total, block_bytes, depth, span)

    theirs = None if ours_first else fio()
    our_put, our_get = ours("put"), ours("get")
    raw_put, raw_get = theirs or fio()
    return (our_put, raw_put), (our_get, raw_get)


def drive_alone(drive: Path, mode: str, block_bytes: int, depth: int, rounds: int) -> Figure:
    """Our drive without store, checksums, service and client: what pass-through itself costs."""
    words = [str(drive), mode, "--bytes", str(block_bytes), "--depth", str(depth), "--seconds", "1", "--registered"]

    def ours() -> float:
        return float(run_program("cairn-drive-bench", words)["mib_per_second"]) * MIB

    return ratio_of(
        alternate(
            rounds, ours, lambda: raw.fio_bytes_per_second([drive], f"rand{mode}", 4096 * MIB, block_bytes, depth)
        )
    )


def bench_end_to_end(folder: Path, drives: Sequence[Path], rounds: int) -> Figures:
    """Gets that nothing of is in DRAM, and durable puts, over RDMA. Where one processor does the work of the client, the service, the
    network and the drives, the rates alone cannot both be kept up: `of_both` is against the rate of the one after the other."""
    demand_testbed()
    for block_mib, depth in DEPTHS.items():
        sides = [end_to_end_round(folder, drives, block_mib * MIB, depth) for _ in range(rounds)]
        for name, number in (("put", 0), ("get", 1)):
            pairs = [side[number] for side in sides]
            slower = ratio_of([(ours, min(wire, drive)) for ours, wire, drive in pairs])
            both = ratio_of([(ours, wire * drive / (wire + drive)) for ours, wire, drive in pairs])
            yield f"end_to_end_{name}_vs_slower_{block_mib}mib", slower
            yield f"end_to_end_{name}_of_both_{block_mib}mib", both


Sides = tuple[float, float, float]  # ours, the network alone, the drives alone


def end_to_end_round(folder: Path, drives: Sequence[Path], block_bytes: int, depth: int) -> tuple[Sides, Sides]:
    """(put, get)."""
    total, span = footprint(drives)

    def fio(mode: str) -> float:
        return raw.fio_bytes_per_second(drives, mode, total, block_bytes, depth, span)

    fio_put = fio("write")
    format_drive(*drives)
    keys, warm = fresh_keys(total // block_bytes), fresh_keys(WARM_BYTES // block_bytes)
    with serving_rdma(folder, drives, SLAB) as service:
        our_put = put_all(service.urls[RDMA], block_bytes, depth, warm, keys)
    with serving_rdma(folder, drives, SLAB) as service:  # a fresh one: nothing is in DRAM
        our_get = get_all(service.urls[RDMA], block_bytes, depth, warm, keys)
    put = our_put, wire_rate(perftest.READ, block_bytes, depth, spread=True), fio_put
    return put, (our_get, wire_rate(perftest.WRITE, block_bytes, depth, spread=True), fio("randread"))
