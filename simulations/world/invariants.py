"""What must hold at every moment of a simulated run.

After each block the money on chain is counted; after each order the two ends of its channel are held to their bounds;
with each sample all channels are, and the news of all books (:mod:`simulations.world.audit`) and a part of the nodes'
tables (:mod:`simulations.world.tables`) are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import trio

from compute.usage import Prices, Unit, Usage
from overlay.jobs import PayerChannel
from overlay.jobs.channel_server import ChannelServer
from overlay.node.views import credit_window
from overlay.settlement.cells import StoredChannel
from simulations.results import Violation
from simulations.world.audit import Audit, Broken
from simulations.world.engines import EVENTS_PER_JOB
from simulations.world.nodes import ClientPeer, Peer, ProviderPeer
from simulations.world.tables import tables

if TYPE_CHECKING:
    from simulations.world.buying import Order
    from simulations.world.world import World

MONEY, CREDIT, PROMISE, BOUNDED = (
    "money conserved", "nobody beyond his credit window", "nothing promised that did not come", "bounded tables",
)  # fmt: skip

TABLES_EVERY = 6
"""The tables of one node in so many are looked at with each sample, of all at the end."""


class Invariants:
    """Checks of ``world``. Each raises :class:`Broken`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._audit = Audit(world)
        self._settled: dict[str, StoredChannel | None] = {}
        self._prepaid: WeakKeyDictionary[PayerChannel, int] = WeakKeyDictionary()
        self._round = 0

    def after_block(self) -> None:
        """Whenever the chain has executed something."""
        model = self._world.chain.model
        if not model.conserved():
            raise Broken(MONEY, "the chain's accounts, fees and messages do not add up to what was minted")
        for address, account in model.channels.items():
            if account.state is not self._settled.get(address):
                self._settled[address] = account.state
                if account.state is not None:
                    self._on_chain(address, account.state, account.balance_nanoton)

    def _on_chain(self, address: str, state: StoredChannel, balance: int) -> None:
        """A channel that has changed: it can pay what it owes, and has paid what a voucher said."""
        left = state.deposit_nanoton - state.paid_nanoton
        if not 0 <= left <= balance:
            raise Broken(MONEY, f"channel …{address[-8:]} owes {left} nanoTON and holds {balance}")
        payer = self._world.by_wallet(state.terms.payer)
        if payer is not None and payer.behaviour == "honest":
            theirs = payer.machine.books
            if theirs is None or theirs.channel(address) is None:
                raise Broken(MONEY, f"{payer.machine.name} knows nothing of its channel …{address[-8:]}")
        payee = self._world.by_wallet(state.terms.payee)
        books = None if payee is None else payee.machine.books
        if not state.paid_nanoton or books is None or books.channel(address) is None:
            return
        voucher = books.voucher(address)
        if voucher is None or voucher.amount_nanoton < state.paid_nanoton:
            raise Broken(MONEY, f"channel …{address[-8:]} paid {state.paid_nanoton} nanoTON, which no voucher promised")

    def after_order(self, order: Order) -> None:
        """Whenever a job has ended."""
        world = self._world
        if order.provider is None or (number := world.numbers.get(order.provider)) is None:
            return
        client, provider = world.clients[order.client], world.providers[number]
        link = client.node.links._links.get(order.provider) if client.node is not None else None
        if link is None:
            return
        self._promise(client, link.channel.payer)
        if provider.node is not None:
            served = provider.node.jobs._channels.get(link.record.channel)
            if served is not None:
                self._credit(provider, served)

    def now(self) -> None:
        """With every sample, and at the end."""
        for provider, node in self._world.provider_nodes():
            for channel in node.jobs._channels.values():
                self._credit(provider, channel)
        for client in self._world.clients:
            if client.node is not None:
                for machine in client.node.links._machines.values():
                    self._promise(client, machine)
        self._audit.read()
        self._round += 1
        peers: list[Peer[Any]] = [*self._world.providers, *self._world.clients]
        for peer in peers[self._round % TABLES_EVERY :: TABLES_EVERY]:
            self._bounded(peer)

    def _credit(self, provider: ProviderPeer, channel: ChannelServer) -> None:
        """A client owes a provider at most its window, or one event that is dearer and left when nothing was owed."""
        unpaid = channel.payee.account.unpaid_nanoton
        window = credit_window(provider.config)
        if unpaid > window and unpaid > (most := dearest_event(channel)):
            raise Broken(CREDIT, f"…{channel.payee.client[-8:]} owes {provider.machine.name} {unpaid} nanoTON on one "
                         f"channel, where {max(window, most)} is the most")  # fmt: skip

    def _promise(self, client: ClientPeer, machine: PayerChannel) -> None:
        """A voucher covers what this client counted. What came before a crash is in no receipt yet, and is known to
        have come; claims that a provider did not honour may leave a window's worth promised."""
        prepaid = machine.account.prepaid_nanoton
        known = self._prepaid.get(machine)
        self._prepaid[machine] = prepaid if known is None else min(known, prepaid)
        if known is not None and prepaid > max(known, client.config.ton.credit_window_nanoton):
            raise Broken(PROMISE, f"{client.machine.name} promised {prepaid} nanoTON for work that did not come")

    def _bounded(self, peer: Peer[Any]) -> None:
        if peer.node is None:
            return
        for name, count, most in tables(peer.node):
            if count > most:
                raise Broken(BOUNDED, f"{peer.machine.name} has {count} {name}; {most} is the most")

    def violation(self, broken: Broken) -> Violation:
        """For the result."""
        return Violation(broken.invariant, round(trio.current_time(), 3), self._world.network.log.count, broken.what)


def dearest_event(channel: ChannelServer) -> int:
    """What the dearest single event of a channel's open jobs, or of those without a signature, may have cost.

    A prompt is charged by one event; the rest of a job comes in pieces of which none is more than half as long again as
    the others (:mod:`simulations.world.engines`)."""
    payee = channel.payee
    most = max((signed.receipt.amount_nanoton for signed in payee.unsigned), default=0)
    for job in (*payee._running.values(), *payee._lost.values()):
        prompt = _prompt(job.meter.prices, job.meter.usage())
        rest = job.hold.maximum_nanoton - prompt
        most = max(most, prompt, -(-3 * rest // (2 * (EVENTS_PER_JOB - 3))))
    return most


def _prompt(prices: Prices, usage: Usage) -> int:
    kinds = (Unit.PROMPT, Unit.CACHED)
    return prices.cost_nanoton(Usage({kind: usage.get(kind) for kind in kinds if usage.get(kind)}))


__all__ = ["Broken", "Invariants", "dearest_event"]
