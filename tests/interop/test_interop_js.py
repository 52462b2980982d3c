"""Our host against js-libp2p: each direction of each protocol over real sockets."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
from multiaddr import Multiaddr

from transport.host import DialError, HostStream, Libp2pHost, NatOptions, ProtocolRefused, format_swarm_key
from transport.host.autonat.messages import AUTONAT, DIAL_REFUSED, question, read_answer
from transport.identity import Identity

LISTEN = ["/ip4/127.0.0.1/tcp/0"]
ECHO = "/interop/echo/1"
TOPIC = "/cocoon/interop/capacity/1"


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.01)


def host(**options: Any) -> Any:
    return Libp2pHost.open(Identity(os.urandom(32)), LISTEN, **options)


async def echo(stream: HostStream) -> None:
    while True:
        await stream.send(await stream.receive(1 << 16))


async def test_we_dial_js_and_exchange_messages_larger_than_a_window(js_peer: Any) -> None:
    async with js_peer() as peer, host() as ours:
        assert await ours.connect(peer.addrs[0]) == peer.peer_id
        await peer.heard(event="connected", peer=ours.peer_id)
        stream = await ours.open_stream(peer.peer_id, ECHO)
        for message in (b"", b"x" * 127, b"y" * 128, os.urandom(700_000)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send, message)
                assert await stream.receive(1 << 20) == message
        await stream.aclose()


async def test_js_dials_us_and_opens_a_stream(js_peer: Any) -> None:
    async with js_peer() as peer, host() as ours:
        ours.set_handler(ECHO, echo)
        assert (await peer.ask("dial", addr=ours.addrs[0]))["peer"] == ours.peer_id
        said = await peer.ask("say", addr=ours.addrs[0], protocol=ECHO, message=b"bonjour".hex())
        assert bytes.fromhex(said["answer"]) == b"bonjour"
        assert [(info.peer_id, info.inbound) for info in ours.peers()] == [(peer.peer_id, True)]


async def test_js_answers_in_the_second_exchange_on_a_connection_that_we_dial(js_peer: Any) -> None:
    async with js_peer() as peer, trio.open_nursery() as nursery:
        turns = Turns()
        addr = await turns.path_to(peer.addrs[0], nursery)
        async with host() as ours:
            await ours.connect(addr)
            stream = await ours.open_stream(peer.peer_id, ECHO)
            await stream.send(b"at once")
            assert await stream.receive(10) == b"at once"
            assert turns.taken == 2, "the Noise handshake, then the request behind all that negotiates"
        nursery.cancel_scope.cancel()


async def test_js_may_send_its_first_message_behind_the_negotiation(js_peer: Any) -> None:
    async with js_peer() as peer, host() as ours:
        ours.set_handler(ECHO, echo)
        said = await peer.ask("blurt", addr=ours.addrs[0], protocol=ECHO, message=b"bonjour".hex())
        assert said["answer"] == said["sent"], "each line is echoed, and so is the message"


async def test_a_protocol_that_js_does_not_speak_is_refused_whatever_was_sent_behind_it(js_peer: Any) -> None:
    async with js_peer() as peer, host() as ours:
        await ours.connect(peer.addrs[0])
        for message in (b"short", os.urandom(5000)):
            stream = await ours.open_stream(peer.peer_id, "/interop/none/1")
            await stream.send(message)
            with pytest.raises(ProtocolRefused):
                await stream.receive(10)
        assert await ping(ours, peer.peer_id) < 5


class Turns:
    """A path on which both sides take turns: what one says passes when it has fallen silent. ``taken`` counts how often
    the dialler spoke."""

    def __init__(self) -> None:
        self.taken = 0

    async def path_to(self, addr: str, nursery: trio.Nursery) -> str:
        """Another address of the peer at ``addr``, which leads through here."""
        parts = addr.split("/")
        (listener,) = await nursery.start(
            partial(trio.serve_tcp, partial(self._carry, int(parts[4])), 0, host="127.0.0.1")
        )
        return "/".join([*parts[:4], str(listener.socket.getsockname()[1]), *parts[5:]])

    async def _carry(self, port: int, dialler: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as listener:
            while True:
                self.taken += await self._pass_on(dialler, listener)
                await self._pass_on(listener, dialler)

    @staticmethod
    async def _pass_on(source: trio.SocketStream, sink: trio.SocketStream) -> bool:
        said = b""
        while True:
            with trio.move_on_after(0.3) as silence:
                chunk = bytes(await source.receive_some(65536))
                said += chunk
            if silence.cancelled_caught or not chunk:
                break
        if said:
            await sink.send_all(said)
        return bool(said)


@pytest.mark.parametrize("we_dial", [True, False])
async def test_identify_and_ping_go_both_ways(js_peer: Any, we_dial: bool) -> None:
    from libp2p.peer.id import ID

    async with js_peer() as peer, host() as ours:
        if we_dial:
            await ours.connect(peer.addrs[0])
        else:
            await peer.ask("dial", addr=ours.addrs[0])
        told = await peer.heard(event="identified", peer=ours.peer_id)
        assert "/meshsub/1.1.0" in told["protocols"]
        assert [f"{addr}/p2p/{ours.peer_id}" for addr in told["addrs"]] == list(ours.addrs)
        assert told["observed"].startswith("/ip4/127.0.0.1/tcp/")
        store, theirs = ours._swarm.peerstore, ID.from_string(peer.peer_id)
        await until(lambda: store.has_peer(theirs) and "/ipfs/ping/1.0.0" in store.get_protocols(theirs))
        await until(lambda: ours._book.addrs(peer.peer_id) == [addr.partition("/p2p/")[0] for addr in peer.addrs])
        assert 0 <= (await peer.ask("ping", addr=ours.addrs[0]))["ms"] < 5000
        assert await ping(ours, peer.peer_id) < 5


async def ping(ours: Libp2pHost, peer: Any) -> float:
    """libp2p ping from our side: 32 bytes there and back, without a length."""
    stream: Any = await ours.open_stream(peer, "/ipfs/ping/1.0.0")
    payload, started = os.urandom(32), trio.current_time()
    await stream.send_bytes(payload)
    assert await stream.receive_bytes(32) == payload
    await stream.aclose()
    return trio.current_time() - started


@pytest.mark.parametrize("we_dial", [True, False])
async def test_gossip_is_heard_both_ways_signed_by_its_origin(js_peer: Any, we_dial: bool) -> None:
    async with (
        js_peer() as peer,
        host() as ours,
        ours.subscribe(TOPIC, lambda message: message.data != b"bad") as inbox,
    ):
        await peer.ask("subscribe", topic=TOPIC, reject=b"bad".hex())
        if we_dial:
            await ours.connect(peer.addrs[0])
        else:
            await peer.ask("dial", addr=ours.addrs[0])
        await until(lambda: ours._gossip._pubsub.peer_topics.get(TOPIC))
        with trio.fail_after(10):
            while ours.peer_id not in (await peer.ask("subscribers", topic=TOPIC))["peers"]:
                await trio.sleep(0.02)
        for data in (b"bad", b"from js"):
            await peer.ask("publish", topic=TOPIC, data=data.hex())
        with trio.fail_after(5):
            message = await anext(inbox)
        assert (message.origin, message.data) == (peer.peer_id, b"from js")  # "bad" was refused by our validator
        for data in (b"bad too", b"from us"):
            await ours.publish(TOPIC, data)
        heard = await peer.heard(event="message", data=b"from us".hex())
        assert (heard["from"], heard["signed"], heard["topic"]) == (ours.peer_id, "signed", TOPIC)
        assert not [event for event in peer.events if event.get("data") == b"bad too".hex()]


async def test_one_swarm_key_lets_both_sides_in(js_peer: Any) -> None:
    psk = os.urandom(32)
    async with js_peer(swarmKey=format_swarm_key(psk)) as peer, host(psk=psk) as ours:
        ours.set_handler(ECHO, echo)
        await ours.connect(peer.addrs[0])
        assert await ping(ours, peer.peer_id) < 5
        async with host(psk=psk) as second:
            await peer.ask("dial", addr=second.addrs[0])
            assert (await peer.ask("ping", addr=second.addrs[0]))["ms"] >= 0


@pytest.mark.parametrize("ours_has_a_key", [True, False])
async def test_a_wrong_or_missing_swarm_key_is_refused_both_ways(
    js_peer: Any, monkeypatch: pytest.MonkeyPatch, ours_has_a_key: bool
) -> None:
    monkeypatch.setattr("transport.host.dialler.DIAL_S", 1.0)
    other = os.urandom(32) if ours_has_a_key else None
    async with js_peer(swarmKey=format_swarm_key(os.urandom(32))) as peer, host(psk=other) as ours:
        with pytest.raises(DialError):
            await ours.connect(peer.addrs[0])
        with pytest.raises(AssertionError):
            await peer.ask("dial", addr=ours.addrs[0], ms=1000)
        assert not ours.peers()


async def test_js_asks_us_to_dial_it_back(js_peer: Any) -> None:
    async with js_peer() as peer, host(nat=NatOptions(outside=lambda _: True)) as ours:
        here = peer.addrs[0].partition("/p2p/")[0]
        said = await peer.ask("dialback", addr=ours.addrs[0], addrs=["/ip4/192.0.2.1/tcp/1", here])
        assert said == {"status": "OK", "addr": here}
        said = await peer.ask("dialback", addr=ours.addrs[0], addrs=["/ip4/127.0.0.1/tcp/1"])
        assert said["status"] == "E_DIAL_ERROR"
        said = await peer.ask("dialback", addr=ours.addrs[0], addrs=["/ip4/192.0.2.1/tcp/1"])
        assert said["status"] == "E_DIAL_REFUSED"


async def test_js_understands_our_question_and_dials_no_loopback_address(js_peer: Any) -> None:
    async with js_peer(autonat=True) as peer, host() as ours:
        await ours.connect(peer.addrs[0])
        await until(lambda: ours._nat._speaks(peer.peer_id, AUTONAT))
        stream = await ours.open_stream(peer.peer_id, AUTONAT)
        await stream.send(question(ours.peer_id, [Multiaddr(ours.addrs[0].partition("/p2p/")[0])]))
        with trio.fail_after(10):
            assert read_answer(await stream.receive(4096)) == (DIAL_REFUSED, None)


async def test_garbage_on_a_stream_from_js_costs_it_that_stream(js_peer: Any) -> None:
    async def strict(stream: HostStream) -> None:
        await stream.receive(4)
        await stream.send(b"fine")

    async with js_peer() as peer, host() as ours:
        ours.set_handler("/interop/strict/1", strict)
        with pytest.raises(AssertionError):
            await peer.ask("say", addr=ours.addrs[0], protocol="/interop/strict/1", message=(b"\xff" * 60).hex())
        said = await peer.ask("say", addr=ours.addrs[0], protocol="/interop/strict/1", message=b"ok".hex())
        assert bytes.fromhex(said["answer"]) == b"fine"
