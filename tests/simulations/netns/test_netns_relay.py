"""The relay between descriptors: datagram sockets stand for TUN devices, one packet a read and a write as there."""

import random
import socket
from contextlib import contextmanager

import trio

from simulations.netns.limits import MTU
from simulations.netns.relay import Relay
from simulations.netns.shape import Shape
from simulations.netns.switch import Switch
from tests.simulations.netns.test_netns_switch import PLAN, packet


@contextmanager
def wires(*names):
    """A pair of sockets for each machine: its own end, and the relay's."""
    pairs = {name: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for name in names}
    try:
        for pair in pairs.values():
            for end in pair:
                end.setblocking(False)
        yield {name: own for name, (own, _) in pairs.items()}, {name: far.fileno() for name, (_, far) in pairs.items()}
    finally:
        for pair in pairs.values():
            for end in pair:
                end.close()


async def receive(end: socket.socket) -> bytes:
    await trio.lowlevel.wait_readable(end)
    return end.recv(MTU)


async def test_packets_cross_the_relay_after_the_delay_while_later_ones_wait_their_turn():
    with wires("node-1", "node-2", "host") as (own, devices), trio.fail_after(10):
        relay = Relay(Switch(PLAN, Shape(0.05), {}, random.Random(1)), devices)
        async with trio.open_nursery() as nursery:
            await nursery.start(relay.run)
            began = trio.current_time()
            first, second = packet("node-1", "node-2", b"first"), packet("host", "node-2", b"second")
            own["node-1"].send(first)
            await trio.sleep(0.02)
            own["host"].send(second)
            assert await receive(own["node-2"]) == first
            assert trio.current_time() - began >= 0.05
            assert await receive(own["node-2"]) == second
            assert trio.current_time() - began >= 0.07
            nursery.cancel_scope.cancel()
    assert relay.switch.counts.carried == 2


async def test_an_undelayed_burst_crosses_whole_and_in_order():
    with wires("node-1", "node-2") as (own, devices), trio.fail_after(10):
        relay = Relay(Switch(PLAN, Shape(), {}, random.Random(1)), devices)
        async with trio.open_nursery() as nursery:
            await nursery.start(relay.run)
            # No more than a socket's queue of datagrams holds (net.unix.max_dgram_qlen is 10 at least).
            for burst in range(20):
                sent = [packet("node-1", "node-2", bytes([burst, index])) for index in range(8)]
                for data in sent:
                    own["node-1"].send(data)
                assert [await receive(own["node-2"]) for _ in sent] == sent
            nursery.cancel_scope.cancel()
    assert relay.write_failed == 0


async def test_what_a_device_does_not_take_is_dropped_and_counted():
    with wires("node-1", "node-2") as (own, devices), trio.fail_after(10):
        relay = Relay(Switch(PLAN, Shape(), {}, random.Random(1)), devices)
        own["node-2"].close()
        async with trio.open_nursery() as nursery:
            await nursery.start(relay.run)
            own["node-1"].send(packet("node-1", "node-2"))
            while not relay.write_failed:
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
