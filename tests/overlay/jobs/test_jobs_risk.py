"""What each side can lose, live: no more than a credit window, no more than the user's caps, and shown as it is."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from compute.usage import Unit
from overlay.config import load_config
from overlay.errors import Busy, ConfigError, ProviderGone
from overlay.jobs import JobFailed, Overcharged, RiskCapReached
from overlay.node import views
from overlay.settlement import ChannelTerms
from overlay.settlement.ledger import OverLimit, RiskBook, RiskLimits, Role

KEYS = ("risk.channel", "risk.peer", "risk.all")
WINDOW = 60


def book(**limits: int) -> RiskBook:
    return RiskBook(RiskLimits(**limits), KEYS)


async def whole(client, agreement, channel, request, most=None):
    async with client.run(agreement, channel, request, maximum_nanoton=most) as run:
        async for _ in run:
            pass
    return run


@pytest.mark.parametrize("vanish_at", [1, 4, 11, 12, 13, 29])
@pytest.mark.parametrize("who", ["client", "provider"])
async def test_whoever_vanishes_costs_the_other_one_credit_window_at_most(world, kit, who, vanish_at):
    agreement = world.agreement(credit_window_nanoton=WINDOW)
    await world.server.add_agreement(agreement)
    payer = await world.payer()
    payer.caps = book(total_nanoton=10**6).caps(kit.CHANNEL, world.provider.peer_id)
    near, far = world.connect()
    most_unpaid = most_prepaid = 0
    async with world.job_client(near) as client:
        channel = await client.attach(payer)
        with pytest.raises(ProviderGone):
            async with client.run(agreement, channel, kit.chat("hello", 64)) as run:
                async for _ in run:
                    theirs = world.server.accounts()[kit.CHANNEL]
                    most_unpaid = max(most_unpaid, theirs.unpaid_nanoton)
                    most_prepaid = max(most_prepaid, payer.account.prepaid_nanoton)
                    if run.usage.get(Unit.COMPLETION) >= vanish_at:
                        (near if who == "client" else far).cut("vanished")
    await trio.testing.wait_all_tasks_blocked(0.05)
    theirs = world.server.accounts()[kit.CHANNEL]
    assert 0 < max(most_unpaid, theirs.unpaid_nanoton) <= WINDOW, "what the provider lost, and could have"
    assert most_prepaid == payer.account.prepaid_nanoton == 0, "the client promised nothing that had not come"
    assert payer.account.promised_nanoton <= run.cost_nanoton
    assert payer.caps[0].open_nanoton == payer.account.reserved_nanoton == 0, "what is over is at risk no more"
    assert theirs.reserved_nanoton == 0


async def test_sums_are_shown_as_they_stand_while_jobs_run(world, kit):
    agreement = world.agreement(credit_window_nanoton=WINDOW)
    await world.server.add_agreement(agreement)
    send, world.engine.gate = trio.open_memory_channel(100)
    payer = await world.payer()
    near, _ = world.connect()
    terms = ChannelTerms(kit.CHANNEL, kit.PAYEE_ADDRESS, b"k" * 32, b"q" * 32, kit.NETWORK, 1, 2_000_000_000, 3600)
    for ledger in (world.client_ledger, world.provider_ledger):
        await ledger.run(lambda store: store._db.execute("UPDATE channels SET terms = ?", (terms.to_bytes(),)))

    async def shown(ledger, accounts, role):
        return (await views.channels(ledger, accounts))[0], await views.money(ledger, role, accounts, None)

    async with world.job_client(near) as client:
        channel = await client.attach(payer)
        channel.payer.payment = lambda: None  # this client promises nothing yet
        async with client.run(agreement, channel, kit.chat("two words", 40)) as run:
            for _ in range(6):
                send.send_nowait(1)
            async for _ in run:
                if run.usage.get(Unit.COMPLETION) >= 6:
                    break
            theirs, theirs_all = await shown(world.provider_ledger, world.server.accounts(), Role.PAYEE)
            ours, ours_all = await shown(world.client_ledger, {kit.CHANNEL: payer.account}, Role.PAYER)
            del channel.payer.payment
        for _ in range(60):
            send.send_nowait(1)
        assert theirs["owed_nanoton"] == theirs["unpaid_nanoton"] == theirs["at_risk_nanoton"] == 32
        assert theirs["reserved_nanoton"] == run._maximum - 32
        assert theirs["live"]
        assert (theirs_all["at_risk_nanoton"], theirs_all["unclaimed_nanoton"]) == (32, 0)
        assert ours["owed_nanoton"] == 32
        assert ours["reserved_nanoton"] == run._maximum - 32
        assert ours["at_risk_nanoton"] == 0
        assert ours_all["locked_nanoton"] == 1_000_000
        await channel.settled()
    theirs, theirs_all = await shown(world.provider_ledger, world.server.accounts(), Role.PAYEE)
    assert theirs["reserved_nanoton"] == theirs["at_risk_nanoton"] == 0
    assert theirs["unclaimed_nanoton"] == theirs["voucher_nanoton"] == theirs_all["earned_nanoton"] > 0
    ours, ours_all = await shown(world.client_ledger, {}, Role.PAYER)  # from the file alone
    assert ours["voucher_nanoton"] == ours["owed_nanoton"] == theirs["voucher_nanoton"]
    assert ours_all["spent_nanoton"] == theirs["voucher_nanoton"]
    assert not ours["live"]


@pytest.mark.parametrize("limits", [{"per_channel_nanoton": 400}, {"per_peer_nanoton": 400}, {"total_nanoton": 400}])
async def test_a_job_that_would_exceed_the_clients_cap_is_refused_and_the_key_named(world, kit, limits):
    agreement = world.agreement(credit_window_nanoton=WINDOW)
    await world.server.add_agreement(agreement)
    send, world.engine.gate = trio.open_memory_channel(100)
    payer = await world.payer()
    payer.caps = book(**limits).caps(kit.CHANNEL, world.provider.peer_id)
    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(payer)
        async with client.run(agreement, channel, kit.chat("hello", 10), maximum_nanoton=300):
            with pytest.raises(RiskCapReached, match=r"risk\.\w+\): 101 nanoTON asked for, 100 left; wait until"):
                async with client.run(agreement, channel, kit.chat("hello", 5), maximum_nanoton=101):
                    pass
            async with client.run(agreement, channel, kit.chat("hello", 2), maximum_nanoton=100):
                pass
        for _ in range(60):
            send.send_nowait(1)
        await channel.settled()
        await whole(client, agreement, channel, kit.chat("hello", 10), 400)
        await channel.settled()
        assert [cap.open_nanoton for cap in payer.caps] == [0], "what is receipted is at risk no more"


async def test_no_voucher_is_signed_beyond_the_clients_cap(world, kit):
    agreement = world.agreement(credit_window_nanoton=WINDOW)
    await world.server.add_agreement(agreement)
    payer = await world.payer()
    payer.caps = book(total_nanoton=400).caps(kit.CHANNEL, world.provider.peer_id)
    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(payer)
        with pytest.raises(RiskCapReached, match="no voucher was signed"):
            async with client.run(agreement, channel, kit.chat("hello", 64), maximum_nanoton=400) as run:
                async for _ in run:
                    if run.usage.get(Unit.COMPLETION) >= 3:
                        payer.caps[0]._limit = 10
                    if channel.broken is not None:
                        raise channel.broken
    assert payer.account.promised_nanoton <= payer.account.owed_nanoton <= WINDOW


async def test_a_provider_gives_no_more_credit_than_its_caps(world, kit, jumping_clock):
    """The cap is narrower than the window that was agreed: the client is asked to pay earlier."""
    agreement = world.agreement(credit_window_nanoton=1000)
    await world.server.add_agreement(agreement)
    world.server.risk = book(per_peer_nanoton=40, total_nanoton=100)
    near, _ = world.connect()
    most = 0
    async with world.job_client(near) as client:
        channel = await client.attach(await world.payer())
        async with client.run(agreement, channel, kit.chat("hello", 64)) as run:
            async for _ in run:
                most = max(most, world.server.accounts()[kit.CHANNEL].unpaid_nanoton)
        await channel.settled()
        assert 0 < most <= 40
        assert run.usage.get(Unit.COMPLETION) == 64
        world.engine.instant = True
        world.engine.batch = 64
        with pytest.raises(JobFailed, match="gives credit for"):
            await whole(client, agreement, channel, kit.chat("word " * 41, 2))
        await channel.settled()
        world.server.risk.caps(kit.CHANNEL, world.client.peer_id)[0]._move(-10, 0)  # another channel of this client
        with pytest.raises(Busy, match="no more credit now"):
            await whole(client, agreement, channel, kit.chat("hello", 2))


def test_credit_counts_for_whoever_is_there_and_with_one_peer_also_for_whoever_left():
    risk = book(per_peer_nanoton=100, total_nanoton=150)
    one, other = risk.credit("a", "anna"), risk.credit("b", "anna")
    bert = risk.credit("c", "bert")
    one.want(100)
    peer, total = risk.caps("a", "anna")
    for line, nanoton in ((other, 1), (bert, 51)):
        with pytest.raises(Exception, match="at risk"):
            line.want(nanoton)
    one.keep(30, connected=True)
    other.want(70)
    assert (peer.open_nanoton, total.open_nanoton) == (100, 100)
    one.keep(30, connected=False)
    assert (peer.open_nanoton, total.open_nanoton) == (100, 70), "anna still owes; others are not kept waiting for it"
    one.keep(0, connected=True)
    other.keep(0, connected=False)
    assert (peer.open_nanoton, total.open_nanoton) == (0, 0)


def test_credit_lines_never_exceed_their_caps_whatever_order_clients_come_and_go_in():
    rng = random.Random(3)
    risk = book(per_channel_nanoton=70, per_peer_nanoton=100, total_nanoton=150)
    peers = ("anna", "bert", "carl")
    lines = [(name, peer, risk.credit(name, peer)) for peer in peers for name in (peer + "1", peer + "2")]
    held: dict[str, list[int]] = {name: [0, 0] for name, _, _ in lines}
    for _ in range(3000):
        name, peer, line = rng.choice(lines)
        lasting, present = held[name]
        nanoton = rng.randrange(90)
        if rng.random() < 0.6:
            mine = sum(held[other][0] for other, theirs, _ in lines if theirs == peer)
            everyone = sum(row[1] for row in held.values())
            more, more_present = max(0, nanoton - lasting), max(0, nanoton - present)
            fits = lasting + more <= 70 and mine + more <= 100 and everyone + more_present <= 150
            try:
                line.want(nanoton)
                assert fits
                held[name] = [lasting + more, present + more_present]
            except Exception:
                assert not fits
        else:
            connected = rng.random() < 0.5
            line.keep(nanoton, connected=connected)
            held[name] = [min(lasting, nanoton), min(present, nanoton if connected else 0)]
        for other, theirs, _ in lines:
            caps = risk.caps(other, theirs)
            assert caps[0].open_nanoton == held[other][0] <= 70
            assert caps[1].open_nanoton == sum(held[n][0] for n, p, _ in lines if p == theirs) <= 100
            assert caps[2].open_nanoton == sum(row[1] for row in held.values()) <= 150


@pytest.mark.parametrize("forge", ["amount", "counts"])
async def test_a_dispute_leaves_nothing_at_risk(world, kit, forge):
    agreement = world.agreement(credit_window_nanoton=5000)
    await world.server.add_agreement(agreement)
    payer = await world.payer()
    payer.caps = book(total_nanoton=10**6).caps(kit.CHANNEL, world.provider.peer_id)
    near, _ = world.connect()
    async with world.job_client(near) as client:
        channel = await client.attach(payer)
        if forge == "counts":
            world.engine.lie = 400
        else:
            payer._wrong = lambda signed, job: "its amount is forged"
        with pytest.raises(Overcharged):
            await whole(client, agreement, channel, kit.chat("hello", 1000 if forge == "counts" else 5))
    assert payer.disputed
    assert payer.caps[0].open_nanoton == 0


def test_the_caps_of_the_configuration_are_the_books_and_narrow_the_window_that_is_offered():
    config = load_config(
        None, overrides=["risk.credit_per_peer_nanoton=5000", "risk.spend_nanoton=70000"], environ={}
    )  # fmt: skip
    assert views.credit_window(config) == 5000
    assert views.credit_window(load_config(None, environ={})) == 2_000_000
    none = {"per_channel_nanoton": None, "per_peer_nanoton": None, "total_nanoton": None}
    assert views.credit_caps(config.risk).to_json() == {**none, "per_peer_nanoton": 5000}
    assert views.spend_caps(config.risk).to_json() == {**none, "total_nanoton": 70000}
    (cap,) = views.spend_caps(config.risk).caps("0:aa", "anna")
    with pytest.raises(OverLimit, match=r"risk\.spend_nanoton\): 70001 nanoTON asked for, 70000 left"):
        cap.reserve(70001)
    with pytest.raises(ConfigError, match="a cap is not negative"):
        load_config(None, overrides=["risk.spend_nanoton=-1"], environ={})
