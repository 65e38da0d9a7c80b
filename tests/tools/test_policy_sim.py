"""The policies do by hand what their papers and our store do, never hold more than they may, and the document says what the
program measures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import policy_sim
from cairn_policies import Fifo, Lru, Policy, S3Fifo, SegmentFifo, Sieve
from cairnkv.traces import Request, facts, prefix_hit_ratio, read_trace
from policy_sim import CHOICES, ENDLESS, SEGMENTS, Choice, Trace, main, replay

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "decisions" / "0005-eviction.md"
KNOWN_LRU = {1_000: 0.044, 3_000: 0.065, 10_000: 0.211, 30_000: 0.326, 100_000: 0.364}
NAMES = [choice.name for choice in CHOICES]

short_traces = st.lists(st.lists(st.integers(0, 30), max_size=6), max_size=40)


def request(*blocks: int) -> Request:
    return Request(0, 512 * len(blocks), 1, blocks)


def held(policy: Policy, blocks: Iterable[int] = range(200)) -> set[int]:
    return {block for block in blocks if block in policy}


def put_all(policy: Policy, blocks: Iterable[int]) -> None:
    for block in blocks:
        policy.put(block)


def use(policy: Policy, block: int, times: int = 1) -> None:
    for _ in range(times):
        policy.use(block)


@pytest.fixture(scope="module")
def conversation() -> Trace:
    requests = read_trace("conversation")
    return Trace("conversation", requests, facts(requests))


# --- what is known of the trace --------------------------------------------------------------------------


def test_the_known_facts(conversation: Trace) -> None:
    assert (conversation.facts.references, conversation.facts.unique) == (288_500, 182_790)
    for blocks, ratio in KNOWN_LRU.items():
        assert round(replay(conversation.requests, Lru(blocks)).ratios["prefix_hit_ratio"], 3) == ratio, blocks
    endless = replay(conversation.requests, Fifo(ENDLESS)).ratios
    assert round(endless["prefix_hit_ratio"], 3) == 0.366 and round(endless["writes_per_reference"], 3) == 0.634
    dialled = replay(conversation.requests, Fifo(ENDLESS), second_touch=True).ratios
    assert round(dialled["prefix_hit_ratio"], 3) == 0.213 and round(dialled["writes_per_reference"], 3) == 0.153


# --- policies that give up single blocks -----------------------------------------------------------------


def test_fifo_forgets_the_oldest_used_or_not() -> None:
    policy = Fifo(3)
    put_all(policy, (1, 2, 3))
    policy.use(1)
    policy.put(4)
    assert held(policy) == {2, 3, 4}


def test_lru_keeps_what_was_used() -> None:
    policy = Lru(3)
    put_all(policy, (1, 2, 3))
    policy.use(1)
    policy.exists(2)
    policy.put(4)
    assert held(policy) == {1, 2, 4}


def test_sieve_keeps_the_visited_one_and_goes_on_from_where_its_hand_was() -> None:
    policy = Sieve(3)
    put_all(policy, (1, 2, 3))
    policy.use(1)
    policy.put(4)
    assert held(policy) == {1, 3, 4}, "the hand passed 1 and took 2"
    policy.put(5)
    assert held(policy) == {1, 4, 5}, "it went on to 3, though 1 is older and has no mark any more"
    policy.use(4)
    policy.put(6)
    assert held(policy) == {1, 4, 6}, "it passed 4 and took 5"
    policy.use(6)
    policy.put(7)
    assert held(policy) == {4, 6, 7}, "it passed 6, and after the newest begins with the oldest"


@given(st.integers(1, 8), st.lists(st.integers(0, 15), max_size=200))
def test_sieve_is_what_a_list_and_a_hand_make_of_it(size: int, references: list[int]) -> None:
    policy = Sieve(size)
    queue: list[list[int]] = []  # [block, mark], oldest first
    hand = 0
    for block in references:
        assert held(policy) == {known for known, _ in queue}
        entry = next((one for one in queue if one[0] == block), None)
        if entry is not None:
            entry[1] = 1
            policy.use(block)
            continue
        if len(queue) == size:
            while queue[hand][1]:
                queue[hand][1] = 0
                hand = (hand + 1) % size
            del queue[hand]
            hand %= max(len(queue), 1)
        queue.append([block, 0])
        policy.put(block)


def s3fifo_with_1_in_the_ghost_queue() -> S3Fifo:
    """Ten places, one of them in the small queue: 2 to 11 are held."""
    policy = S3Fifo(10)
    put_all(policy, range(1, 12))
    assert held(policy) == set(range(2, 12))
    return policy


def test_s3fifo_admits_whom_it_remembers_to_the_main_queue() -> None:
    policy = s3fifo_with_1_in_the_ghost_queue()
    policy.put(1)
    put_all(policy, range(100, 150))
    assert 1 in policy, "strangers that come once pass through the small queue"
    assert 100 not in policy


def test_s3fifo_remembers_as_many_as_the_main_queue_holds() -> None:
    policy = s3fifo_with_1_in_the_ghost_queue()
    put_all(policy, range(100, 108))
    policy.put(1)
    put_all(policy, range(110, 150))
    assert 1 in policy, "the oldest of nine names"

    policy = s3fifo_with_1_in_the_ghost_queue()
    put_all(policy, range(100, 109))
    policy.put(1)
    put_all(policy, range(110, 150))
    assert 1 not in policy, "it was the tenth"


def test_s3fifo_keeps_what_was_used_twice_while_in_the_small_queue() -> None:
    policy = S3Fifo(10)
    put_all(policy, range(1, 11))
    use(policy, 1)
    use(policy, 2, 2)
    put_all(policy, range(100, 150))
    assert 1 not in policy and 2 in policy


def test_s3fifo_gives_second_chances_in_the_main_queue() -> None:
    policy = S3Fifo(10)
    put_all(policy, range(1, 11))
    for block in range(1, 11):
        use(policy, block, 2)
    policy.put(11)
    assert held(policy) == set(range(2, 12)), "all moved to the main queue; that was too long, and its oldest went"
    assert policy.rewritten_blocks == 10
    use(policy, 2)
    use(policy, 11, 2)
    policy.put(12)
    assert held(policy) == {2, *range(4, 13)}, "11 made it too long again: 2 went to its end, and 3 was the oldest then"
    assert policy.rewritten_blocks == 12


@given(st.integers(1, 12), st.lists(st.integers(0, 24), max_size=300))
def test_s3fifo_is_what_three_lists_make_of_it(size: int, references: list[int]) -> None:
    policy = S3Fifo(size)
    main_most = size - max(1, size // 10)
    small: list[list[int]] = []  # [block, uses], oldest first
    main: list[list[int]] = []
    ghost: list[int] = []
    for block in references:
        assert held(policy) == {known for known, _ in small + main}
        entry = next((one for one in small + main if one[0] == block), None)
        if entry is not None:
            entry[1] = min(entry[1] + 1, 3)
            policy.use(block)
            continue
        queue = main if block in ghost else small
        ghost = [name for name in ghost if name != block]
        while len(small) + len(main) == size:
            if small and len(main) <= main_most:
                oldest, uses = small.pop(0)
                if uses > 1:
                    main.append([oldest, 0])
                else:
                    ghost = [*ghost, oldest][max(0, len(ghost) + 1 - main_most) :]
            else:
                oldest, uses = main.pop(0)
                if uses > 0:
                    main.append([oldest, uses - 1])
        queue.append([block, 0])
        policy.put(block)


# --- segments --------------------------------------------------------------------------------------------


def store(reinsert_percent: int, hits_least: int = 1, gather_blocks: int | None = None) -> SegmentFifo:
    """Eight segments of two blocks, all of them in use, and full with 1 to 16."""
    policy = SegmentFifo(16, 2, reinsert_percent, hits_least, gather_blocks, segments_free_kept=0)
    put_all(policy, range(1, 17))
    assert held(policy) == set(range(1, 17))
    return policy


def test_a_segment_goes_as_a_whole() -> None:
    policy = store(0)
    use(policy, 1, 3)
    policy.put(17)
    assert held(policy) == set(range(3, 18))
    assert policy.rewritten_blocks == 0


def test_a_segment_is_kept_free() -> None:
    policy = SegmentFifo(16, 2, 0)
    put_all(policy, range(1, 16))
    assert held(policy) == set(range(3, 16))


def test_a_small_drive_has_eight_segments_all_the_same() -> None:
    assert SegmentFifo(80, 64, 0).segment_blocks == 10
    assert SegmentFifo(3, 64, 0).segment_blocks == 1


def test_what_was_hit_is_written_again() -> None:
    policy = store(100)
    use(policy, 2)
    policy.put(17)
    assert held(policy) == {2, *range(3, 18)}
    assert policy.rewritten_blocks == 1


def test_exists_is_no_hit() -> None:
    policy = store(100)
    policy.exists(2)
    policy.put(17)
    assert 2 not in policy


def test_fewer_hits_than_asked_for_are_not_enough() -> None:
    policy = store(100, hits_least=2)
    use(policy, 1)
    use(policy, 2, 2)
    policy.put(17)
    assert 1 not in policy and 2 in policy


def test_hits_are_halved_by_each_move() -> None:
    policy = store(100)
    use(policy, 1, 50)
    moves = []
    for block in range(17, 117):
        policy.put(block)
        moves.append(policy.rewritten_blocks)
    assert moves[-1] == 2, "3 hits at most, then 1, then none"
    assert 1 not in policy


def test_reinsertion_stays_within_its_budget() -> None:
    policy = store(10)
    for block in range(1, 17):
        policy.use(block)
    put_all(policy, (17, 18))
    assert held(policy) == {1, *range(5, 19)} and policy.rewritten_blocks == 1, "16 puts earn 1.6 blocks"
    put_all(policy, (19, 20, 21))
    assert held(policy) == {1, *range(7, 22)} and policy.rewritten_blocks == 1, "19 puts earn 1.9"
    policy.put(22)
    assert held(policy) == {1, 7, *range(9, 23)} and policy.rewritten_blocks == 2, "21 puts earn 2.1"


@pytest.mark.parametrize(("gather_blocks", "kept"), [(None, {1, 2}), (4, {1, 2, 3, 4}), (1, {1})])
def test_no_more_than_so_much_of_the_budget_gathers(gather_blocks: int | None, kept: set[int]) -> None:
    policy = store(100, gather_blocks=gather_blocks)
    for block in range(1, 17):
        policy.use(block)
    policy.put(17)
    assert policy.rewritten_blocks == len(kept), (
        "16 puts earned 16 blocks; by default a segment's worth of them is left"
    )
    assert held(policy, range(1, 3)) == kept & {1, 2}


# --- replaying -------------------------------------------------------------------------------------------


def test_hits_by_hand() -> None:
    requests = [request(1, 2, 3), request(1, 2, 4), request(9, 2, 3), request(1, 2, 4)]
    counts = replay(requests, Lru(100))
    assert (counts.references, counts.delivered_blocks, counts.existing_blocks, counts.put_blocks) == (12, 5, 2, 5)
    assert counts.ratios == {
        "prefix_hit_ratio": 5 / 12,
        "block_hit_ratio": 7 / 12,
        "writes_per_reference": 5 / 12,
        "write_amplification": 1,
    }


def test_what_is_written_again_counts_as_written() -> None:
    requests = [request(*range(1, 17)), request(1), request(17)]
    counts = replay(requests, SegmentFifo(16, 2, 100, segments_free_kept=0))
    assert (counts.put_blocks, counts.rewritten_blocks) == (17, 1)
    assert counts.ratios["write_amplification"] == 18 / 17 and counts.ratios["writes_per_reference"] == 18 / 18


def test_second_touch_takes_what_was_offered_before() -> None:
    requests = [request(1, 2), request(1, 2), request(1, 2), request(1, 3)]
    counts = replay(requests, Fifo(100), second_touch=True)
    assert (counts.put_blocks, counts.delivered_blocks) == (2, 3)


def test_an_empty_trace_divides_by_nothing() -> None:
    assert set(replay([], Fifo(1)).ratios.values()) == {0, 1}


@pytest.mark.parametrize("choice", CHOICES, ids=NAMES)
@given(blocks=short_traces, size=st.integers(1, 25), segment=st.integers(1, 6))
def test_nothing_ever_holds_more_than_its_size(
    choice: Choice, blocks: list[list[int]], size: int, segment: int
) -> None:
    policy = Choice(choice.base, 100 if choice.reinsert_percent else 0, choice.hits_least, segment).make(size)
    for block in (block for ids in blocks for block in ids):
        if block in policy:
            policy.use(block)
        else:
            policy.put(block)
        assert block in policy
        assert len(policy) == len(held(policy, range(31))) <= size


@pytest.mark.parametrize("choice", CHOICES, ids=NAMES)
@given(blocks=short_traces)
def test_endless_finds_all_there_is_to_find(choice: Choice, blocks: list[list[int]]) -> None:
    requests = [request(*ids) for ids in blocks]
    counts = replay(requests, choice.make(ENDLESS), second_touch=choice.second_touch)
    if choice.second_touch:
        assert counts.ratios["prefix_hit_ratio"] <= prefix_hit_ratio(requests)
    else:
        assert counts.ratios["prefix_hit_ratio"] == prefix_hit_ratio(requests)
        assert counts.put_blocks == len({block for ids in blocks for block in ids})
    assert counts.rewritten_blocks == 0


@given(short_traces, st.integers(1, 25))
def test_lru_agrees_with_the_traces_own(blocks: list[list[int]], size: int) -> None:
    requests = [request(*ids) for ids in blocks]
    assert replay(requests, Lru(size)).ratios["prefix_hit_ratio"] == prefix_hit_ratio(requests, size)


@given(short_traces, st.integers(1, 25), st.integers(0, 100), st.integers(1, 3), st.integers(1, 4))
def test_write_amplification_is_bounded(
    blocks: list[list[int]], size: int, percent: int, hits_least: int, segment: int
) -> None:
    counts = replay([request(*ids) for ids in blocks], SegmentFifo(size, segment, percent, hits_least))
    assert 100 * counts.rewritten_blocks <= percent * counts.put_blocks


# --- what is shown ---------------------------------------------------------------------------------------


def rows_of(text: str, title: str) -> dict[tuple[str, str], str]:
    """The table under a title in bold: its cells by (row, column)."""
    lines = text.partition(f"**{title}**\n\n")[2].partition("\n\n")[0].splitlines()
    assert lines, f"no table under {title}"
    heads, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {(row[0], head): cell for row in rows for head, cell in zip(heads[1:], row[1:], strict=True)}


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


def compare(results: list[dict[str, object]], text: str) -> None:
    """Every result stands in the tables of the text, as it was measured."""
    for result in results:
        size = "endless" if result["size_percent"] is None else f"{result['size_percent']:g} %"
        for figure, title in policy_sim.FIGURES.items():
            table = rows_of(text, f"{result['trace']}, {title}")
            assert table[str(result["policy"]), size] == f"{result[figure]:.4f}", (result["policy"], title)


def test_the_tables_and_the_json_are_one(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--trace", "synthetic", "--requests", "300", "--sizes", "5,inf", "--part", "sizes")
    results = json.loads(run(capsys, *words, "-o", "json"))["results"]
    assert len(results) == 2 * len(CHOICES) and results[-1]["size_blocks"] is None
    compare(results, run(capsys, *words))


def test_the_document_says_what_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--trace", "conversation", "--sizes", "5,20", "--part", "sizes", "-o", "json")
    compare(json.loads(run(capsys, *words))["results"], DOCUMENT.read_text())


@pytest.mark.parametrize(("percent", "hits_least", "segment_blocks"), [(2, 1, 64), (4, 2, 8), (100, 1, 512)])
def test_the_document_says_what_is_measured_in_the_sweep(
    conversation: Trace, percent: int, hits_least: int, segment_blocks: int
) -> None:
    result = conversation.measure("sweep", Choice(SEGMENTS, percent, hits_least, segment_blocks), 20)
    cell = (f"{segment_blocks} blocks, hits ≥ {hits_least}", f"{percent} %")
    for figure in ("prefix_hit_ratio", "write_amplification"):
        title = f"conversation, segments at 20 %, {policy_sim.FIGURES[figure]} by `reinsert_percent`"
        assert rows_of(DOCUMENT.read_text(), title)[cell] == f"{result.counts.ratios[figure]:.4f}"


def test_the_defaults_of_the_store_are_among_what_is_measured() -> None:
    header = (ROOT / "native" / "store" / "store.h").read_text()

    def default(name: str) -> int:
        found = re.search(rf"\b{name} = (\d+);", header)
        assert found, name
        return int(found.group(1))

    percent, hits_least = default("reinsert_percent"), default("reinsert_hits_least")
    assert any(
        (one.base, one.reinsert_percent, one.hits_least) == (SEGMENTS, percent, hits_least) for one in CHOICES
    ), f"measure {percent} % and {hits_least} hits as well: see CHOICES in tools/policy_sim.py"


def test_the_sweep_has_a_row_for_every_segment_and_threshold(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "--trace", "synthetic", "--requests", "50", "--part", "sweep")
    table = rows_of(text, "synthetic, segments at 20 %, prefix hits by `reinsert_percent`")
    assert len({row for row, _ in table}) == 9 and len({column for _, column in table}) == 9


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--sizes", "0"), "expected percents above 0 and up to 100, or inf"),
        (("--sizes", "10,many"), "expected percents above 0 and up to 100, or inf"),
        (("--segment-blocks", "0"), "expected 1 or more"),
        (("--start", "few"), "expected a whole number"),
    ],
)
def test_words_that_mean_nothing(words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and told in capsys.readouterr().err


def test_a_trace_that_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("--trace", "/nonexistent")) == 2
    assert capsys.readouterr().err == "policy_sim: cannot read the trace /nonexistent: No such file or directory\n"
