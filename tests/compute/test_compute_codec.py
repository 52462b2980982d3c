"""Requests and events keep their meaning on the wire, and nothing else gets through."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute import (
    ChatRequest,
    CompletionRequest,
    Embedding,
    EmbedRequest,
    Finished,
    Message,
    Meter,
    RawDelta,
    Sampling,
    Segment,
    Started,
    TaskError,
    TextDelta,
    TranscribeRequest,
    Unit,
    Usage,
    estimate_usage,
    event_from_wire,
    event_to_wire,
    limits,
    request_from_wire,
    request_to_wire,
    total,
)
from compute.tasks import REASONS, ROLES
from transport.wire import decode, encode

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
plain_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
extras = st.dictionaries(texts, plain_json, max_size=3)
samplings = st.builds(
    Sampling,
    max_tokens=st.none() | st.integers(1, limits.MAX_MAX_TOKENS),
    temperature=st.none() | st.floats(0, limits.MAX_TEMPERATURE),
    top_p=st.none() | st.floats(0, 1),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    stop=st.lists(names, max_size=4).map(tuple),
)
messages = st.builds(Message, st.sampled_from(sorted(ROLES)), texts, extras)
requests = st.one_of(
    st.builds(ChatRequest, names, st.lists(messages, min_size=1, max_size=4).map(tuple), samplings, extras),
    st.builds(CompletionRequest, names, texts, samplings, extras),
    st.builds(
        TranscribeRequest,
        names,
        st.binary(min_size=1, max_size=50),
        st.integers(1, limits.MAX_AUDIO_MS),
        st.none() | st.sampled_from(["en", "de"]),
        st.none() | texts,
    ),
    st.builds(EmbedRequest, names, st.lists(texts, min_size=1, max_size=4).map(tuple)),
)
usages = st.dictionaries(st.sampled_from(Unit), st.integers(1, 1 << 40), max_size=3).map(Usage)
spans = st.tuples(st.integers(0, 1 << 30), st.integers(0, 1 << 30)).map(sorted)
events = st.one_of(
    st.builds(Started, usages),
    st.builds(TextDelta, texts, usages, st.booleans()),
    st.builds(RawDelta, texts, usages),
    st.builds(lambda text, span, units: Segment(text, span[0], span[1], units), texts, spans, usages),
    st.builds(Embedding, st.integers(0, 2047), st.binary(min_size=1, max_size=9).map(lambda b: b * 4), usages),
    st.builds(Finished, st.sampled_from(sorted(REASONS)), usages),
)
garbage = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(requests)
def test_a_request_survives_the_wire(request_) -> None:
    packed = encode(request_to_wire(request_), floats=True)
    assert request_from_wire(decode(packed, max_bytes=1 << 20, floats=True)) == request_


@given(events)
def test_an_event_survives_the_wire(event) -> None:
    packed = encode(event_to_wire(event), floats=True)
    assert event_from_wire(decode(packed, max_bytes=1 << 20, floats=True)) == event


@given(garbage)
def test_garbage_is_refused_with_a_task_error_only(value) -> None:
    for parse in (request_from_wire, event_from_wire):
        with contextlib.suppress(TaskError):
            parse(value)


@given(requests, st.data())
def test_a_request_with_one_field_spoilt_is_refused_or_parsed_but_never_crashes(request_, data) -> None:
    wire = request_to_wire(request_)
    field = data.draw(st.sampled_from(sorted(wire)))
    wire[field] = data.draw(garbage)
    with contextlib.suppress(TaskError):
        request_to_wire(request_from_wire(wire))


@given(events, st.data())
def test_an_event_with_one_field_spoilt_is_refused_or_parsed_but_never_crashes(event, data) -> None:
    wire = event_to_wire(event)
    wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(garbage)
    with contextlib.suppress(TaskError):
        assert event_to_wire(event_from_wire(wire))


def test_the_common_delta_is_three_plain_items() -> None:
    assert event_to_wire(TextDelta("Hi", Usage.of(Unit.COMPLETION, 1))) == ["t", "Hi", 1]


CHAT = ChatRequest("m", (Message("user", "hi"),))


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (ChatRequest("", CHAT.messages), "model"),
        (ChatRequest("m" * 201, CHAT.messages), "model"),
        (ChatRequest("m", ()), "messages"),
        (ChatRequest("m", (Message("root", "hi"),)), "messages"),
        (ChatRequest("m", (Message("user", "\ud800"),)), "messages"),
        (ChatRequest("m", (Message("user", "x" * (limits.MAX_TEXT_BYTES + 1)),)), "messages"),
        (ChatRequest("m", CHAT.messages, Sampling(max_tokens=0)), "max_tokens"),
        (ChatRequest("m", CHAT.messages, Sampling(max_tokens=True)), "max_tokens"),
        (ChatRequest("m", CHAT.messages, Sampling(temperature=2.1)), "temperature"),
        (ChatRequest("m", CHAT.messages, Sampling(temperature=float("nan"))), "temperature"),
        (ChatRequest("m", CHAT.messages, Sampling(top_p=-0.1)), "top_p"),
        (ChatRequest("m", CHAT.messages, Sampling(seed=1 << 63)), "seed"),
        (ChatRequest("m", CHAT.messages, Sampling(stop=("",))), "stop"),
        (ChatRequest("m", CHAT.messages, Sampling(stop=("x",) * 17)), "stop"),
        (ChatRequest("m", CHAT.messages, extra={"a": object()}), "extra"),
        (ChatRequest("m", CHAT.messages, extra={"a": float("inf")}), "extra"),
        (TranscribeRequest("m", b"", 1), "file"),
        (TranscribeRequest("m", b"x", 0), "duration_ms"),
        (TranscribeRequest("m", b"x", 1, "english"), "language"),
        (EmbedRequest("m", ()), "input"),
    ],
)
def test_a_wrong_field_is_named(request_, param) -> None:
    with pytest.raises(TaskError) as caught:
        request_to_wire(request_)
    assert caught.value.param == param


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TaskError, match="temprature"):
        request_from_wire(request_to_wire(CHAT) | {"temprature": 1.0})


def test_deeply_nested_extra_is_refused_before_it_costs_anything() -> None:
    wire = request_to_wire(CHAT) | {"extra": '{"a":' * 100_000}
    with pytest.raises(TaskError, match="not JSON"):
        request_from_wire(wire)


@given(st.lists(usages, max_size=6))
def test_a_meter_adds_up_like_total(parts) -> None:
    small = [Usage({unit: count >> 4 for unit, count in part.counts.items()}) for part in parts]
    meter = Meter()
    for part in small:
        meter.add(part)
    assert meter.usage() == total(small)


@given(requests.filter(lambda r: isinstance(r, ChatRequest | CompletionRequest)))
def test_the_estimate_bounds_one_token_a_byte_and_the_limit_of_the_answer(request_) -> None:
    estimate = estimate_usage(request_)
    written = [m.content for m in request_.messages] if isinstance(request_, ChatRequest) else [request_.prompt]
    assert estimate.get(Unit.PROMPT) >= sum(len(text.encode()) for text in written)
    assert estimate.get(Unit.COMPLETION) == (request_.sampling.max_tokens or limits.DEFAULT_MAX_TOKENS)
    assert estimate_usage(request_, context=100).get(Unit.PROMPT) <= 100


def test_the_estimate_of_a_transcription_is_its_length() -> None:
    assert estimate_usage(TranscribeRequest("m", b"x", 5054)) == Usage({Unit.AUDIO_MS: 5054})
