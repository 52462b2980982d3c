"""The provider's side of the jobs protocol: takes a tunnel's streams, serves payment streams and jobs.

A client that breaks the protocol loses its tunnel; what it may hold of ours before (streams, unread requests, waiting
jobs) is bounded in :mod:`overlay.jobs.limits`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import trio

from compute.codec import request_from_wire
from compute.tasks import Request, Task, TaskError
from compute.usage import Usage
from overlay.jobs.book import AgreementBook
from overlay.jobs.channel_server import ChannelServer, load_payee_channel, refusal, served
from overlay.jobs.errors import ErrorCode, ProtocolError, Refused
from overlay.jobs.limits import (
    ACCEPT_GRACE_S,
    JOB_ID_BYTES,
    MAX_AGREEMENT_BYTES,
    MAX_CHANNELS_PER_TUNNEL,
    MAX_JOBS_PER_TUNNEL,
    MAX_PART_BYTES,
    MAX_PENDING_BYTES,
    MAX_PENDING_OPENS,
    MAX_REQUEST_BYTES,
    READ_REQUEST_S,
    SETTLE_S,
)
from overlay.jobs.link import JobStream, JobTunnel
from overlay.jobs.messages import AgreementSent, Hello, Message, NeedAgreement, Open, decode, encode
from overlay.jobs.payer import VerifyVoucher
from overlay.jobs.serving import Serving, Submit
from overlay.market import Agreement
from overlay.settlement.ledger import ChannelAccount, ChannelRecord, GroupCommit, LedgerError, RiskBook
from transport.identity import Identity
from transport.tunnel import ResetCode, TunnelError
from transport.wire import WireError


@dataclass(frozen=True)
class JobReport:
    """A job that a provider has ended: what it served to whom, and what that costs."""

    client: str
    task: Task
    model: str
    usage: Usage
    amount_nanoton: int


FindChannel = Callable[[str, str], Awaitable[ChannelRecord | None]]
"""(channel, client's peer id) -> the channel; a node may look at the chain here for one that it does not know yet."""


class JobServer:
    """Serves jobs to clients over their tunnels.

    ``submit`` runs a request; ``verifier`` makes the check of a channel's vouchers from its record; ``now_ms`` is the
    wall clock; ``random_bytes`` makes ids. ``find_channel`` defaults to the ledger. ``risk`` has the user's caps on
    credit. ``on_job`` is told of each job that has ended; it must be quick and must not raise.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        ledger: GroupCommit,
        submit: Submit,
        verifier: Callable[[ChannelRecord], VerifyVoucher],
        now_ms: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        find_channel: FindChannel | None = None,
        risk: RiskBook | None = None,
        on_job: Callable[[JobReport], None] = lambda _report: None,
    ) -> None:
        self.identity = identity
        self.ledger = ledger
        self.book = AgreementBook(ledger)
        self.submit = submit
        self.now_ms = now_ms
        self.on_job = on_job
        self.pending_bytes = 0
        self.risk = risk
        self._verifier = verifier
        self._random_bytes = random_bytes
        self._find_channel = find_channel or self._in_ledger
        self._channels: dict[str, ChannelServer] = {}
        self._loading = trio.Lock()
        self._draining = False
        self._idle = trio.Event()
        self.running_jobs = 0

    async def add_agreement(self, agreement: Agreement) -> None:
        """Store an agreement that this provider just made, so that its first job finds it."""
        await self.book.add(agreement)

    async def serve(self, tunnel: JobTunnel) -> None:
        """Serve one tunnel until it ends. A client that breaks the protocol has its tunnel closed, and this returns."""
        session = _Session(self, tunnel)
        try:
            await session.run()
        except* (WireError, ProtocolError) as group:
            await tunnel.aclose(f"protocol error: {_first(group)}"[:200])
        except* LedgerError:
            await tunnel.aclose("the provider cannot write its books now")
        except* TunnelError:
            pass  # the tunnel is gone, and with it the session

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new jobs, wait until the running ones have ended and are paid for; False when that took too long.
        Tunnels are for the caller to close."""
        self._draining = True
        with trio.move_on_after(timeout_s) as scope:
            while self.running_jobs:
                self._idle = trio.Event()
                await self._idle.wait()
            with trio.move_on_after(min(timeout_s, SETTLE_S)):
                for channel in list(self._channels.values()):
                    await channel.settled()
            await self.ledger.flush()
        return not scope.cancelled_caught

    def refuse_when_draining(self) -> None:
        """Raises :class:`Refused` once :meth:`drain` was called."""
        if self._draining:
            raise Refused(ErrorCode.DRAINING, "this provider is shutting down; ask another", retry_after_ms=1000)

    def job_ended(self) -> None:
        """One job fewer."""
        self.running_jobs -= 1
        if not self.running_jobs:
            self._idle.set()

    async def channel(self, name: str, client: str) -> ChannelServer:
        """The server of a channel, loaded when needed. Raises :class:`Refused` when this client may not use it."""
        record = served(await self._find_channel(name, client), client)
        async with self._loading:
            channel = self._channels.get(name)
            if channel is None:
                payee = await load_payee_channel(
                    self.ledger,
                    record,
                    identity=self.identity,
                    verify_voucher=self._verifier(record),
                    book=self.book,
                    fresh_job_id=lambda: self._random_bytes(JOB_ID_BYTES),
                    risk=self.risk,
                )
                channel = ChannelServer(payee, self.ledger, self.book, lambda: self.now_ms() // 1000)
                self._channels[name] = channel
            channel.payee.top_up(record.deposit_nanoton)
            return channel

    def accounts(self) -> dict[str, ChannelAccount]:
        """The channels in memory, as they stand now: what the ledger has, and what running jobs add to it."""
        return {name: channel.payee.account for name, channel in self._channels.items()}

    async def deposit_grew(self, name: str, deposit_nanoton: int) -> None:
        """The channel holds ``deposit_nanoton`` in all now: its client topped it up."""
        async with self._loading:
            channel = self._channels.get(name)
            if channel is not None:
                channel.payee.top_up(deposit_nanoton)

    async def freeze(self, name: str) -> bool:
        """Serve no more jobs on a channel, because it is about to be closed; False, and nothing changed, while some are
        running. What was written lazily is on the disk on return."""
        async with self._loading:
            channel = self._channels.get(name)
            if channel is not None:
                if channel.payee.running:
                    return False
                channel.payee.stop()
                del self._channels[name]
        await self.ledger.flush()
        return True

    def drop(self, name: str) -> None:
        """Forget a channel whose books could not be written: the ledger says what is true the next time."""
        self._channels.pop(name, None)

    async def _in_ledger(self, name: str, _client: str) -> ChannelRecord | None:
        return await self.ledger.run(lambda store: store.channel(name))


class _Session:
    """One client's tunnel."""

    def __init__(self, server: JobServer, tunnel: JobTunnel) -> None:
        self._server = server
        self._tunnel = tunnel
        self._channels: dict[int, ChannelServer] = {}
        self._pending = 0
        self._jobs = 0
        self._unaccepted: OrderedDict[Serving, None] = OrderedDict()
        self._some_unaccepted = trio.Event()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._accept_late)
            while True:
                try:
                    stream = await self._tunnel.accept()
                except TunnelError:
                    break  # the tunnel is closed; so is every stream in it
                if self._pending >= MAX_PENDING_OPENS:
                    stream.reset(ResetCode.REFUSED, "too many requests are being read")
                    continue
                self._pending += 1
                nursery.start_soon(self._stream, stream)
            nursery.cancel_scope.cancel()

    async def _accept_late(self) -> None:
        """Tell those jobs that wait that they do: one task for all of a tunnel, so that a job needs no timer."""
        while True:
            while not self._unaccepted:  # a quick job is gone again before this task has its turn
                self._some_unaccepted = trio.Event()
                await self._some_unaccepted.wait()
            oldest = next(iter(self._unaccepted))
            await trio.sleep_until(oldest.since + ACCEPT_GRACE_S)
            if oldest in self._unaccepted:
                del self._unaccepted[oldest]
                await oldest.accept_late()

    async def _stream(self, stream: JobStream) -> None:
        ended = False
        pending = True
        try:
            try:
                with trio.fail_after(READ_REQUEST_S):
                    message, parts = await self._first(stream)
                self._pending -= 1
                pending = False
                if isinstance(message, Hello):
                    await self._payments(stream, message)
                else:
                    await self._job(stream, message, parts)
                ended = True
            finally:
                if pending:
                    self._pending -= 1
        except Refused as error:
            await stream.send_messages([encode(refusal(error))])
            await stream.aclose()
            ended = True
            if error.code is ErrorCode.PROTOCOL:
                raise ProtocolError(error.message) from error
        except TunnelError:
            return  # the client let go of the stream, or the tunnel is gone
        except (trio.TooSlowError, trio.BrokenResourceError):
            return  # it gets a reset: nothing it could still want to read
        finally:
            if not ended:
                stream.reset(ResetCode.FAILED, "the provider gave up this stream")

    # -- reading a request -------------------------------------------------------------------------------------------

    async def _first(self, stream: JobStream) -> tuple[Hello | Open, list[bytes]]:
        """The first message of a stream, and its raw parts."""
        received = await self._receive(stream, MAX_REQUEST_BYTES)
        message: Message = decode(received[0], max_bytes=MAX_REQUEST_BYTES)
        if isinstance(message, Hello):
            if len(received) > 1:
                raise WireError("nothing follows a hello until it is answered")
            return message, []
        if not isinstance(message, Open):
            raise WireError(f"a stream does not begin with {type(message).__name__}")
        parts = received[1:]
        announced = sum(size for _, size in message.parts)
        if any(size > MAX_PART_BYTES for _, size in message.parts):
            raise Refused(ErrorCode.TOO_LARGE, f"a part has at most {MAX_PART_BYTES} bytes", param=message.parts[0][0])
        if self._server.pending_bytes + announced > MAX_PENDING_BYTES:
            raise Refused(ErrorCode.BUSY, "too many large requests are being read", retry_after_ms=2000)
        self._server.pending_bytes += announced
        try:
            while len(parts) < len(message.parts):
                parts += await self._receive(stream, MAX_PART_BYTES)
        finally:
            self._server.pending_bytes -= announced
        if [len(part) for part in parts] != [size for _, size in message.parts]:
            raise WireError("the parts are not those that the header announces")
        return message, parts

    async def _receive(self, stream: JobStream, max_bytes: int) -> list[bytes]:
        received = await stream.receive_messages(max_bytes)
        if not received:
            raise WireError("the stream ended in the middle of a request")
        return received

    # -- payment streams ---------------------------------------------------------------------------------------------

    async def _payments(self, stream: JobStream, hello: Hello) -> None:
        if hello.channel_ref in self._channels or len(self._channels) >= MAX_CHANNELS_PER_TUNNEL:
            raise Refused(ErrorCode.PROTOCOL, "that channel number is in use, or there are too many channels")
        channel = await self._server.channel(hello.channel, self._tunnel.peer_id)

        def ready() -> None:
            self._channels[hello.channel_ref] = channel

        try:
            await channel.serve(stream, hello, self._tunnel.handshake_hash, ready)
        except LedgerError:
            self._server.drop(hello.channel)
            raise
        finally:
            self._channels.pop(hello.channel_ref, None)
        await stream.aclose()

    # -- jobs --------------------------------------------------------------------------------------------------------

    async def _job(self, stream: JobStream, message: Open, parts: list[bytes]) -> None:
        server = self._server
        server.refuse_when_draining()
        if self._jobs >= MAX_JOBS_PER_TUNNEL:
            raise Refused(ErrorCode.BUSY, "too many jobs of yours are running here", retry_after_ms=500)
        self._jobs += 1
        server.running_jobs += 1
        serving: Serving | None = None
        try:
            channel = self._channels.get(message.channel_ref)
            if channel is None:
                raise Refused(ErrorCode.CHANNEL_UNKNOWN, "no payment stream of this tunnel serves that channel")
            agreement = server.book.known(message.agreement_id) or await self._agreement(stream, message.agreement_id)
            request = self._request(message, parts)
            self._check_agreement(agreement, request)
            budget = await server.book.budget(agreement, channel.payee.channel)
            body = agreement.body
            job = channel.payee.start(
                message.job_id,
                agreement.id,
                body.prices,
                body.credit_window_nanoton,
                message.max_amount_nanoton,
                budget,
            )
            serving = Serving(stream, channel, job)
            self._unaccepted[serving] = None
            self._some_unaccepted.set()
            try:
                await serving.run(server.submit, request)
            finally:
                usage, amount = job.meter.usage(), job.hold.applied_nanoton
                server.on_job(JobReport(self._tunnel.peer_id, request.task, request.model, usage, amount))
        finally:
            if serving is not None:
                self._unaccepted.pop(serving, None)
            self._jobs -= 1
            server.job_ended()

    async def _agreement(self, stream: JobStream, agreement_id: bytes) -> Agreement:
        """An agreement that memory lacks: from the ledger, or from the client, whose copy bears our signature."""
        stored = await self._server.book.get(agreement_id)
        if stored is not None:
            return stored
        await stream.send_messages([encode(NeedAgreement())])
        with trio.fail_after(READ_REQUEST_S):
            received = await self._receive(stream, MAX_AGREEMENT_BYTES + 64)
        answer = decode(received[0], max_bytes=MAX_AGREEMENT_BYTES + 64)
        if not isinstance(answer, AgreementSent) or len(received) != 1:
            raise WireError("an agreement was to come here")
        agreement = Agreement.parse(answer.body)
        if agreement.id != agreement_id or agreement.body.provider != self._server.identity.peer_id:
            raise WireError("that is another agreement")
        await self._server.book.add(agreement)
        return agreement

    def _request(self, message: Open, parts: list[bytes]) -> Request:
        plain: dict[str, Any] = dict(message.request)
        for (name, _), part in zip(message.parts, parts, strict=True):
            plain[name] = part
        try:
            return request_from_wire(plain)
        except TaskError as error:
            raise Refused(ErrorCode.BAD_REQUEST, str(error), param=error.param) from error

    def _check_agreement(self, agreement: Agreement, request: Request) -> None:
        body = agreement.body
        if body.client != self._tunnel.peer_id or body.provider != self._server.identity.peer_id:
            raise Refused(ErrorCode.AGREEMENT_UNKNOWN, "that agreement is not between the two of us")
        if not agreement.valid_at(self._server.now_ms()):
            raise Refused(ErrorCode.AGREEMENT_ENDED, "that agreement is not in force now; agree anew")
        if (body.task, body.model) != (request.task, request.model):
            raise Refused(
                ErrorCode.BAD_REQUEST,
                f"that agreement is for {body.task} with {body.model}, not for this",
                param="model",
            )


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
