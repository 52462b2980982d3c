"""One job at the provider: from its request to its receipt.

Events leave as they come. What is ready together (the acceptance, a batch of events, the receipt) leaves as one send.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager

import trio

from compute.admission import SchedulerBusy
from compute.engines.base import EngineFailure, EngineUnavailable
from compute.scheduler import ConsumerTooSlow
from compute.tasks import Embedding, Event, Finished, RawDelta, Request, TaskError, TextDelta
from overlay.jobs.channel_server import ChannelServer, RunningJob, refusal
from overlay.jobs.errors import ErrorCode, Refused
from overlay.jobs.limits import EVENTS_SPLIT_BYTES, SEND_S
from overlay.jobs.link import JobStream
from overlay.jobs.messages import ACCEPTED_BYTES, Done, encode, encode_events
from overlay.jobs.payee import PayeeJob
from transport.tunnel import ResetCode, TunnelError

Submit = Callable[[Request], AbstractAsyncContextManager[AsyncIterator[Sequence[Event]]]]
"""How a job is handed to the compute side: ``compute.scheduler.Scheduler.submit``. It may raise :class:`Refused`."""


class Serving:
    """The task of one admitted job. ``since`` is when it was admitted (trio's clock), for the late acceptance."""

    def __init__(self, stream: JobStream, channel: ChannelServer, job: PayeeJob) -> None:
        self.since = trio.current_time()
        self._stream = stream
        self._channel = channel
        self._job = job
        self._running = RunningJob(job, trio.CancelScope())
        self._accepted = False
        self._accepting: trio.Event | None = None
        self._sending = False

    async def accept_late(self) -> None:
        """Tell the client that its job waits, unless something was sent already. Never raises."""
        if self._accepted or self._running.stopped is not None:
            return
        self._accepted = True
        self._accepting = trio.Event()
        try:
            with trio.move_on_after(SEND_S):
                await self._stream.send_messages([ACCEPTED_BYTES])
        except TunnelError:
            pass  # the job's own task finds out with its next message
        finally:
            self._accepting.set()
            self._accepting = None

    async def run(self, submit: Submit, request: Request) -> None:
        """Serve the job to its end and end its stream. Only trouble of the tunnel and faults of ours come out."""
        channel, job = self._channel, self._job
        channel.jobs[job.job_id] = self._running
        failure: Refused | None = None
        complete = False
        try:
            channel.reserve(job)
            with self._running.scope:
                complete = await self._work(submit, request)
        except Refused as error:
            failure = error
        except (EngineFailure, EngineUnavailable) as error:
            failure = Refused(ErrorCode.ENGINE_FAILED, str(error))
        except SchedulerBusy as error:
            failure = Refused(ErrorCode.BUSY, str(error), retry_after_ms=math.ceil(error.retry_after_s * 1000))
        except ConsumerTooSlow as error:
            failure = Refused(ErrorCode.CANCELLED, str(error))
        except TaskError as error:
            failure = Refused(ErrorCode.BAD_REQUEST, str(error), param=error.param)
        finally:
            channel.jobs.pop(job.job_id, None)
            if not complete and failure is None and self._running.stopped is None:
                channel.lose(job)  # the tunnel broke, we are being cancelled, or a fault of ours comes out
        if complete:
            await self._stream.aclose()
        else:
            await self._end_early(failure)

    async def _work(self, submit: Submit, request: Request) -> bool:
        channel, job = self._channel, self._job
        while not channel.payee.covered(job):
            await channel.wait_for_credit(job)
        async with submit(request) as batches:
            async for batch in batches:
                rest = batch
                while rest:
                    count = channel.payee.charge(job, rest)
                    if count:
                        finished = count == len(rest) and isinstance(rest[-1], Finished)
                        await self._send(rest[:count], finished)
                        if finished:
                            return True
                        rest = rest[count:]
                    else:
                        await channel.wait_for_credit(job)
        raise EngineFailure("the engine ended the job without saying how")

    async def _send(self, events: Sequence[Event], finished: bool) -> None:
        messages = [] if self._accepted else [ACCEPTED_BYTES]
        self._accepted = True
        messages += [encode_events(part) for part in split(events)]
        if self._accepting is not None:
            await self._accepting.wait()
        if finished:
            # From here on the job is over: a cancellation by the client does not cut off what it is charged for.
            self._running.finished = True
            receipt = self._channel.finish(self._job)
            if receipt is None:
                messages.append(encode(refusal(Refused(ErrorCode.ENGINE_FAILED, "the job used nothing"))))
            else:
                messages.append(encode(Done(receipt)))
        self._sending = True
        with trio.move_on_after(SEND_S) as patience:
            await self._stream.send_messages(messages)
        if patience.cancelled_caught:
            raise trio.BrokenResourceError("the client takes nothing")
        self._sending = False

    async def _end_early(self, failure: Refused | None) -> None:
        channel, job = self._channel, self._job
        if self._sending or not channel.payee.is_running(job):
            # What was charged last may not have left, or the client has claimed already: it says what it got.
            channel.lose(job)
            self._stream.reset(ResetCode.CANCELLED, "the job was stopped")
            return
        if failure is None:
            code = self._running.stopped or ErrorCode.CANCELLED
            failure = Refused(code, _STOPPED.get(code, "the job was stopped"))
        message = encode(refusal(failure, channel.finish(job)))
        with trio.move_on_after(SEND_S):
            await self._stream.send_messages([message])
        await self._stream.aclose()


_STOPPED = {
    ErrorCode.CANCELLED: "the client cancelled the job",
    ErrorCode.PAYMENT_REQUIRED: "no voucher came in time; what was delivered is owed",
    ErrorCode.CHANNEL_REFUSED: "the channel's payment stream ended",
}


def split(events: Sequence[Event]) -> list[Sequence[Event]]:
    """Cut a batch into messages of about :data:`EVENTS_SPLIT_BYTES`; nearly always one."""
    if len(events) == 1:
        return [events]
    parts: list[Sequence[Event]] = []
    start = size = 0
    for index, event in enumerate(events):
        added = _size(event)
        if size and size + added > EVENTS_SPLIT_BYTES:
            parts.append(events[start:index])
            start, size = index, 0
        size += added
    parts.append(events[start:])
    return parts


def _size(event: Event) -> int:
    if isinstance(event, TextDelta):
        return 4 * len(event.text)
    if isinstance(event, Embedding):
        return len(event.vector)
    return 4 * len(event.json) if isinstance(event, RawDelta) else 64
