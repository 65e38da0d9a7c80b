"""Measures Cairn over RDMA and NVMe pass-through, against perftest and fio on the same devices in the same run.

    make bench-rdma                 # in the testbed (docs/testbed.md), some fifteen minutes; the last line is one JSON object, of what was measured
    tools/testbed/run --nvme 2 --nvme-mb 2048 -- .venv/bin/python tools/bench_rdma.py --only rdma --rounds 5

The testbed has one processor, which client, service, network and drives share: only ratios mean anything. What is measured, by the word
for --only (medians of --rounds; every other round begins with the other side):

rdma    rdma_get_vs_ib_write_bw_Nmib   gets of one block of N = 2, 4, 16 MiB in DRAM into one piece of memory / ib_write_bw of as many messages of that
                                       size in flight, which does the same
        rdma_put_vs_ib_read_bw_Nmib    relaxed puts of fresh keys, in bursts that the slab takes in, from one piece of memory to ever
                                       new ones / ib_read_bw from one piece of memory to another
        rdma_spread_get_…, rdma_spread_put_…  the same with 64 MiB of blocks and as much memory, which no cache holds / perftest with
                                       a piece of memory at both ends for each message in flight
small   rdma_get_added_us_p50          a get of 64 KiB in DRAM, through the public client, less ib_write_lat of 64 KiB, which polls
        rdma_get_added_over_send_lat_us_p50  the same less ib_send_lat that sleeps until it is woken, as ours does
ng      ng_get_vs_fio_Nmib, ng_put_vs_fio_Nmib  gets of what is not in DRAM, and durable puts, over shm / fio io_uring_cmd, as many
                                       bytes in flight over both namespaces
        ng_drive_read_vs_fio_Nmib, ng_drive_write_vs_fio_Nmib  our drive alone, without store, checksums, service and client
        ng_store_get_vs_fio_Nmib, ng_store_put_vs_fio_Nmib  the store alone, checksums included, without service and client
both    end_to_end_get_vs_slower_Nmib  gets from the namespaces into a client's memory over RDMA / the slower of fio and ib_write_bw,
                                       spread as above
        end_to_end_put_vs_slower_Nmib  durable puts / the slower of fio and ib_read_bw
        …_of_both_Nmib                 against the rate of a processor that does first the one and then the other
connections  connects_per_second       connect, one exists, disconnect, one client after the other
        bytes_per_idle_connection      what the service grows by for each of 1,000 sessions that do nothing

A group that fails is named, and the others are measured all the same; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from cairn_bench import raw
from cairn_bench.groups import Group, run_groups
from cairn_bench.rdma import bench_connections, bench_end_to_end, bench_ng, bench_rdma, bench_rdma_small

GROUPS = {
    "rdma": Group(bench_rdma, drives=2),
    "small": Group(bench_rdma_small),
    "ng": Group(bench_ng, drives=2, programs=("cairn-drive-bench", "cairn-store-bench")),
    "both": Group(bench_end_to_end, drives=2),
    "connections": Group(bench_connections, programs=("cairn-connect-storm",)),
}


def main() -> int:
    # The testbed's machine is slow: what is built is built outside of it.
    return run_groups(__doc__ or "", GROUPS, make_drives, may_build="CAIRN_TESTBED" not in os.environ)


def make_drives(_options: argparse.Namespace, count: int) -> list[Path]:
    namespaces = [Path(name) for name in os.environ.get("CAIRN_TESTBED_NAMESPACES", "").split()]
    if len(namespaces) < count:
        raise SystemExit(
            f"there are not {count} namespaces to measure on: make bench-rdma, or tools/testbed/run --nvme {count} -- …"
        )
    return written(namespaces[:count])


def written(namespaces: list[Path]) -> list[Path]:
    """From end to end: no figure pays for the memory that the testbed's namespaces are made of, which comes when it is touched."""
    for path in namespaces:
        raw.fio_bytes_per_second([path], "write", raw.drive_bytes(path))
    return namespaces


if __name__ == "__main__":
    sys.exit(main())
