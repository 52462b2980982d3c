"""Any OpenAI-compatible server as an engine: vLLM, SGLang, TabbyAPI, Ollama, a cluster behind its own front.

Each job is a thread that waits in a socket, which costs nothing while it waits; the engine's own thread collects what
they bring. A cancelled job's socket is shut down, at which the server stops computing.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from urllib.parse import urlsplit

from compute import limits
from compute.audio import payable_ms
from compute.engines.base import Capability, EngineFailure, EngineJobId, EngineUnavailable
from compute.engines.openai_protocol import (
    StreamTranslator,
    embedding_body,
    embedding_events,
    error_of,
    generation_body,
    transcription_events,
)
from compute.tasks import (
    ChatRequest,
    CompletionRequest,
    EmbedRequest,
    Event,
    Finished,
    Request,
    Started,
    Task,
    TaskError,
    TranscribeRequest,
)

_PATHS = {
    Task.CHAT: "/chat/completions",
    Task.COMPLETION: "/completions",
    Task.TRANSCRIBE: "/audio/transcriptions",
    Task.EMBED: "/embeddings",
}
MAX_LISTED_MODELS = 64
"""Models taken from the upstream's list when none are configured: a capability record has room for a few."""
CONNECT_TIMEOUT_S = 10.0


class OpenAIUpstreamEngine:
    """Serves what the server at ``base_url`` (as in ``http://127.0.0.1:8000/v1``) serves.

    ``models`` maps the names sold to the upstream's; without it every listed model is sold under its own name.
    ``api_key_env`` names the environment variable that holds the key. ``max_batch`` bounds concurrent requests.
    ``context`` (tokens) and ``units_per_s`` are told to clients. ``idle_timeout_s`` ends a job whose upstream sends
    nothing. ``continuous_usage`` asks vLLM and SGLang to count in every chunk.
    """

    name = "openai_upstream"

    def __init__(
        self,
        base_url: str,
        *,
        models: Mapping[str, str] | None = None,
        tasks: Sequence[str] = (Task.CHAT, Task.COMPLETION),
        api_key_env: str | None = None,
        max_batch: int = 32,
        context: int = 0,
        units_per_s: float = 0.0,
        idle_timeout_s: float = 120.0,
        continuous_usage: bool = False,
    ) -> None:
        url = urlsplit(base_url.rstrip("/"))
        if url.scheme not in ("http", "https") or not url.hostname:
            raise EngineUnavailable(f"base_url {base_url!r} is no http(s) address, as in http://127.0.0.1:8000/v1")
        if not 1 <= max_batch <= limits.MAX_UPSTREAM_JOBS:
            raise EngineUnavailable(f"max_batch is 1 to {limits.MAX_UPSTREAM_JOBS}, not {max_batch}")
        self._url, self._base_url = url, base_url
        self._models = dict(models) if models else None
        self._tasks = tuple(Task(task) for task in tasks)
        self._key_env = api_key_env
        self._headers = {"Accept": "application/json, text/event-stream", "User-Agent": "cocoon-node"}
        self._max_batch, self._context, self._units_per_s = max_batch, context, units_per_s
        self._idle_timeout_s, self._continuous_usage = idle_timeout_s, continuous_usage
        self._jobs: dict[EngineJobId, _Job] = {}
        self._news = threading.Condition()
        self._events: deque[tuple[_Job, Event | Exception]] = deque()
        self._woken = False

    def load(self) -> None:
        """Ask the upstream for its models. Raises :class:`EngineUnavailable` when it does not answer."""
        if self._key_env:
            key = os.environ.get(self._key_env)
            if not key:
                raise EngineUnavailable(f"set the environment variable {self._key_env} to the key of {self._base_url}")
            self._headers["Authorization"] = f"Bearer {key}"
        connection = self._connection(CONNECT_TIMEOUT_S)
        try:
            connection.request("GET", self._url.path + "/models", headers=self._headers)
            response = connection.getresponse()
            body = response.read(limits.MAX_UPSTREAM_BODY_BYTES)
            if response.status != 200:
                raise EngineUnavailable(f"{self._base_url}/models: {error_of(response.status, body)}")
            listed = [str(entry["id"]) for entry in json.loads(body)["data"]]
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            raise EngineUnavailable(
                f"the server at {self._base_url} does not answer as an OpenAI-compatible one ({error}): start it, or "
                "correct base_url"
            ) from error
        finally:
            connection.close()
        if self._models is None:
            self._models = {model: model for model in listed[:MAX_LISTED_MODELS]}
        if missing := sorted(set(self._models.values()) - set(listed)):
            has = ", ".join(listed[:MAX_LISTED_MODELS]) or "none"
            raise EngineUnavailable(f"{self._base_url} does not serve {', '.join(missing)}; its models: {has}")

    def capabilities(self) -> Sequence[Capability]:
        """Each configured task for each model."""
        return [
            Capability(task, model, self._max_batch, self._context, self._units_per_s)
            for model in self._models or {}
            for task in self._tasks
        ]

    def submit(self, job: EngineJobId, request: Request) -> None:
        """Start the job's thread. Raises :class:`TaskError` for fields that cannot be passed on."""
        model = (self._models or {}).get(request.model)
        if model is None:
            raise TaskError(f"this upstream does not serve the model {request.model!r}", param="model")
        body, content_type = b"", "application/json"
        if isinstance(request, ChatRequest | CompletionRequest):
            body = json.dumps(generation_body(request, model, continuous_usage=self._continuous_usage)).encode()
        elif isinstance(request, EmbedRequest):
            body = json.dumps(embedding_body(request, model)).encode()
        else:
            body, content_type = _multipart(request, model)
        running = _Job(job, request)
        self._jobs[job] = running
        threading.Thread(
            target=self._run, args=(running, body, content_type), name=f"upstream-{job}", daemon=True
        ).start()

    def step(self) -> list[tuple[EngineJobId, Event | Exception]]:
        """Wait for news of any job, or until woken."""
        with self._news:
            self._news.wait_for(lambda: self._events or self._woken, timeout=1.0)
            self._woken = False
            taken, self._events = self._events, deque()
            for job, _ in taken:
                job.pending -= 1
            self._news.notify_all()
        events: list[tuple[EngineJobId, Event | Exception]] = []
        for job, event in taken:
            if self._jobs.get(job.id) is job:
                events.append((job.id, event))
                if isinstance(event, Finished | Exception):
                    del self._jobs[job.id]
        return events

    def wake(self) -> None:
        """Make :meth:`step` return."""
        with self._news:
            self._woken = True
            self._news.notify_all()

    def cancel(self, job: EngineJobId) -> None:
        """Shut the job's connection down."""
        if (running := self._jobs.pop(job, None)) is not None:
            with self._news:
                running.cancelled = True
                self._news.notify_all()
            running.hang_up()

    def close(self) -> None:
        """Hang up on every job."""
        for job in list(self._jobs):
            self.cancel(job)

    # --- in the job's thread ---------------------------------------------------------------------------------------

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        assert self._url.hostname is not None
        return kind(self._url.hostname, self._url.port, timeout=timeout_s)

    def _run(self, job: _Job, body: bytes, content_type: str) -> None:
        try:
            for event in self._exchange(job, body, content_type):
                self._put(job, event)
        except (EngineFailure, TaskError) as error:
            self._put(job, error)
        except TimeoutError:
            self._put(job, EngineFailure(f"the model's server sent nothing for {self._idle_timeout_s:g} s"))
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            self._put(job, EngineFailure(f"the connection to the model's server broke: {reason}"))
        except Exception as error:  # whatever the upstream provoked, the job must end
            self._put(job, EngineFailure(f"the model's server was not understood: {type(error).__name__}: {error}"))

    def _put(self, job: _Job, event: Event | Exception) -> None:
        """Hand an event to the engine's thread; waits while too many are pending, so that the socket is not read."""
        with self._news:
            self._news.wait_for(lambda: job.pending < limits.MAX_UPSTREAM_EVENTS or job.cancelled)
            if not job.cancelled:
                job.pending += 1
                self._events.append((job, event))
                self._news.notify_all()

    def _exchange(self, job: _Job, body: bytes, content_type: str) -> Iterator[Event]:
        request = job.request
        measured_ms = billable_ms = 0
        if isinstance(request, TranscribeRequest):
            measured_ms, billable_ms = payable_ms(request.audio, request.duration_ms)
        with closing(self._connection(CONNECT_TIMEOUT_S)) as connection:
            connection.connect()
            connection.sock.settimeout(self._idle_timeout_s)
            job.socket = connection.sock
            if job.cancelled:
                return
            headers = {**self._headers, "Content-Type": content_type}
            connection.request("POST", self._url.path + _PATHS[request.task], body, headers)
            with connection.getresponse() as response:
                yield from self._answer(request, response, measured_ms, billable_ms)

    def _answer(
        self, request: Request, response: http.client.HTTPResponse, measured_ms: int, billable_ms: int
    ) -> Iterator[Event]:
        if response.status != 200:
            raise error_of(response.status, response.read(limits.MAX_UPSTREAM_LINE_BYTES))
        yield Started()
        if isinstance(request, ChatRequest | CompletionRequest):
            yield from _streamed(response)
            return
        answer = response.read(limits.MAX_UPSTREAM_BODY_BYTES + 1)
        if len(answer) > limits.MAX_UPSTREAM_BODY_BYTES:
            raise EngineFailure("the model's server sent an answer that is too long")
        if isinstance(request, TranscribeRequest):
            yield from transcription_events(answer, measured_ms, billable_ms)
        else:
            yield from embedding_events(answer, len(request.inputs))


class _Job:
    """One request in flight. ``pending`` and ``cancelled`` are guarded by the engine's condition."""

    def __init__(self, job: EngineJobId, request: Request) -> None:
        self.id = job
        self.request = request
        self.pending = 0
        self.cancelled = False
        self.socket: socket.socket | None = None

    def hang_up(self) -> None:
        """Shut the socket down: unlike closing it, that wakes the thread that waits in it."""
        if self.socket is not None:
            # The plain socket's method, also of a TLS socket, whose own is not meant for two threads.
            with suppress(OSError):
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)


def _streamed(response: http.client.HTTPResponse) -> Iterator[Event]:
    """Server-sent events (WHATWG HTML §9.2) of a chat or completion."""
    translator = StreamTranslator()
    data: list[str] = []
    while line := response.readline(limits.MAX_UPSTREAM_LINE_BYTES + 1):
        if len(line) > limits.MAX_UPSTREAM_LINE_BYTES:
            raise EngineFailure("the model's server sent a line that is too long")
        text = line.decode(errors="replace").rstrip("\r\n")
        if text.startswith("data:"):
            data.append(text[5:].removeprefix(" "))
        elif not text and data:
            payload, data = "\n".join(data), []
            if payload == "[DONE]":
                break
            yield from translator.chunk(payload)
    if data and (payload := "\n".join(data)) != "[DONE]":
        yield from translator.chunk(payload)
    yield translator.finish()


def _multipart(request: TranscribeRequest, model: str) -> tuple[bytes, str]:
    """The form of a transcription (RFC 7578) and its content type."""
    boundary = secrets.token_hex(16)
    fields = {"model": model, "response_format": "verbose_json"}
    fields |= {} if request.language is None else {"language": request.language}
    fields |= {} if request.prompt is None else {"prompt": request.prompt}
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="audio"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
    )
    body = b"".join([*parts, request.audio, f"\r\n--{boundary}--\r\n".encode()])
    return body, f"multipart/form-data; boundary={boundary}"
