"""Audio files and speech to text: one rule for the length, clear refusals, the sample word for word."""

from __future__ import annotations

import contextlib
import io
import struct
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from compute import (
    ChatRequest,
    EngineFailure,
    EngineUnavailable,
    Finished,
    Message,
    Scheduler,
    Segment,
    Started,
    TaskError,
    TranscribeRequest,
    Unit,
    total,
)
from compute.audio import container_format, decode_chunks, milliseconds, probe_duration_ms
from compute.engines import create
from compute.engines.isolated import IsolatedEngine

VOICE = (Path(__file__).parents[2] / "simulations" / "data" / "voice.ogg").read_bytes()


def tone(ms: int, rate: int = 16_000) -> np.ndarray:
    t = np.arange(ms * rate // 1000) / rate
    return (np.sin(2 * np.pi * 440 * t) * 8000).astype(np.int16)


def wav(samples: np.ndarray, rate: int = 16_000) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return out.getvalue()


def encoded(container: str, codec: str, samples: np.ndarray, rate: int = 48_000) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = rate
        frame.time_base = Fraction(1, rate)
        fifo = av.AudioFifo()
        fifo.write(frame)
        resampler = av.AudioResampler(
            format=stream.codec_context.format,
            layout="mono",
            rate=rate,
            frame_size=stream.codec_context.frame_size or 960,
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            for packet in stream.encode(piece):
                file.mux(packet)
        for packet in stream.encode(None):
            file.mux(packet)
    return out.getvalue()


@pytest.mark.parametrize("ms", [1, 999, 1000, 2500])
def test_a_wavs_length_is_its_samples_rounded_up(ms) -> None:
    assert probe_duration_ms(wav(tone(ms))) == ms


def test_one_sample_more_is_one_millisecond_more() -> None:
    assert milliseconds(16_000) == 1000
    assert milliseconds(16_001) == 1001


@pytest.mark.parametrize(
    ("container", "codec"),
    [("ogg", "libopus"), ("mp3", "libmp3lame"), ("flac", "flac"), ("ipod", "aac"), ("webm", "libopus")],
)
def test_the_usual_formats_are_decoded_to_the_right_length(container, codec) -> None:
    data = encoded(container, codec, tone(2000, 48_000))
    assert abs(probe_duration_ms(data) - 2000) <= 100


def test_a_44_khz_file_is_resampled() -> None:
    assert abs(probe_duration_ms(wav(tone(1000, 44_100), 44_100)) - 1000) <= 2


def test_a_file_longer_than_the_limit_is_refused_without_decoding_it_all() -> None:
    data = wav(np.zeros(16_000 * 60, np.int16))
    chunks = decode_chunks(data, max_ms=2000)
    seen = 0
    with pytest.raises(TaskError, match="longer than 2 seconds"):
        for chunk in chunks:
            seen += chunk.size
    assert seen <= 2 * 16_000


def test_a_file_that_claims_one_hertz_is_refused() -> None:
    with pytest.raises(TaskError, match="sample rate of 1 Hz"):
        probe_duration_ms(wav(tone(1000), rate=1))


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x00" * 1000, b"#EXTM3U\nhttp://127.0.0.1/x", b"ffconcat version 1.0"]
)
def test_what_is_no_audio_is_refused_with_what_to_send(data) -> None:
    assert container_format(data) is None
    with pytest.raises(TaskError, match=r"could not be decoded.*send OGG/Opus, WAV, MP3"):
        probe_duration_ms(data)


MAGICS = [b"OggS", b"RIFF\0\0\0\0WAVE", b"fLaC", b"\0\0\0\x18ftypisom", b"\x1aE\xdf\xa3", b"ID3", b"\xff\xfb"]


@given(st.sampled_from(MAGICS), st.binary(max_size=300))
def test_a_right_beginning_and_garbage_behind_is_refused(magic, rest) -> None:
    with contextlib.suppress(TaskError):
        assert probe_duration_ms(magic + rest) > 0


@given(st.integers(0, len(VOICE) - 1), st.integers(1, 255))
def test_a_damaged_voice_message_is_decoded_or_refused(at, flip) -> None:
    damaged = bytearray(VOICE)
    damaged[at] ^= flip
    with contextlib.suppress(TaskError):
        assert probe_duration_ms(bytes(damaged)) > 0


@pytest.fixture(scope="module")
def engine():
    engine = create("pocketsphinx")
    engine.load()
    yield engine
    engine.close()


def transcribe(engine, audio: bytes, duration_ms: int | None = None, **options):
    duration_ms = probe_duration_ms(audio) if duration_ms is None else duration_ms
    engine.submit(1, TranscribeRequest("pocketsphinx-en-us", audio, duration_ms, **options))
    events = []
    while not events or not isinstance(events[-1], Finished | Exception):
        events += [event for _, event in engine.step()]
    return events


def test_the_sample_voice_message_is_written_down_word_for_word_twice(engine) -> None:
    for _ in range(2):
        events = transcribe(engine, VOICE)
        segments = [e for e in events if isinstance(e, Segment)]
        assert [s.text for s in segments] == ["i am on my way home", "please call me tomorrow morning"]
        assert segments[0].start_ms < segments[0].end_ms <= segments[1].start_ms < segments[1].end_ms
        assert isinstance(events[0], Started)
        assert total(e.units for e in events).get(Unit.AUDIO_MS) == probe_duration_ms(VOICE)


def test_silence_has_no_words_and_is_billed_as_listened_to(engine) -> None:
    events = transcribe(engine, wav(np.zeros(16_000 * 2, np.int16)))
    assert not [e for e in events if isinstance(e, Segment)]
    assert total(e.units for e in events).get(Unit.AUDIO_MS) == 2000


def test_a_claim_a_little_too_small_bounds_the_bill(engine) -> None:
    events = transcribe(engine, wav(tone(2000)), 1900)
    assert total(e.units for e in events).get(Unit.AUDIO_MS) == 1900


def test_a_wrong_claim_is_refused_before_any_work(engine) -> None:
    (error,) = transcribe(engine, VOICE, 1000)
    assert isinstance(error, TaskError)
    assert "lasts 50" in str(error)


def test_unreadable_audio_fails_its_job_and_the_next_one_is_served(engine) -> None:
    (error,) = transcribe(engine, b"OggS" + b"x" * 100, 1000)
    assert isinstance(error, TaskError)
    assert transcribe(engine, wav(tone(300)))[-1] == Finished("stop", transcribe(engine, wav(tone(300)))[-1].units)


def test_a_cancelled_job_leaves_the_recogniser_usable(engine) -> None:
    engine.submit(1, TranscribeRequest("pocketsphinx-en-us", VOICE, probe_duration_ms(VOICE)))
    for _ in range(4):
        engine.step()
    engine.cancel(1)
    assert engine.step() == []
    engine.submit(2, TranscribeRequest("pocketsphinx-en-us", VOICE, probe_duration_ms(VOICE)))
    segments: list[Segment] = []
    while not segments:
        segments += [event for job, event in engine.step() if job == 2 and isinstance(event, Segment)]
    assert segments[0].text == "i am on my way home"
    engine.cancel(2)
    assert engine.step() == []


def test_other_languages_and_tasks_are_refused(engine) -> None:
    (error,) = transcribe(engine, VOICE, language="de")
    assert isinstance(error, TaskError)
    assert error.param == "language"
    engine.submit(2, ChatRequest("m", (Message("user", "hi"),)))
    ((job, refusal),) = engine.step()
    assert job == 2
    assert isinstance(refusal, TaskError)


def test_a_wav_header_that_lies_about_its_size_is_harmless() -> None:
    data = bytearray(wav(tone(500)))
    data[40:44] = struct.pack("<I", 0xFFFFFFF0)
    assert probe_duration_ms(bytes(data)) == 500


def test_a_recogniser_that_dies_fails_its_job_and_serves_the_next() -> None:
    engine = create("pocketsphinx")
    engine.load()
    try:
        engine.submit(1, TranscribeRequest("pocketsphinx-en-us", VOICE, probe_duration_ms(VOICE)))
        engine._child.kill()
        with pytest.raises(EngineFailure, match="died"):
            while True:
                engine.step()
        assert isinstance(transcribe(engine, wav(tone(300)))[-1], Finished)
    finally:
        engine.close()
    engine.close()


def test_a_child_that_sends_nonsense_is_a_failure_not_a_crash() -> None:
    engine = create("pocketsphinx")
    for line in (b"hello", b"[]", b'["event", 1, ["t"]]', b'["event", 1]', b"[[[["):
        with pytest.raises(EngineFailure, match="nonsense"):
            engine._item(line)
    engine.close()


def test_an_engine_that_cannot_load_in_the_child_says_why() -> None:
    engine = IsolatedEngine("x", "compute.engines.demo_llama:DemoLlamaEngine", {"folder": "/nowhere"})
    with pytest.raises(EngineUnavailable, match=r"/nowhere/config\.json"):
        engine.load()
    engine.close()


async def test_the_node_stays_awake_while_speech_is_written_down() -> None:
    gaps_s = []
    async with Scheduler.run([create("pocketsphinx")]) as scheduler, trio.open_nursery() as nursery:

        async def tick() -> None:
            while True:
                began = trio.current_time()
                await trio.sleep(0.002)
                gaps_s.append(trio.current_time() - began)

        nursery.start_soon(tick)
        request = TranscribeRequest("pocketsphinx-en-us", VOICE, probe_duration_ms(VOICE))
        async with scheduler.submit(request) as batches:
            events = [event async for batch in batches for event in batch]
        nursery.cancel_scope.cancel()
    assert isinstance(events[-1], Finished)
    # In this process the recogniser would hold the interpreter for half a second here.
    assert sorted(gaps_s)[len(gaps_s) * 9 // 10] < 0.1
