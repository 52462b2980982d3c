"""The multiplexer against a simple model: nothing lost, nothing reordered, nothing beyond its bounds."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from transport.tunnel import ProtocolViolation
from transport.tunnel.frames import (
    BEGIN,
    CLOSE,
    CREDIT,
    END,
    HEADER,
    MESSAGE,
    OPEN,
    PAD,
    PART,
    PING,
    REKEY,
    RESET,
    frame,
    reason_payload,
)
from transport.tunnel.limits import (
    BATCH_PLAIN,
    FRAME_COST,
    INITIAL_WINDOW,
    MAX_LENT,
    MAX_SMALL,
    MAX_STREAMS,
    MAX_WINDOW,
    WINDOW_POOL,
)
from transport.tunnel.mux import Mux
from transport.tunnel.streams import Outgoing, StreamCore


def body(size: int, salt: int) -> bytes:
    return random.Random(salt).randbytes(size)


class Side:
    """One mux, its users' readers and what they have received."""

    def __init__(self, *, initiator: bool) -> None:
        self.mux = Mux(initiator=initiator)
        self.accepted: list[StreamCore] = []
        self.received: dict[int, list[bytes]] = {}
        self.sinks: dict[int, bytearray] = {}

    def accept(self) -> None:
        while self.mux.opened:
            core = self.mux.opened.popleft()
            core.accepted = True
            self.accepted.append(core)

    def read(self, core: StreamCore, *, into: bool) -> None:
        """What a reader does: take what is there, else wait, with memory of its own or without."""
        got = self.received.setdefault(core.stream_id, [])
        if core.sink_done >= 0:
            got.append(bytes(self.sinks.pop(core.stream_id)[: core.sink_done]))
            core.sink_done = -1
            self.mux.renew(core)
        if core.inbox:
            got.extend(self.mux.take_inbox(core))
        elif not core.waiting and core.reset is None and not core.peer_ended:
            sink = None
            if into:
                self.sinks[core.stream_id] = bytearray(3 << 20)
                sink = memoryview(self.sinks[core.stream_id])
            assert self.mux.want(core, 3 << 20, sink)


def carry(sender: Side, receiver: Side, cuts: random.Random, *, direct: bool = True) -> int:
    """Carry one batch across, cut into arbitrary records, some of them opened in place."""
    data = b"".join(sender.mux.out.take())
    assert len(data) <= BATCH_PLAIN
    sender.mux.out.writable.clear()
    position = 0
    while position < len(data):
        size = min(cuts.choice([1, 7, 8, 9, 100, 5000, 65_518, 65_518]), len(data) - position)
        record = data[position : position + size]
        target = receiver.mux.direct() if direct and receiver.mux.body_left else None
        if target is None or size > len(target):
            receiver.mux.feed(record)
        else:
            target[:size] = record
            receiver.mux.direct_done(size)
        position += size
    receiver.mux.readable.clear()
    receiver.accept()
    return len(data)


class MuxMachine(RuleBasedStateMachine):
    """Two cores, random users, a network that carries batches whenever it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = (Side(initiator=True), Side(initiator=False))
        self.cuts = random.Random(1)
        self.sent: dict[tuple[int, int], list[bytes]] = {}
        self.live: list[tuple[int, StreamCore]] = []
        self.reset: set[int] = set()
        self.salt = 0

    def pick(self, index: int) -> tuple[int, StreamCore]:
        mine = [(s, core) for s in (0, 1) for core in self.known(s)]
        return mine[index % len(mine)]

    def known(self, side: int) -> list[StreamCore]:
        return [core for s, core in self.live if s == side] + self.sides[side].accepted

    @rule(side=st.sampled_from([0, 1]))
    def open(self, side: int) -> None:
        if len(self.live) < 6:
            self.live.append((side, self.sides[side].mux.open()))

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 50), sizes=st.lists(st.sampled_from([0, 1, 100, 4095, 4096]), min_size=1, max_size=9))
    def send_small(self, index: int, sizes: list[int]) -> None:
        side, core = self.pick(index)
        if core.reset is not None or core.end_queued:
            return
        bodies = [self.next_body(size) for size in sizes]
        self.sides[side].mux.out.messages(core, bodies)
        self.sent.setdefault((side, core.stream_id), []).extend(bodies)

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 50), size=st.sampled_from([4097, 9000, 70_000, 1_500_000]))
    def send_bulk(self, index: int, size: int) -> None:
        side, core = self.pick(index)
        if core.reset is not None or core.end_queued:
            return
        message = self.next_body(size)
        half = size // 2
        self.sides[side].mux.out.bulk(core, Outgoing([memoryview(message)[:half], memoryview(message)[half:]]))
        self.sent.setdefault((side, core.stream_id), []).append(message)

    def next_body(self, size: int) -> bytes:
        self.salt += 1
        return body(size, self.salt)

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 50), into=st.booleans())
    def read(self, index: int, into: bool) -> None:
        side, core = self.pick(index)
        self.sides[side].read(core, into=into)

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 50))
    def end(self, index: int) -> None:
        side, core = self.pick(index)
        self.sides[side].mux.end(core)

    @precondition(lambda self: self.live)
    @rule(index=st.integers(0, 200), code=st.integers(0, 300))
    def reset_one(self, index: int, code: int) -> None:
        if index % 5 == 0:
            side, core = self.pick(index)
            self.sides[side].mux.reset(core, code, "because")
            self.reset.add(core.stream_id)

    @rule(side=st.sampled_from([0, 1]), seed=st.integers(0, 1000), direct=st.booleans())
    def carry(self, side: int, seed: int, direct: bool) -> None:
        self.cuts.seed(seed)
        carry(self.sides[side], self.sides[1 - side], self.cuts, direct=direct)

    @invariant()
    def what_arrived_is_a_prefix_of_what_was_sent(self) -> None:
        for side in (0, 1):
            for stream_id, got in self.sides[side].received.items():
                assert got == self.sent.get((1 - side, stream_id), [])[: len(got)]

    @invariant()
    def memory_stays_within_the_windows(self) -> None:
        for side in self.sides:
            extra = 0
            for core in side.mux.streams.values():
                assert core.credit >= 0
                assert core.outstanding >= 0
                assert INITIAL_WINDOW <= core.window <= MAX_WINDOW
                extra += core.window - INITIAL_WINDOW
                if not core.lending:
                    held = sum(len(m) + FRAME_COST for m in core.inbox if len(m) <= MAX_SMALL)
                    assert held + len(core.assembly) <= core.window
                assert core.outstanding <= core.window + MAX_LENT
            assert 0 <= extra <= WINDOW_POOL

    def teardown(self) -> None:
        """Let all readers read to the end: whatever was sent on a stream that nobody reset has come."""
        quiet = 0
        for _ in range(2000):
            for side in (0, 1):
                for core in self.known(side):
                    self.sides[side].read(core, into=self.salt % 2 == 0)
            moved = sum(carry(self.sides[side], self.sides[1 - side], self.cuts) for side in (0, 1))
            quiet = 0 if moved else quiet + 1
            if quiet == 3:  # a reader first takes what is there and waits, which is worth credit, the next time
                break
        else:
            raise AssertionError("the two sides never come to rest")
        for (side, stream_id), messages in self.sent.items():
            if stream_id not in self.reset:
                assert self.sides[1 - side].received.get(stream_id, []) == messages


TestMux = MuxMachine.TestCase
TestMux.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


def opened() -> tuple[Side, Side, StreamCore, StreamCore]:
    """Two sides and a stream between them: (ours, theirs, our core, their core)."""
    a, b = Side(initiator=True), Side(initiator=False)
    core = a.mux.open()
    carry(a, b, random.Random(0))
    return a, b, core, b.accepted[0]


def message(stream_id: int, data: bytes) -> bytes:
    return frame(stream_id, MESSAGE, data)


def begin(stream_id: int, total: int, data: bytes) -> bytes:
    return frame(stream_id, BEGIN, total.to_bytes(8, "big") + data)


LIES = {
    "a message of a stream never opened": message(3, b"x"),
    "a message of our stream never opened": message(2, b"x"),
    "a message of stream 0": message(0, b"x"),
    "an end of a stream never opened": frame(5, END),
    "credit for a stream never opened": frame(7, CREDIT, bytes(4)),
    "an even id from the initiator": frame(2, OPEN),
    "an id opened twice": frame(1, OPEN),
    "an id of zero": frame(0, OPEN),
    "a small message too long": HEADER.pack(1, MESSAGE << 24 | MAX_SMALL + 1),
    "a fragment too long": HEADER.pack(1, BEGIN << 24 | 0xFFFFFF),
    "a fragment before a beginning": frame(1, PART, b"x"),
    "a beginning without data": frame(1, BEGIN, bytes(8)),
    "a beginning inside a message": begin(1, 9, b"x") + begin(1, 9, b"x"),
    "a message inside a message": begin(1, 9, b"x") + message(1, b"x"),
    "an end inside a message": begin(1, 9, b"x") + frame(1, END),
    "more than the announced length": begin(1, 2, b"xxx"),
    "an absurd length": begin(1, 1 << 63, b"x"),
    "data after the end": frame(1, END) + message(1, b"x"),
    "two ends": frame(1, END) + frame(1, END),
    "data beyond the credit": message(1, bytes(4096)) * 2,
    "a fragment beyond the credit": begin(1, 1 << 20, bytes(INITIAL_WINDOW)),
    "credit beyond what can be": frame(1, CREDIT, b"\xff" * 4) + frame(1, CREDIT, b"\xff" * 4),
    "a ping of seven bytes": frame(0, PING, bytes(7)),
    "a ping on a stream": frame(1, PING, bytes(8)),
    "a reset without a code": frame(1, RESET, b"abc"),
    "a reset that is not text": frame(1, RESET, b"\0\0\0\0\xff"),
    "a reason without end": HEADER.pack(1, RESET << 24 | 5000),
    "an unknown kind": HEADER.pack(0, 99 << 24),
    "a frame after the farewell": frame(0, CLOSE, reason_payload(0, "")) + frame(0, PING, bytes(8)),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
@pytest.mark.parametrize("at_once", [True, False])
def test_a_lie_is_a_violation(lie: bytes, at_once: bool) -> None:
    _, b, _, _ = opened()
    with pytest.raises(ProtocolViolation):
        for piece in [lie] if at_once else [lie[i : i + 1] for i in range(len(lie))]:
            b.mux.feed(piece)


def test_a_rekey_is_the_last_frame_of_its_record() -> None:
    _, b, _, _ = opened()
    b.mux.feed(frame(0, PING, bytes(8)) + frame(0, REKEY))
    assert b.mux.rekey
    with pytest.raises(ProtocolViolation, match="REKEY"):
        b.mux.feed(frame(0, REKEY) + frame(0, PING, bytes(8)))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_a_violation_or_leave_the_bounds_intact(data: bytes) -> None:
    _, b, _, core = opened()
    try:
        b.mux.feed(data)
    except ProtocolViolation:
        return
    assert len(b.mux._partial) <= MAX_SMALL + 8
    assert core.inbox_cost <= INITIAL_WINDOW


def test_frames_of_a_stream_that_is_over_are_ignored() -> None:
    _, b, _, core = opened()
    b.mux.reset(core, 1, "enough")
    b.mux.feed(message(1, b"x") + begin(1, 5000, bytes(100)) + frame(1, PART, bytes(100)) + frame(1, CREDIT, bytes(4)))
    b.mux.feed(frame(1, END) + frame(1, RESET, reason_payload(0, "")))
    assert not core.inbox
    assert not core.assembly


def test_padding_is_ignored_wherever_it_is_cut() -> None:
    _, b, _, core = opened()
    data = frame(0, PAD, bytes(1000)) + message(1, b"here") + frame(0, PAD)
    for i in range(len(data)):
        b.mux.feed(data[i : i + 1])
    assert list(core.inbox) == [b"here"]


def test_a_reset_leaves_other_streams_alone_and_what_came_before_readable() -> None:
    a, b, first, _ = opened()
    second = a.mux.open()
    a.mux.out.messages(first, [b"one"])
    a.mux.out.messages(second, [b"two"])
    a.mux.reset(first, 300, "why not")
    a.mux.out.messages(second, [b"three"])
    carry(a, b, random.Random(0))
    gone, alive = b.accepted
    assert gone.reset == (300, "why not")
    assert list(gone.inbox) == [b"one"]
    assert list(alive.inbox) == [b"two", b"three"]


def test_small_messages_pass_a_bulk_one_after_one_batch_at_most() -> None:
    a, b, bulk, their_bulk = opened()
    small = a.mux.open()
    carry(a, b, random.Random(0))
    b.read(their_bulk, into=True)
    a.mux.out.bulk(bulk, Outgoing([memoryview(bytes(3_000_000))]))
    for _ in range(3):
        carry(a, b, random.Random(0))
        carry(b, a, random.Random(0))
    a.mux.out.messages(small, [b"token"])
    pieces = a.mux.out.take()
    assert bytes(pieces[1]) == b"token"
    assert sum(map(len, pieces)) > 100_000  # and bulk fills the rest


def test_bulk_streams_take_turns() -> None:
    a, b, first, _ = opened()
    second = a.mux.open()
    carry(a, b, random.Random(0))
    for core in b.accepted:
        b.read(core, into=True)
    for core in (first, second):
        a.mux.out.bulk(core, Outgoing([memoryview(bytes(2_900_000))]))
    progress = []
    for _ in range(4):
        carry(a, b, random.Random(0))
        carry(b, a, random.Random(0))
        progress.append([core.got for core in b.accepted])
    assert all(min(at) > 0 for at in progress)


def test_a_stream_too_many_is_refused_and_the_tunnel_lives_on() -> None:
    b = Side(initiator=False)
    for index in range(MAX_STREAMS + 5):
        b.mux.feed(frame(2 * index + 1, OPEN))
    assert len(b.mux.opened) == MAX_STREAMS
    assert len(b.mux.streams) == MAX_STREAMS
    refusals = b"".join(b.mux.out.take())
    assert refusals.count(b"too many streams") == 5


def test_opening_and_resetting_for_ever_is_bounded() -> None:
    b = Side(initiator=False)
    with pytest.raises(ProtocolViolation, match="provokes"):
        for index in range(1_000_000):
            stream_id = 2 * index + 1
            b.mux.feed(frame(stream_id, OPEN) + message(stream_id, bytes(4000)) + frame(stream_id, RESET, bytes(4)))
    assert len(b.mux.opened) <= MAX_STREAMS


def test_streams_reset_before_anyone_saw_them_leave_nothing() -> None:
    b = Side(initiator=False)
    for index in range(10_000):
        stream_id = 2 * index + 1
        b.mux.feed(frame(stream_id, OPEN) + frame(stream_id, RESET, bytes(4)))
    assert not b.mux.opened
    assert not b.mux.streams
    assert not b.mux._theirs


def test_pings_that_nobody_reads_the_answers_of_are_bounded() -> None:
    b = Side(initiator=False)
    with pytest.raises(ProtocolViolation, match="provokes"):
        for _ in range(100_000):
            b.mux.feed(frame(0, PING, bytes(8)))


def test_a_reader_that_never_comes_bounds_what_is_held() -> None:
    a, b, ours, theirs = opened()
    a.mux.out.messages(ours, [bytes(100)] * 1000)
    for _ in range(20):
        carry(a, b, random.Random(0))
        carry(b, a, random.Random(0))
    assert theirs.inbox_cost <= INITIAL_WINDOW
    assert ours.queued > 0
    assert not a.mux.out.may_queue(ours)


def test_a_cancelled_sender_takes_back_what_has_not_begun() -> None:
    a, b, ours, theirs = opened()
    taken_back = Outgoing([memoryview(bytes(100_000))])
    begun = Outgoing([memoryview(bytes(100_000))])
    a.mux.out.bulk(ours, begun)
    a.mux.out.bulk(ours, taken_back)
    a.mux.out.messages(ours, [b"after"])
    carry(a, b, random.Random(0))
    assert not a.mux.out.withdraw(ours, begun)
    assert a.mux.out.withdraw(ours, taken_back)
    b.read(theirs, into=False)
    for _ in range(3):
        carry(b, a, random.Random(0))
        carry(a, b, random.Random(0))
        b.read(theirs, into=False)
    assert b.received[1] == [bytes(100_000), b"after"]


def test_a_reader_that_gives_up_in_its_own_memory_resets_the_stream() -> None:
    a, b, ours, theirs = opened()
    b.read(theirs, into=True)
    a.mux.out.bulk(ours, Outgoing([memoryview(bytes(100_000))]))
    carry(a, b, random.Random(0))
    b.mux.unwant(theirs)
    assert theirs.reset is not None
    carry(b, a, random.Random(0))
    assert ours.reset is not None
    carry(a, b, random.Random(0))


def test_going_away_refuses_new_streams_and_finishes_old_ones() -> None:
    a, b, ours, theirs = opened()
    b.mux.go_away(0, "restart")
    late = a.mux.open()
    a.mux.out.messages(late, [b"hello"])
    a.mux.out.messages(ours, [b"last words"])
    carry(a, b, random.Random(0))
    carry(b, a, random.Random(0))
    assert late.reset == (2, "going away")
    assert a.mux.peer_goaway == (0, "restart")
    assert not a.mux.can_open
    assert list(theirs.inbox) == [b"last words"]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [1 << 20, 700_000, 100_001])
def test_messages_of_one_size_come_in_one_part_each_once_the_window_has_grown(seed: int, size: int) -> None:
    """Credit is granted in whole messages: a rest of some more would cut each next message in two."""
    rng = random.Random(seed)
    sender, receiver = Mux(initiator=True), Mux(initiator=False)
    core, sink, body = sender.open(), memoryview(bytearray(size)), memoryview(bytes(size))
    frames: list[int] = []
    sent = received = 0
    theirs: StreamCore | None = None
    while received < 60:
        if not core.queue and sent < 60:
            sender.out.bulk(core, Outgoing([body]))
            sent += 1
        if rng.random() < 0.7:
            pieces = sender.out.take()
            frames += [piece[4] for piece in pieces if len(piece) in (8, 16) and piece[4] in (BEGIN, PART)]
            receiver.feed(b"".join(pieces))
        if receiver.opened:
            theirs = receiver.opened.popleft()
        if theirs is not None and not theirs.waiting:
            if theirs.sink_done >= 0 or theirs.inbox:
                received += 1
                if theirs.sink_done >= 0:
                    theirs.sink_done = -1
                    receiver.renew(theirs)
                else:
                    receiver.take_message(theirs)
            if not theirs.inbox:
                receiver.want(theirs, size, sink)
        if rng.random() < 0.7:
            sender.feed(b"".join(receiver.out.take()))
    assert frames.count(BEGIN) == 60
    begun = [index for index, kind in enumerate(frames) if kind == BEGIN]
    assert PART not in frames[begun[20] :], "the first few grow the window, and may come in parts"
