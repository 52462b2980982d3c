"""Client and server over memory streams: delivery, payment, and every way a job can end."""

from __future__ import annotations

import itertools
import sqlite3

import pytest
import trio
import trio.testing

from compute.tasks import TextDelta
from compute.usage import Unit
from overlay.errors import Busy, InvalidRequest, ProviderGone, Unfunded
from overlay.jobs import AgreementEnded, ChannelUnusable, JobFailed
from overlay.jobs.effects import Effects
from overlay.jobs.limits import PAYMENT_S
from overlay.jobs.messages import Pay, VoucherSent
from overlay.settlement.ledger import VoucherRecord


async def run_job(client, agreement, channel, request):
    text, batches = "", 0
    async with client.run(agreement, channel, request) as run:
        async for events in run:
            batches += 1
            text += "".join(event.text for event in events if isinstance(event, TextDelta))
    return text, run, batches


async def sums(world, kit):
    """(receipts, voucher) on both sides, in nanoTON."""
    result = []
    for ledger in (world.client_ledger, world.provider_ledger):
        await ledger.flush()
        head = await ledger.run(lambda store: store.head(kit.CHANNEL))
        voucher = await ledger.run(lambda store: store.voucher(kit.CHANNEL))
        result.append((head.cumulative_nanoton, voucher.amount_nanoton if voucher else 0))
    return result


async def test_a_job_is_delivered_paid_and_receipted_by_both(world, kit):
    agreement = world.agreement()
    await world.server.add_agreement(agreement)
    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(await world.payer())
        text, run, _ = await run_job(client, agreement, channel, kit.chat("one two three", 10))
        await channel.settled()
    assert text == "".join(f" t{n}" for n in range(10))
    assert run.cost_nanoton == 3 * 1 + 10 * 5
    assert await sums(world, kit) == [(53, 53), (53, 53)]
    assert await world.provider_ledger.run(lambda store: store.signed_index(kit.CHANNEL)) == 1
    (theirs,) = await world.provider_ledger.run(lambda store: store.receipts(kit.CHANNEL))
    (ours,) = await world.client_ledger.run(lambda store: store.receipts(kit.CHANNEL))
    assert theirs == ours
    assert theirs.client_signature is not None
    assert await world.client_ledger.run(lambda store: store.reservations(kit.CHANNEL)) == []
    assert await world.provider_ledger.run(lambda store: store.reservations(kit.CHANNEL)) == []


async def test_an_agreement_that_the_provider_forgot_is_asked_for(world, kit):
    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(await world.payer())
        text, _, _ = await run_job(client, world.agreement(), channel, kit.chat("hi", 3))
    assert text == " t0 t1 t2"


async def test_thirty_jobs_at_once_share_vouchers_and_every_nanoton_is_accounted_for(world, kit):
    agreement = world.agreement(credit_window_nanoton=5000)
    await world.server.add_agreement(agreement)
    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(await world.payer())
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(run_job, client, agreement, channel, kit.chat("x " * (number + 1), 8))
        await channel.settled()
        assert channel.payments < 30
    expected = sum(number + 1 + 40 for number in range(30))
    assert await sums(world, kit) == [(expected, expected), (expected, expected)]


async def test_a_small_credit_window_only_slows_a_paying_client_down(world, kit):
    agreement = world.agreement(credit_window_nanoton=12)
    await world.server.add_agreement(agreement)
    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(await world.payer())
        text, _, _ = await run_job(client, agreement, channel, kit.chat("hello", 40))
        await channel.settled()
    assert text.count("t") == 40
    assert channel.payments >= 201 // 12
    assert await sums(world, kit) == [(201, 201), (201, 201)]


async def test_a_client_that_does_not_pay_gets_one_credit_window_at_most(world, kit, jumping_clock):
    agreement = world.agreement(credit_window_nanoton=52)
    await world.server.add_agreement(agreement)
    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(await world.payer())
        channel.payer.payment = lambda: None
        with pytest.raises(Unfunded, match="voucher"):
            await run_job(client, agreement, channel, kit.chat("hello", 64))
        assert 0 < channel.payer.account.owed_nanoton <= 52
        with pytest.raises(Unfunded):
            await run_job(client, agreement, channel, kit.chat("hello", 64))
        assert channel.payer.account.owed_nanoton <= 52


@pytest.mark.parametrize("nanoton", [0, 1], ids=["nothing", "next to nothing"])
async def test_a_client_that_pays_nothing_again_and_again_holds_its_slot_no_longer(world, kit, jumping_clock, nanoton):
    agreement = world.agreement(credit_window_nanoton=52)
    await world.server.add_agreement(agreement)
    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(await world.payer())
        payer, seq, turns = channel.payer, itertools.count(1), []

        def payment():
            if not turns:
                return None
            record = turns.pop()
            if nanoton:
                number = next(seq)
                payer.account.promise(number)
                record = VoucherRecord(kit.CHANNEL, number, number, kit.sign_voucher(number, number))
            sent = None if record is None else VoucherSent(record.seq, record.amount_nanoton, record.signature)
            payer._unanswered.append(())
            return Effects(kit.CHANNEL, voucher=record, messages=(Pay(sent, 0, None, ()),))

        payer.payment = payment

        async def pay_on():
            while True:
                await trio.sleep(4)
                turns.append(None)
                channel.pay_soon()

        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pay_on)
            with pytest.raises(Unfunded, match="voucher"):
                await run_job(client, agreement, channel, kit.chat("hello", 64))
            nursery.cancel_scope.cancel()
        assert PAYMENT_S <= trio.current_time() - began_s < 2 * PAYMENT_S


async def test_leaving_early_cancels_the_job_and_pays_for_what_came(world, kit):
    agreement = world.agreement()
    await world.server.add_agreement(agreement)
    send, world.engine.gate = trio.open_memory_channel(100)
    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(await world.payer())
        for _ in range(4):
            send.send_nowait(1)
        async with client.run(agreement, channel, kit.chat("hello", 64)) as run:
            async for _ in run:
                if run.usage.get(Unit.COMPLETION) == 4:
                    break
        await channel.settled()
    assert world.engine.produced == 4
    assert world.server.running_jobs == 0
    assert await sums(world, kit) == [(21, 21), (21, 21)]


async def test_an_engine_that_breaks_charges_only_what_it_delivered(world, kit):
    agreement = world.agreement()
    await world.server.add_agreement(agreement)
    world.engine.fail_after = 5
    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(await world.payer())
        with pytest.raises(JobFailed, match="fell off the bus"):
            await run_job(client, agreement, channel, kit.chat("hello", 64))
        await channel.settled()
    assert await sums(world, kit) == [(26, 26), (26, 26)]


async def test_a_job_that_delivers_nothing_costs_nothing(world, kit, jumping_clock):
    agreement = world.agreement()
    await world.server.add_agreement(agreement)
    world.engine.delay_s = 1000
    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(await world.payer())
        with pytest.raises(ProviderGone, match="said nothing of the job for 120 s"):
            await run_job(client, agreement, channel, kit.chat())
        with trio.fail_after(100):
            await channel.settled()
    assert await sums(world, kit) == [(0, 0), (0, 0)]
    assert channel.payer.account.reserved_nanoton == 0


async def test_a_tunnel_that_breaks_is_settled_for_what_came_and_the_next_one_goes_on(world, kit):
    agreement = world.agreement()
    await world.server.add_agreement(agreement)
    send, world.engine.gate = trio.open_memory_channel(100)
    payer = await world.payer()
    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(payer)
        for _ in range(7):
            send.send_nowait(1)
        with pytest.raises(ProviderGone):
            async with client.run(agreement, channel, kit.chat("hello", 64)) as run:
                async for _ in run:
                    if run.usage.get(Unit.COMPLETION) == 7:
                        await near.aclose("cut")
    world.engine.gate = None
    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(payer)
        await run_job(client, agreement, channel, kit.chat("hello", 2))
        await channel.settled()
    assert await sums(world, kit) == [(36 + 11, 36 + 11)] * 2


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"valid_from_ms": 1, "valid_until_ms": 1000}, AgreementEnded),
        ({"model": "other"}, InvalidRequest),
        ({"max_amount_nanoton": 10}, AgreementEnded),
    ],
)
async def test_an_agreement_that_does_not_fit_is_refused_and_costs_nothing(world, kit, changes, error):
    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(await world.payer())
        with pytest.raises(error):
            await run_job(client, world.agreement(**changes), channel, kit.chat("hello", 5))
        await channel.settled()
    assert await sums(world, kit) == [(0, 0), (0, 0)]


async def test_a_draining_provider_finishes_what_runs_and_refuses_the_rest(world, kit):
    agreement = world.agreement()
    await world.server.add_agreement(agreement)
    send, world.engine.gate = trio.open_memory_channel(100)
    near, _ = world.connect()
    done = []
    async with world.job_client(near) as client:
        channel = await client.attach(await world.payer())

        async def first() -> None:
            done.append(await run_job(client, agreement, channel, kit.chat("hello", 5)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
            await trio.testing.wait_all_tasks_blocked(0.05)
            nursery.start_soon(world.server.drain, 60)
            await trio.testing.wait_all_tasks_blocked(0.05)
            with pytest.raises(Busy, match="shutting down"):
                await run_job(client, agreement, channel, kit.chat("hello", 5))
            for _ in range(5):
                send.send_nowait(1)
    assert done[0][0] == " t0 t1 t2 t3 t4"


async def test_an_unknown_channel_is_refused(world, kit):
    payer = await world.payer()
    payer.channel = "0:" + "00" * 32
    near, _ = world.connect()
    async with world.job_client(near) as client:
        with pytest.raises(ChannelUnusable, match="knows no such channel"):
            await client.attach(payer)


async def test_garbage_closes_the_tunnel_and_only_that(world, kit):
    agreement = world.agreement()
    near, far = world.connect()
    stream = await near.open_stream()
    await stream.send_messages([b"\xff\x00 not a message"])
    with trio.fail_after(5):
        while far.closed is None:
            await trio.testing.wait_all_tasks_blocked()
    assert "protocol error" in far.closed
    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(await world.payer())
        text, _, _ = await run_job(client, agreement, channel, kit.chat("hi", 3))
    assert text == " t0 t1 t2"


async def test_jobs_that_are_over_at_once_come_one_after_another(world, kit):
    agreement = world.agreement(credit_window_nanoton=5000)
    await world.server.add_agreement(agreement)
    world.engine.instant = True
    near, far = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(await world.payer())
        for _ in range(20):
            text, _, batches = await run_job(client, agreement, channel, kit.chat("hi", 3))
            assert (text, batches) == (" t0 t1 t2", 1)
        await channel.settled()
    jobs = [stream for stream in far.streams if not stream.dead][-20:]
    assert all(stream.sends == 1 for stream in jobs), "acceptance, events and receipt leave as one send"
    assert await sums(world, kit) == [(320, 320), (320, 320)]


async def test_a_slow_reader_of_a_broken_tunnel_is_no_reason_for_a_dispute(world, kit):
    """Its job was claimed and settled on the next tunnel; what the old stream still holds counts for nothing."""
    agreement = world.agreement(credit_window_nanoton=5000)
    await world.server.add_agreement(agreement)
    payer = await world.payer()
    near, _ = world.connect()
    async with world.job_client(near) as first:
        channel = await first.attach(payer)
        async with first.run(agreement, channel, kit.chat("hello", 9)) as slow:
            async for _ in slow:
                break
            await trio.testing.wait_all_tasks_blocked(0.05)  # events and receipt have arrived, and nobody reads them
            near.cut("a cable was pulled")
            other, _ = world.connect()
            async with world.job_client(other) as second:
                channel = await second.attach(payer)
                await run_job(second, agreement, channel, kit.chat("hello", 3))
                await channel.settled()
                async for _ in slow:
                    pass
                await run_job(second, agreement, channel, kit.chat("hello", 3))
                await channel.settled()
    assert payer.disputed is None
    assert payer.account.reserved_nanoton == 0
    ours, theirs = await sums(world, kit)
    assert ours == theirs
    assert ours[0] == ours[1]


async def test_what_could_not_be_written_leaves_on_no_later_tunnel_before_it_is_written(world, kit):
    """The disk is full while a voucher is made; the machine lives on, and goes on when there is room again."""
    agreement = world.agreement(credit_window_nanoton=5000)
    await world.server.add_agreement(agreement)
    payer = await world.payer()

    def full(point: str) -> None:
        if point == "written":
            raise sqlite3.OperationalError("database or disk is full")

    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(payer)
        await run_job(client, agreement, channel, kit.chat("hello", 3))
        await channel.settled()
        world.client_ledger._store._fault = full
        await run_job(client, agreement, channel, kit.chat("hello", 3))
        await channel.settled()
        assert isinstance(channel.broken, ChannelUnusable)
        assert payer.account.promised_nanoton == 32
        near, _ = world.connect()
        async with world.job_client(near) as again:
            with pytest.raises(ChannelUnusable, match="disk is full"):
                await again.attach(payer)
        assert await world.provider_ledger.run(lambda store: store.voucher(kit.CHANNEL).amount_nanoton) == 16
        world.client_ledger._store._fault = lambda point: None
        near, _ = world.connect()
        async with world.job_client(near) as again:
            channel = await again.attach(payer)
            await run_job(again, agreement, channel, kit.chat("hello", 3))
            await channel.settled()
    assert await sums(world, kit) == [(48, 48), (48, 48)]


async def test_nothing_stays_reserved_by_a_job_that_was_left_as_its_tunnel_closed(world, kit):
    agreement = world.agreement()
    await world.server.add_agreement(agreement)
    send, world.engine.gate = trio.open_memory_channel(100)
    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(await world.payer())
        send.send_nowait(1)
        async with client.run(agreement, channel, kit.chat("hello", 64)) as run:
            async for _ in run:
                if run.usage.get(Unit.COMPLETION):
                    break
            await world.client_ledger.flush()
            assert len(await world.client_ledger.run(lambda store: store.reservations(kit.CHANNEL))) == 1
            near.cut("a cable was pulled")
            await trio.testing.wait_all_tasks_blocked(0.05)
    for ledger in (world.client_ledger, world.provider_ledger):
        await ledger.flush()
        assert await ledger.run(lambda store: store.reservations(kit.CHANNEL)) == []
    assert channel.payer.account.reserved_nanoton == 0


async def test_a_provider_whose_disk_is_full_gives_no_credit_for_what_it_cannot_write_and_recovers(world, kit):
    agreement = world.agreement(credit_window_nanoton=5000)
    await world.server.add_agreement(agreement)
    payer = await world.payer()

    def full(point: str) -> None:
        if point == "written":
            raise sqlite3.OperationalError("database or disk is full")

    near, far = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(payer)
        await run_job(client, agreement, channel, kit.chat("hello", 3))
        await channel.settled()
        world.provider_ledger._store._fault = full
        await run_job(client, agreement, channel, kit.chat("hello", 3))
        await channel.settled()
        assert isinstance(channel.broken, ProviderGone)
        assert "cannot write its books" in far.closed
        world.provider_ledger._store._fault = lambda point: None
        near, _ = world.connect()
        async with world.job_client(near) as again:
            channel = await again.attach(payer)
            await run_job(again, agreement, channel, kit.chat("hello", 3))
            await channel.settled()
    assert payer.disputed is None
    assert await sums(world, kit) == [(48, 48), (48, 48)]
