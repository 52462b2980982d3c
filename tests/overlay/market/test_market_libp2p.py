"""A negotiation between two production hosts over loopback."""

from __future__ import annotations

from random import Random
from time import time

import pytest
import trio

from compute.tasks import Task
from compute.usage import Prices, Unit, Usage
from overlay.errors import NoProvider
from overlay.market import (
    Buyer,
    Candidate,
    ClientPolicy,
    Listing,
    MarketServer,
    Payer,
    PaymentTerms,
    QuoteDesk,
    Want,
    negotiate,
)
from transport.host import Libp2pHost
from transport.identity import Identity

U = Unit.COMPLETION
LISTEN = ["/ip4/127.0.0.1/tcp/0"]
WANT = Want(Task.CHAT, "demo", Usage({U: 1_000_000}), 10**9)


async def test_two_hosts_agree_over_sockets_and_a_closed_port_is_named():
    seller, buyer = Identity(b"s" * 32), Identity(b"b" * 32)
    stored = []

    async def store(agreement):
        await trio.lowlevel.checkpoint()
        stored.append(agreement)

    terms = PaymentTerms("0:" + "b" * 64, b"q" * 32, -3, 10**9, 10**6)
    prices = Prices({U: 700})
    desk = QuoteDesk(seller, "main", terms, lambda *_: Listing(prices, prices, 0, 4), Random(1).randbytes)
    with trio.fail_after(30):
        async with Libp2pHost.open(seller, LISTEN) as there, Libp2pHost.open(buyer, LISTEN) as here:
            MarketServer(desk, time, store).attach(there)
            candidate = Candidate(seller.peer_id, prices, 0, 0.0, there.addrs)
            who = Buyer(buyer, "main", Payer(address="0:" + "a" * 64, key=b"p" * 32), -3)
            policy = ClientPolicy(Prices({U: 1000}))
            agreement = await negotiate(here, who, [candidate], WANT, policy, clock=time, rng=Random(2))
            assert agreement.verify()
            assert stored == [agreement]
            gone = Identity(b"g" * 32).peer_id
            nobody = Candidate(gone, prices, 0, 0.0, [f"/ip4/127.0.0.1/tcp/1/p2p/{gone}"])
            with pytest.raises(NoProvider, match=r"127\.0\.0\.1"):
                await negotiate(here, who, [nobody], WANT, policy, clock=time, rng=Random(3))
