"""A provider node: everything that sells, put together.

    host ──── directory  (tells what we sell, every time it changes)
      ├────── market     (quotes, agreements)
      └────── channels   (believes, closes, claims)
    tunnel ── jobs ───── scheduler ── engines

Leaving happens in the opposite order: withdraw the offer, let running jobs end and be paid, then close everything.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from compute.engines import Engine
from compute.engines.base import Capability
from compute.scheduler import Load as EngineLoad
from compute.scheduler import Scheduler
from compute.tasks import Task
from compute.usage import Prices, Unit
from dht import CapacityRecord, Directory, Offer, RecordError, sign_record
from overlay import channels
from overlay.chain import Chain, open_chain
from overlay.config import Config, NodeSection, PriceSection, RelaySection
from overlay.control import serve_control
from overlay.datadir import DataDir, neighbours, running_here
from overlay.errors import CocoonError, ConfigError, PortBusy
from overlay.events import EventLog, Observer
from overlay.jobs import JobServer
from overlay.market import (
    Agreement,
    Listing,
    Load,
    MarketServer,
    PaymentTerms,
    PriceController,
    QuoteDesk,
    Reason,
    Refusal,
    Tier,
    run_controllers,
)
from overlay.node import views
from overlay.node.discovery import Discovery, open_discovery
from overlay.node.engines import make_engines, served_tasks
from overlay.node.reachability import Reachability
from overlay.node.reaching import carry_tunnels
from overlay.node.upkeep import JobTally, clean_ledger, settle_memory
from overlay.settlement import ChannelTerms, Voucher
from overlay.settlement.ledger import ChannelRecord, GroupCommit, Role, open_ledger
from overlay.settlement.limits import MIN_DEPOSIT_NANOTON
from overlay.subnet import Subnet
from overlay.watchtower import LAST_HAND_OVER_S, Handover, parse_towers
from transport.host import HostError, HostEvent, Libp2pHost, RelayLimits
from transport.host.interface import EventKind
from transport.identity import Identity
from transport.tunnel import Tunnel, TunnelEndpoint, TunnelListener, open_tunnel_listener

SOFTWARE = "cocoon/0.1.0"

UNITS = {
    Task.CHAT: (Unit.PROMPT, Unit.CACHED, Unit.COMPLETION, Unit.REASONING),
    Task.COMPLETION: (Unit.PROMPT, Unit.CACHED, Unit.COMPLETION, Unit.REASONING),
    Task.TRANSCRIBE: (Unit.AUDIO_MS,),
    Task.EMBED: (Unit.EMBEDDING,),
}
"""What is counted, and so priced, for each task."""


def base_prices(section: PriceSection, task: Task) -> Prices:
    """The configured floor prices of a task, in nanoTON per million units."""
    return Prices({unit: getattr(section, unit.value) for unit in UNITS[task]})


@dataclass
class Shop:
    """What is on offer, at which price, right now."""

    scheduler: Scheduler
    config: Config
    controllers: dict[tuple[Task, str], PriceController] = field(default_factory=dict)
    capabilities: dict[tuple[Task, str], Capability] = field(default_factory=dict)
    unfit: list[str] = field(default_factory=list)
    """Models that cannot be announced, and why: an upstream may name its models as it likes."""

    def __post_init__(self) -> None:
        tasks = served_tasks(self.config)
        for capability in self.scheduler.capabilities():
            if capability.task in tasks:
                key = (capability.task, capability.model)
                base = base_prices(self.config.price, capability.task)
                try:
                    Offer(task=key[0].value, model=key[1], tier=Tier.PLAIN.value, prices=base.to_wire())
                except RecordError as error:
                    self.unfit.append(f"{capability.model!r} cannot be sold: {error}")
                    continue
                self.capabilities[key] = capability
                self.controllers[key] = PriceController(base, cap=self.config.price.cap_ratio)

    def loads(self) -> Mapping[tuple[Task, str], EngineLoad]:
        """How full the engines are."""
        return self.scheduler.load()

    def steps(self) -> Sequence[tuple[PriceController, Load]]:
        """Each price controller with the load it should react to."""
        loads = self.loads()
        return [(c, _market_load(loads[key])) for key, c in self.controllers.items() if key in loads]

    def catalog(self, task: Task, model: str, tier: Tier) -> Listing | Refusal:
        """The market's question: is this on offer, and for how much?"""
        controller = self.controllers.get((task, model))
        load = self.loads().get((task, model))
        if controller is None or load is None:
            return Refusal(Reason.UNKNOWN_MODEL, f"{model} is not served here for {task}")
        if tier is not Tier.PLAIN:
            return Refusal(Reason.UNKNOWN_TIER, f"the tier {tier} is not served here: this machine is not attested")
        wait_ms = round(load.wait_s * 1000)
        parallel = load.slots + self.config.node.queue_per_engine
        return Listing(controller.ask(_market_load(load)), controller.floor, wait_ms, parallel)

    def offers(self) -> tuple[Offer, ...]:
        """The same as claims for the directory."""
        loads = self.loads()
        found = []
        for key, controller in self.controllers.items():
            if key not in loads:
                continue
            load, capability = loads[key], self.capabilities[key]
            prices = controller.ask(_market_load(load)).to_wire()
            found.append(
                Offer(
                    task=key[0].value,
                    model=key[1],
                    tier=Tier.PLAIN.value,
                    prices=prices,
                    slots=load.slots,
                    busy=load.busy,
                    queue_wait_ms=round(load.wait_s * 1000),
                    units_per_s=round(capability.units_per_s),
                    context=capability.context,
                )
            )
        return tuple(found)


def _market_load(load: EngineLoad) -> Load:
    return Load(load.busy, load.slots, load.wait_s)


@dataclass
class ProviderNode:
    """A running provider. Made by :func:`open_provider`."""

    identity: Identity
    subnet: Subnet
    chain: Chain
    ledger: GroupCommit
    host: Libp2pHost
    directory: Directory
    shop: Shop
    jobs: JobServer
    channels: channels.PayeeDesk
    listener: TunnelListener
    log: EventLog
    started_at: float
    discovery: Discovery
    reachability: Reachability
    handover: Handover | None = None
    """To its watchtowers, if it has any."""
    crowded: bool = False
    """Whether it was told that not every offer is announced."""

    @property
    def tunnel_addrs(self) -> list[str]:
        """Where others reach our tunnel."""
        return views.reachable(self.listener.addrs, self.host.addrs)

    def record(self) -> CapacityRecord:
        """What we tell the directory: as many of the offers as a record has room for, in the order of the engines."""
        offers = self.shop.offers()
        now = time.time()
        for count in range(len(offers), -1, -1):
            try:
                record = CapacityRecord(
                    subnet=self.subnet.id, host_addrs=tuple(self.host.addrs)[:4],
                    tunnel_addrs=tuple(self.tunnel_addrs)[:4],
                    noise_key=self.listener.endpoint.static_key.public, offers=offers[:count], software=SOFTWARE,
                    seq=int(now * 1000), issued_at=int(now),
                )  # fmt: skip
                sign_record(self.identity, record)
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

    async def status(self, _arguments: Mapping[str, Any]) -> Any:
        """For `cocoon node status`."""
        return {
            "peer_id": self.identity.peer_id,
            "subnet": self.subnet.id,
            "uptime_s": round(time.time() - self.started_at),
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
    data_dir: DataDir,
    subnet: Subnet,
    bootstrap: Sequence[str],
    observer: Observer,
    engines: Sequence[Engine] | None = None,
) -> None:
    """Run a provider until SIGINT or SIGTERM, then drain it.

    ``engines`` replaces those that the configuration names (benchmarks bring their own). Raises
    :class:`~overlay.errors.CocoonError` when it cannot start.
    """
    log = EventLog(observer, time.time)
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_provider(config, data_dir, subnet, bootstrap, log, engines) as node:
            async for _ in signals:
                break
            log.info("draining", _stopping(node.jobs.running_jobs), jobs=node.jobs.running_jobs)
            with trio.CancelScope() as impatient:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_give_up_on_signal, signals, impatient)
                    await node.directory.withdraw()
                    if not await node.jobs.drain(config.node.drain_timeout_s):
                        log.warning("drain_timeout", "some jobs did not end in time and are cut off")
                    if node.handover is not None:
                        with trio.move_on_after(LAST_HAND_OVER_S):
                            await node.handover.hand_over(0)
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


@asynccontextmanager
async def open_provider(
    config: Config,
    data_dir: DataDir,
    subnet: Subnet,
    bootstrap: Sequence[str],
    log: EventLog,
    engines: Sequence[Engine] | None = None,
) -> AsyncIterator[ProviderNode]:
    """Run a provider for the length of the block."""
    identity = data_dir.identity()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        # What the configuration has wrong is told before anything starts.
        made = make_engines(config, log) if engines is None else list(engines)
        towers = parse_towers(config.watchtower.towers)
        chain = await enter(open_chain(config, data_dir, log, may_start_devnet=True))
        ledger = await enter(open_ledger(data_dir.ledger_path))
        scheduler = await enter(Scheduler.run(made, max_queue=config.node.queue_per_engine))
        for name, reason in scheduler.failures().items():
            log.warning("engine_unavailable", f"{name}: {reason}", engine=name)
        shop = Shop(scheduler, config)
        for reason in shop.unfit:
            log.warning("model_unfit", reason)
        if not shop.controllers:
            raise ConfigError(
                "there is nothing to sell: no engine for the tasks in node.serve can run here (the lines above say why)"
            )
        host = await enter(open_host(config, data_dir, identity, subnet, bootstrap, log))
        discovery = await enter(open_discovery(config, data_dir, identity, subnet, host))
        directory = discovery.directory
        tally = JobTally(log)
        jobs = JobServer(
            identity=identity, ledger=ledger, submit=scheduler.submit, verifier=_verifier,
            now_ms=lambda: time.time_ns() // 1_000_000, random_bytes=os.urandom, risk=views.credit_caps(config.risk),
            on_job=tally.add,
        )  # fmt: skip
        money = config.ton
        policy = channels.ClaimPolicy(
            money.settle_at_nanoton, money.unclaimed_cap_nanoton, money.claim_risk_ppm_per_day, money.claim_dust_nanoton
        )
        desk = channels.PayeeDesk(
            chain, ledger, jobs, log, time.time, MIN_DEPOSIT_NANOTON, money.settle_at_nanoton, policy
        )
        handover = None
        if towers:
            handover = Handover(
                identity, subnet.id, host, towers, desk.claims.live, log, time.time, config.watchtower.hand_over_nanoton
            )
        host.set_handler(channels.channel_protocol(subnet.id), desk.handle)
        terms = PaymentTerms(
            chain.account.address, chain.channel_key, chain.client.network_id, MIN_DEPOSIT_NANOTON,
            views.credit_window(config),
        )  # fmt: skip

        async def store(agreement: Agreement) -> None:
            body = agreement.body
            # Two clients are not to be promised the last free slot while the first one's job is on its way.
            scheduler.promise(body.task, body.model)
            await jobs.add_agreement(agreement)
            log.info(
                "agreed", f"agreed with …{body.client[-8:]}: {body.task} by {body.model}",
                client=body.client, task=body.task.value, model=body.model, prices=body.prices.to_wire(),
            )  # fmt: skip

        MarketServer(QuoteDesk(identity, subnet.id, terms, shop.catalog, os.urandom), time.time, store).attach(host)
        listener = await enter(
            _open_listener(config, TunnelEndpoint.of(identity, subnet=subnet.id, psk=subnet.tunnel_psk), jobs)
        )
        carry_tunnels(host, subnet.id, listener)
        node = ProviderNode(
            identity, subnet, chain, ledger, host, directory, shop, jobs, desk, listener, log, time.time(), discovery,
            Reachability(host, time.time),
            handover,
        )  # fmt: skip
        nursery = await enter(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        nursery.start_soon(tally.run)
        nursery.start_soon(clean_ledger, ledger)
        await _start_tasks(node, nursery, data_dir)
        stack.enter_context(running_here("node", subnet.id, identity.peer_id, views.local_addrs(host.addrs, config)))
        settle_memory()
        _announce_start(node)
        yield node


async def _start_tasks(node: ProviderNode, nursery: trio.Nursery, data_dir: DataDir) -> None:
    changed = trio.Event()

    def after_update() -> None:
        changed.set()

    async def announce() -> None:
        nonlocal changed
        while True:
            await node.directory.announce(node.record())
            await changed.wait()
            changed = trio.Event()

    commands = {
        "status": node.status,
        "peers": node.peers,
        "providers": node.providers,
        "wallet": node.wallet,
        "channels": node.list_channels,
        "settle": node.settle,
        "exit": node.leave,
    }
    await nursery.start(serve_control, data_dir.path, commands)
    nursery.start_soon(tell_host_events, node.host, node.log)
    nursery.start_soon(node.reachability.watch)
    nursery.start_soon(node.channels.guard)
    if node.handover is not None:
        nursery.start_soon(node.handover.run)
    rng = random.Random(os.urandom(8))  # noqa: S311 — a phase, no secret

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


@asynccontextmanager
async def open_host(
    config: Config,
    data_dir: DataDir,
    identity: Identity,
    subnet: Subnet,
    bootstrap: Sequence[str],
    log: EventLog,
    *,
    listen: bool = True,
) -> AsyncIterator[Libp2pHost]:
    """The control plane of a node or a client. Without bootstrap peers, the nodes of this machine serve, and those that
    it met in earlier runs."""
    peerstore = data_dir.peers_path(subnet.id)
    targets = list(bootstrap) or neighbours(subnet.id)

    def opening(addrs: Sequence[str]) -> AbstractAsyncContextManager[Libp2pHost]:
        announce = config.node.announce if listen else ()
        return Libp2pHost.open(
            identity, addrs, bootstrap=targets, psk=subnet.swarm_key, announce=announce, peerstore=peerstore,
            relay=_relay_limits(config.relay) if listen else None, relays=config.relay.use if listen else (),
        )  # fmt: skip

    async with AsyncExitStack() as stack:
        try:
            try:
                host = await stack.enter_async_context(opening(config.node.listen if listen else ()))
            except HostError as error:
                if not listen or config.node.listen != NodeSection().listen or "in use" not in str(error):
                    raise
                # Nobody asked for port 4001: a second node on one machine simply takes another.
                log.warning("port_busy", f"{config.node.listen[0]} is in use; listening on any free port instead")
                host = await stack.enter_async_context(opening(["/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"]))
        except HostError as error:
            raise ConfigError(f"{error} (see node.listen, node.announce, relay.use and --bootstrap)") from error
        yield host


def _relay_limits(section: RelaySection) -> RelayLimits | None:
    if not section.serve:
        return None
    return RelayLimits(
        reservations=section.reservations, circuits=section.circuits,
        circuit_bytes=section.circuit_bytes, circuit_s=float(section.circuit_s),
    )  # fmt: skip


@asynccontextmanager
async def _open_listener(config: Config, endpoint: TunnelEndpoint, jobs: JobServer) -> AsyncIterator[TunnelListener]:
    async def serve(tunnel: Tunnel) -> None:
        await jobs.serve(tunnel)

    node = config.node
    try:
        context = open_tunnel_listener(endpoint, node.tunnel_host or None, node.tunnel_port, serve)
        listener = await context.__aenter__()
    except OSError as error:
        raise PortBusy(node.tunnel_host or "every address", node.tunnel_port) from error
    try:
        yield listener
    finally:
        await context.__aexit__(None, None, None)


def _verifier(record: ChannelRecord) -> Callable[[int, int, bytes], bool]:
    key = ChannelTerms.from_bytes(record.terms).payer_key

    def verify(seq: int, amount_nanoton: int, signature: bytes) -> bool:
        try:
            return Voucher(record.channel, record.network_id, seq, amount_nanoton).verify(key, signature)
        except ValueError:
            return False

    return verify


async def tell_host_events(host: Libp2pHost, log: EventLog) -> None:
    """One line for each thing that happens on the control plane."""
    async with host.events() as events:
        async for event in events:
            _tell_host_event(event, log)


def _tell_host_event(event: HostEvent, log: EventLog) -> None:
    peer = event.peer_id or ""
    match event.kind:
        case EventKind.LISTENING:
            pass  # `ready` says it, when the rest is there too
        case EventKind.CONNECTED:
            where = event.addr.partition("/p2p/")[0]
            log.info("peer_connected", f"connected to …{peer[-8:]} at {where}", peer_id=peer, addr=event.addr)
        case EventKind.DISCONNECTED:
            log.info("peer_disconnected", f"…{peer[-8:]} is gone", peer_id=peer)
        case EventKind.UNREACHABLE:
            log.warning("unreachable", f"{event.addr} is not reachable: {event.detail}", peer_id=peer, addr=event.addr)
        case EventKind.DROPPED:
            log.warning("dropped", f"…{peer[-8:]} broke a protocol and was dropped: {event.detail}", peer_id=peer)


__all__ = ["CocoonError", "ProviderNode", "open_host", "open_provider", "run_provider", "tell_host_events"]
