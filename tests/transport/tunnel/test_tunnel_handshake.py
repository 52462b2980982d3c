"""The handshake: fixed vectors, and a typed refusal of everything that is not exactly right."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from transport.identity import Identity
from transport.tunnel import HandshakeError, Pattern, ProtocolViolation, StaticKey, TunnelEndpoint
from transport.tunnel.handshake import HELLO_BYTES, MAGIC, Handshake, choose_pattern, hello_of, parse_hello
from transport.tunnel.keys import certified_peer, certify
from transport.tunnel.mux import Mux
from transport.tunnel.records import RecordOpener, RecordSealer, rekey

VECTORS = Path(__file__).with_name("handshake_vectors.json")
PSK = sha256(b"psk").digest()


def fixed(name: str) -> Callable[[int], bytes]:
    """Ephemeral keys that are the same in every run."""
    return lambda size: sha256(name.encode()).digest()[:size]


def endpoint(name: str, *, subnet: str = "main", psk: bytes | None = None) -> TunnelEndpoint:
    identity = Identity(sha256(f"identity of {name}".encode()).digest())
    return TunnelEndpoint(identity, StaticKey.from_seed(identity.seed), subnet, psk, fixed(f"ephemeral of {name}"))


def pair(pattern: Pattern) -> tuple[Handshake, Handshake]:
    """An initiator and a responder that fit together."""
    psk, subnet = (PSK, "lab") if pattern is Pattern.IKPSK2 else (None, "main")
    alice, bob = endpoint("alice", subnet=subnet, psk=psk), endpoint("bob", subnet=subnet, psk=psk)
    static = None if pattern is Pattern.XX else bob.static_key.public
    initiator = Handshake(alice, pattern, initiator=True, peer_static=static, expected_peer=bob.peer_id)
    return initiator, Handshake(bob, pattern, initiator=False)


def run(initiator: Handshake, responder: Handshake) -> Iterator[bytes]:
    """Carry the messages to and fro, yielding each."""
    while initiator.result is None or responder.result is None:
        sender, receiver = (responder, initiator) if initiator.reading else (initiator, responder)
        message = sender.write()
        yield message
        receiver.read(message)


@pytest.mark.parametrize("pattern", list(Pattern))
def test_both_sides_agree_and_know_each_other(pattern: Pattern) -> None:
    initiator, responder = pair(pattern)
    messages = list(run(initiator, responder))
    assert len(messages) == (3 if pattern is Pattern.XX else 2)
    a, b = initiator.result, responder.result
    assert a is not None
    assert b is not None
    assert (a.send_key, a.receive_key) == (b.receive_key, b.send_key)
    assert a.send_key != a.receive_key
    assert a.handshake_hash == b.handshake_hash
    assert (a.peer_id, b.peer_id) == (endpoint("bob").peer_id, endpoint("alice").peer_id)
    assert b.peer_static == endpoint("alice").static_key.public
    assert a.send_key.hex() not in repr(a)


def vector(pattern: Pattern) -> dict[str, object]:
    """The transcript of one handshake and its first records, all keys fixed."""
    initiator, responder = pair(pattern)
    messages = [message.hex() for message in run(initiator, responder)]
    result = initiator.result
    assert result is not None
    sealer = RecordSealer(result.send_key)
    records = [bytes(sealer.seal([piece])).hex() for piece in (b"first", b"second")]
    sealer.rekey()
    return {
        "protocol": pattern.protocol_name,
        "hello": initiator.hello.hex(),
        "messages": messages,
        "handshake_hash": result.handshake_hash.hex(),
        "initiator_key": result.send_key.hex(),
        "responder_key": result.receive_key.hex(),
        "initiator_key_after_rekey": rekey(result.send_key).hex(),
        "records_of_first_second": records,
        "record_of_third_after_rekey": bytes(sealer.seal([b"third"])).hex(),
    }


@pytest.mark.parametrize("pattern", list(Pattern))
def test_the_transcript_of_fixed_keys_is_the_committed_one(pattern: Pattern) -> None:
    assert vector(pattern) == json.loads(VECTORS.read_text())[pattern.name]


@pytest.mark.parametrize("pattern", list(Pattern))
def test_every_flipped_byte_of_every_message_is_refused(pattern: Pattern) -> None:
    initiator, responder = pair(pattern)
    count = len(list(run(initiator, responder)))
    for index in range(count):
        for position in range(pair(pattern)[0]._lengths[index]):
            initiator, responder = pair(pattern)
            with pytest.raises(HandshakeError):
                _flip(initiator, responder, index, position)


def _flip(initiator: Handshake, responder: Handshake, index: int, position: int) -> None:
    step = 0
    while initiator.result is None or responder.result is None:
        sender, receiver = (responder, initiator) if initiator.reading else (initiator, responder)
        message = bytearray(sender.write())
        if step == index:
            message[position] ^= 0x01
        receiver.read(bytes(message))
        step += 1
    raise AssertionError("a flipped message was accepted")


@pytest.mark.parametrize("pattern", list(Pattern))
def test_a_message_cut_short_or_extended_is_refused(pattern: Pattern) -> None:
    for change in (lambda m: m[:-1], lambda m: m + b"\0", lambda m: b""):
        initiator, responder = pair(pattern)
        with pytest.raises(HandshakeError, match="length"):
            responder.read(change(initiator.write()))


def test_low_order_keys_are_refused() -> None:
    initiator, responder = pair(Pattern.IK)
    message = initiator.write()
    with pytest.raises(HandshakeError):
        responder.read(bytes(32) + message[32:])


@pytest.mark.parametrize(("subnet", "psk"), [("other", PSK), ("lab", sha256(b"other").digest())])
def test_another_subnet_or_another_psk_never_connects(subnet: str, psk: bytes) -> None:
    alice, bob = endpoint("alice", subnet="lab", psk=PSK), endpoint("bob", subnet=subnet, psk=psk)
    initiator = Handshake(alice, Pattern.IKPSK2, initiator=True, peer_static=bob.static_key.public)
    responder = Handshake(bob, Pattern.IKPSK2, initiator=False)
    with pytest.raises(HandshakeError):
        list(run(initiator, responder))
    assert responder.result is None or initiator.result is None


def test_another_public_subnet_never_connects() -> None:
    alice, bob = endpoint("alice"), endpoint("bob", subnet="elsewhere")
    initiator = Handshake(alice, Pattern.XX, initiator=True)
    with pytest.raises(HandshakeError):
        list(run(initiator, Handshake(bob, Pattern.XX, initiator=False)))


def test_a_static_key_that_the_expected_peer_did_not_certify_is_refused() -> None:
    alice, mallory = endpoint("alice"), endpoint("mallory")
    initiator = Handshake(alice, Pattern.XX, initiator=True, expected_peer=endpoint("bob").peer_id)
    with pytest.raises(HandshakeError, match="not"):
        list(run(initiator, Handshake(mallory, Pattern.XX, initiator=False)))


def test_a_stolen_certificate_does_not_fit_another_static_key() -> None:
    bob, mallory = endpoint("bob"), endpoint("mallory")
    with pytest.raises(HandshakeError, match="did not sign"):
        certified_peer(certify(bob.identity, bob.static_key.public), mallory.static_key.public)
    stolen = Handshake(mallory, Pattern.XX, initiator=False)
    object.__setattr__(mallory, "certificate", bob.certificate)
    with pytest.raises(HandshakeError, match="did not sign"):
        list(run(Handshake(endpoint("alice"), Pattern.XX, initiator=True), stolen))


def test_the_wrong_responder_key_is_refused_by_the_responder() -> None:
    alice, bob = endpoint("alice"), endpoint("bob")
    initiator = Handshake(alice, Pattern.IK, initiator=True, peer_static=endpoint("mallory").static_key.public)
    with pytest.raises(HandshakeError, match="authenticate"):
        Handshake(bob, Pattern.IK, initiator=False).read(initiator.write())


@pytest.mark.parametrize(
    ("hello", "private"),
    [
        (b"", False),
        (b"GET / ", False),
        (MAGIC + bytes([2, Pattern.IK]), False),
        (MAGIC + bytes([1, 0]), False),
        (MAGIC + bytes([1, 9]), False),
        (hello_of(Pattern.IKPSK2), False),
        (hello_of(Pattern.IK), True),
        (hello_of(Pattern.XX), True),
        (hello_of(Pattern.IK) + b"\0", False),
    ],
)
def test_other_hellos_are_refused(hello: bytes, private: bool) -> None:
    with pytest.raises(HandshakeError):
        parse_hello(hello, private=private)


def test_the_pattern_follows_from_what_is_known() -> None:
    public, private, key = endpoint("a"), endpoint("a", subnet="lab", psk=PSK), bytes(32)
    assert choose_pattern(public, key) is Pattern.IK
    assert choose_pattern(public, None) is Pattern.XX
    assert choose_pattern(private, key) is Pattern.IKPSK2
    with pytest.raises(HandshakeError, match="static key"):
        choose_pattern(private, None)
    assert len(hello_of(Pattern.IK)) == HELLO_BYTES


def test_a_replayed_first_message_gives_keys_that_open_nothing_of_the_replayer() -> None:
    """IK's first message can be replayed: the responder answers, but no record of the replayer will open."""
    initiator, responder = pair(Pattern.IK)
    first = initiator.write()
    responder.read(first)
    initiator.read(responder.write())
    assert initiator.result is not None
    record = bytes(RecordSealer(initiator.result.send_key).seal([b"pay me"]))
    bob = endpoint("bob")
    again = Handshake(
        TunnelEndpoint(bob.identity, bob.static_key, random_bytes=fixed("another time")), Pattern.IK, initiator=False
    )
    again.read(first)
    again.write()
    assert again.result is not None
    opener = RecordOpener(again.result.receive_key)
    opener.space()[: len(record)] = record
    opener.received(len(record))
    with pytest.raises(ProtocolViolation, match="authenticate"):
        opener.open_into(Mux(initiator=False))


def test_the_static_key_is_derived_not_reused() -> None:
    seed = sha256(b"seed").digest()
    key = StaticKey.from_seed(seed)
    assert key.private != seed
    assert key == StaticKey.from_seed(seed)
    assert key.private.hex() not in repr(key)
    with pytest.raises(ValueError, match="32 bytes"):
        StaticKey(b"short")
