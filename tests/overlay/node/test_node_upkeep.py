import time

import trio
import trio.testing
from trio.testing import MockClock

from compute.tasks import Task
from compute.usage import Unit, Usage
from overlay.events import EventLog, NodeEvent
from overlay.jobs import JobReport
from overlay.node.upkeep import KEEP_AGREEMENTS_S, JobTally, _clean
from overlay.settlement.ledger import AgreementRecord, Store, open_ledger


def report(client: str, tokens: int) -> JobReport:
    return JobReport(client, Task.CHAT, "demo", Usage.of(Unit.COMPLETION, tokens), tokens * 60)


async def test_a_job_alone_has_a_line_of_its_own_and_many_share_one(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    lines: list[NodeEvent] = []
    tally = JobTally(EventLog(lines.append, lambda: 0.0))
    nursery.start_soon(tally.run)
    tally.add(report("peer-one", 2))
    await trio.sleep(0.1)
    assert [line.data["jobs"] for line in lines] == [1]
    assert "2 completion" in lines[0].text
    for number in range(5):
        tally.add(report(f"peer-{number % 2}", 10))
    await trio.sleep(2)
    assert [line.data["jobs"] for line in lines] == [1, 5]
    assert lines[1].data["amount_nanoton"] == 5 * 600
    assert "2 clients" in lines[1].text


async def test_no_job_is_left_untold_when_the_node_stops() -> None:
    lines: list[NodeEvent] = []
    tally = JobTally(EventLog(lines.append, lambda: 0.0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tally.run)
        for _ in range(3):
            tally.add(report("peer", 1))
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(4):
            tally.add(report("peer", 1))
        nursery.cancel_scope.cancel()
    assert sum(line.data["jobs"] for line in lines) == 7


async def test_agreements_that_ended_long_ago_are_forgotten_and_the_others_kept() -> None:
    now = int(time.time())
    old, recent = bytes(32), bytes([1] * 32)

    def remember(store: Store) -> None:
        store.put_agreement(AgreementRecord(old, "peer", b"old", now - KEEP_AGREEMENTS_S - 60))
        store.put_agreement(AgreementRecord(recent, "peer", b"recent", now - 60))

    async with open_ledger(":memory:") as ledger:
        await ledger.run(remember)
        await ledger.run(lambda store: _clean(store, now))
        assert await ledger.run(lambda store: store.agreement(old)) is None
        assert await ledger.run(lambda store: store.agreement(recent)) is not None
