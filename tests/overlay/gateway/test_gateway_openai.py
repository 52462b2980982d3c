"""OpenAI's own client against the gateway, unchanged, over a real socket."""

from __future__ import annotations

import io
import struct
import wave

import openai
import pytest
import trio

from compute.tasks import ChatRequest, CompletionRequest, Finished, RawDelta, Sampling, Started, TextDelta
from compute.usage import Unit, Usage
from overlay.errors import Busy, InvalidRequest, NoProvider, ProviderGone, TooExpensive, Unfunded
from overlay.gateway import serve_gateway

HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture
def ask(port):
    """Run a function of an OpenAI client in a thread."""

    async def ask(call, api_key="none"):
        def work():
            with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=api_key, max_retries=0) as client:
                return call(client)

        return await trio.to_thread.run_sync(work)

    return ask


def recording(seconds=0.5):
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(b"\0\0" * int(16_000 * seconds))
    return ("voice.wav", data.getvalue())


async def test_a_whole_chat_answer(ask):
    answer = await ask(lambda c: c.chat.completions.create(model="demo", messages=HELLO))
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content == 'Hello "wörld"\nbye'
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (6, 3, 9)
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    assert answer.usage.cocoon == {
        "provider": "12D3KooWProvider",
        "model": "demo",
        "relayed": False,
        "paid_nanoton": 3,
        "units": {"prompt": 4, "cached": 2, "completion": 3},
    }


async def test_a_streamed_chat_answer_with_its_usage(ask):
    def call(client):
        stream = client.chat.completions.create(
            model="demo", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        return list(stream)

    chunks = await ask(call)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == 'Hello "wörld"\nbye'
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 3
    assert chunks[-1].usage.cocoon["paid_nanoton"] == 3
    assert {c.id for c in chunks} == {chunks[0].id}


async def test_what_the_gateway_does_not_know_reaches_the_engine(ask, backend):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    await ask(
        lambda c: c.chat.completions.create(
            model="demo",
            messages=[
                {"role": "system", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}]},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]},
                {"role": "tool", "content": "4", "tool_call_id": "1"},
            ],
            tools=tools,
            max_completion_tokens=9,
            temperature=0.5,
            top_p=1,
            seed=3,
            stop="\n",
        )
    )
    (request,) = backend.requests
    assert isinstance(request, ChatRequest)
    assert request.sampling == Sampling(9, 0.5, 1, 3, ("\n",))
    assert request.extra == {"tools": tools}
    assert [m.content for m in request.messages] == ["be brief", "", "4"]
    assert request.messages[1].extra == {"tool_calls": [{"id": "1", "type": "function"}]}
    assert request.messages[2].extra == {"tool_call_id": "1"}


async def test_tool_calls_come_back_whole_and_streamed(ask, backend):
    async def script():
        yield [Started()]
        yield [
            RawDelta('{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":"{"}}]}')
        ]
        yield [RawDelta('{"tool_calls":[{"index":0,"function":{"arguments":"}"}}]}'), Finished("tool_calls")]

    backend.script = script
    whole = await ask(lambda c: c.chat.completions.create(model="demo", messages=HELLO))
    (call,) = whole.choices[0].message.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("a", "f", "{}")
    assert whole.choices[0].message.content is None
    assert whole.choices[0].finish_reason == "tool_calls"
    chunks = await ask(lambda c: list(c.chat.completions.create(model="demo", messages=HELLO, stream=True)))
    calls = [c.choices[0].delta.tool_calls[0] for c in chunks if c.choices[0].delta.tool_calls]
    assert "".join(call.function.arguments for call in calls) == "{}"


async def test_reasoning_is_apart_from_the_answer(ask, backend):
    async def script():
        yield [TextDelta("hm", Usage({Unit.REASONING: 2}), reasoning=True), TextDelta("4"), Finished("stop")]

    backend.script = script
    whole = await ask(lambda c: c.chat.completions.create(model="demo", messages=HELLO))
    assert whole.choices[0].message.content == "4"
    assert whole.choices[0].message.reasoning_content == "hm"
    assert whole.usage.completion_tokens_details.reasoning_tokens == 2


async def test_completions_whole_and_streamed(ask, backend):
    whole = await ask(lambda c: c.completions.create(model="demo", prompt="Once", max_tokens=5))
    assert whole.choices[0].text == 'Hello "wörld"\nbye'
    assert backend.requests[0] == CompletionRequest("demo", "Once", Sampling(5))
    chunks = await ask(lambda c: list(c.completions.create(model="demo", prompt=["Once"], stream=True)))
    assert "".join(c.choices[0].text for c in chunks) == 'Hello "wörld"\nbye'
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_embeddings_as_numbers_and_as_base64(ask):
    for form in (openai.NOT_GIVEN, "float"):
        answer = await ask(lambda c, f=form: c.embeddings.create(model="org/tiny", input=["a", "b"], encoding_format=f))
        assert [item.index for item in answer.data] == [0, 1]
        assert answer.data[1].embedding == pytest.approx(struct.unpack("<2f", struct.pack("<2f", 1, 3.14159265)))
        assert answer.usage.prompt_tokens == 6


async def test_models_are_listed_and_looked_up(ask):
    models = await ask(lambda c: c.models.list())
    assert [model.id for model in models] == ["demo", "org/tiny"]
    assert models.data[0].cocoon["min_ask_nanoton_per_million"] == {"completion": 7}
    assert (await ask(lambda c: c.models.retrieve("org/tiny"))).id == "org/tiny"
    with pytest.raises(openai.NotFoundError, match="no-such"):
        await ask(lambda c: c.models.retrieve("no-such"))


async def test_a_transcription_in_every_format(ask, backend):
    def call(form):
        return ask(lambda c: c.audio.transcriptions.create(model="demo", file=recording(), response_format=form))

    assert (await call("json")).text == "go forward ten meters"
    assert backend.requests[0].duration_ms == 500
    assert await call("text") == "go forward ten meters\n"
    assert "1\n00:00:00,000 --> 00:00:00,900\ngo forward\n\n2\n" in await call("srt")
    vtt = await call("vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:00.900\ngo forward\n")
    assert "--> 01:01:01.500" in vtt
    verbose = await call("verbose_json")
    assert [(s.id, s.start, s.end) for s in verbose.segments] == [(0, 0.0, 0.9), (1, 0.9, 3661.5)]
    assert verbose.duration == 0.5


async def test_a_transcription_can_be_streamed(ask):
    events = await ask(
        lambda c: list(c.audio.transcriptions.create(model="demo", file=recording(), language="en", stream=True))
    )
    assert "".join(e.delta for e in events if e.type == "transcript.text.delta") == "go forward ten meters"
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == "go forward ten meters"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NoProvider("nobody sells it"), 503, "no_provider"),
        (TooExpensive("raise the cap", best=None), 503, "too_expensive"),
        (Busy("come back", retry_after_s=7), 503, "busy"),
        (Unfunded("fund the wallet"), 402, "insufficient_funds"),
        (ProviderGone("it left"), 502, "provider_gone"),
        (InvalidRequest("no", param="top_p"), 400, "invalid_request"),
        (ExceptionGroup("", [Unfunded("fund the wallet")]), 402, "insufficient_funds"),
    ],
)
async def test_failures_of_the_node_have_openai_s_shape(ask, backend, error, status, code):
    backend.error = error
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(lambda c: c.chat.completions.create(model="demo", messages=HELLO))
    assert caught.value.status_code == status
    assert caught.value.body["code"] == code
    assert caught.value.body["message"]
    assert caught.value.param == getattr(error, "param", None)
    if status == 503:
        assert caught.value.response.headers["retry-after"] == str(getattr(error, "retry_after_s", 2))


async def test_an_unforeseen_failure_is_a_500_that_reveals_nothing(ask, backend, caplog):
    backend.error = RuntimeError("secret detail")
    with pytest.raises(openai.InternalServerError) as caught:
        await ask(lambda c: c.chat.completions.create(model="demo", messages=HELLO))
    assert "secret" not in str(caught.value)
    assert "secret detail" in caplog.text


async def test_an_unknown_model_is_a_404(ask):
    with pytest.raises(openai.NotFoundError, match="gpt-99"):
        await ask(lambda c: c.chat.completions.create(model="gpt-99", messages=HELLO))


@pytest.mark.parametrize("stream", [True, False])
async def test_a_provider_that_leaves_before_the_first_text_is_a_502(ask, backend, stream):
    async def script():
        yield [Started()]
        raise ProviderGone("it left")

    backend.script = script
    with pytest.raises(openai.APIStatusError) as caught:
        await ask(lambda c: c.chat.completions.create(model="demo", messages=HELLO, stream=stream))
    assert caught.value.status_code == 502


@pytest.mark.parametrize("how", ["raises", "cancelled", "garbage"])
async def test_a_provider_that_leaves_in_the_middle_of_a_stream_ends_it_with_an_error(ask, backend, how):
    async def script():
        yield [TextDelta("Hel")]
        if how == "raises":
            raise ProviderGone("it left")
        yield [Finished("cancelled") if how == "cancelled" else RawDelta("{")]

    backend.script = script
    seen = []

    def call(client):
        for chunk in client.chat.completions.create(model="demo", messages=HELLO, stream=True):
            seen.append(chunk.choices[0].delta.content)

    with pytest.raises(openai.APIError) as caught:
        await ask(call)
    assert "".join(seen) == "Hel"
    assert caught.value.code == "provider_gone"


async def test_a_token_is_required_when_one_is_set(backend, nursery):
    port = await nursery.start(lambda task_status: serve_gateway(backend, token="sesame", task_status=task_status))

    def models(key):
        with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0) as client:
            return client.models.list()

    assert await trio.to_thread.run_sync(models, "sesame")
    with pytest.raises(openai.AuthenticationError):
        await trio.to_thread.run_sync(models, "sesam")


async def test_audio_that_cannot_be_read_names_the_field(ask):
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(lambda c: c.audio.transcriptions.create(model="demo", file=("x.ogg", b"not audio at all")))
    assert caught.value.param == "file"
