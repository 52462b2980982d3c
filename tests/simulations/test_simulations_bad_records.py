"""Records that no honest provider sends, by gossip and from a neighbour's memory, against whole directories.

Whatever comes: the node answers an honest peer, an honest provider's record stands, and it is the sender that pays.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from dht import CapacityRecord, Directory, Offer, sign_record
from dht.exchange import Page
from dht.limits import CLOCK_SKEW_S, MAX_RECORD_BYTES
from simulations.determinism import run_seeded
from simulations.network import VirtualHost, VirtualNetwork
from transport.host import EventKind, HostStream
from transport.identity import Identity
from transport.wire import decode, encode

TOPIC, CAPACITY = "/cocoon/main/capacity/1", "/cocoon/main/capacity/1.0.0"
VICTIM, HONEST, ATTACKER = (Identity(bytes([number]) * 32) for number in (1, 2, 3))
Make = Callable[[int, bytes], bytes]
"""A bad record, given the time in Unix seconds and the honest provider's envelope."""


def selling(now: int, **changes: object) -> CapacityRecord:
    record = CapacityRecord("main", offers=(Offer("chat", "demo", "plain", {"prompt": 7}),), seq=now, issued_at=now)
    return replace(record, **changes)  # type: ignore[arg-type]


def _in_anothers_name(now: int, honest: bytes) -> bytes:
    """A new price of the honest provider, under its key and the attacker's signature."""
    said = decode(sign_record(ATTACKER, selling(now, seq=now + 9)).envelope, max_bytes=MAX_RECORD_BYTES)
    return encode([said[0], HONEST.public_key, said[2]])


FORGED: dict[str, Make] = {
    "garbage": lambda now, honest: b"\xff" * 40,
    "cut": lambda now, honest: sign_record(ATTACKER, selling(now)).envelope[:-5],
    "longer": lambda now, honest: sign_record(ATTACKER, selling(now)).envelope + b"\x00",
    "too-big": lambda now, honest: bytes(MAX_RECORD_BYTES + 1),
    "nested": lambda now, honest: b"\x81" * 500 + b"\x00",
    "of-another-subnet": lambda now, honest: sign_record(ATTACKER, selling(now, subnet="other")).envelope,
    "anothers-key": _in_anothers_name,
}
"""What costs whoever sends it, or passes it on, his connection."""

USELESS: dict[str, Make] = {
    "from-the-future": lambda now, honest: sign_record(ATTACKER, selling(now + CLOCK_SKEW_S + 30)).envelope,
    "expired": lambda now, honest: sign_record(ATTACKER, selling(now - 1000)).envelope,
    "stale-seq": lambda now, honest: sign_record(ATTACKER, selling(now, seq=1)).envelope,
}
"""What a slow or ill-timed honest node may send: it changes nothing."""


@asynccontextmanager
async def directory(
    network: VirtualNetwork, who: Identity, *bootstrap: VirtualHost
) -> AsyncIterator[tuple[VirtualHost, Directory]]:
    addrs = [addr for host in bootstrap for addr in host.addrs]
    async with network.open(who, bootstrap=addrs) as host:
        rng = random.Random(who.seed[0])
        async with Directory(host, who, "main", clock=network.unix_time, rng=rng) as running:
            yield host, running


async def scenario(make: Make, *, by_gossip: bool) -> tuple[bool, bool]:
    """Whether the attacker was dropped, and whether a record of his is believed, after half a minute of it."""
    dropped: list[str] = []
    async with (
        VirtualNetwork.running(random.Random(4)) as network,
        directory(network, VICTIM) as (victim, known),
        directory(network, HONEST, victim) as (_, provider),
        network.open(ATTACKER, bootstrap=victim.addrs) as attacker,
        trio.open_nursery() as nursery,
    ):
        now = int(network.unix_time())

        async def follow() -> None:
            async with victim.events() as events:
                async for event in events:
                    if event.kind is EventKind.DROPPED:
                        dropped.append(str(event.peer_id))

        async def tell(stream: HostStream) -> None:
            await stream.receive(1000)
            await stream.send(encode([1, [make(int(network.unix_time()), honest)], False]))

        nursery.start_soon(follow)
        honest = b""
        if not by_gossip:
            attacker.set_handler(CAPACITY, tell)  # a newcomer is asked at once
        await provider.announce(selling(now))
        await trio.sleep(3)
        heard = known.index.heard(HONEST.peer_id)
        assert heard is not None
        honest = heard.signed.envelope
        if make is USELESS["stale-seq"]:
            await attacker.publish(TOPIC, sign_record(ATTACKER, selling(now + 3, seq=2)).envelope)
            await trio.sleep(1)

        for _ in range(150):
            if by_gossip:
                await attacker.publish(TOPIC, make(int(network.unix_time()), honest))
            await trio.sleep(0.2)
        # An honest newcomer is answered within a second, and learns what is true.
        with trio.fail_after(1):
            async with network.open(Identity(b"n" * 32)) as newcomer:
                stream = await newcomer.open_stream(victim.peer_id, CAPACITY, addrs=victim.addrs)
                await stream.send(encode([1, "", 64]))
                page = Page.from_bytes(await stream.receive(1 << 20))
        assert honest in page.envelopes
        assert set(dropped) <= {ATTACKER.peer_id}
        believed = known.index.heard(ATTACKER.peer_id)
        assert believed is None or believed.signed.record.seq == 2
        nursery.cancel_scope.cancel()
        return bool(dropped), believed is not None
    raise AssertionError


@pytest.mark.parametrize("by_gossip", [True, False], ids=["gossip", "neighbour"])
@pytest.mark.parametrize("kind", FORGED)
def test_what_no_honest_node_sends_gets_its_sender_dropped_and_nobody_else(kind: str, by_gossip: bool) -> None:
    async def main() -> tuple[bool, bool]:
        return await scenario(FORGED[kind], by_gossip=by_gossip)

    assert run_seeded(4, main) == (True, False)


@pytest.mark.parametrize("kind", USELESS)
def test_what_is_out_of_time_or_order_changes_nothing(kind: str) -> None:
    async def main() -> tuple[bool, bool]:
        return await scenario(USELESS[kind], by_gossip=True)

    assert run_seeded(4, main) == (False, kind == "stale-seq")
