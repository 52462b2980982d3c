"""One host in a network namespace, for ``test_host_netns.py``: ``natted_host.py ROLE SEED IP [ADDR]``. It tells what
happens in lines of JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import trio

from transport.host import DialError, EventKind, Libp2pHost, NatOptions, Reach, RelayLimits, of_any_network
from transport.host.autonat import client as autonat_client
from transport.host.relay import finder
from transport.identity import Identity

autonat_client.AUTONAT_HASTE_S = 0.3
finder.RELAY_FIND_S = 0.3


def tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def relay(identity: Identity, ip: str) -> None:
    options = NatOptions(assume=Reach.PUBLIC, relay=RelayLimits(), outside=of_any_network)
    async with Libp2pHost.open(identity, [f"/ip4/{ip}/tcp/4001"], nat=options) as host:
        tell(addr=host.addrs[0])
        await trio.sleep_forever()


async def provider(identity: Identity, ip: str, relay_addr: str) -> None:
    options = NatOptions(outside=of_any_network)
    async with Libp2pHost.open(identity, [f"/ip4/{ip}/tcp/4001"], bootstrap=[relay_addr], nat=options) as host:
        while not (host.reachability.relays and host._nat._puncher.beacon_ips()):
            await trio.sleep(0.05)
        tell(
            verdict=host.reachability.verdict.value,
            addr=next(addr for addr in host.addrs if "/p2p-circuit" in addr),
            seen=[str(addr) for addr in host._nat._puncher.seen_at()],
        )
        await trio.sleep_forever()


async def visitor(identity: Identity, addr: str) -> None:
    async with Libp2pHost.open(identity, nat=NatOptions(outside=of_any_network)) as host, host.events() as events:
        try:
            await host.connect(addr.rpartition("/p2p/")[0].replace("/p2p-circuit", ""))  # the relay, as one does
        except DialError as error:
            tell(error=str(error))
        started = trio.current_time()
        peer = await host.connect(addr)
        upgraded = ""
        with trio.move_on_after(8):
            async for event in events:
                if event.kind is EventKind.UPGRADED:
                    upgraded = event.addr
                    break
        took = trio.current_time() - started
        (info,) = [info for info in host.peers() if info.peer_id == peer]
        tell(upgraded=upgraded, took_s=round(took, 3), relayed=info.relayed, inbound=info.inbound)


def main() -> None:
    role, seed, ip, *rest = sys.argv[1:]
    identity = Identity(seed.encode() * 32)
    match role:
        case "relay":
            trio.run(relay, identity, ip)
        case "provider":
            trio.run(provider, identity, ip, rest[0])
        case "visitor":
            trio.run(visitor, identity, rest[0])


if __name__ == "__main__":
    main()
