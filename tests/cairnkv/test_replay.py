"""The replay is an oracle: it must find what is wrong when something is, and nothing when nothing is."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import cairnkv
from cairnkv import CairnError, Client, Status
from cairnkv.replay import Options, Replay, ReplayError, block_name
from cairnkv.tally import Latency, latency_of, report_rows
from cairnkv.testing import MemoryClient, MemoryStore, RunningService, service
from cairnkv.traces import Request, facts, prefix_hit_ratio, synthetic_trace

SMALL = Options(block_bytes=512, clients=1, batch_bytes=4096)


def requests_of(*prompts: list[int]) -> list[Request]:
    return [Request(at * 10.0, 512 * len(blocks), 1, tuple(blocks)) for at, blocks in enumerate(prompts)]


def in_memory(store: MemoryStore) -> Callable[[int], Client]:
    return lambda _: MemoryClient(store)


def test_counts_by_hand() -> None:
    requests = requests_of([1, 2, 3], [1, 2, 4], [9, 2, 3], [1, 2, 4])
    report = Replay(requests, in_memory(MemoryStore()), SMALL, trace="by hand").run()
    assert (report.requests, report.blocks, report.unique_blocks) == (4, 12, 5)
    assert report.hit_blocks == 5 and report.prefix_hit_ratio == report.infinite_cache_hit_ratio == round(5 / 12, 6)
    assert (report.put_blocks, report.put_existed, report.put_bytes) == (5, 2, 5 * 512)
    assert (report.get_blocks, report.get_misses, report.get_bytes) == (5, 0, 5 * 512)
    assert (report.acknowledged_checked, report.acknowledged_read_back) == (5, 5)
    assert report.good and not report.interrupted and report.failed == {} and report.disruption is None
    assert report.latency_ms["match"].count == report.latency_ms["request"].count == 4
    json.dumps(report.as_dict())
    assert dict(report_rows(report))["wrong bytes"] == "0 (in 0 blocks)"


def test_the_hit_ratio_is_that_of_a_cache_without_end() -> None:
    requests = synthetic_trace(300)
    report = Replay(requests, in_memory(MemoryStore()), SMALL).run()
    assert report.prefix_hit_ratio == round(prefix_hit_ratio(requests), 6)
    assert report.put_blocks == facts(requests).unique


def test_every_run_has_blocks_of_its_own_unless_it_is_named() -> None:
    requests, store = requests_of([1, 2], [1, 2]), MemoryStore()
    named = Options(block_bytes=512, clients=1, key_prefix="a run")
    assert Replay(requests, in_memory(store), SMALL).run().hit_blocks == 2
    assert Replay(requests, in_memory(store), named).run().hit_blocks == 2
    assert Replay(requests, in_memory(store), named).run().hit_blocks == 4
    assert block_name("a", 1) != block_name("b", 1) != block_name("b", 2)


def test_a_planted_wrong_byte_is_reported() -> None:
    requests, store = requests_of([1, 2, 3], [1, 2, 3]), MemoryStore()
    options = Options(block_bytes=512, clients=1, key_prefix="planted")
    Replay(requests[:1], in_memory(store), options).run()
    store.corrupt()
    report = Replay(requests[1:], in_memory(store), options).run()
    assert report.wrong_bytes == 3 and report.wrong_blocks >= 3
    assert not report.good


def test_a_wrong_byte_that_only_the_audit_meets_is_reported() -> None:
    store = MemoryStore()

    class Corrupting(MemoryClient):
        def stats(self, *, deadline_ms: int | None = None) -> dict[str, object]:
            store.corrupt()
            return super().stats(deadline_ms=deadline_ms)

    replay = Replay(requests_of([1, 2, 3]), in_memory(store), SMALL)
    client = Corrupting(store)
    assert client.match([]) == 0
    replay.ledger.record([(1, 1)])
    client.put_one(block_name(replay._prefix, 1)[0], bytes(512))
    audit = replay.ledger.audit(client, memoryview(bytearray(512)), 10, seed=0)
    assert (audit.checked, audit.read_back, audit.wrong, audit.lost) == (1, 1, 1, 0)


def test_a_planted_lost_block_is_reported() -> None:
    store = MemoryStore()
    prompts = [[at] for at in range(50)]
    lost = Replay(
        requests_of(*prompts), in_memory(store), Options(512, 1, disrupt_at=25), disruption=lambda: store.drop(2)
    ).run()
    assert lost.disruption is not None and lost.lost_acknowledged == 2
    assert lost.seconds > 0
    assert not lost.good and lost.wrong_blocks == 0


def test_a_block_that_was_evicted_is_not_lost() -> None:
    store = MemoryStore()

    class Evicting(MemoryClient):
        def stats(self, *, deadline_ms: int | None = None) -> dict[str, object]:
            found = super().stats(deadline_ms=deadline_ms)
            found["store"]["drives"] = [{"bytes": 1 << 20, "oldest_sequence": 3}, {"bytes": 0, "oldest_sequence": 1}]
            return found

    replay = Replay(requests_of([1, 2, 3, 4]), lambda _: Evicting(store), SMALL)
    replay.ledger.record([(1, 1), (2, 2), (3, 3), (4, 4)])
    audit = replay.ledger.audit(Evicting(store), memoryview(bytearray(512)), 10, seed=0)
    assert (audit.checked, audit.evicted, audit.lost) == (4, 2, 2)
    assert len(replay.ledger) == 0


def test_the_newest_acknowledgement_of_a_block_counts() -> None:
    replay = Replay(requests_of([1]), in_memory(MemoryStore()), SMALL)
    replay.ledger.record([(1, 9), (2, 5)])
    replay.ledger.record([(1, 4)])
    assert replay.ledger.newest(1) == [1] and replay.ledger.newest(5) == [2, 1]


def test_a_put_without_an_answer_is_in_doubt_and_never_lost() -> None:
    store = MemoryStore()
    store.faults.unreachable = True
    replay = Replay(requests_of(*[[at] for at in range(6)]), in_memory(store), SMALL)
    back = threading.Timer(0.12, store.faults.clear)
    back.start()
    report = replay.run()
    back.join()
    assert report.failed["unreachable"] >= 1 and report.puts_in_doubt == 0
    assert report.lost_acknowledged == 0 and report.put_blocks + report.failed["unreachable"] == 6


def test_a_miss_in_the_middle_ends_the_hit_and_is_stored_again() -> None:
    store = MemoryStore()
    options = Options(block_bytes=512, clients=1, key_prefix="a run")
    Replay(requests_of([1, 2, 3]), in_memory(store), options).run()
    store.faults.clear()
    store.faults.fail_get(2, Status.corrupt)
    report = Replay(requests_of([1, 2, 3]), in_memory(store), options).run()
    assert (report.hit_blocks, report.get_misses, report.put_existed) == (1, 1, 2)
    assert report.failed == {"corrupt": 1} and report.good


def test_relaxed_blocks_are_not_acknowledged_for_good() -> None:
    report = Replay(requests_of([1, 2]), in_memory(MemoryStore()), Options(512, 1, durability="relaxed")).run()
    assert report.acknowledged_checked == 0 and report.put_blocks == 2


def test_the_traces_own_time() -> None:
    began = time.monotonic()
    Replay(requests_of(*[[at] for at in range(11)]), in_memory(MemoryStore()), Options(512, 2, speed=1)).run()
    assert 0.1 <= time.monotonic() - began < 5


def test_a_service_that_stays_away_ends_the_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairnkv.replay.PATIENCE_SECONDS", 0.1)
    store = MemoryStore()
    store.faults.unreachable = True
    with pytest.raises(ReplayError, match="has been gone for 0 s"):
        Replay(requests_of(*[[at] for at in range(999)]), in_memory(store), SMALL).run()


def test_an_error_in_a_worker_is_told() -> None:
    clients = [MemoryClient(), MemoryClient()]

    def close_all() -> None:
        for client in clients:
            client.close()

    options = Options(512, 2, disrupt_at=0)
    replay = Replay(requests_of(*[[at] for at in range(9999)]), lambda at: clients[at], options, disruption=close_all)
    with pytest.raises(CairnError, match="closed"):
        replay.run()


def test_nothing_to_replay() -> None:
    with pytest.raises(ReplayError, match="nothing to replay"):
        Replay([], in_memory(MemoryStore()), SMALL)


def test_percentiles() -> None:
    assert latency_of([]) == Latency(0, 0, 0, 0, 0)
    assert latency_of([0.001]) == Latency(1, 1, 1, 1, 1)
    assert latency_of([number / 1000 for number in range(100, 0, -1)]) == Latency(100, 50, 90, 99, 100)


def test_kill_9_in_the_middle(short_dir: Path) -> None:
    requests = synthetic_trace(200)
    with service(short_dir, size="1GiB") as running:
        phases = list[str]()

        def kill() -> None:
            running.kill()
            running.start()

        report = Replay(
            requests,
            lambda _: cairnkv.connect(running.shm_url),
            Options(block_bytes=65_536, clients=3, disrupt_at=100),
            disruption=kill,
            on_progress=lambda progress: phases.append(progress.phase),
        ).run()
    assert report.good, report.as_dict()
    assert report.requests == 200
    assert report.disruption is not None
    assert report.disruption.acknowledged_blocks > 100
    assert report.disruption.recovered_blocks >= report.disruption.acknowledged_blocks
    assert 0 < report.disruption.down_seconds <= report.disruption.seconds_until_warm < 30
    assert report.failed, "nobody noticed the kill: it was not under load"
    assert set(report.failed) <= {"disconnected", "unreachable"}
    assert list(dict.fromkeys(phases)) == ["replaying", "killed", "checking", "done"]
    assert abs(report.prefix_hit_ratio - report.infinite_cache_hit_ratio) < 0.1


def test_a_drive_too_small_for_the_trace_evicts_and_loses_nothing(short_dir: Path) -> None:
    with service(short_dir, size="256MiB") as running:
        report = Replay(
            synthetic_trace(150), lambda _: cairnkv.connect(running.tcp_url), Options(block_bytes=262_144, clients=2)
        ).run()
    assert report.good and report.acknowledged_evicted > 0
    assert report.lru_hit_ratio is not None and report.lru_hit_ratio <= report.infinite_cache_hit_ratio


@pytest.mark.parametrize("count", [1, 3])
def test_clients_share_the_work(running: RunningService, count: int) -> None:
    report = Replay(synthetic_trace(30), lambda _: cairnkv.connect(running.shm_url), Options(4096, count)).run()
    assert report.good and report.clients == count and report.requests == 30
