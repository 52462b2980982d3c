"""ExLlamaV2 on a CUDA GPU: EXL2, GPTQ and plain half-precision models of the Llama family.

Drives ``ExLlamaV2DynamicGenerator`` (exllamav2 0.3.2) through its synchronous ``enqueue``, ``iterate`` and ``cancel``.
With flash-attn ≥ 2.5.7 it batches continuously over a paged cache; without, the generator serves one job at a time.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compute import limits
from compute.engines.base import Capability, EngineFailure, EngineJobId, EngineUnavailable
from compute.llama import ChatTemplate, ModelError, load_template, render, weights_hash
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
from compute.usage import NO_USAGE, Unit, Usage

INSTALL = (
    "install it beside a CUDA build of torch: pip install 'cocoon-node[gpu]' (exllamav2==0.3.2). It compiles its CUDA "
    "extension on first use, which needs the CUDA toolkit (nvcc) and CUDA_HOME pointing to it"
)
CACHE_KINDS = {
    "fp16": "ExLlamaV2Cache",
    "q8": "ExLlamaV2Cache_Q8",
    "q6": "ExLlamaV2Cache_Q6",
    "q4": "ExLlamaV2Cache_Q4",
}


@dataclass(frozen=True)
class Runtime:
    """What a loaded model offers: the generator, and how to make a job and to tokenise."""

    generator: Any
    make_job: Callable[[list[int], int, Sampling, int, Sequence[int | str]], Any]
    encode: Callable[[str], list[int]]
    special: Callable[[str], int | None]
    begin: Sequence[int]
    ends: Sequence[int]
    context: int
    max_batch: int


def load_runtime(folder: Path, context: int | None, cache: str, max_batch: int) -> Runtime:
    """Load a model folder onto the GPUs. Raises :class:`EngineUnavailable` with what to install or to change."""
    try:
        import torch
    except ImportError as error:
        raise EngineUnavailable(f"the engine exllamav2 is not installed: {INSTALL}") from error
    if not torch.cuda.is_available():
        raise EngineUnavailable(
            "the engine exllamav2 needs an NVIDIA GPU with CUDA, and torch sees none: check nvidia-smi and that torch "
            "is a CUDA build"
        )
    try:
        import exllamav2 as ex
        from exllamav2.attn import has_flash_attn_with_paged
        from exllamav2.generator import ExLlamaV2DynamicGenerator, ExLlamaV2DynamicJob, ExLlamaV2Sampler
    except (ImportError, OSError, RuntimeError) as error:
        # Without CUDA_HOME its import raises OSError, a failed compilation RuntimeError.
        raise EngineUnavailable(f"the engine exllamav2 cannot be imported ({error}): {INSTALL}") from error
    try:
        config = ex.ExLlamaV2Config(str(folder))
        if context:
            config.max_seq_len = min(context, config.max_seq_len)
        model = ex.ExLlamaV2(config)
        # The cache holds all jobs' tokens together; whole pages of 256 are needed by the paged mode.
        tokens = -(-config.max_seq_len * (max_batch if has_flash_attn_with_paged else 1) // 256) * 256
        store = getattr(ex, CACHE_KINDS[cache])(model, max_seq_len=tokens, lazy=True)
        model.load_autosplit(store)
        tokenizer = ex.ExLlamaV2Tokenizer(config)
        generator = ExLlamaV2DynamicGenerator(
            model=model,
            cache=store,
            tokenizer=tokenizer,
            paged=has_flash_attn_with_paged,
            max_batch_size=max_batch if has_flash_attn_with_paged else 1,
        )
    except Exception as error:  # CUDA, file and configuration errors come as many types
        raise EngineUnavailable(f"exllamav2 cannot load {folder}: {type(error).__name__}: {error}") from error

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, encode_special_tokens=False)[0].tolist()
        return ids

    def make_job(ids: list[int], tokens: int, sampling: Sampling, seed: int, stops: Sequence[int | str]) -> Any:
        settings = ExLlamaV2Sampler.Settings.greedy()
        if sampling.temperature is None or sampling.temperature > 0:
            # Its own defaults penalise repetition and cut to 50 tokens, which nobody asked for.
            temperature = 1.0 if sampling.temperature is None else sampling.temperature
            top_p = 1.0 if sampling.top_p is None else sampling.top_p
            settings = ExLlamaV2Sampler.Settings(
                temperature=temperature, top_p=top_p, top_k=0, token_repetition_penalty=1.0
            )
        return ExLlamaV2DynamicJob(
            input_ids=torch.tensor([ids], dtype=torch.long),
            max_new_tokens=tokens,
            gen_settings=settings,
            seed=seed,
            stop_conditions=list(stops),
        )

    begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    batch = max_batch if has_flash_attn_with_paged else 1
    ends = [tokenizer.eos_token_id]
    return Runtime(generator, make_job, encode, tokenizer.single_id, begin, ends, config.max_seq_len, batch)


@dataclass
class _Job:
    id: EngineJobId
    work: Any
    prompt_tokens: int
    counted: int = 0
    started: bool = field(default=False)


class ExLlamaV2Engine:
    """Serves one model folder for chat and completion under ``model``.

    ``cache`` is the precision of keys and values (fp16, q8, q6, q4); ``context`` (tokens) the model's unless smaller.
    ``runtime`` loads the model; tests give another. A stop token is not counted, all other sampled tokens are.
    """

    name = "exllamav2"

    def __init__(
        self,
        folder: Path | str,
        *,
        model: str | None = None,
        context: int | None = None,
        cache: str = "fp16",
        max_batch: int = 8,
        runtime: Callable[[Path, int | None, str, int], Runtime] = load_runtime,
    ) -> None:
        if cache not in CACHE_KINDS:
            raise EngineUnavailable(f"cache is one of {', '.join(CACHE_KINDS)}, not {cache!r}")
        self._folder = Path(folder)
        self._model_name = model or self._folder.name
        self._options = (context, cache, max_batch)
        self._load_runtime = runtime
        self._capabilities: tuple[Capability, ...] = ()
        self._jobs: dict[EngineJobId, _Job] = {}

    def load(self) -> None:
        """Load the model. Raises :class:`EngineUnavailable`."""
        self._runtime: Runtime | None = self._load_runtime(self._folder, *self._options)
        try:
            self._template: ChatTemplate | None = load_template(self._folder, self._runtime.special)
            digest = weights_hash(self._folder)
        except ModelError as error:
            raise EngineUnavailable(str(error)) from error
        tasks = (Task.CHAT, Task.COMPLETION) if self._template else (Task.COMPLETION,)
        batch, context = self._runtime.max_batch, self._runtime.context
        self._capabilities = tuple(
            Capability(task, self._model_name, batch, context, weights_hash=digest) for task in tasks
        )

    def capabilities(self) -> Sequence[Capability]:
        """Chat (if the template is known) and completion."""
        return self._capabilities

    def submit(self, job: EngineJobId, request: Request) -> None:
        """Tokenise and enqueue. Raises :class:`TaskError` when the prompt leaves no room in the context."""
        runtime = self._runtime
        assert runtime is not None
        if isinstance(request, ChatRequest):
            if self._template is None:
                raise TaskError("this model has no known chat template: use the completion task", param="model")
            prompt = render(self._template, request.messages, runtime.encode, runtime.special)
            marks = (runtime.special(mark) for mark in self._template.stop)
            ends = [*runtime.ends, *(mark for mark in marks if mark is not None)]
        elif isinstance(request, CompletionRequest):
            prompt, ends = [*runtime.begin, *runtime.encode(request.prompt)], [*runtime.ends]
        else:
            raise TaskError(f"this engine does not serve the task {request.task}", param="task")
        room = runtime.context - len(prompt)
        if room < 1 or not prompt:
            raise TaskError(f"the prompt has {len(prompt)} tokens; this model's context is {runtime.context}")
        sampling = request.sampling
        seed = secrets.randbits(32) if sampling.seed is None else sampling.seed % (1 << 32)
        tokens = min(sampling.max_tokens or limits.DEFAULT_MAX_TOKENS, room)
        work = runtime.make_job(prompt, tokens, sampling, seed, [*ends, *sampling.stop])
        runtime.generator.enqueue(work)
        self._jobs[job] = _Job(job, work, len(prompt))

    def step(self) -> list[tuple[EngineJobId, Event | Exception]]:
        """One iteration of the generator: a chunk of each new prompt, a token of each running job."""
        assert self._runtime is not None
        by_work = {id(job.work): job for job in self._jobs.values()}
        events: list[tuple[EngineJobId, Event | Exception]] = []
        for result in self._runtime.generator.iterate():
            job = by_work.get(id(result["job"]))
            if job is not None and job.id in self._jobs:
                events += [(job.id, event) for event in self._translate(job, result)]
        return events

    def _translate(self, job: _Job, result: Mapping[str, Any]) -> Iterable[Event | Exception]:
        """One entry of ``iterate()`` as events; the shapes are documented at that method."""
        if result["stage"] != "streaming":
            if not job.started:
                job.started = True
                yield Started(Usage.of(Unit.PROMPT, job.prompt_tokens))
            return
        fresh = 0
        if (ids := result.get("token_ids")) is not None:
            fresh = int(ids.shape[-1])
            job.counted += fresh
        if text := result.get("text", ""):
            yield TextDelta(text, Usage.of(Unit.COMPLETION, fresh))
            fresh = 0
        if not result["eos"]:
            if fresh:
                yield TextDelta("", Usage.of(Unit.COMPLETION, fresh))
            return
        del self._jobs[job.id]
        reason = result.get("eos_reason")
        if reason not in ("stop_token", "stop_string", "max_new_tokens", "end_filter"):
            yield EngineFailure(f"exllamav2 ended the job for an unknown reason: {reason!r}")
            return
        # Tokens whose text was held back and cut off (a stop string) are in new_tokens only, as is the stop token.
        made = int(result["new_tokens"]) - (reason == "stop_token")
        rest = fresh + max(0, made - job.counted)
        yield Finished(
            "length" if reason == "max_new_tokens" else "stop", Usage.of(Unit.COMPLETION, rest) if rest else NO_USAGE
        )

    def cancel(self, job: EngineJobId) -> None:
        """Take a job out of the generator and free its pages."""
        if (running := self._jobs.pop(job, None)) is not None and self._runtime is not None:
            self._runtime.generator.cancel(running.work)

    def close(self) -> None:
        """Cancel all jobs and let go of the model."""
        for job in list(self._jobs):
            self.cancel(job)
        self._runtime = None
