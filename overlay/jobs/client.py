"""The client's side of the jobs protocol: runs jobs over a tunnel to one provider, and pays for them.

::

    async with open_job_client(tunnel, identity=…, ledger=…, …) as client:
        channel = await client.attach(payer_channel)
        async with client.run(agreement, channel, request) as run:
            async for events in run:
                …
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import trio

from compute.codec import request_to_wire
from compute.tasks import Event, Request, TaskError, TranscribeRequest
from compute.usage import Usage
from overlay.errors import CocoonError, InvalidRequest, ProviderGone, TooLarge
from overlay.jobs.book import AgreementBook
from overlay.jobs.channel_client import ChannelClient
from overlay.jobs.errors import (
    AgreementEnded,
    ChannelUnusable,
    Overcharged,
    ProtocolError,
    RiskCapReached,
    error_of,
)
from overlay.jobs.limits import (
    ACCEPT_S,
    ALIVE_FIRST_S,
    ALIVE_S,
    JOB_ID_BYTES,
    MAX_CHANNELS_PER_TUNNEL,
    MAX_EVENTS_MESSAGE_BYTES,
    MAX_PART_BYTES,
    MAX_REQUEST_BYTES,
    QUIET_S,
    SETTLE_S,
    SILENCE_S,
)
from overlay.jobs.link import JobStream, JobTunnel
from overlay.jobs.messages import (
    Accepted,
    AgreementSent,
    Done,
    Events,
    Failed,
    NeedAgreement,
    Open,
    decode,
    encode,
)
from overlay.jobs.metering import most_it_can_cost
from overlay.jobs.payer import PayerChannel
from overlay.jobs.payer_job import PayerJob
from overlay.market import Agreement
from overlay.settlement.ledger import GroupCommit, LedgerError, OverLimit
from transport.identity import Identity
from transport.tunnel import MessageTooLarge, ResetCode, TunnelError
from transport.wire import WireError


class JobClient:
    """Jobs over one tunnel; made by :func:`open_job_client`."""

    def __init__(
        self,
        tunnel: JobTunnel,
        nursery: trio.Nursery,
        *,
        identity: Identity,
        ledger: GroupCommit,
        book: AgreementBook,
        now_s: Callable[[], int],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self.tunnel = tunnel
        self.book = book
        self.random_bytes = random_bytes
        self.nursery = nursery
        self._identity = identity
        self._ledger = ledger
        self._now_s = now_s
        self._refs = 0

    async def attach(self, payer: PayerChannel) -> ChannelClient:
        """Begin the payment stream of a channel on this tunnel: jobs can then be paid from it.

        Raises :class:`~overlay.errors.CocoonError`: the provider does not serve the channel, or does not answer."""
        if payer.provider != self.tunnel.peer_id:
            raise ValueError("that channel pays another provider than the one at the end of this tunnel")
        if self._refs >= MAX_CHANNELS_PER_TUNNEL * 1000:
            raise ChannelUnusable("too many payment streams were begun on this tunnel; open another tunnel")
        self._refs += 1
        channel = ChannelClient(payer, self._ledger, self._refs, self._now_s)
        try:
            stream = await self.tunnel.open_stream()
        except TunnelError as error:
            raise ProviderGone(f"the tunnel to the provider is closed: {error}") from error
        try:
            await channel.begin(stream, self.tunnel.handshake_hash)
        except Overcharged as error:
            channel.dispute(error)
            stream.reset(ResetCode.FAILED, "disputed")
            raise
        except BaseException:
            stream.reset(ResetCode.FAILED, "the books could not be compared")
            raise
        self.nursery.start_soon(self._run_channel, channel)
        return channel

    async def _run_channel(self, channel: ChannelClient) -> None:
        await channel.run()
        if isinstance(channel.broken, ProtocolError):
            await self.drop(channel.broken)

    async def drop(self, error: ProtocolError) -> None:
        """Close the tunnel of a provider that broke the protocol."""
        await self.tunnel.aclose(f"protocol error: {error}"[:200])

    def run(
        self, agreement: Agreement, channel: ChannelClient, request: Request, *, maximum_nanoton: int | None = None
    ) -> JobRun:
        """A job, to be used as ``async with``. ``maximum_nanoton`` bounds its cost; by default it is the most that the
        request can cost at the agreed prices."""
        return JobRun(self, agreement, channel, request, maximum_nanoton)


class JobRun:
    """One job: iterate for lists of events, in the batches in which they came.

    Entering sends the request; it raises :class:`~overlay.jobs.AgreementEnded` or :class:`~overlay.errors.Unfunded`
    when the money does not suffice. Iterating raises :class:`~overlay.errors.CocoonError` when the job fails, after the
    events that came before. Leaving early cancels the job; what came until then is paid for in the background.
    """

    def __init__(
        self, client: JobClient, agreement: Agreement, channel: ChannelClient, request: Request, maximum: int | None
    ) -> None:
        self.job_id = client.random_bytes(JOB_ID_BYTES)
        self._client = client
        self._agreement = agreement
        self._channel = channel
        self._request = request
        body = agreement.body
        self._maximum = most_it_can_cost(request, body.prices) if maximum is None else maximum
        self._job: PayerJob
        self._stream: JobStream
        self._heard = False
        self._wants_agreement = False
        self._final: Done | Failed | None = None
        self._error: CocoonError | None = None
        self._over = False

    @property
    def usage(self) -> Usage:
        """What came so far, as this side counted it; both sides agree on it once the job is over."""
        return self._job.meter.usage()

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of text among it."""
        return self._job.text_bytes

    @property
    def cost_nanoton(self) -> int:
        """What that costs."""
        return self._job.hold.applied_nanoton

    async def __aenter__(self) -> JobRun:
        channel = self._channel
        if channel.broken is not None:
            raise channel.broken
        messages = self._messages()
        body = self._agreement.body
        budget = await self._client.book.budget(self._agreement, channel.payer.channel)
        await self._client.book.add(self._agreement)
        try:
            self._job = channel.payer.start(
                self.job_id,
                self._agreement.id,
                body.prices,
                body.credit_window_nanoton,
                self._request,
                self._maximum,
                budget,
            )
        except OverLimit as error:
            if error.what == budget.what:
                raise AgreementEnded(f"{error}; a new agreement is needed") from error
            if any(error.what == cap.what for cap in channel.payer.caps):
                raise RiskCapReached(
                    f"{error}; wait until running jobs have ended, ask for less (max_tokens), or raise the cap"
                ) from error
            raise ChannelUnusable(f"{error}; top up the channel or open another one") from error
        try:
            channel.reserve(self.job_id, self._maximum)
        except LedgerError:
            channel.payer.refused(self._job)
            raise
        try:
            self._stream = await self._client.tunnel.open_stream()
        except BaseException as error:
            self._job_refused()
            if isinstance(error, TunnelError):
                raise ProviderGone(f"the tunnel to the provider is closed: {error}") from error
            raise
        try:
            await self._stream.send_messages(messages)
        except BaseException as error:
            self._abandon()
            if isinstance(error, TunnelError):
                raise ProviderGone(f"the provider did not take the request: {error}") from error
            raise
        return self

    def _messages(self) -> list[bytes]:
        try:
            plain: dict[str, Any] = request_to_wire(self._request)
        except TaskError as error:
            raise InvalidRequest(str(error), param=error.param) from error
        parts: list[tuple[str, bytes]] = []
        if isinstance(self._request, TranscribeRequest):
            parts.append(("audio", plain.pop("audio")))
        sizes = tuple((name, len(part)) for name, part in parts)
        header = encode(Open(self._agreement.id, self._channel.ref, self.job_id, self._maximum, plain, sizes))
        if len(header) > MAX_REQUEST_BYTES or any(size > MAX_PART_BYTES for _, size in sizes):
            raise TooLarge(f"a request has at most {MAX_REQUEST_BYTES} bytes, and {MAX_PART_BYTES} of audio")
        return [header, *(part for _, part in parts)]

    def __aiter__(self) -> JobRun:
        return self

    async def __anext__(self) -> Sequence[Event]:
        while self._final is None:
            if self._error is not None:
                raise self._error
            try:
                events = await self._next()
            except CocoonError as error:
                self._error = error
                self._abandon()
                if isinstance(error, ProtocolError):
                    self._client.nursery.start_soon(self._client.drop, error)
                raise
            if events:
                return events
        self._conclude()
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    async def _next(self) -> list[Event]:
        """What arrived, counted. May return nothing, when only a word from the protocol came."""
        stream = self._stream
        try:
            received: list[bytes] | None = None
            with trio.move_on_after(QUIET_S):
                received = await stream.receive_messages(MAX_EVENTS_MESSAGE_BYTES)
            if received is None:
                received = await self._outlast()
            if not received:
                raise ProviderGone("the provider ended the job without a word")
            events = self._read(received)
            if self._wants_agreement:
                self._wants_agreement = False
                await stream.send_messages([encode(AgreementSent(self._agreement.encode()))])
        except MessageTooLarge as error:
            raise ProtocolError(f"the provider sent too long a message: {error}") from error
        except TunnelError as error:
            raise self._channel.broken or ProviderGone(f"the provider let go of the job: {error}") from error
        except WireError as error:
            raise ProtocolError(f"the provider broke the protocol: {error}") from error
        if events:
            try:
                if self._job.take(events):
                    self._channel.pay_soon()
            except Overcharged as error:
                self._channel.dispute(error)
                raise
        return events

    async def _outlast(self) -> list[bytes]:
        """Nothing has come for :data:`QUIET_S`: wait on, as long as the provider shows that it is there."""
        patience_s = SILENCE_S if self._heard else ACCEPT_S
        end_s = trio.current_time() + patience_s - QUIET_S
        tunnel = self._client.tunnel
        while True:
            heard = tunnel.stats().bytes_received
            self._channel.ask()
            alive_s = ALIVE_S if self.text_bytes or self.usage else ALIVE_FIRST_S
            with trio.move_on_at(min(end_s, trio.current_time() + alive_s)):
                return await self._stream.receive_messages(MAX_EVENTS_MESSAGE_BYTES)
            if trio.current_time() >= end_s:
                raise ProviderGone(f"the provider said nothing of the job for {patience_s:.0f} s")
            if tunnel.stats().bytes_received == heard:
                raise ProviderGone(f"the provider's machine has not answered for {QUIET_S + alive_s:.0f} s")

    def _read(self, received: list[bytes]) -> list[Event]:
        events: list[Event] = []
        for data in received:
            message = decode(data, max_bytes=MAX_EVENTS_MESSAGE_BYTES)
            if self._final is not None:
                raise WireError("the provider goes on after the end of a job")
            if type(message) is Events:
                events += message.events
            elif isinstance(message, Done | Failed):
                self._final = message
            elif isinstance(message, NeedAgreement) and not self._heard:
                self._wants_agreement = True
            elif not isinstance(message, Accepted):
                raise WireError(f"{type(message).__name__} has no place here")
            self._heard = self._heard or not self._wants_agreement
        return events

    def _conclude(self) -> None:
        """Take the job's end: its receipt into the chain, its error to whoever iterates. Once."""
        if self._over:
            return
        self._over = True
        final, channel = self._final, self._channel
        assert final is not None
        if isinstance(final, Failed):
            self._error = error_of(final.code, final.message, retry_after_ms=final.retry_after_ms, param=final.param)
        if final.receipt is None:
            self._job_refused()
            return
        try:
            channel.receipted(self.job_id)
            channel.payer.job_receipt(self._job, final.receipt)
        except Overcharged as error:
            self._error = error
            channel.dispute(error)
            channel.payer.lost(self._job)
        channel.pay_soon()

    def _job_refused(self) -> None:
        self._over = True
        self._channel.payer.refused(self._job)
        self._channel.release(self.job_id)
        self._channel.pay_soon()

    def _abandon(self) -> None:
        """Give the job up where it stands: claim what came."""
        if not self._over:
            self._over = True
            self._stream.reset(ResetCode.CANCELLED, "the client gave up this job")
            self._channel.payer.lost(self._job)
            self._channel.release(self.job_id)
            self._channel.pay_soon()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._final is not None:
            self._conclude()
            await self._stream.aclose()
        elif self._channel.broken is not None:
            self._abandon()  # there is no tunnel any more on which the receipt could come
        elif not self._over:
            self._channel.cancel_job(self.job_id)
            self._client.nursery.start_soon(self._settle)

    async def _settle(self) -> None:
        """After leaving early: read on to the receipt, so that both sides agree on what was delivered."""
        try:
            with trio.move_on_after(SETTLE_S):
                while self._final is None:
                    await self._next()
                self._conclude()
                await self._stream.aclose()
        except (CocoonError, TunnelError):
            pass  # the channel knows already what it must; the user has left
        finally:
            self._abandon()


@asynccontextmanager
async def open_job_client(
    tunnel: JobTunnel,
    *,
    identity: Identity,
    ledger: GroupCommit,
    book: AgreementBook,
    now_s: Callable[[], int],
    random_bytes: Callable[[int], bytes],
) -> AsyncIterator[JobClient]:
    """Run jobs over ``tunnel`` until the block is left. Leaving it stops the payment streams: call
    :meth:`ChannelClient.settled` before, to pay what is owed to the last nanoTON. ``book`` is the node's, for all its
    tunnels, so that an agreement's maximum holds across them."""
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            client = JobClient(
                tunnel, nursery, identity=identity, ledger=ledger, book=book, now_s=now_s, random_bytes=random_bytes
            )
            try:
                yield client
            except BaseException as error:
                failure = error
                raise
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The nursery is ours, not the user's: his exception comes out as it went in.
        if failure is not None and group.exceptions == (failure,):
            raise failure from None
        raise
