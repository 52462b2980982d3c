"""Chat and completion on the CPU: a numpy Llama with continuous batching; the built-in demo model by default.

Each step feeds one chunk of one waiting prompt, then decodes one token of every active job in a single batch, so a new
job joins at the next token and a long prompt does not stall the others for longer than a chunk.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compute import limits
from compute.engines.base import Capability, EngineJobId, EngineUnavailable
from compute.llama import (
    SMALL_HIDDEN_SIZE,
    ChatTemplate,
    KvCache,
    LlamaModel,
    ModelError,
    Sampler,
    StreamDecoder,
    load_template,
    render,
    use_one_thread,
    weights_hash,
)
from compute.tasks import (
    ChatRequest,
    CompletionRequest,
    Event,
    Finished,
    Request,
    Sampling,
    Started,
    Task,
    TaskError,
    TextDelta,
)
from compute.usage import Unit, Usage

DEMO_MODEL = Path(__file__).parent.parent / "models" / "demo-chat"
DEMO_NOTE = "a tiny built-in demo that knows a few answers by heart; not a chat model"

PREFILL_CHUNK = 128
"""Prompt tokens fed in one step: bounds how long the running jobs wait for a newcomer."""


@dataclass
class _Job:
    id: EngineJobId
    prompt: list[int]
    max_tokens: int
    sampler: Sampler
    text: StreamDecoder
    fed: int = 0
    made: int = 0
    unreported: int = 0
    last: int = 0


class DemoLlamaEngine:
    """Serves one Llama folder (``config.json``, weights, ``tokenizer.json``, maybe ``chat.json``) under ``model``.

    ``max_batch`` jobs decode together. ``context`` (tokens) is the model's unless given smaller. ``seeds`` draws the
    seed of jobs that name none. A stop token is not counted; every other sampled token is, also those whose text a stop
    string cut off.
    """

    name = "demo_llama"

    def __init__(
        self,
        folder: Path | str = DEMO_MODEL,
        *,
        model: str | None = None,
        max_batch: int = 16,
        context: int | None = None,
        note: str | None = None,
        seeds: Callable[[], int] = lambda: secrets.randbits(63),
    ) -> None:
        self._folder = Path(folder)
        self._model_name = model or self._folder.name
        self._max_batch = max_batch
        self._wanted_context = context
        self._note = DEMO_NOTE if note is None and self._folder == DEMO_MODEL else note or ""
        self._seeds = seeds
        self._capabilities: tuple[Capability, ...] = ()
        self._waiting: deque[_Job] = deque()
        self._feeding: _Job | None = None
        self._active: list[_Job] = []

    def load(self) -> None:
        """Load weights and tokeniser. Raises :class:`EngineUnavailable` with the reason."""
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise EngineUnavailable("the package tokenizers is missing: pip install tokenizers") from error
        try:
            self._model = LlamaModel.load(self._folder)
            self._tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
            self._template: ChatTemplate | None = load_template(self._folder, self._special)
            digest = weights_hash(self._folder)
        except ModelError as error:
            raise EngineUnavailable(str(error)) from error
        except Exception as error:  # tokenizers raises bare Exception
            raise EngineUnavailable(f"{self._folder}/tokenizer.json cannot be read: {error}") from error
        # Text that looks like a special token is text: prompts cannot forge the marks of a turn.
        self._tokenizer.encode_special_tokens = True
        config = self._model.config
        if config.hidden_size < SMALL_HIDDEN_SIZE:
            use_one_thread()
        self._context = min(self._wanted_context or config.max_position_embeddings, config.max_position_embeddings)
        stops = self._template.stop if self._template else ()
        self._ends = {*config.eos_token_ids, *(t for t in map(self._special, stops) if t is not None)}
        # One slot more than jobs: a prompt is fed there, apart from the batch that decodes in the slots before it.
        self._cache = KvCache(config, self._max_batch + 1, self._context)
        speed = self._measure()
        tasks = (Task.CHAT, Task.COMPLETION) if self._template else (Task.COMPLETION,)
        self._capabilities = tuple(
            Capability(task, self._model_name, self._max_batch, self._context, speed, digest, self._note)
            for task in tasks
        )

    def _measure(self, tokens: int = 16) -> float:
        """Tokens per second of one job, after one token to warm up."""
        token = np.zeros((1, 1), np.int64)
        self._model.forward(token, self._cache)
        began = time.perf_counter()
        for _ in range(tokens):
            self._model.forward(token, self._cache)
        self._cache.clear(0)
        return round(tokens / (time.perf_counter() - began), 1)

    def capabilities(self) -> Sequence[Capability]:
        """Chat (if the model has a template) and completion, with the speed measured at load."""
        return self._capabilities

    def submit(self, job: EngineJobId, request: Request) -> None:
        """Tokenise and queue. Raises :class:`TaskError` when the prompt leaves no room in the context."""
        if isinstance(request, ChatRequest):
            if self._template is None:
                raise TaskError("this model has no chat template: use the completion task", param="model")
            prompt = render(self._template, request.messages, self._encode, self._special)
            param = "messages"
        elif isinstance(request, CompletionRequest):
            bos = self._model.config.bos_token_id
            prompt = ([] if bos is None else [bos]) + self._encode(request.prompt)
            param = "prompt"
            if not prompt:
                raise TaskError("the prompt is empty", param=param)
        else:
            raise TaskError(f"this engine does not serve the task {request.task}", param="task")
        room = self._context - len(prompt)
        if room < 1:
            raise TaskError(
                f"the prompt has {len(prompt)} tokens; this model's context is {self._context}: shorten it", param=param
            )
        self._waiting.append(self._job(job, prompt, request.sampling, room))

    def _job(self, job: EngineJobId, prompt: list[int], sampling: Sampling, room: int) -> _Job:
        return _Job(
            job,
            prompt,
            min(sampling.max_tokens or limits.DEFAULT_MAX_TOKENS, room),
            Sampler(
                0.0 if sampling.temperature is None else sampling.temperature,
                1.0 if sampling.top_p is None else sampling.top_p,
                self._seeds() if sampling.seed is None else sampling.seed,
            ),
            StreamDecoder(self._tokenizer.decode, tuple(sampling.stop)),
        )

    def step(self) -> list[tuple[EngineJobId, Event | Exception]]:
        """Decode one token of each active job, then feed one prompt chunk of a newcomer."""
        events: list[tuple[EngineJobId, Event | Exception]] = []
        if decoding := list(self._active):
            batch = self._model.forward(np.array([[job.last] for job in decoding]), self._cache)
            for job, logits in zip(decoding, batch, strict=True):
                self._accept(job, job.sampler.choose(logits), events)
        if self._feeding is None and self._waiting and len(self._active) < self._max_batch:
            self._feeding = self._waiting.popleft()
            self._cache.clear(self._max_batch)
            events.append((self._feeding.id, Started(Usage.of(Unit.PROMPT, len(self._feeding.prompt)))))
        if self._feeding is not None:
            self._feed(self._feeding, events)
        return events

    def _feed(self, job: _Job, events: list[tuple[EngineJobId, Event | Exception]]) -> None:
        """Feed the next chunk in the spare slot; once the prompt is complete the job joins the active ones."""
        chunk = job.prompt[job.fed : job.fed + PREFILL_CHUNK]
        logits = self._model.forward(np.array([chunk]), self._cache, first=self._max_batch)
        job.fed += len(chunk)
        if job.fed == len(job.prompt):
            self._feeding = None
            self._cache.move(self._max_batch, len(self._active))
            self._active.append(job)
            self._accept(job, job.sampler.choose(logits[0]), events)

    def _accept(self, job: _Job, token: int, events: list[tuple[EngineJobId, Event | Exception]]) -> None:
        """Count a sampled token and report its text; end the job at a stop token, a stop string or its limit."""
        reason = ""
        if token in self._ends:
            reason = "stop"
            text = job.text.finish()
        else:
            job.last = token
            job.made += 1
            job.unreported += 1
            text = job.text.push(token)
            if job.text.stopped:
                reason = "stop"
            elif job.made == job.max_tokens:
                reason = "length"
                text += job.text.finish()
        if text:
            events.append((job.id, TextDelta(text, Usage.of(Unit.COMPLETION, job.unreported))))
            job.unreported = 0
        if reason:
            events.append((job.id, Finished(reason, Usage.of(Unit.COMPLETION, job.unreported))))
            self._free(job)

    def _free(self, job: _Job) -> None:
        """Give the job's slot to the last active one, so that the active slots stay together at the front."""
        slot, last = self._active.index(job), len(self._active) - 1
        if slot != last:
            self._cache.move(last, slot)
            self._active[slot] = self._active[last]
        self._active.pop()
        self._cache.clear(last)

    def cancel(self, job: EngineJobId) -> None:
        """Stop a job and free its slot."""
        if self._feeding is not None and self._feeding.id == job:
            self._feeding = None
        for active in self._active:
            if active.id == job:
                self._free(active)
                return
        self._waiting = deque(waiting for waiting in self._waiting if waiting.id != job)

    def close(self) -> None:
        """Forget jobs and weights."""
        self._waiting.clear()
        self._active.clear()
        self._feeding = None
        self._capabilities = ()
        for name in ("_model", "_cache", "_tokenizer"):
            self.__dict__.pop(name, None)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _special(self, mark: str) -> int | None:
        token: int | None = self._tokenizer.token_to_id(mark)
        return token
