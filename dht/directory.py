"""The market's yellow pages: announces our record, learns everybody else's by gossip and from each new neighbour.

The façade behind which the Kademlia will stand: what it offers is "announce this" and "who sells that".
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

import trio

from dht.announcing import Allowance, due_at
from dht.exchange import Page as ReplyPage
from dht.exchange import PageRequest, page_of
from dht.index import CapacityIndex, Provider, Verdict
from dht.limits import (
    EXCHANGE_S,
    MAX_EXCHANGES,
    MAX_PAGES,
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    MAX_SERVED_STREAMS,
    REFRESH_S,
    REGOSSIP_DELAY_S,
    REGOSSIP_INTERVAL_S,
    SERVE_BURST_PAGES,
    SERVE_PAGES_PER_S,
    WITHDRAW_FLUSH_S,
)
from dht.records import CapacityRecord, RecordError, SignedRecord, parse_record, sign_record
from transport.host import EventKind, GossipMessage, Host, HostError, HostStream, background
from transport.identity import Identity, PeerId
from transport.wire import WireError


class Directory:
    """Run it with ``async with``; leaving the block withdraws what was announced.

    ``clock`` gives Unix seconds: records carry wall time, since strangers must agree on it.
    """

    def __init__(
        self,
        host: Host,
        identity: Identity,
        subnet: str,
        *,
        clock: Callable[[], float] = time.time,
        index: CapacityIndex | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.index = index if index is not None else CapacityIndex()
        """What is known; read it with the same clock."""
        self._host = host
        self._identity = identity
        self._subnet = subnet
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311  # picks a neighbour, no secret
        self._topic = f"/cocoon/{subnet}/capacity/1"
        self._protocol = f"/cocoon/{subnet}/capacity/1.0.0"
        self._wanted: CapacityRecord | None = None
        self._sent: SignedRecord | None = None
        self._sent_at = float("-inf")
        self._changed = trio.Event()
        self._news = trio.Event()
        self._allowance = Allowance(SERVE_BURST_PAGES, SERVE_PAGES_PER_S)
        self._serving = trio.CapacityLimiter(MAX_SERVED_STREAMS)
        self._asking = trio.CapacityLimiter(MAX_EXCHANGES)
        self._regossip_at = float("-inf")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._host.set_handler(self._protocol, self._serve)
        async with AsyncExitStack() as stack:
            messages = await stack.enter_async_context(self._host.subscribe(self._topic, self._hear))
            events = await stack.enter_async_context(self._host.events())
            nursery = await stack.enter_async_context(background())

            async def drain() -> None:
                async for _ in messages:  # records were taken in by the validator
                    pass

            async def greet() -> None:
                async for event in events:
                    if event.kind is EventKind.CONNECTED and event.peer_id is not None:
                        nursery.start_soon(self._ask, event.peer_id)
                        nursery.start_soon(self._regossip)

            nursery.start_soon(drain)
            nursery.start_soon(greet)
            nursery.start_soon(self._announce_when_due)
            nursery.start_soon(self._refresh)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with trio.CancelScope(shield=True), trio.move_on_after(5 * WITHDRAW_FLUSH_S):
            await self.withdraw()
        await self._stack.__aexit__(kind, error, trace)

    # --- what we sell -------------------------------------------------------------------------------------------------

    async def announce(self, record: CapacityRecord) -> None:
        """Offer what ``record`` says from now on; ``subnet``, ``seq`` and ``issued_at`` are set here.

        Call it as often as anything changes: it is sent when a price or load moved by more than 10 %, what is sold
        changed, or a third of its TTL has passed, and at most every two seconds. Raises
        :class:`dht.RecordError` when it is too long to be sent. On cancellation it is announced or not.
        """
        wanted = replace(record, subnet=self._subnet)
        sign_record(self._identity, self._stamp(wanted))  # too long a record is the caller's error, now
        self._wanted = wanted
        self._changed.set()
        await trio.lowlevel.checkpoint()

    async def withdraw(self) -> None:
        """Take back what was announced, if anything was, and wait a moment for it to leave."""
        self._wanted = None
        self._changed.set()
        if self._sent is None or self._sent.record.withdrawn:
            return
        await self._send(self._sent.record.withdrawal())
        await trio.sleep(WITHDRAW_FLUSH_S)

    def _stamp(self, record: CapacityRecord) -> CapacityRecord:
        now = self._clock()
        last = self._sent.record.seq if self._sent else -1
        return replace(record, seq=max(last + 1, int(now * 1000)), issued_at=int(now))

    async def _send(self, record: CapacityRecord) -> None:
        signed = sign_record(self._identity, self._stamp(record))
        self._sent, self._sent_at = signed, trio.current_time()
        self.index.add(signed, self._clock())
        await self._host.publish(self._topic, signed.envelope)

    async def _announce_when_due(self) -> None:
        while True:
            self._changed = trio.Event()
            due = float("inf")
            if self._wanted is not None:
                sent = self._sent.record if self._sent and not self._sent.record.withdrawn else None
                due = due_at(sent, self._sent_at, self._wanted)
            if trio.current_time() >= due and self._wanted is not None:
                await self._send(self._wanted)
                continue
            with trio.move_on_at(due):
                await self._changed.wait()

    async def _regossip(self) -> None:
        """Gossip our record again for a neighbour that was not in our mesh when we last did."""
        if trio.current_time() < self._regossip_at:
            return
        self._regossip_at = trio.current_time() + REGOSSIP_INTERVAL_S
        await trio.sleep(REGOSSIP_DELAY_S)
        if self._sent is not None and not self._sent.record.withdrawn:
            await self._host.publish(self._topic, self._sent.envelope)

    # --- what others sell ---------------------------------------------------------------------------------------------

    def providers(self, task: str, model: str | None = None, tier: str | None = None) -> list[Provider]:
        """Who sells ``task`` now: (peer id, record, matching offer)."""
        return self.index.providers(task, model, tier, now=self._clock())

    def models(self) -> list[tuple[str, str]]:
        """Every (task, model) that somebody sells now."""
        return self.index.models(now=self._clock())

    async def wait_for_providers(
        self, task: str, model: str | None = None, tier: str | None = None, *, timeout_s: float
    ) -> list[Provider]:
        """Like :meth:`providers`, but wait for the first one to become known; empty after ``timeout_s``."""
        with trio.move_on_after(timeout_s):
            while not (found := self.providers(task, model, tier)):
                await self._news.wait()
            return found
        return self.providers(task, model, tier)

    def _take(self, envelope: bytes, origin: PeerId | None = None) -> tuple[SignedRecord, Verdict]:
        """Verify and index a record. Raises :class:`RecordError` for what no honest node passes on; a stale record, or
        the second of two with one sequence number, is its provider's doing and not held against who passed it on."""
        signed = parse_record(envelope)
        if origin not in (None, signed.peer_id):
            raise RecordError(f"{origin} gossips a record of {signed.peer_id}")
        if signed.record.subnet != self._subnet:
            raise RecordError(f"a record of the subnet {signed.record.subnet!r} in {self._subnet!r}")
        verdict = self.index.add(signed, self._clock())
        if verdict is Verdict.NEWS:
            news, self._news = self._news, trio.Event()
            news.set()
        return signed, verdict

    def _hear(self, message: GossipMessage) -> bool | None:
        """The gossip validator: only a provider itself gossips its record, and only its newest is passed on."""
        try:
            _, verdict = self._take(message.data, message.origin)
        except RecordError:
            return False
        return True if verdict in (Verdict.NEWS, Verdict.KNOWN) else None

    # --- exchange with neighbours -------------------------------------------------------------------------------------

    async def _serve(self, stream: HostStream) -> None:
        async with self._serving:
            with trio.move_on_after(MAX_PAGES * EXCHANGE_S):
                for _ in range(MAX_PAGES + 1):
                    with trio.fail_after(EXCHANGE_S):
                        data = await stream.receive(MAX_REQUEST_BYTES)
                    try:
                        request = PageRequest.from_bytes(data)
                    except WireError as error:
                        await self._host.drop(stream.peer_id, f"a malformed request for capacity records: {error}")
                        return
                    if not self._allowance.take(stream.peer_id, trio.current_time()):
                        return
                    found, more = self.index.page(request.after, request.limit, now=self._clock())
                    await stream.send(page_of([signed.envelope for signed in found], more).to_bytes())

    async def _ask(self, peer: PeerId) -> None:
        """Learn what a neighbour knows. One that sends garbage is dropped, one that does not speak this is not."""
        async with self._asking:
            try:
                stream = await self._host.open_stream(peer, self._protocol)
            except HostError:
                return
            try:
                await self._read_pages(stream)
            except (WireError, RecordError) as error:
                await self._host.drop(peer, f"sent bad capacity records: {error}")
            except (HostError, trio.TooSlowError):
                return
            finally:
                await stream.aclose()

    async def _read_pages(self, stream: HostStream) -> None:
        after = ""
        for _ in range(MAX_PAGES):
            with trio.fail_after(EXCHANGE_S):
                await stream.send(PageRequest(after).to_bytes())
                page = ReplyPage.from_bytes(await stream.receive(MAX_REPLY_BYTES))
            for envelope in page.envelopes:
                signed, _ = self._take(envelope)
                if signed.peer_id <= after:
                    raise WireError("records out of order")
                after = signed.peer_id
                await trio.lowlevel.checkpoint()
            if not page.more:
                return

    async def _refresh(self) -> None:
        while True:
            await trio.sleep(REFRESH_S * self._rng.uniform(0.8, 1.2))
            self.index.sweep(self._clock())
            if peers := self._host.peers():
                await self._ask(self._rng.choice(peers).peer_id)
