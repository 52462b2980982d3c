"""Negotiation that nobody waits for: what goes out at once, and every way in which the answers come or do not."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from transport.host import ProtocolRefused, StreamError
from transport.host.limits import NEGOTIATE_S
from transport.host.negotiation import Answers, Refusal, encode_varint, proposal
from transport.host.streams import Libp2pStream
from transport.host.upgrading import read_answers
from transport.identity import PeerId

PROTOCOL = "/test/echo/1"
AGREED = b"\x13/multistream/1.0.0\n\x0d/test/echo/1\n"


class FakeStream:
    """A libp2p stream: what was written, what will be read; an empty list waits for ever."""

    def __init__(self, chunks: list[Any]) -> None:
        self.chunks = chunks
        self.written = b""
        self.resets = 0

    def set_protocol(self, protocol: str) -> None:
        self.protocol = protocol

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.written += data

    async def read(self, _n: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self.chunks:
            await trio.sleep_forever()
        chunk = self.chunks.pop(0)
        if isinstance(chunk, Exception):
            raise chunk
        return bytes(chunk)

    async def reset(self) -> None:
        await trio.lowlevel.checkpoint()
        self.resets += 1


async def proposed(chunks: list[Any]) -> tuple[FakeStream, Libp2pStream]:
    raw = FakeStream(chunks)
    stream = Libp2pStream(raw, PeerId("peer"), lambda *_: None)
    await stream.propose(PROTOCOL)
    return raw, stream


async def test_the_proposal_and_the_first_message_leave_before_any_answer_came() -> None:
    raw, stream = await proposed([])
    await stream.send(b"hello")
    assert raw.written == AGREED + b"\x05hello"  # a proposal has the lines of the agreement


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=3), st.data())
def test_answers_and_messages_survive_any_cut_of_the_bytes(messages: list[bytes], data: st.DataObject) -> None:
    wire = AGREED + b"".join(encode_varint(len(message)) + message for message in messages)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(wire) - 1), max_size=10)))
    chunks = [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]

    async def receive_all() -> list[bytes]:
        _, stream = await proposed(list(chunks))
        return [await stream.receive(300) for _ in messages]

    assert trio.run(receive_all) == messages


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"\x13/multistream/1.0.0\n\x03na\n", "does not speak /test/echo/1"),
        (b"\x13/multistream/1.0.0\n\x0e/test/other/1\n", "does not speak /test/echo/1"),
        (b"\x13/multistream/2.0.0\n", "does not speak /multistream/1.0.0 but"),
        (b"\x02\xff\n", "does not speak /multistream/1.0.0"),
        (b"\xff\xff\xff\xff\xff\xff", "never ends"),
        (b"\x81\x02" + bytes(257), "257 bytes"),
    ],
)
async def test_any_other_answer_is_a_refusal_and_resets_the_stream(answer: bytes, says: str) -> None:
    raw, stream = await proposed([answer])
    with pytest.raises(ProtocolRefused, match=says):
        await stream.receive(10)
    assert raw.resets == 1
    with pytest.raises(StreamError, match="closed"):
        await stream.receive(10)


@pytest.mark.parametrize("end", [b"", OSError("reset")])
async def test_an_end_before_the_answers_is_a_refusal_and_after_them_it_is_none(end: Any) -> None:
    _, stream = await proposed([AGREED[:25], end])
    with pytest.raises(ProtocolRefused, match="before /test/echo/1 was agreed on"):
        await stream.wait_opened()
    _, stream = await proposed([AGREED, end])
    await stream.wait_opened()
    with pytest.raises(StreamError) as ended:
        await stream.receive(10)
    assert not isinstance(ended.value, ProtocolRefused)


async def test_the_answers_have_their_time_from_the_opening(autojump_clock: MockClock) -> None:
    _, stream = await proposed([AGREED[:25]])
    await trio.sleep(NEGOTIATE_S - 1)
    with pytest.raises(ProtocolRefused, match="did not answer the negotiation"):
        await stream.receive(10)
    assert trio.current_time() == NEGOTIATE_S


async def test_a_cancelled_wait_for_the_answers_loses_none_of_them(autojump_clock: MockClock) -> None:
    raw, stream = await proposed([AGREED[:25]])
    with trio.move_on_after(1) as waiting:
        await stream.receive(10)
    assert waiting.cancelled_caught
    raw.chunks += [AGREED[25:] + b"\x02hi"]
    assert await stream.receive(10) == b"hi"


async def test_a_pipe_reads_nothing_of_the_negotiation() -> None:
    _, stream = await proposed([AGREED + b"raw bytes"])
    assert await stream.receive_bytes(3) == b"raw"
    _, refused = await proposed([b"\x13/multistream/1.0.0\n\x03na\n"])
    assert await refused.receive_bytes(3) == b""


@given(st.binary(max_size=60))
def test_no_answer_but_the_right_one_is_taken(line: bytes) -> None:
    answers = Answers(PROTOCOL)
    if line != b"/multistream/1.0.0\n":
        with pytest.raises(Refusal):
            answers.take(line)
    answers = Answers(PROTOCOL)
    answers.take(b"/multistream/1.0.0\n")
    assert not answers.complete
    with pytest.raises(Refusal):
        answers.take(line)
    assert proposal(PROTOCOL) == AGREED


class _Bytes:
    """A connection that gives these bytes and then ends."""

    def __init__(self, data: bytes) -> None:
        self.left = data

    async def read(self, n: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self.left:
            raise ConnectionResetError
        data, self.left = self.left[:n], self.left[n:]
        return data


@given(st.binary(max_size=300), st.booleans())
def test_a_dialler_takes_the_answers_and_not_a_byte_more(rest: bytes, agreed: bool) -> None:
    connection, answers = _Bytes(AGREED + rest if agreed else rest), Answers(PROTOCOL)
    if agreed:
        trio.run(read_answers, connection, answers)
        assert connection.left == rest
    else:
        with pytest.raises((Refusal, ConnectionResetError)):
            trio.run(read_answers, connection, answers)
