"""Measures Cairn against the machine it runs on. Each figure is a ratio of two things measured side by side in the same run, or a number that
depends on the machine as little as a count does.

    make bench                      # everything, about ten minutes; the last line is one JSON object, of what was measured
    .venv/bin/python tools/bench.py --only tcp,shm --rounds 5

What is measured, by the word for --only (medians of --rounds; every other round begins with the other side):

tcp     tcp_get_vs_socket      4 MiB gets of blocks in DRAM over tcp / a raw socket pair filling the same kind of buffer
        tcp_put_vs_socket      4 MiB relaxed puts of fresh keys over tcp, in bursts the slab can hold / the same raw socket pair
shm     shm_get_hit_vs_memcpy  4 MiB gets of blocks in DRAM over shm / memcpy over as much memory
        exists_keys_per_second 1,000 keys a call over shm, from one thread: the service has one core for its data path
        get_added_us_p50       a 64 KiB get over shm, in DRAM, through the public client, less the memcpy of 64 KiB
drive   drive_get_vs_fio_Nmib  gets of blocks of N = 2, 4, 16 MiB that are not in DRAM, from two drives / fio io_uring randread of as much
                               a request, as many in flight over both files (8, 8, 4), from the same part of them
        drive_put_vs_fio_Nmib  durable puts of fresh keys / fio io_uring write, in the same way
large   get_64mib_two_drives_vs_one  one 64 MiB get at a time, striped over two drives / the same from one drive
        fio_two_drives_vs_one  what the machine can reach of that: fio randread, 16 x 4 MiB in flight, of two files / of one
lookup  lookup_us_p99          exists and match of 100 keys, by 100 clients that make 2,000 calls a second together, over shm
tenant  victim_hit_rate_vs_alone  hits of a tenant that gets 75 % of its share of a drive again and again, while another one puts twice the
                               drive / the same without the other; segments of 16 MiB, so that a small drive has as many as a large one
index   index_bytes_per_block  bytes that the allocator gave out for a store of more than 10 million blocks, a block, with the table at its
                               worst; index_bytes_per_block_groups_of_8: the same if each is in a group of 8
wear    write_amplification    bytes that the store wrote / payload that it took, over the requests of the conversation trace, on a drive of
                               20 % of its different blocks. A block of the trace is 1 MiB and the drive lives in memory
checks  checks_on_vs_off_NAME  items a second of NAME = exists, get (64 KiB, in DRAM), put (4 KiB) over shm with the asserts that ship / in a
                               build without them, which is made first; what asserts may cost is 2 %

What the groups run is built first. A group that fails is named, and the others are measured all the same; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from cairn_bench.checks import bench_checks
from cairn_bench.drives import bench_drive, bench_large
from cairn_bench.groups import Group, run_groups
from cairn_bench.programs import bench_index, bench_lookup, bench_wear
from cairn_bench.services import make_drive
from cairn_bench.tenants import bench_tenant
from cairn_bench.transports import bench_shm, bench_tcp

GROUPS = {
    "tcp": Group(bench_tcp),
    "shm": Group(bench_shm),
    "drive": Group(bench_drive, drives=2),
    "large": Group(bench_large, drives=3),
    "lookup": Group(bench_lookup, programs=("cairn-lookup-bench",)),
    "tenant": Group(bench_tenant),
    "index": Group(bench_index, programs=("cairn-recovery-bench",)),
    "wear": Group(bench_wear, programs=("cairn-wear-bench",)),
    "checks": Group(bench_checks, programs=("cairn-checks-bench",)),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir", type=Path, default=Path("build"), help="where the drives' files go: a real disk, not tmpfs"
    )
    parser.add_argument("--drive-size", type=int, default=2 << 30)


def main() -> int:
    with contextlib.ExitStack() as stack:

        def make_drives(options: argparse.Namespace, count: int) -> list[Path]:
            options.dir.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cairn-bench-", dir=options.dir))
            drives = [Path(folder) / f"drive{number}" for number in range(count)]
            for drive in drives:
                make_drive(drive, options.drive_size)
            return drives

        return run_groups(__doc__ or "", GROUPS, make_drives, add_options)


if __name__ == "__main__":
    sys.exit(main())
