"""Invariants of the books: what nodes committed to their ledgers, looked at once, when it is news.

Both ends of a channel are in one process, so what a provider holds can be compared with what its client signed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from overlay.market import Agreement
from overlay.settlement.ledger import AgreementRecord, ReceiptRecord, VoucherRecord
from simulations.world.books import Books
from simulations.world.nodes import ClientPeer, Peer, ProviderPeer
from transport.identity import PeerId
from transport.wire import WireError

if TYPE_CHECKING:
    from simulations.world.world import World

SIGNED, ONCE, BOTH, CRASH = (
    "no agreement without both signatures", "no job paid twice", "both books of a channel agree",
    "no lost money after a crash",
)  # fmt: skip


class Broken(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant, self.what = invariant, what


@dataclass
class _Chain:
    """Receipts of one channel in one party's books: by index, the job and the hash."""

    links: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """The index of its end."""
        return next(reversed(self.links), 0)


@dataclass
class _Channel:
    """The two ends of a channel, as far as they are nodes of the world."""

    payer: ClientPeer | None = None
    payee: ProviderPeer | None = None


class Audit:
    """Reads the news of all books of ``world``. Raises :class:`Broken`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._agreements: dict[bytes, bytes] = {}
        """Those verified: by id, the hash of what is stored."""
        self._channels: dict[str, _Channel] = {}
        self._chains: defaultdict[tuple[PeerId, str], _Chain] = defaultdict(_Chain)
        self._jobs: defaultdict[PeerId, dict[bytes, str]] = defaultdict(dict)
        """By owner of the books, the channel that each job has its receipt on."""
        self._crashed: dict[PeerId, int] = {}

    def read(self) -> None:
        """Look at what was committed since the last time."""
        changed: dict[str, None] = {}
        peers: list[Peer[Any]] = [*self._world.providers, *self._world.clients]
        for peer in peers:
            books = peer.machine.books
            if books is None:
                continue
            if books.news:
                news, books.news = books.news, []
                for entry in news:
                    self._take(peer, entry, changed)
            if peer.crashes != self._crashed.get(peer.peer_id, 0) and peer.up:
                self._crashed[peer.peer_id] = peer.crashes
                _kept(peer, books)
        for channel in changed:
            self._compare(channel, self._channels[channel])

    def _take(
        self, peer: Peer[Any], entry: AgreementRecord | ReceiptRecord | VoucherRecord | tuple[str, int],
        changed: dict[str, None],
    ) -> None:  # fmt: skip
        if isinstance(entry, AgreementRecord):
            self._verify(peer, entry)
            return
        name = entry[0] if isinstance(entry, tuple) else entry.channel
        changed[name] = None
        if name not in self._channels:
            self._channels[name] = self._parties(peer, name)
        if isinstance(entry, ReceiptRecord):
            self._append(peer, entry)
        elif isinstance(entry, tuple):
            self._truncate(peer, *entry)

    def _parties(self, peer: Peer[Any], name: str) -> _Channel:
        """Both ends of a channel that is in the books of ``peer``."""
        books = peer.machine.books
        record = books.channel(name) if books is not None else None
        other = None if record is None else self._world.by_id(PeerId(record.peer))
        found = _Channel()
        for one in (peer, other):
            if isinstance(one, ClientPeer):
                found.payer = one
            elif isinstance(one, ProviderPeer):
                found.payee = one
        return found

    def _verify(self, peer: Peer[Any], record: AgreementRecord) -> None:
        digest = sha256(record.body).digest()
        known = self._agreements.get(record.agreement_id)
        if known == digest:
            return
        try:
            agreement = Agreement.parse(record.body)
        except WireError as error:
            raise Broken(SIGNED, f"{peer.machine.name} keeps one that does not verify: {error}") from error
        if agreement.id != record.agreement_id or peer.peer_id not in (agreement.body.client, agreement.body.provider):
            raise Broken(SIGNED, f"{peer.machine.name} keeps one that is not its own")
        self._agreements[record.agreement_id] = digest

    def _append(self, peer: Peer[Any], receipt: ReceiptRecord) -> None:
        chain, jobs = self._chains[peer.peer_id, receipt.channel], self._jobs[peer.peer_id]
        known = chain.links.get(receipt.index)
        if known == (receipt.job_id, receipt.hash):
            return
        if known is not None or receipt.job_id in jobs:
            raise Broken(ONCE, f"{peer.machine.name} has a second receipt of a job on channel …{receipt.channel[-8:]}")
        chain.links[receipt.index] = (receipt.job_id, receipt.hash)
        jobs[receipt.job_id] = receipt.channel

    def _truncate(self, peer: Peer[Any], channel: str, after: int) -> None:
        chain, jobs = self._chains[peer.peer_id, channel], self._jobs[peer.peer_id]
        for index in [index for index in chain.links if index > after]:
            jobs.pop(chain.links.pop(index)[0], None)

    def _compare(self, name: str, channel: _Channel) -> None:
        """What the payee holds, the payer wrote down before it let go of it."""
        payer, payee = channel.payer, channel.payee
        if payee is not None and payee.node is not None:
            _in_memory(payee, name)
        if payer is None or payee is None or payer.behaviour != "honest":
            return
        theirs, ours = payer.machine.books, payee.machine.books
        if theirs is None or ours is None or ours.channel(name) is None:
            return  # the payee has not heard of it yet
        held, signed = ours.voucher(name), theirs.voucher(name)
        if held is not None and (
            signed is None or held.seq > signed.seq or held.amount_nanoton > signed.amount_nanoton
        ):
            raise Broken(BOTH, f"{payee.machine.name} holds a voucher of {held.amount_nanoton} nanoTON, and "
                         f"{payer.machine.name} wrote down {signed.amount_nanoton if signed else 0}")  # fmt: skip
        ends = self._chains[payer.peer_id, name], self._chains[payee.peer_id, name]
        if ours.signed_index(name) > ends[0].last:
            raise Broken(BOTH, f"{payee.machine.name} holds a signature under a receipt that {payer.machine.name} lost")
        common = min(end.last for end in ends)
        if common and ends[0].links[common] != ends[1].links[common]:
            raise Broken(BOTH, f"{payee.machine.name} and {payer.machine.name} differ in receipt {common}")


def _in_memory(payee: ProviderPeer, name: str) -> None:
    """Credit is given for vouchers that are on the disk."""
    books = payee.machine.books
    account = payee.node.jobs.accounts().get(name) if payee.node is not None else None
    if account is None or books is None:
        return
    held = books.voucher(name)
    if account.promised_nanoton > (0 if held is None else held.amount_nanoton):
        raise Broken(CRASH, f"{payee.machine.name} gives credit for a voucher that is not in its books")


def _kept(peer: Peer[Any], books: Books) -> None:
    """What the disk had at the kill is there again."""
    for channel, before in peer.at_crash.items():
        now = books.summary(channel)
        if now is None or any(after < earlier for after, earlier in zip(now, before, strict=True)):
            raise Broken(CRASH, f"{peer.machine.name} had {before} on channel …{channel[-8:]}, and has {now}")
