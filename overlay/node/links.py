"""One link for each provider in use: the tunnel, the payment channel on it, and the jobs that run through both.

A link is made on first use, kept while the tunnel lives and is used, and made anew when it is asked for again. It runs
in a task of its own, so that whoever asked for it may go away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from dht import CapacityRecord, Directory
from overlay.chain import Chain
from overlay.channels import Payee, PayerDesk
from overlay.errors import ChainError, ProviderGone, Unfunded
from overlay.events import EventLog
from overlay.jobs import AgreementBook, ChannelClient, JobClient, PayerChannel, load_payer_channel, open_job_client
from overlay.locks import KeyedLocks
from overlay.market import AgreementBody
from overlay.node.reaching import reach
from overlay.settlement import ChannelTerms, Voucher
from overlay.settlement.ledger import ChannelAccount, ChannelRecord, ChannelStatus, GroupCommit, RiskBook
from transport.host.interface import Host
from transport.identity import Identity, PeerId
from transport.tunnel import Tunnel, TunnelEndpoint, TunnelStats

CHAIN_AWAY_S = 30.0
"""After an operation on the chain failed, business goes this long to providers that need none."""

SETTLE_UP_S = 10.0
"""How long leaving waits for the last voucher to be acknowledged."""

MAX_UNSETTLED = 256
"""Channels without a link of which more is known than is on the disk: jobs that were lost with it and wait to be
claimed. Each takes some kilobytes. Beyond it the one of longest ago is as after a restart: what its provider cannot
prove, it has given away; no money of ours is lost by it."""

LINK_IDLE_S = 120.0
"""A link that no job asked for in this long is closed: two agreements' time. Kept open, each would be pinged for years,
and a client that has dealt with fifty providers would have fifty of them. A new one takes a round trip or two."""


@dataclass
class Link:
    """A working connection to one provider. ``record`` is the channel that pays it."""

    peer: PeerId
    tunnel: Tunnel
    jobs: JobClient
    channel: ChannelClient
    record: ChannelRecord
    addr: str
    scope: trio.CancelScope
    used_at: float = field(default_factory=trio.current_time)
    """When it was last asked for, by trio's clock."""
    leaving: bool = False

    @property
    def works(self) -> bool:
        """Whether jobs can start on it."""
        over = self.leaving or self.tunnel.closed is not None or self.scope.cancel_called
        return not over and self.channel.broken is None

    async def leave_when_idle(self) -> None:
        """Close the tunnel once nobody has used it for a while and all is paid."""
        while True:
            await trio.sleep_until(self.used_at + LINK_IDLE_S)
            if trio.current_time() < self.used_at + LINK_IDLE_S:
                continue
            with trio.move_on_after(SETTLE_UP_S):
                await self.channel.settled()
            if self.channel.payer.quiet and self.used_at + LINK_IDLE_S <= trio.current_time():
                self.leaving = True
                await self.tunnel.aclose("idle")
                return
            self.used_at = trio.current_time()  # a long job runs, or somebody has just come back


@dataclass
class Links:
    """All links of a client. ``nursery`` runs them."""

    identity: Identity
    endpoint: TunnelEndpoint
    chain: Chain
    ledger: GroupCommit
    book: AgreementBook
    desk: PayerDesk
    directory: Directory
    host: Host
    nursery: trio.Nursery
    log: EventLog
    now_s: Callable[[], int]
    random_bytes: Callable[[int], bytes]
    risk: RiskBook | None = None
    _links: dict[PeerId, Link] = field(default_factory=dict)
    """Those that stand, and what is left of one until its task has ended."""
    _getting: KeyedLocks[PeerId] = field(default_factory=KeyedLocks)
    _machines: dict[str, PayerChannel] = field(default_factory=dict)
    """One a channel, for as long as a link pays through it or it knows more than the ledger; of those that are in no
    use the one of longest ago comes first."""
    _paying: Counter[str] = field(default_factory=Counter)
    """How many links hold a machine: two for a moment, when one follows another."""
    _chain_away_until: float = 0.0

    async def get(self, body: AgreementBody, spendable_nanoton: int) -> Link:
        """The link to an agreement's provider, with a channel that can pay ``spendable_nanoton`` more.

        Raises :class:`~overlay.errors.CocoonError`: the provider cannot be reached, or the money does not suffice.
        """
        peer = body.provider
        link = self._links.get(peer)
        if link is not None and link.works and link.channel.payer.account.left_nanoton >= spendable_nanoton:
            link.used_at = trio.current_time()
            return link
        async with self._getting.hold(peer):
            link = self._links.get(peer)
            if link is None or not link.works:
                record = await self._record_of(peer)
                channel = await self._channel(body, record, spendable_nanoton)
                link = await self.nursery.start(self._run, peer, record, channel)
                assert link is not None
            elif link.channel.payer.account.left_nanoton < spendable_nanoton:
                channel = await self._channel(body, await self._record_of(peer), spendable_nanoton)
                if channel.channel != link.record.channel:
                    raise ProviderGone("the channel to this provider is being replaced; try again in a moment")
                link.channel.payer.account.top_up(channel.deposit_nanoton)
            link.used_at = trio.current_time()
            return link

    async def paid(self) -> set[PeerId]:
        """The providers that an open channel of ours pays."""
        return {PeerId(record.peer) for record, _ in await self.desk.live() if record.status is ChannelStatus.OPEN}

    def without_chain(self, peer: PeerId, spendable_nanoton: int) -> bool:
        """Whether a job of at most ``spendable_nanoton`` can be paid to ``peer`` as things stand."""
        link = self._links.get(peer)
        return link is not None and link.works and link.channel.payer.account.left_nanoton >= spendable_nanoton

    @property
    def chain_is_away(self) -> bool:
        """Whether no channel could be opened or filled a moment ago: the chain, or the money in the wallet, failed."""
        return trio.current_time() < self._chain_away_until

    def of(self, channel: str) -> Link | None:
        """The working link that uses a channel."""
        return next((k for k in self._links.values() if k.record.channel == channel and k.works), None)

    def drop(self, link: Link) -> None:
        """Close a link: its channel ends, or its provider is not to be used."""
        link.scope.cancel()
        self._machines.pop(link.record.channel, None)

    async def payable(self) -> set[PeerId]:
        """The providers to whom a channel is open."""
        return {PeerId(record.peer) for record, _ in await self.desk.live() if record.status is ChannelStatus.OPEN}

    def tunnels(self) -> list[TunnelStats]:
        """What the tunnels in use have done so far."""
        return [link.tunnel.stats() for link in self._links.values() if link.works]

    def accounts(self) -> dict[str, ChannelAccount]:
        """The channels in memory, as they stand now: what the ledger has, and what running jobs add to it."""
        return {name: machine.account for name, machine in self._machines.items()}

    async def settle_up(self) -> None:
        """Pay every provider what is owed, to the last nanoTON: before leaving."""
        with trio.move_on_after(SETTLE_UP_S):
            async with trio.open_nursery() as nursery:
                for link in self._links.values():
                    if link.works:
                        nursery.start_soon(link.channel.settled)

    async def _record_of(self, peer: PeerId) -> CapacityRecord:
        known = await self.directory.record_of(peer)
        if known is None:
            raise ProviderGone(f"the provider …{peer[-8:]} has withdrawn its offer")
        return known

    async def _channel(self, body: AgreementBody, record: CapacityRecord, spendable: int) -> ChannelRecord:
        payee = Payee(body.provider, body.payee_address, body.payee_key, record.host_addrs)
        least = body.min_deposit_nanoton
        try:
            return await self.desk.ensure(payee, spendable_nanoton=spendable, min_deposit_nanoton=least)
        except (ChainError, Unfunded):
            self._chain_away_until = trio.current_time() + CHAIN_AWAY_S
            raise

    async def _run(
        self,
        peer: PeerId,
        record: CapacityRecord,
        channel: ChannelRecord,
        *,
        task_status: trio.TaskStatus[Link] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run one link until its tunnel closes. Errors before it works go to whoever asked for it."""
        tunnel, addr = await reach(self.host, self.endpoint, peer, record)
        link: Link | None = None
        try:
            with trio.CancelScope() as scope:
                async with (
                    tunnel,
                    self._machine_of(channel) as machine,
                    open_job_client(
                        tunnel, identity=self.identity, ledger=self.ledger, book=self.book, now_s=self.now_s,
                        random_bytes=self.random_bytes,
                    ) as jobs,
                ):  # fmt: skip
                    attached = await jobs.attach(machine)
                    link = self._links[peer] = Link(peer, tunnel, jobs, attached, channel, addr, scope)
                    self._tell_of(link)
                    jobs.nursery.start_soon(link.leave_when_idle)
                    task_status.started(link)
                    async for stream in tunnel.incoming():
                        stream.reset(reason="a client serves nothing")
        finally:
            if link is not None and self._links.get(peer) is link:
                del self._links[peer]
        if tunnel.closed is not None and not tunnel.closed.clean:
            self.log.warning("tunnel_lost", f"the tunnel to …{peer[-8:]} broke: {tunnel.closed.reason}", provider=peer)

    def _tell_of(self, link: Link) -> None:
        stats = link.tunnel.stats()
        path = "relayed" if stats.relayed else "direct"
        self.log.info(
            "tunnel", f"tunnel to …{link.peer[-8:]} at {link.addr} ({stats.pattern}, {path})",
            provider=link.peer, addr=link.addr, pattern=stats.pattern, relayed=stats.relayed,
        )  # fmt: skip

    @asynccontextmanager
    async def _machine_of(self, record: ChannelRecord) -> AsyncIterator[PayerChannel]:
        """The machine of a channel, for a link. Afterwards it is forgotten if the ledger has all that it knows."""
        machine = await self._machine(record)
        self._paying[record.channel] += 1
        try:
            yield machine
        finally:
            self._paying[record.channel] -= 1
            if not self._paying[record.channel]:
                del self._paying[record.channel]
                self._put_by(machine)

    def _put_by(self, machine: PayerChannel) -> None:
        """No link uses this machine now. What it knows of lost jobs and unpaid work is kept for the next link, within
        :data:`MAX_UNSETTLED`; what it could not write is kept in any case."""
        if self._machines.get(machine.channel) is not machine:
            return
        del self._machines[machine.channel]
        if machine.quiet and not machine.unwritten:
            return
        kept = [name for name, one in self._machines.items() if name not in self._paying and not one.unwritten]
        for name in kept[: max(0, len(kept) + 1 - MAX_UNSETTLED)]:
            del self._machines[name]
        self._machines[machine.channel] = machine

    async def _machine(self, record: ChannelRecord) -> PayerChannel:
        machine = self._machines.get(record.channel)
        if machine is None:
            terms = ChannelTerms.from_bytes(record.terms)

            def voucher(seq: int, amount_nanoton: int) -> Voucher:
                return Voucher(record.channel, terms.network_id, seq, amount_nanoton)

            def sign(seq: int, amount_nanoton: int) -> bytes:
                self.log.info(
                    "voucher", f"voucher {seq} to …{record.peer[-8:]}: {amount_nanoton} nanoTON in all",
                    provider=record.peer, channel=record.channel, seq=seq, amount_nanoton=amount_nanoton,
                )  # fmt: skip
                return voucher(seq, amount_nanoton).sign(self.chain.channel_seed)

            def verify(seq: int, amount_nanoton: int, signature: bytes) -> bool:
                return voucher(seq, amount_nanoton).verify(terms.payer_key, signature)

            machine = await load_payer_channel(
                self.ledger, record.channel, identity=self.identity, sign_voucher=sign, verify_voucher=verify,
                risk=self.risk,
            )  # fmt: skip
            self._machines[record.channel] = machine
        return machine


__all__ = ["Link", "Links"]
