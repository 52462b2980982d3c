"""Many callers, one commit; and each gets his own answer."""

from __future__ import annotations

import pytest
import trio

from overlay.settlement.ledger import (
    ChannelRecord,
    ChannelStatus,
    LedgerConflict,
    LedgerUnavailable,
    Reservation,
    Role,
    Store,
    VoucherRecord,
    open_ledger,
)


def channel(name: str) -> ChannelRecord:
    return ChannelRecord(name, Role.PAYER, "peer", -3, b"t", 1000, ChannelStatus.OPEN, 5)


async def test_concurrent_writes_share_commits_and_all_reach_the_disk(tmp_path):
    async with open_ledger(tmp_path / "l.db") as ledger:
        before = ledger.commits
        async with trio.open_nursery() as nursery:
            for number in range(300):
                record = channel(f"c{number}")
                nursery.start_soon(ledger.run, lambda store, record=record: store.add_channel(record))
        assert ledger.commits - before <= 4
        other = Store(tmp_path / "l.db")
        assert len(other.channels()) == 300
        other.close()


async def test_a_bad_write_fails_alone(tmp_path):
    async with open_ledger(tmp_path / "l.db") as ledger:
        await ledger.run(lambda store: store.add_channel(channel("c")))
        outcomes: dict[int, str] = {}

        async def put(seq: int) -> None:
            record = VoucherRecord("c", seq, seq * 10 if seq != 5 else 5000, bytes(64))
            try:
                await ledger.run(lambda store: store.put_voucher(record))
                outcomes[seq] = "written"
            except LedgerConflict:
                outcomes[seq] = "refused"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, 5)
            nursery.start_soon(put, 6)
        assert outcomes == {5: "refused", 6: "written"}
        assert (await ledger.run(lambda store: store.voucher("c"))).seq == 6


async def test_an_operation_that_breaks_half_way_leaves_nothing_behind(tmp_path):
    async with open_ledger(tmp_path / "l.db") as ledger:

        def half(store: Store) -> None:
            store.add_channel(channel("half"))
            raise RuntimeError("then this")

        with pytest.raises(LedgerUnavailable, match="then this"):
            await ledger.run(half)
        assert await ledger.run(lambda store: store.channel("half")) is None


async def test_writes_that_nobody_waits_for_are_there_when_the_ledger_closes(tmp_path):
    with trio.CancelScope() as scope:
        async with open_ledger(tmp_path / "l.db") as ledger:
            ledger.post(lambda store: store.add_channel(channel("late")))
            scope.cancel()
            await trio.sleep_forever()
    store = Store(tmp_path / "l.db")
    assert store.channel("late") is not None
    store.close()
    with pytest.raises(LedgerUnavailable):
        ledger.post(lambda store: None)


async def test_a_lazy_write_leaves_by_itself(tmp_path):
    async with open_ledger(tmp_path / "l.db") as ledger:
        ledger.post(lambda store: store.add_channel(channel("soon")))
        other = Store(tmp_path / "l.db")
        with trio.fail_after(5):
            while other.channel("soon") is None:
                await trio.sleep(0.005)
        other.close()


async def test_what_a_crash_left_reserved_is_released_at_the_start(tmp_path):
    store = Store(tmp_path / "l.db")
    with store.transaction():
        store.add_channel(channel("c"))
        store.reserve(Reservation("c", bytes(16), 70, 0))
    store.close()
    async with open_ledger(tmp_path / "l.db") as ledger:
        assert (await ledger.run(lambda store: store.at_risk("c"))).reserved_nanoton == 0


async def test_the_users_own_exception_comes_out_as_it_went_in(tmp_path):
    with pytest.raises(KeyError):
        async with open_ledger(tmp_path / "l.db"):
            raise KeyError("mine")


async def test_a_place_that_cannot_hold_a_file_is_named(tmp_path):
    with pytest.raises(LedgerUnavailable, match="nowhere"):
        async with open_ledger(tmp_path / "nowhere" / "l.db"):
            pass
