"""A provider node: everything that sells, put together.

    host ──── directory  (tells what we sell, every time it changes)
      ├────── market     (quotes, agreements)
      └────── channels   (believes, closes, claims)
    tunnel ── jobs ───── scheduler ── engines

Leaving happens in the opposite order: withdraw the offer, let running jobs end and be paid, then close everything.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from compute.engines import Engine
from compute.scheduler import Scheduler
from compute.tasks import Task
from dht import CapacityRecord, Directory, Offer, RecordError, check_size, offers_moved
from overlay import channels
from overlay.chain import Chain
from overlay.config import Config
from overlay.control import Command
from overlay.errors import CocoonError, ConfigError
from overlay.events import EventLog, Observer
from overlay.jobs import JobServer
from overlay.market import Agreement, MarketServer, PaymentTerms, QuoteDesk, run_controllers
from overlay.market.limits import TOLD
from overlay.node import views
from overlay.node.discovery import Discovery, open_discovery
from overlay.node.engines import make_engines
from overlay.node.hosting import tell_host_events
from overlay.node.machine import Machine
from overlay.node.reachability import Reachability
from overlay.node.reaching import carry_tunnels
from overlay.node.shop import Shop, told_pressure
from overlay.node.upkeep import JobTally, clean_ledger
from overlay.settlement import ChannelTerms, Voucher
from overlay.settlement.ledger import ChannelRecord, GroupCommit, Role
from overlay.settlement.limits import MIN_DEPOSIT_NANOTON
from overlay.subnet import Subnet
from overlay.watchtower import LAST_HAND_OVER_S, Handover, parse_towers
from transport.host.interface import EventKind, Host
from transport.identity import Identity
from transport.tunnel import Tunnel, TunnelEndpoint, TunnelListener

SOFTWARE = "cocoon/0.1.0"


@dataclass
class ProviderNode:
    """A running provider. Made by :func:`open_provider`."""

    identity: Identity
    subnet: Subnet
    chain: Chain
    ledger: GroupCommit
    host: Host
    directory: Directory
    shop: Shop
    jobs: JobServer
    channels: channels.PayeeDesk
    listener: TunnelListener
    log: EventLog
    started_at: float
    discovery: Discovery
    reachability: Reachability
    clock: Callable[[], float]
    handover: Handover | None = None
    """To its watchtowers, if it has any."""
    crowded: bool = False
    """Whether it was told that not every offer is announced."""

    @property
    def tunnel_addrs(self) -> list[str]:
        """Where others reach our tunnel."""
        return views.reachable(self.listener.addrs, self.host.addrs)

    def record(self, offers: Sequence[Offer] | None = None) -> CapacityRecord:
        """What we tell the directory: as many of the offers (by default those of now) as a record has room for, in the
        order of the engines."""
        offers = tuple(self.shop.offers() if offers is None else offers)
        now = self.clock()
        for count in range(len(offers), -1, -1):
            try:
                record = CapacityRecord(
                    subnet=self.subnet.id, host_addrs=tuple(self.host.addrs)[:4],
                    tunnel_addrs=tuple(self.tunnel_addrs)[:4],
                    noise_key=self.listener.endpoint.static_key.public, offers=offers[:count], software=SOFTWARE,
                    seq=int(now * 1000), issued_at=int(now),
                )  # fmt: skip
                check_size(record)
            except RecordError:
                continue
            if count < len(offers) and not self.crowded:
                self.crowded = True
                self.log.warning(
                    "record_full", f"only {count} of {len(offers)} offers fit into what a node may announce; sell "
                    "fewer tasks or models (node.serve, engine.upstream.models)", announced=count, offers=len(offers),
                )  # fmt: skip
            return record
        raise AssertionError("a record without offers always fits")

    async def drain(self, timeout_s: float) -> None:
        """Withdraw the offer, and let what runs end and be paid."""
        await self.directory.withdraw()
        if not await self.jobs.drain(timeout_s):
            self.log.warning("drain_timeout", "some jobs did not end in time and are cut off")
        if self.handover is not None:
            with trio.move_on_after(LAST_HAND_OVER_S):
                await self.handover.hand_over(0)

    async def status(self, _arguments: Mapping[str, Any]) -> Any:
        """For `cocoon node status`."""
        return {
            "peer_id": self.identity.peer_id,
            "subnet": self.subnet.id,
            "uptime_s": round(self.clock() - self.started_at),
            "addrs": list(self.host.addrs),
            "tunnel_addrs": self.tunnel_addrs,
            "reachable": self.reachability.state(),
            "wallet": self.chain.account.wallet.friendly_address(),
            "network": self.chain.network,
            "peers": len(self.host.peers()),
            "tunnels": views.tunnels(tunnel.stats() for tunnel in self.listener.tunnels),
            "selling": views.selling(self.shop.offers(), self.shop.capabilities, self.shop.loads()),
            "money": await views.money(self.ledger, Role.PAYEE, self.jobs.accounts(), self.jobs.risk),
            "discovery": self.discovery.state(),
            "watchtowers": [] if self.handover is None else self.handover.state(),
        }

    async def peers(self, _arguments: Mapping[str, Any]) -> Any:
        """For `cocoon node peers`."""
        return views.peers(self.discovery)

    async def providers(self, arguments: Mapping[str, Any]) -> Any:
        """For `cocoon market providers`."""
        return await views.market(self.discovery, arguments)

    def commands(self) -> dict[str, Command]:
        """What the command line may ask of a running provider."""
        return {
            "status": self.status, "peers": self.peers, "providers": self.providers, "wallet": self.wallet,
            "channels": self.list_channels, "settle": self.settle, "exit": self.leave,
        }  # fmt: skip

    async def wallet(self, _arguments: Mapping[str, Any]) -> Any:
        """The wallet's address and balance."""
        return await views.wallet(self.chain)

    async def list_channels(self, _arguments: Mapping[str, Any]) -> Any:
        """For `cocoon channel list --as node`."""
        return await views.channels(self.ledger, self.jobs.accounts())

    async def settle(self, arguments: Mapping[str, Any]) -> Any:
        """For `cocoon channel settle --as node`: claim what is unclaimed."""
        done = await self.channels.claim(arguments.get("channel"), close=False)
        return [views.claimed(held, result) for held, result in done]

    async def leave(self, arguments: Mapping[str, Any]) -> Any:
        """For `cocoon channel exit --as node`: claim and close."""
        return [views.ended(await self.channels.leave(str(arguments["channel"])))]


async def run_provider(
    config: Config,
    machine: Machine,
    subnet: Subnet,
    bootstrap: Sequence[str],
    observer: Observer,
    engines: Sequence[Engine] | None = None,
) -> None:
    """Run a provider until SIGINT or SIGTERM, then drain it.

    ``engines`` replaces those that the configuration names (benchmarks bring their own). Raises
    :class:`~overlay.errors.CocoonError` when it cannot start.
    """
    log = EventLog(observer, machine.clock)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_provider(config, machine, subnet, bootstrap, log, engines) as node:
            async for _ in signals:
                break
            log.info("draining", _stopping(node.jobs.running_jobs), jobs=node.jobs.running_jobs)
            with trio.CancelScope() as impatient:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_give_up_on_signal, signals, impatient)
                    await node.drain(config.node.drain_timeout_s)
                    nursery.cancel_scope.cancel()
    log.info("stopped", "stopped; nothing is lost: claims can be made whenever the node runs again")


def _stopping(jobs: int) -> str:
    if not jobs:
        return "stopping: no job is running"
    running = "1 job is" if jobs == 1 else f"{jobs} jobs are"
    return f"stopping: {running} running and may end; a second signal cuts off"


async def _give_up_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()
        return


def _open_shop(scheduler: Scheduler, config: Config, log: EventLog) -> Shop:
    """What the engines can sell. Raises :class:`ConfigError` if that is nothing."""
    for name, reason in scheduler.failures().items():
        log.warning("engine_unavailable", f"{name}: {reason}", engine=name)
    shop = Shop(scheduler, config)
    for reason in shop.unfit:
        log.warning("model_unfit", reason)
    if not shop.controllers:
        raise ConfigError(
            "there is nothing to sell: no engine for the tasks in node.serve can run here (the lines above say why)"
        )
    return shop


async def _take(scheduler: Scheduler, jobs: JobServer, log: EventLog, agreement: Agreement) -> None:
    """An agreement is made."""
    body = agreement.body
    # Two clients are not to be promised the last free slot while the first one's job is on its way.
    scheduler.promise(body.task, body.model)
    await jobs.add_agreement(agreement)
    log.info(
        "agreed", f"agreed with …{body.client[-8:]}: {body.task} by {body.model}",
        client=body.client, task=body.task.value, model=body.model, prices=body.prices.to_wire(),
    )  # fmt: skip


@asynccontextmanager
async def open_provider(
    config: Config,
    machine: Machine,
    subnet: Subnet,
    bootstrap: Sequence[str],
    log: EventLog,
    engines: Sequence[Engine] | None = None,
) -> AsyncIterator[ProviderNode]:
    """Run a provider for the length of the block."""
    clock = machine.clock
    identity = machine.identity()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        # What the configuration has wrong is told before anything starts.
        made = make_engines(config, log) if engines is None else list(engines)
        towers = parse_towers(config.watchtower.towers)
        chain = await enter(machine.open_chain(config, log, may_start_devnet=True))
        ledger = await enter(machine.open_ledger())
        scheduler = await enter(machine.open_scheduler(made, config.node.queue_per_engine))
        shop = _open_shop(scheduler, config, log)
        host = await enter(machine.open_host(config, identity, subnet, bootstrap, log))
        discovery = await enter(open_discovery(config, machine, identity, subnet, host))
        directory = discovery.directory
        tally = JobTally(log)
        jobs = JobServer(
            identity=identity, ledger=ledger, submit=scheduler.submit, verifier=_verifier,
            now_ms=lambda: int(clock() * 1000), random_bytes=machine.random_bytes, risk=views.credit_caps(config.risk),
            on_job=tally.add,
        )  # fmt: skip
        money = config.ton
        policy = channels.ClaimPolicy(
            money.settle_at_nanoton, money.unclaimed_cap_nanoton, money.claim_risk_ppm_per_day, money.claim_dust_nanoton
        )
        desk = channels.PayeeDesk(chain, ledger, jobs, log, clock, MIN_DEPOSIT_NANOTON, money.settle_at_nanoton, policy)
        handover = None
        if towers:
            handover = Handover(
                identity, subnet.id, host, towers, desk.claims.live, log, clock, config.watchtower.hand_over_nanoton
            )
        host.set_handler(channels.channel_protocol(subnet.id), desk.handle)
        terms = PaymentTerms(
            chain.account.address, chain.channel_key, chain.client.network_id, MIN_DEPOSIT_NANOTON,
            views.credit_window(config),
        )  # fmt: skip
        quoting = QuoteDesk(identity, subnet.id, terms, shop.catalog, machine.random_bytes)
        MarketServer(quoting, clock, partial(_take, scheduler, jobs, log)).attach(host)
        endpoint = TunnelEndpoint.of(
            identity, subnet=subnet.id, psk=subnet.tunnel_psk, random_bytes=machine.random_bytes
        )

        async def serve(tunnel: Tunnel) -> None:
            await jobs.serve(tunnel)

        listener = await enter(machine.open_tunnels(config, endpoint, serve))
        carry_tunnels(host, subnet.id, listener)
        node = ProviderNode(
            identity, subnet, chain, ledger, host, directory, shop, jobs, desk, listener, log, clock(), discovery,
            Reachability(host, clock), clock, handover,
        )  # fmt: skip
        nursery = await enter(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        nursery.start_soon(tally.run)
        nursery.start_soon(clean_ledger, ledger, clock)
        await enter(machine.open_control(node.commands()))
        _start_tasks(node, nursery, machine)
        stack.enter_context(machine.neighbourhood(subnet, identity, views.local_addrs(host.addrs, config)))
        machine.settled()
        _announce_start(node)
        yield node


DRIFT_S = 10.0
"""How old small changes of price and load may be in what is announced: a renewal carries those of a moment before."""


def _start_tasks(node: ProviderNode, nursery: trio.Nursery, machine: Machine) -> None:
    changed = trio.Event()

    def after_update() -> None:
        changed.set()

    async def announce() -> None:
        nonlocal changed
        said: tuple[Sequence[Offer], object] = ((), None)
        due_s = 0.0
        while True:
            offers, where = node.shop.offers(), (tuple(node.host.addrs), tuple(node.tunnel_addrs))
            now_s, told = trio.current_time(), node.directory.told
            known = () if told is None else told.offers
            # Prices take a step every second, and most of them change nothing that the directory would pass on.
            moved = offers_moved(said[0], offers) or offers_moved(known, offers[: len(known)])
            if moved or where != said[1] or (now_s >= due_s and offers != said[0]):
                said, due_s = (offers, where), now_s + DRIFT_S
                await node.directory.announce(node.record(offers))
            await changed.wait()
            changed = trio.Event()

    nursery.start_soon(tell_host_events, node.host, node.log)
    nursery.start_soon(node.reachability.watch)
    nursery.start_soon(node.channels.guard)
    if node.handover is not None:
        nursery.start_soon(node.handover.run)
    rng = machine.rng

    def told(task: Task, model: str) -> list[float]:
        rows = node.directory.index.sample(task.value, model, TOLD, rng, now=node.clock())
        return [told_pressure(offer) for _, _, offer in rows]

    node.shop.told = told

    async def controllers() -> None:
        await run_controllers(node.shop.steps, rng, after_update=after_update)

    async def follow_addresses() -> None:
        async with node.host.events() as events:
            async for event in events:
                if event.kind is EventKind.LISTENING:  # a relay keeps a place for us: others have to know
                    after_update()

    nursery.start_soon(controllers)
    nursery.start_soon(follow_addresses)
    nursery.start_soon(announce)


def _announce_start(node: ProviderNode) -> None:
    for sold in views.selling(node.shop.offers(), node.shop.capabilities, node.shop.loads()):
        note = f" ({sold['note']})" if sold["note"] else ""
        node.log.info("selling", f"selling {sold['task']} by {sold['model']}{note} at {sold['price']}", **sold)
    hosts, tunnels = " ".join(node.host.addrs), " ".join(node.tunnel_addrs)
    node.log.info(
        "ready", f"ready: control plane {hosts}, tunnel {tunnels}",
        peer_id=node.identity.peer_id, addrs=list(node.host.addrs), tunnel_addrs=node.tunnel_addrs,
        wallet=node.chain.account.address, subnet=node.subnet.id,
    )  # fmt: skip


def _verifier(record: ChannelRecord) -> Callable[[int, int, bytes], bool]:
    key = ChannelTerms.from_bytes(record.terms).payer_key

    def verify(seq: int, amount_nanoton: int, signature: bytes) -> bool:
        try:
            return Voucher(record.channel, record.network_id, seq, amount_nanoton).verify(key, signature)
        except ValueError:
            return False

    return verify


__all__ = ["CocoonError", "ProviderNode", "open_provider", "run_provider"]
