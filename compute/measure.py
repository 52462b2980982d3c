"""How fast the CPU engines and the scheduler are here: ``python -m compute.measure [--voice FILE]``.

Prints the time that the scheduler adds to a call of the engine (same request, same engine, in process; median and 99th
percentile of 2000), tokens per second of the demo model alone and in batches, and the real-time factor of speech to
text. Warm; on an otherwise idle machine, or the numbers mean little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import trio

from compute.audio import probe_duration_ms
from compute.engines import create
from compute.engines.base import Capability, EngineJobId
from compute.scheduler import Scheduler
from compute.tasks import ChatRequest, Event, Finished, Message, Request, Started, Task, TextDelta, TranscribeRequest
from compute.usage import Meter, Unit, Usage

ROUNDS = 2000
CHAT = ChatRequest("instant", (Message("user", "hello"),))


class InstantEngine:
    """Answers every job with one token in one step: what remains is the scheduler's own time."""

    name = "instant"

    def __init__(self) -> None:
        self._jobs: list[EngineJobId] = []

    def load(self) -> None:
        """Nothing to load."""

    def capabilities(self) -> Sequence[Capability]:
        """One model."""
        return [Capability(Task.CHAT, "instant", max_batch=16)]

    def submit(self, job: EngineJobId, request: Request) -> None:
        """Note the job."""
        self._jobs.append(job)

    def step(self) -> list[tuple[EngineJobId, Event | Exception]]:
        """Finish all jobs."""
        jobs, self._jobs = self._jobs, []
        token = TextDelta("hi", Usage.of(Unit.COMPLETION, 1))
        return [(job, event) for job in jobs for event in (Started(), token, Finished("stop"))]

    def cancel(self, job: EngineJobId) -> None:
        """Nothing to free."""

    def close(self) -> None:
        """Nothing to free."""


async def measure_scheduler() -> None:
    """Print the latency that the scheduler adds."""
    engine = InstantEngine()
    direct, scheduled = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        engine.submit(EngineJobId(1), CHAT)
        engine.step()
        direct.append(time.perf_counter() - began)
    async with Scheduler.run([InstantEngine()]) as scheduler:
        for _ in range(ROUNDS):
            began = time.perf_counter()
            async with scheduler.submit(CHAT) as batches:
                async for _events in batches:
                    pass
            scheduled.append(time.perf_counter() - began)
    added = sorted(s - statistics.median(direct) for s in scheduled)
    p50_us, p99_us = (added[int(ROUNDS * share)] * 1e6 for share in (0.5, 0.99))
    print(f"scheduler adds: p50 {p50_us:.0f} us, p99 {p99_us:.0f} us a job")


async def measure_chat() -> None:
    """Print the demo model's tokens per second."""
    async with Scheduler.run([create("demo_llama")]) as scheduler:
        for jobs in (1, 4, 16):
            meter = Meter()

            async def one(meter: Meter) -> None:
                async with scheduler.submit(ChatRequest("demo-chat", (Message("user", "tell me a story"),))) as batches:
                    async for events in batches:
                        for event in events:
                            meter.add(event.units)

            began = time.perf_counter()
            async with trio.open_nursery() as nursery:
                for _ in range(jobs):
                    nursery.start_soon(one, meter)
            rate = meter.usage().get(Unit.COMPLETION) / (time.perf_counter() - began)
            print(f"demo_llama, {jobs} jobs at once: {rate:.0f} tokens/s")


async def measure_speech(voice: bytes) -> None:
    """Print the real-time factor: seconds of work a second of speech."""
    duration_ms = probe_duration_ms(voice)
    async with Scheduler.run([create("pocketsphinx")]) as scheduler:
        began = time.perf_counter()
        async with scheduler.submit(TranscribeRequest("pocketsphinx-en-us", voice, duration_ms)) as batches:
            async for _events in batches:
                pass
        factor = (time.perf_counter() - began) * 1000 / duration_ms
    print(f"pocketsphinx, {duration_ms} ms of speech: real-time factor {factor:.2f}")


def main() -> None:
    """Run the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voice", type=Path, help="an English voice message to measure speech to text with")
    args = parser.parse_args()
    trio.run(measure_scheduler)
    trio.run(measure_chat)
    if args.voice:
        trio.run(measure_speech, args.voice.read_bytes())


if __name__ == "__main__":
    main()
