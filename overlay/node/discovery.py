"""How a node finds others: its directory and the hash table beneath it, and what commands show of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import trio

from dht import Directory, Offer
from dht.kad import KadConfig, Kademlia, KadError, StorageError
from dht.kad.limits import K
from dht.limits import PROVIDER_TTL_S
from overlay.config import Config
from overlay.errors import ConfigError, NoProvider, UnknownModel
from overlay.events import EventLog, prices_text
from overlay.node.hosting import tell_host_events
from overlay.node.machine import Machine
from overlay.subnet import Subnet
from transport.host import HostError, Reach, background
from transport.host.interface import Host
from transport.identity import Identity, PeerId

ANY = "auto"
"""In place of a model: whichever is on offer."""

ACQUAINT_AFTER_S = (0.5, 1.0, 2.0, 4.0, 8.0, 30.0, 120.0)
"""Seconds between the times that neighbours are asked again whether they serve the hash table."""

_NEVER = float("inf")
_TABLE = KadConfig(provider_ttl_s=PROVIDER_TTL_S, provider_republish_s=_NEVER)
"""Listings are renewed by the directory, which knows under which keys; the table does it never."""

_CLIENT_TABLE = replace(
    _TABLE, bootstrap_refresh=False, enough_peers=K // 2, upkeep_s=300.0, check_after_s=3600.0, self_refresh_s=_NEVER,
    bucket_refresh_s=_NEVER,
)  # fmt: skip
"""Of one who serves nobody: an idle one would else send seven requests a minute for years. A look-up finds out at once
who is gone, and learns the peers of whatever part of the table it goes to."""

MAX_SHOWN = 500
"""Providers that one answer of a command lists."""


@dataclass
class Discovery:
    """A running directory, and the table that it uses, if one is configured."""

    host: Host
    directory: Directory
    table: Kademlia | None
    gossip: bool
    clock: Callable[[], float]

    async def reach(self, peer: PeerId, *, timeout_s: float) -> bool:
        """Learn the standing record of one provider: from itself where it can be found, or by gossip meanwhile. Whether
        it is known in the end; it may take all of ``timeout_s``, since a node that has just started knows nobody."""
        pause_s = 0.1
        with trio.move_on_after(timeout_s):
            while not await self.directory.record_of(peer):
                found = await self.table.find_peer(peer) if self.table is not None else None
                if found and await self.directory.record_of(peer, addrs=found.addrs):
                    return True
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, 1.0)
            return True
        return False

    def state(self) -> dict[str, Any]:
        """For `cocoon node status`: how we find and are found."""
        now = self.clock()
        known = {
            peer for task, model in self.directory.models() for peer, _, _ in self.directory.providers(task, model)
        }
        listed = [
            {
                "task": sold.task,
                "model": sold.model or ANY,
                "tier": sold.tier,
                "shard_bits": entry.place.depth if entry.place else None,
                "providers_there": entry.place.count if entry.place else None,
                "error": entry.error,
            }
            for sold, entry in self.directory.listed.items()
        ]
        sources: dict[str, int] = {}
        for peer in known:
            if (heard := self.directory.index.heard(peer)) is not None and heard.signed.record.expires_at > now:
                sources[heard.source] = sources.get(heard.source, 0) + 1
        return {
            "gossip": self.gossip,
            "providers_known": len(known),
            "learned": dict(sorted(sources.items())),
            "listed": listed,
            "dht": table_state(self.table) if self.table is not None else None,
        }

    async def market(self, task: str, model: str, tier: str, *, timeout_s: float) -> dict[str, Any]:
        """For `cocoon market providers`: who sells it now, the cheapest first. Raises :class:`NoProvider` or
        :class:`UnknownModel`, which say what to do."""
        wanted = None if model == ANY else model
        until = trio.current_time() + timeout_s
        found = await self.directory.wait_for_providers(task, wanted, tier, timeout_s=timeout_s)
        if found and (left_s := until - trio.current_time()) > 0:
            found = await self.directory.look_further(task, wanted, tier, timeout_s=left_s)
        if not found:
            raise self._nobody(task, model, tier)
        rows = [self._row(peer, offer) for peer, _, offer in found]
        rows.sort(key=lambda row: (sum(row["prices"].values()), row["peer_id"], row["model"]))
        return {"task": task, "model": model, "tier": tier, "known": len(rows), "providers": rows[:MAX_SHOWN]}

    def _row(self, peer: PeerId, offer: Offer) -> dict[str, Any]:
        heard = self.directory.index.heard(peer)
        assert heard is not None
        now, record = self.clock(), heard.signed.record
        ways = {info.peer_id: "relayed" if info.relayed else "direct" for info in self.host.peers()}
        return {
            "peer_id": peer,
            "task": offer.task,
            "model": offer.model,
            "tier": offer.tier,
            "prices": dict(offer.prices),
            "price": prices_text(offer.prices),
            "busy": offer.busy,
            "slots": offer.slots,
            "queue_wait_ms": offer.queue_wait_ms,
            "units_per_s": offer.units_per_s,
            "context": offer.context,
            "age_s": max(0, round(now - record.issued_at)),
            "expires_in_s": max(0, round(record.expires_at - now)),
            "learned": heard.source.value,
            "path": ways.get(peer),
            "addrs": list(record.host_addrs),
            "software": record.software,
        }

    def _nobody(self, task: str, model: str, tier: str) -> NoProvider | UnknownModel:
        if not self.host.peers():
            return NoProvider(
                "this node is connected to nobody: name a peer with --bootstrap, or start a provider on this machine "
                "with `cocoon node run`"
            )
        others = sorted({name for kind, name in self.directory.models() if kind == task})
        if others and model != ANY:
            what = f"nobody known sells {model!r} for {task} in the tier {tier!r}"
            return UnknownModel(model, f"{what}; on offer: {', '.join(others[:20])}")
        return NoProvider(
            f"nobody known sells {task} in the tier {tier!r}; `cocoon node peers` shows whether this node sees anybody"
        )


def table_state(table: Kademlia) -> dict[str, Any]:
    """The hash table in numbers, and what is wrong with it, if anything is."""
    stats = table.stats()
    failed = stats.failures / stats.requests if stats.requests else 0.0
    problem = ""
    if stats.peers == 0:
        problem = "it knows nobody: name a peer with --bootstrap; providers are found through neighbours only"
    elif stats.requests >= 20 and failed > 0.5:
        problem = (
            f"{failed:.0%} of its requests are not answered: many of its peers are gone, or a firewall is in the way"
        )
    elif stats.save_failures:
        problem = "it cannot be saved (is the disk full?); a restart will need a bootstrap peer"
    return {
        "peers": stats.peers,
        "buckets": list(stats.bucket_sizes),
        "provider_records": stats.provider_records,
        "records": stats.records,
        "lookups": stats.lookups,
        "requests": stats.requests,
        "unanswered": stats.failures,
        "served": dict(stats.served),
        "refused": stats.refused,
        "health": "ok" if not problem else "poor",
        "problem": problem,
    }


def table_text(state: dict[str, Any] | None) -> str:
    """The same in one line."""
    if state is None:
        return "off (discovery.dht)"
    filled = sum(1 for size in state["buckets"] if size)
    text = (
        f"{state['peers']} peers in {filled} buckets, {state['provider_records']} listings held, "
        f"{state['lookups']} look-ups, {state['unanswered']} of {state['requests']} requests unanswered"
    )
    return f"{text}; {state['problem']}" if state["problem"] else text


async def _get_acquainted(host: Host, table: Kademlia) -> None:
    """Ask neighbours again whether they serve the table, a few times after the start: of nodes that start together each
    may have asked the other before it was ready, and the table then leaves it alone for minutes.

    Only those that we dialled, since clients come to a provider by the hundred and serve nothing; and only while the
    table is thin, since one with a bucket's worth of peers finds the others by itself."""
    for pause_s in ACQUAINT_AFTER_S:
        await trio.sleep(pause_s)
        known = {peer.peer_id for peer in table.peers()}
        if len(known) < K and any(info.peer_id not in known for info in host.peers() if not info.inbound):
            with suppress(KadError, HostError):
                await table.greet()


@asynccontextmanager
async def open_onlooker(
    config: Config, machine: Machine, subnet: Subnet, bootstrap: Sequence[str], log: EventLog
) -> AsyncIterator[Discovery]:
    """Just enough of a client to look around: no wallet, no chain. Raises :class:`~overlay.errors.CocoonError`."""
    identity = machine.identity()
    async with AsyncExitStack() as stack:
        opening = machine.open_host(config, identity, subnet, bootstrap, log, listen=False)
        host = await stack.enter_async_context(opening)
        discovery = await stack.enter_async_context(open_discovery(config, machine, identity, subnet, host))
        nursery = await stack.enter_async_context(background())
        nursery.start_soon(tell_host_events, host, log)
        yield discovery


@asynccontextmanager
async def open_discovery(
    config: Config, machine: Machine, identity: Identity, subnet: Subnet, host: Host
) -> AsyncIterator[Discovery]:
    """The directory of a node. One that listens nowhere asks the table and does not serve it; nor does one that is
    reached through relays, which carry four connections with it and would carry little else, be they named or found.

    Raises :class:`~overlay.errors.ConfigError` when the table's file cannot be used."""
    section = config.discovery
    async with AsyncExitStack() as stack:
        table = None
        if section.dht:
            client_only = not host.addrs or bool(config.relay.use)
            table = Kademlia(
                host, subnet.id, validators={}, config=_CLIENT_TABLE if client_only else _TABLE,
                client_only=client_only, serving=lambda: host.reachability.verdict is not Reach.PRIVATE,
                storage=machine.table_storage(subnet), clock=machine.clock, rng=machine.rng,
            )  # fmt: skip
            try:
                await stack.enter_async_context(table)
            except StorageError as error:
                raise ConfigError(
                    f"the hash table's memory cannot be used: {error}; it holds nothing of value and may be deleted"
                ) from error
            nursery = await stack.enter_async_context(background())
            nursery.start_soon(_get_acquainted, host, table)
        directory = Directory(
            host, identity, subnet.id, clock=machine.clock, index=machine.index(), rng=machine.rng, providers=table,
            gossip=section.gossip,
        )  # fmt: skip
        await stack.enter_async_context(directory)
        yield Discovery(host, directory, table, section.gossip, machine.clock)
