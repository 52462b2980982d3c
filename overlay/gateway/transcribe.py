"""`/v1/audio/transcriptions`: a recording in, text, subtitles or a stream of text out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from compute.audio import probe_duration_ms
from compute.codec import check_request
from compute.tasks import Segment, TextDelta, TranscribeRequest
from overlay.errors import InvalidRequest
from overlay.gateway import limits
from overlay.gateway.backend import JobBackend, JobRun
from overlay.gateway.exchange import EVENT_STREAM_HEADERS, JSON_TYPE, Exchange
from overlay.gateway.form import Form, parse_form
from overlay.gateway.writing import cocoon_object, cost_headers, json_bytes

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
_TEXT_TYPE = (b"content-type", b"text/plain; charset=utf-8")


@dataclass(frozen=True)
class Transcribe:
    """A transcription request, and how its answer should look."""

    request: TranscribeRequest
    form: str
    stream: bool


async def read_transcribe(content_type: bytes, body: bytes) -> Transcribe:
    """Parse the form and measure the recording, in a thread when that takes time.

    Raises ``InvalidRequest`` or ``TaskError``, which name the field.
    """
    if len(body) > limits.THREADED_FORM_BYTES:
        form = await trio.to_thread.run_sync(parse_form, content_type, body)
    else:
        form = parse_form(content_type, body)
    if not form.file:
        raise InvalidRequest("file is missing: send the recording as the form's part 'file'", param="file")
    model, shape, stream = _options(form)
    # Decoding is what measures it, so it never runs between other people's tokens.
    duration_ms = await trio.to_thread.run_sync(probe_duration_ms, form.file)
    fields = form.fields
    request = TranscribeRequest(
        model, form.file, duration_ms, fields.get("language") or None, fields.get("prompt") or None
    )
    check_request(request)
    return Transcribe(request, shape, stream)


def _options(form: Form) -> tuple[str, str, bool]:
    fields = form.fields
    model = fields.get("model", "")
    if not model:
        raise InvalidRequest("model is missing; GET /v1/models lists what is on offer", param="model")
    shape = fields.get("response_format", "json")
    if shape not in FORMATS:
        raise InvalidRequest(f"response_format is one of {', '.join(FORMATS)}", param="response_format")
    for name in ("timestamp_granularities[]", "timestamp_granularities"):
        if fields.get(name, "segment") != "segment":
            raise InvalidRequest("only timestamps of segments are known, not of words", param="timestamp_granularities")
    stream = fields.get("stream", "false").lower()
    if stream not in ("true", "false"):
        raise InvalidRequest("stream must be true or false", param="stream")
    if stream == "true" and shape not in ("json", "text"):
        raise InvalidRequest(f"a {shape} answer cannot be streamed; choose json", param="stream")
    return model, shape, stream == "true"


async def transcribe(exchange: Exchange, backend: JobBackend, asked: Transcribe) -> None:
    """Serve one request; cancels the job when the client leaves."""
    answer = _stream if asked.stream else _whole

    async def work() -> None:
        async with backend.run(asked.request) as run:
            await answer(exchange, run, asked)

    await exchange.while_connected(work)


def _segments(batch: Sequence[object], duration_ms: int) -> list[Segment]:
    """The segments in a batch; text without times counts as one that spans the recording."""
    found = []
    for event in batch:
        if isinstance(event, Segment):
            found.append(event)
        elif isinstance(event, TextDelta):
            found.append(Segment(event.text, 0, duration_ms))
    return found


async def _whole(exchange: Exchange, run: JobRun, asked: Transcribe) -> None:
    segments: list[Segment] = []
    async for batch in run:
        segments += _segments(batch, asked.request.duration_ms)
    headers = cost_headers(run, final=True)
    if asked.form in _PLAIN:
        await exchange.respond(200, _PLAIN[asked.form](segments).encode(), [_TEXT_TYPE, *headers])
        return
    usage = _usage(run, asked)
    document: dict[str, Any] = {"text": _joined(segments), "usage": usage}
    if asked.form == "verbose_json":
        document = {
            "task": "transcribe",
            "language": asked.request.language or "",
            "duration": asked.request.duration_ms / 1000,
            **document,
            "segments": [_verbose(index, segment) for index, segment in enumerate(segments)],
        }
    await exchange.respond(200, json_bytes(document), [JSON_TYPE, *headers])


def _verbose(index: int, segment: Segment) -> dict[str, Any]:
    # The probabilities that whisper would add are left out: other engines have none, and made-up ones mislead.
    return {
        "id": index,
        "seek": 0,
        "start": segment.start_ms / 1000,
        "end": segment.end_ms / 1000,
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
    }


async def _stream(exchange: Exchange, run: JobRun, asked: Transcribe) -> None:
    heard: list[str] = []
    async for batch in run:
        data = b""
        for segment in _segments(batch, asked.request.duration_ms):
            delta = (" " if heard else "") + segment.text.strip()
            heard.append(delta)
            data += b"data: " + json_bytes({"type": "transcript.text.delta", "delta": delta}) + b"\n\n"
        if not data:
            continue
        if not exchange.started:
            await exchange.start_stream([*EVENT_STREAM_HEADERS, *cost_headers(run, final=False)])
        await exchange.write(data)
    if not exchange.started:
        await exchange.start_stream([*EVENT_STREAM_HEADERS, *cost_headers(run, final=False)])
    done = {"type": "transcript.text.done", "text": "".join(heard), "usage": _usage(run, asked)}
    await exchange.finish(b"data: " + json_bytes(done) + b"\n\n")


def _usage(run: JobRun, asked: Transcribe) -> dict[str, Any]:
    seconds = -(-asked.request.duration_ms // 1000)
    return {"type": "duration", "seconds": seconds, "cocoon": cocoon_object(run)}


def _joined(segments: Sequence[Segment]) -> str:
    return " ".join(text for segment in segments if (text := segment.text.strip()))


def _timestamp(ms: int, mark: str) -> str:
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{mark}{ms:03}"


def _text(segments: Sequence[Segment]) -> str:
    return _joined(segments) + "\n"


def _srt(segments: Sequence[Segment]) -> str:
    cues = (
        f"{index}\n{_timestamp(s.start_ms, ',')} --> {_timestamp(s.end_ms, ',')}\n{s.text.strip()}\n"
        for index, s in enumerate(segments, 1)
    )
    return "\n".join(cues)


def _vtt(segments: Sequence[Segment]) -> str:
    cues = (
        f"{_timestamp(s.start_ms, '.')} --> {_timestamp(s.end_ms, '.')}\n{s.text.strip().replace('-->', '→')}\n"
        for s in segments
    )
    return "\n".join(("WEBVTT\n", *cues))


_PLAIN: dict[str, Callable[[Sequence[Segment]], str]] = {"text": _text, "srt": _srt, "vtt": _vtt}
