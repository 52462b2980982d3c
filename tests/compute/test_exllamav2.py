"""The ExLlamaV2 adapter: its absence explained, its generator's results translated and counted.

The results have the shapes that ``ExLlamaV2DynamicGenerator.iterate`` of exllamav2 0.3.2 documents and emits.
"""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

from compute import ChatRequest, CompletionRequest, EngineFailure, EngineUnavailable, Finished, Message, Sampling

from compute import Started, TaskError, TextDelta, Unit, total  # isort: skip
from tokenizers import Tokenizer

from compute.engines import create
from compute.engines.demo_llama import DEMO_MODEL
from compute.engines.exllamav2 import Runtime

without_cuda = pytest.mark.skipif(
    importlib.util.find_spec("torch") is not None, reason="torch is installed: the missing package cannot be shown"
)


@without_cuda
def test_without_the_package_the_engine_says_what_to_install() -> None:
    engine = create("exllamav2", folder="/nowhere")
    with pytest.raises(EngineUnavailable) as caught:
        engine.load()
    assert "pip install 'cocoon-node[gpu]'" in str(caught.value)
    assert "CUDA" in str(caught.value)
    engine.close()


def test_an_unknown_cache_precision_is_refused() -> None:
    with pytest.raises(EngineUnavailable, match="fp16"):
        create("exllamav2", folder="/nowhere", cache="q5")


class RecordedGenerator:
    """Plays back results for the jobs it is given."""

    def __init__(self, script) -> None:
        self.script, self.queue, self.cancelled = script, [], []

    def enqueue(self, job) -> int:
        self.queue.append(job)
        return len(self.queue)

    def iterate(self):
        return [{"job": self.queue[index], **result} for index, result in (self.script.pop(0) if self.script else [])]

    def cancel(self, job) -> None:
        self.cancelled.append(job)


def ids(n: int) -> np.ndarray:
    return np.zeros((1, n), np.int64)


def streaming(text=None, tokens=0, **fields):
    result = {"stage": "streaming", "eos": False, "serial": 1} | fields
    result |= {} if text is None else {"text": text}
    return result | ({"token_ids": ids(tokens)} if tokens else {})


STARTED = {"stage": "started", "eos": False, "serial": 1}
PREFILL = {"stage": "prefill", "curr_progress": 4, "max_progress": 8, "eos": False, "serial": 1}


def engine_with(script, context=512):
    generator = RecordedGenerator(script)
    tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))

    def runtime(folder, wanted_context, cache, max_batch):
        return Runtime(
            generator=generator,
            make_job=lambda prompt, tokens, sampling, seed, stops: {
                "prompt": prompt, "tokens": tokens, "sampling": sampling, "seed": seed, "stops": stops,
            },
            encode=lambda text: tokenizer.encode(text).ids,
            special=tokenizer.token_to_id,
            begin=[1],
            ends=[4],
            context=context,
            max_batch=max_batch,
        )  # fmt: skip

    engine = create("exllamav2", folder=DEMO_MODEL, runtime=runtime)
    engine.load()
    return engine, generator


CHAT = ChatRequest("demo-chat", (Message("user", "Hello"),), Sampling(max_tokens=9, seed=-1, stop=("END",)))


def drain(engine, steps=10):
    return [item for _ in range(steps) for item in engine.step()]


def test_a_job_is_made_with_the_templates_stops_and_the_seed() -> None:
    engine, generator = engine_with([])
    engine.submit(1, CHAT)
    (job,) = generator.queue
    assert job["tokens"] == 9
    assert job["stops"] == [4, 4, "END"]
    assert job["seed"] == (1 << 32) - 1
    assert job["prompt"][0] == 1


def test_results_become_events_with_every_token_counted_once() -> None:
    engine, generator = engine_with(
        [
            [(0, STARTED), (0, PREFILL)],
            [(0, streaming())],  # half a character: held back, no text and no ids yet
            [(0, streaming("Hel", 2))],
            [(0, streaming("lo", 1))],
            [(0, streaming("!", 1, eos=True, eos_reason="stop_token", new_tokens=5, prompt_tokens=5))],
        ]
    )
    engine.submit(7, CHAT)
    events = drain(engine)
    assert {job for job, _ in events} == {7}
    kinds = [event for _, event in events]
    assert kinds[0] == Started(kinds[0].units)
    assert kinds[0].units.get(Unit.PROMPT) == len(generator.queue[0]["prompt"])
    assert "".join(e.text for e in kinds if isinstance(e, TextDelta)) == "Hello!"
    assert kinds[-1].reason == "stop"
    # Five sampled, of which the stop token is not counted.
    assert total(e.units for e in kinds).get(Unit.COMPLETION) == 4


def test_tokens_cut_off_by_a_stop_string_are_counted() -> None:
    last = streaming(eos=True, eos_reason="stop_string", new_tokens=6, held={"text": "END"})
    engine, _ = engine_with([[(0, STARTED)], [(0, streaming("ab", 2))], [(0, last)]])
    engine.submit(1, CHAT)
    events = [event for _, event in drain(engine)]
    assert total(e.units for e in events).get(Unit.COMPLETION) == 6
    assert "END" not in "".join(getattr(e, "text", "") for e in events)


def test_the_token_limit_ends_with_length() -> None:
    last = streaming("x", 1, eos=True, eos_reason="max_new_tokens", new_tokens=1)
    engine, _ = engine_with([[(0, STARTED)], [(0, last)]])
    engine.submit(1, CHAT)
    events = [event for _, event in drain(engine)]
    assert events[-1] == Finished("length")
    assert total(e.units for e in events).get(Unit.COMPLETION) == 1


def test_an_unknown_end_is_a_failure() -> None:
    engine, _ = engine_with([[(0, streaming(eos=True, eos_reason="cosmic_ray", new_tokens=1))]])
    engine.submit(1, CHAT)
    assert isinstance(drain(engine)[-1][1], EngineFailure)


def test_two_jobs_keep_apart_and_a_cancelled_one_is_silent() -> None:
    engine, generator = engine_with(
        [
            [(0, STARTED), (1, STARTED)],
            [(0, streaming("a", 1)), (1, streaming("b", 1))],
            [(0, streaming("a", 1)), (1, streaming("b", 1, eos=True, eos_reason="stop_token", new_tokens=3))],
        ]
    )
    engine.submit(1, CHAT)
    engine.submit(2, CompletionRequest("demo-chat", "text"))
    early = drain(engine, 2)
    engine.cancel(1)
    late = drain(engine)
    assert [job for job, event in early if isinstance(event, TextDelta)] == [1, 2]
    assert {job for job, _ in late} == {2}
    assert generator.cancelled == [generator.queue[0]]


def test_a_prompt_beyond_the_context_is_refused() -> None:
    engine, _ = engine_with([], context=3)
    with pytest.raises(TaskError, match="context is 3"):
        engine.submit(1, CHAT)


def test_a_folder_without_a_template_serves_completion_only(tmp_path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text(json.dumps({}))

    def runtime(folder, context, cache, batch):
        return Runtime(RecordedGenerator([]), lambda *a: None, lambda t: [5], lambda mark: None, [], [2], 64, 1)

    engine = create("exllamav2", folder=tmp_path, runtime=runtime)
    engine.load()
    assert [c.task for c in engine.capabilities()] == ["completion"]
    with pytest.raises(TaskError, match="template"):
        engine.submit(1, CHAT)
