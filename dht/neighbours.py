"""The exchange of records on streams: what a neighbour knows, page by page, and what one provider says of itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import NamedTuple

import trio

from dht.announcing import Allowance
from dht.exchange import Page, PageRequest, RecordRequest, page_of, parse_request
from dht.index import CapacityIndex, Source, Verdict
from dht.limits import (
    EXCHANGE_S,
    LOST_AFTER_S,
    MAX_EXCHANGES,
    MAX_LEARNING,
    MAX_PAGES,
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    MAX_SERVED_STREAMS,
    SAMPLE_AT_LEAST,
    SAMPLE_RECORDS,
    SERVE_BURST_PAGES,
    SERVE_PAGES_PER_S,
)
from dht.records import RecordError, SignedRecord
from transport.host import Host, HostError, HostStream
from transport.identity import PeerId
from transport.wire import WireError

Take = Callable[[bytes, Source, PeerId], tuple[SignedRecord, Verdict]]
"""Verifies and indexes a record that a peer sent: its own (:attr:`Source.PROVIDER`), or one that it passes on. Raises
:class:`dht.RecordError` for what no honest node sends."""


class _Taken(NamedTuple):
    """What came of a page."""

    last: str
    """The last peer id of it: the next page begins after that."""
    lost: bool
    """Whether a record was among them that should have reached us before, or a provider of whom we had not heard."""


class Neighbours:
    """Serves and asks under ``protocol``. What comes in goes to ``take``; ``clock`` gives Unix seconds; ``rng`` draws
    samples."""

    def __init__(
        self, host: Host, protocol: str, index: CapacityIndex, take: Take, clock: Callable[[], float], rng: Random
    ) -> None:
        self._host = host
        self._protocol = protocol
        self._index = index
        self._take = take
        self._clock = clock
        self._rng = rng
        self._allowance = Allowance(SERVE_BURST_PAGES, SERVE_PAGES_PER_S)
        self._serving = trio.CapacityLimiter(MAX_SERVED_STREAMS)
        self._asking = trio.CapacityLimiter(MAX_EXCHANGES)
        self._learning = trio.CapacityLimiter(MAX_LEARNING)

    def prompt(self, peer: PeerId, request: bytes) -> bytes | None:
        """The reply to a request in order that the peer may make now (a ``transport.host.PromptHandler``); None for all
        others, which :meth:`__call__` has a stream to refuse by."""
        if len(request) > MAX_REQUEST_BYTES or not self._serving.available_tokens:
            return None
        try:
            parsed = parse_request(request)
        except WireError:
            return None
        if not self._allowance.take(peer, trio.current_time()):
            return None
        return self._answer(parsed).to_bytes()

    async def __call__(self, stream: HostStream) -> None:
        """The handler of inbound streams."""
        async with self._serving:
            with trio.move_on_after(MAX_PAGES * EXCHANGE_S):
                for _ in range(MAX_PAGES + 1):
                    with trio.fail_after(EXCHANGE_S):
                        data = await stream.receive(MAX_REQUEST_BYTES)
                    try:
                        request = parse_request(data)
                    except WireError as error:
                        await self._host.drop(stream.peer_id, f"a malformed request for capacity records: {error}")
                        return
                    if not self._allowance.take(stream.peer_id, trio.current_time()):
                        return
                    await stream.send(self._answer(request).to_bytes())

    def _answer(self, request: PageRequest | RecordRequest) -> Page:
        now = self._clock()
        if isinstance(request, RecordRequest):
            signed = self._index.standing(PeerId(request.peer), now=now)
            return page_of([signed.envelope] if signed else [], False)
        found, more = self._index.page(request.after, request.limit, now=now)
        return page_of([signed.envelope for signed in found], more)

    async def ask(self, peer: PeerId) -> None:
        """Learn all that a neighbour knows. One that sends garbage is dropped, one that does not speak this is not."""
        async with self._asking:
            await self._on_stream(peer, (), self._read_pages)

    async def sample(self, peer: PeerId) -> bool:
        """Look at a few of the records that a neighbour knows, from a place at random on; learn all when one of them
        should have reached us before, or when we know few. Whether there was one. Errors as those of :meth:`ask`."""
        lost = False
        if len(self._index) < SAMPLE_AT_LEAST:
            async with self._learning:  # who waited here may find that others have told enough
                if len(self._index) < SAMPLE_AT_LEAST:
                    await self.ask(peer)
                    return True

        async def read(stream: HostStream) -> None:
            nonlocal lost
            after = self._index.pick(self._rng)
            page = await self._page(stream, PageRequest(after, SAMPLE_RECORDS))
            if after and not page.envelopes:  # there is nothing behind that place
                after = ""
                page = await self._page(stream, PageRequest(after, SAMPLE_RECORDS))
            lost = self._take_page(page, stream.peer_id, after).lost
            if lost:
                await self._read_pages(stream)

        async with self._asking:
            await self._on_stream(peer, (), read)
        return lost

    async def fetch(self, peer: PeerId, addrs: Sequence[str] = ()) -> None:
        """Ask a provider for its own record, connecting first if need be, with ``addrs`` as hints."""

        async def read(stream: HostStream) -> None:
            with trio.fail_after(EXCHANGE_S):
                await stream.send(RecordRequest(peer).to_bytes())
                page = Page.from_bytes(await stream.receive(MAX_REPLY_BYTES))
            if len(page.envelopes) > 1 or page.more:
                raise WireError("more than the one record that was asked for")
            for envelope in page.envelopes:
                self._take(envelope, Source.PROVIDER, peer)

        await self._on_stream(peer, addrs, read)

    async def _on_stream(
        self, peer: PeerId, addrs: Sequence[str], read: Callable[[HostStream], Awaitable[None]]
    ) -> None:
        try:
            stream = await self._host.open_stream(peer, self._protocol, addrs=addrs)
        except HostError:
            return
        try:
            await read(stream)
        except (WireError, RecordError) as error:
            await self._host.drop(peer, f"sent bad capacity records: {error}")
        except (HostError, trio.TooSlowError):
            return
        finally:
            await stream.aclose()

    async def _read_pages(self, stream: HostStream) -> None:
        after = ""
        for _ in range(MAX_PAGES):
            page = await self._page(stream, PageRequest(after))
            after = self._take_page(page, stream.peer_id, after).last
            if not page.more:
                return
            await trio.lowlevel.checkpoint()

    async def _page(self, stream: HostStream, request: PageRequest) -> Page:
        with trio.fail_after(EXCHANGE_S):
            await stream.send(request.to_bytes())
            return Page.from_bytes(await stream.receive(MAX_REPLY_BYTES))

    def _take_page(self, page: Page, teller: PeerId, after: str) -> _Taken:
        lost, now = False, self._clock()
        for envelope in page.envelopes:
            signed, verdict = self._take(envelope, Source.NEIGHBOUR, teller)
            if signed.peer_id <= after:
                raise WireError("records out of order")
            after = signed.peer_id
            if verdict is Verdict.NEWS:
                heard = self._index.heard(signed.peer_id)
                stranger = heard is None or heard.first_at == heard.at
                lost |= stranger or now - signed.record.issued_at > LOST_AFTER_S
        return _Taken(after, lost)
