"""A synthetic engine: makes tokens of nothing, on time. For benchmarks and tests of everything around an engine.

It is not a model and no node serves it unless told to by name. Its output is a function of the request alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compute.engines.base import Capability, EngineJobId
from compute.tasks import (
    ChatRequest,
    CompletionRequest,
    EmbedRequest,
    Event,
    Finished,
    Request,
    Segment,
    Started,
    Task,
    TaskError,
    TextDelta,
    TranscribeRequest,
)
from compute.usage import Unit, Usage

SEGMENT_MS = 2_000


def numbered_word(number: int) -> str:
    """``word1 ``, ``word2 ``, …"""
    return f"word{number} "


@dataclass
class _Job:
    request: Request
    due_s: float
    sent: int = 0
    total: int = 0


class SyntheticEngine:
    """Serves chat, completion and transcription under the name ``model``.

    A text job gets ``chunks`` tokens (fewer if its ``max_tokens`` says so), one every ``interval_s`` counted from its
    start, or all of a step's at once when that is 0. A transcription gets a segment for each two seconds of its
    ``duration_ms``. ``text`` makes the n-th token's text, at the moment it is emitted. ``clock`` and ``wait`` (which
    returns early when woken) are the engine thread's time.
    """

    name = "synthetic"

    def __init__(
        self,
        *,
        model: str = "synthetic",
        chunks: int = 50,
        interval_s: float = 0.0,
        max_batch: int = 64,
        text: Callable[[int], str] = numbered_word,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._model, self._chunks, self._interval_s, self._max_batch = model, chunks, interval_s, max_batch
        self._text, self._clock = text, clock
        self._jobs: dict[EngineJobId, _Job] = {}
        self._woken = threading.Event()

    def load(self) -> None:
        """Nothing to load."""

    def capabilities(self) -> Sequence[Capability]:
        """Chat, completion and transcription."""
        speed = 1 / self._interval_s if self._interval_s else 0.0
        return [
            Capability(task, self._model, self._max_batch, units_per_s=speed, note="synthetic: no model behind it")
            for task in (Task.CHAT, Task.COMPLETION, Task.TRANSCRIBE)
        ]

    def submit(self, job: EngineJobId, request: Request) -> None:
        """Start a job."""
        if isinstance(request, EmbedRequest):
            raise TaskError("the synthetic engine makes no embeddings", param="task")
        total = self._chunks
        if isinstance(request, ChatRequest | CompletionRequest):
            total = min(total, request.sampling.max_tokens or total)
        else:
            total = -(-request.duration_ms // SEGMENT_MS)
        self._jobs[job] = _Job(request, self._clock(), total=total)

    def step(self) -> list[tuple[EngineJobId, Event | Exception]]:
        """Give every job that is due its next token; wait for the first when none is."""
        if not self._jobs:
            return []
        wait_s = min(job.due_s for job in self._jobs.values()) - self._clock()
        if wait_s > 0:
            self._woken.wait(wait_s)
        self._woken.clear()
        events: list[tuple[EngineJobId, Event | Exception]] = []
        now_s = self._clock()
        for job_id, job in list(self._jobs.items()):
            while job.due_s <= now_s and job_id in self._jobs:
                self._next(job_id, job, events)
                job.due_s += self._interval_s
                if not self._interval_s:
                    break
        return events

    def _next(self, job_id: EngineJobId, job: _Job, events: list[tuple[EngineJobId, Event | Exception]]) -> None:
        request = job.request
        if not job.sent:
            prompt = 0
            if isinstance(request, ChatRequest):
                prompt = sum(len(message.content.split()) for message in request.messages)
            elif isinstance(request, CompletionRequest):
                prompt = len(request.prompt.split())
            events.append((job_id, Started(Usage.of(Unit.PROMPT, prompt))))
        job.sent += 1
        if isinstance(request, TranscribeRequest):
            start_ms = (job.sent - 1) * SEGMENT_MS
            end_ms = min(job.sent * SEGMENT_MS, request.duration_ms)
            units = Usage({Unit.AUDIO_MS: end_ms - start_ms})
            events.append((job_id, Segment(f"segment {job.sent}", start_ms, end_ms, units)))
        else:
            events.append((job_id, TextDelta(self._text(job.sent), Usage.of(Unit.COMPLETION, 1))))
        if job.sent >= job.total:
            # Audio is done at its end; a text stops at its own length or was cut at the request's limit.
            cut = not isinstance(request, TranscribeRequest) and job.total < self._chunks
            events.append((job_id, Finished("length" if cut else "stop")))
            del self._jobs[job_id]

    def wake(self) -> None:
        """End a wait in :meth:`step`."""
        self._woken.set()

    def cancel(self, job: EngineJobId) -> None:
        """Drop a job."""
        self._jobs.pop(job, None)

    def close(self) -> None:
        """Drop all jobs."""
        self._jobs.clear()
