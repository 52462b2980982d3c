"""Speech to text on the CPU by CMU PocketSphinx, whose wheel holds an English model: no download, no GPU.

One file at a time. The file is measured first, then decoded piece by piece: voice activity detection (PocketSphinx's
endpointer) finds the stretches of speech, each becomes a :class:`~compute.tasks.Segment` when it ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np

from compute.audio import SAMPLE_RATE, decode_chunks, milliseconds, payable_ms
from compute.engines.base import Capability, EngineFailure, EngineJobId, EngineUnavailable
from compute.tasks import Event, Finished, Request, Segment, Started, Task, TaskError, TranscribeRequest
from compute.usage import NO_USAGE, Unit, Usage

DITHER_SIGMA = 12.0
"""Standard deviation (in 16-bit steps) of the noise added to all audio: without a noise floor, as in synthetic speech
and gated recordings, the recogniser's front end fails on digital silence."""

MAX_UTTERANCE_MS = 20_000
"""A stretch of speech is cut here: the recogniser's search grows with it."""

STEP_MS = 300
"""Audio searched in one step: bounds the time until a cancel is obeyed to about as much."""

NOTE = "English only; a small classic recogniser: expect many wrong words"


class PocketSphinxEngine:
    """Serves ``model`` for :class:`~compute.tasks.TranscribeRequest`; ``language`` must be ``en`` or unset.

    What is billed is the measured length, never more than the ``duration_ms`` of the request; a request whose claim is
    wrong (:func:`~compute.audio.payable_ms`) is refused before any work.
    """

    name = "pocketsphinx"

    def __init__(self, *, model: str = "pocketsphinx-en-us") -> None:
        self._model_name = model
        self._decoder: Any = None
        self._jobs: deque[tuple[EngineJobId, Iterator[list[Event]]]] = deque()

    def load(self) -> None:
        """Load the acoustic model, dictionary and language model. Raises :class:`EngineUnavailable`."""
        try:
            from pocketsphinx import Decoder, Endpointer
        except ImportError as error:
            raise EngineUnavailable("the package pocketsphinx is missing: pip install pocketsphinx") from error
        self._endpointer = Endpointer
        try:
            self._decoder = Decoder(samprate=SAMPLE_RATE, loglevel="FATAL")
            self._initial_cmn = self._decoder.get_cmn(False)
        except RuntimeError as error:
            raise EngineUnavailable(f"PocketSphinx does not start: {error}") from error

    def capabilities(self) -> Sequence[Capability]:
        """Transcription, one file at a time."""
        return [Capability(Task.TRANSCRIBE, self._model_name, max_batch=1, note=NOTE)]

    def submit(self, job: EngineJobId, request: Request) -> None:
        """Queue a file. It is looked at in the first step, which may raise :class:`TaskError` for it."""
        if not isinstance(request, TranscribeRequest):
            raise TaskError(f"this engine does not serve the task {request.task}", param="task")
        if request.language not in (None, "en"):
            raise TaskError(f"this model knows English only, not {request.language!r}", param="language")
        self._jobs.append((job, self._transcribe(request)))

    def step(self) -> list[tuple[EngineJobId, Event | Exception]]:
        """Search the next piece of the oldest file."""
        if not self._jobs:
            return []
        job, work = self._jobs[0]
        try:
            events = next(work)
        except TaskError as error:
            self._jobs.popleft()
            return [(job, error)]
        except Exception as error:  # the recogniser raises bare RuntimeError
            self._jobs.popleft()
            return [(job, EngineFailure(f"the recogniser failed: {error}"))]
        if events and isinstance(events[-1], Finished):
            self._jobs.popleft()
        return [(job, event) for event in events]

    def cancel(self, job: EngineJobId) -> None:
        """Stop a job; a started utterance is abandoned."""
        for queued in list(self._jobs):
            if queued[0] == job:
                self._jobs.remove(queued)
                queued[1].close()  # type: ignore[attr-defined]  # the iterators are our generators

    def close(self) -> None:
        """Free the models."""
        for job, _ in list(self._jobs):
            self.cancel(job)
        self._decoder = None

    def _transcribe(self, request: TranscribeRequest) -> Generator[list[Event], None, None]:
        """The work of one job as a generator: each item is what one step reports."""
        measured_ms, billable_ms = payable_ms(request.audio, request.duration_ms)
        # The recogniser adapts to what it hears: start over, so that no job depends on another client's audio.
        self._decoder.reinit_feat()
        self._decoder.set_cmn(self._initial_cmn)
        yield [Started()]
        billed_ms = 0
        for stretch in self._stretches(request.audio):
            if stretch is None:
                yield []
                continue
            text, start_ms, end_ms = stretch
            start_ms, end_ms = min(start_ms, measured_ms), min(end_ms, measured_ms)
            up_to_ms = max(billed_ms, min(end_ms, billable_ms))
            yield [Segment(text, start_ms, end_ms, _audio(up_to_ms - billed_ms))]
            billed_ms = up_to_ms
        yield [Finished("stop", _audio(billable_ms - billed_ms))]

    def _stretches(self, audio: bytes) -> Iterator[tuple[str, int, int] | None]:
        """Stretches of speech as (text, start, end in ms); ``None`` after each :data:`STEP_MS` without one."""
        endpointer = self._endpointer(sample_rate=SAMPLE_RATE)
        speech, speech_start_ms, position, idle_ms = bytearray(), 0, 0, 0
        for frame in _frames(audio, endpointer.frame_bytes):
            whole = len(frame) == endpointer.frame_bytes
            heard = endpointer.process(frame) if whole else endpointer.end_stream(frame)
            position += len(frame) // 2
            now_ms = milliseconds(position)
            if heard is not None:
                if not speech:
                    # After a cut in the middle of speech the endpointer still names the old start.
                    speech_start_ms = max(speech_start_ms, int(endpointer.speech_start * 1000))
                speech += heard
            if speech and (not endpointer.in_speech or now_ms - speech_start_ms > MAX_UTTERANCE_MS):
                yield from self._recognise(bytes(speech), speech_start_ms, now_ms)
                speech.clear()
                speech_start_ms, idle_ms = now_ms if endpointer.in_speech else 0, 0
            elif (idle_ms := idle_ms + milliseconds(len(frame) // 2)) >= 20 * STEP_MS:
                idle_ms = 0
                yield None
        if speech:
            yield from self._recognise(bytes(speech), speech_start_ms, milliseconds(position))

    def _recognise(self, speech: bytes, start_ms: int, end_ms: int) -> Iterator[tuple[str, int, int] | None]:
        """Search one stretch in pieces of :data:`STEP_MS`.

        The cepstral mean of the whole stretch is taken first, in a pass without search: the recogniser would otherwise
        estimate it from the voices it heard before, which are other clients'.
        """
        decoder, piece = self._decoder, SAMPLE_RATE * 2 * STEP_MS // 1000
        decoder.start_utt()
        decoder.process_raw(speech, True, False)
        decoder.end_utt()
        decoder.set_cmn(decoder.get_cmn(True))
        decoder.start_utt()
        try:
            for at in range(0, len(speech), piece):
                decoder.process_raw(speech[at : at + piece], False, False)
                yield None
        finally:
            decoder.end_utt()
        hypothesis = decoder.hyp()
        if hypothesis is not None and (text := str(hypothesis.hypstr).strip()):
            yield text, start_ms, end_ms


def _frames(audio: bytes, frame_bytes: int) -> Iterator[bytes]:
    """Decoded and dithered samples in frames of ``frame_bytes``, the last one shorter, with noise around the file.

    The endpointer needs a stretch of silence to see an end; half a second of noise behind the file provides it. The
    dither is seeded, so that the same file always gives the same text.
    """
    noise = np.random.default_rng(0)
    buffer = b""
    silence = np.zeros(SAMPLE_RATE // 2, np.int16)

    def chunks() -> Iterator[Any]:
        yield from decode_chunks(audio)
        yield silence

    for chunk in chunks():
        dithered = chunk + noise.normal(0.0, DITHER_SIGMA, chunk.size)
        buffer += np.clip(np.rint(dithered), -32768, 32767).astype("<i2").tobytes()
        whole = len(buffer) - len(buffer) % frame_bytes
        for at in range(0, whole, frame_bytes):
            yield buffer[at : at + frame_bytes]
        buffer = buffer[whole:]
    if buffer:
        yield buffer


def _audio(ms: int) -> Usage:
    return Usage({Unit.AUDIO_MS: ms}) if ms else NO_USAGE
