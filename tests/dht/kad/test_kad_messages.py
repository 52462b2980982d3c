"""The kad-dht protobuf: what honest nodes of any kind send is read, everything else is refused at a bounded cost."""

from __future__ import annotations

from contextlib import suppress

import base58
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from dht.kad import BadMessage
from dht.kad.contacts import Contact, addr_from_wire, addr_to_wire, contact, contact_of, networks_of, seen_networks
from dht.kad.keys import peer_bytes, peer_id_from
from dht.kad.limits import (
    MAX_CLOSER_PEERS,
    MAX_KEY_BYTES,
    MAX_PEER_ADDRS,
    MAX_PROVIDER_PEERS,
    MAX_REPLY_BYTES,
    MAX_VALUE_BYTES,
    K,
)
from dht.kad.messages import Message, MessageType, Record, encode_message, parse_message, parse_request
from transport.identity import Identity

PEERS = [Identity(bytes([n]) * 32).peer_id for n in range(1, 60)]
ADDRS = [f"/ip4/{n}.2.3.4/tcp/4001" for n in range(20, 30)] + ["/dns4/a.example/tcp/1", "/ip6/2a00::1/udp/1/quic-v1"]

contacts = st.builds(contact_of, st.sampled_from(PEERS), st.lists(st.sampled_from(ADDRS), max_size=MAX_PEER_ADDRS))
records = st.builds(
    Record,
    st.binary(max_size=MAX_KEY_BYTES),
    st.binary(max_size=300),
    st.sampled_from(["", "2026-11-26T15:00:00.000Z"]),
)
messages = st.builds(
    Message,
    st.sampled_from(MessageType),
    st.binary(max_size=MAX_KEY_BYTES),
    st.none() | records,
    st.lists(contacts, max_size=K).map(tuple),
    st.lists(contacts, max_size=K).map(tuple),
)


def reference() -> type:
    """The protobuf of the specification, read by Google's library."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="dht.proto", package="kadtest", syntax="proto3")
    kinds = {"bytes": field.TYPE_BYTES, "string": field.TYPE_STRING, "int": field.TYPE_INT32}
    layout = {
        "Record": [("key", 1, "bytes", 1), ("value", 2, "bytes", 1), ("timeReceived", 5, "string", 1)],
        "Peer": [("id", 1, "bytes", 1), ("addrs", 2, "bytes", 3), ("connection", 3, "int", 1)],
        "Message": [
            ("type", 1, "int", 1),
            ("clusterLevelRaw", 10, "int", 1),
            ("key", 2, "bytes", 1),
            ("record", 3, ".kadtest.Record", 1),
            ("closerPeers", 8, ".kadtest.Peer", 3),
            ("providerPeers", 9, ".kadtest.Peer", 3),
        ],
    }
    for name, fields in layout.items():
        message = file.message_type.add(name=name)
        for label, number, kind, repeat in fields:
            added = message.field.add(name=label, number=number, label=repeat)
            added.type = kinds.get(kind, field.TYPE_MESSAGE)
            if kind not in kinds:
                added.type_name = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("kadtest.Message"))


Reference = reference()


@given(messages)
def test_what_is_written_is_read_back(message: Message) -> None:
    assert parse_message(encode_message(message)) == message


@given(messages)
def test_googles_library_reads_what_we_write_and_we_read_what_it_writes(message: Message) -> None:
    theirs = Reference()
    theirs.ParseFromString(encode_message(message))
    assert (theirs.type, theirs.key) == (message.type, message.key)
    assert [peer.id for peer in theirs.closerPeers] == [peer_bytes(peer.peer_id) for peer in message.closer]
    assert [tuple(peer.addrs) for peer in theirs.providerPeers] == [peer.addrs for peer in message.providers]
    if message.record:
        assert (theirs.record.key, theirs.record.value) == (message.record.key, message.record.value)
    theirs.clusterLevelRaw = 1  # as go-libp2p sets it
    for peer in theirs.closerPeers:
        peer.connection = 1
    assert parse_message(theirs.SerializeToString()) == message


@given(st.binary(max_size=400))
def test_garbage_is_a_typed_error_or_a_message(data: bytes) -> None:
    try:
        message = parse_message(data)
    except BadMessage:
        return
    assert len(message.closer) <= MAX_CLOSER_PEERS


@given(messages, st.data())
def test_a_truncated_message_is_refused_or_shorter(message: Message, data: st.DataObject) -> None:
    whole = encode_message(message)
    cut = whole[: data.draw(st.integers(0, max(0, len(whole) - 1)))]
    with suppress(BadMessage):
        assert parse_message(cut) != message or whole == cut


@given(messages, st.data())
def test_a_flipped_byte_never_escapes_as_another_error(message: Message, data: st.DataObject) -> None:
    changed = bytearray(encode_message(message) or b"\x08\x05")
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(BadMessage):
        parse_message(bytes(changed))


PEER = b"\x0a\x26" + peer_bytes(PEERS[0])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x08\x06", "unknown type 6"),
        (b"\x08\x01\x08\x01", "two fields 'type'"),
        (b"\x12\x01a\x12\x01b", "two fields 'key'"),
        (b"\x1a\x00\x1a\x00", "two fields 'record'"),
        (b"\x08" + b"\xff" * 11, "never ends"),
        (b"\x08", "truncated"),
        (b"\x12\x05abc", "longer than its message"),
        (b"\x0b", "wire type 3"),
        (b"\x00\x00", "field number 0"),
        (b"\x10\x01", "the key is not a byte string"),
        (b"\x0a\x01a", "the type is not an integer"),
        (b"\x12\x81\x01" + bytes(129), "the key has 129 bytes"),
        (b"\x42\x00", "without an id"),
        (b"\x42\x43\x0a\x41" + bytes(65), "a peer id has 65 bytes"),
        (b"\x60\x00" * 513, "more than 512 fields"),
        ((b"\x42" + bytes([len(PEER)]) + PEER) * (MAX_CLOSER_PEERS + 1), "closer peers"),
        (b"\x1a\x04\x2a\x02\xc3\xa9", "not ASCII"),
    ],
)
def test_each_fault_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(BadMessage, match=reason):
        parse_message(data)


def test_a_value_over_the_limit_is_refused() -> None:
    record = Record(b"k", bytes(MAX_VALUE_BYTES))
    assert parse_message(encode_message(Message(MessageType.PUT_VALUE, b"k", record))).record == record
    with pytest.raises(BadMessage, match="the value has"):
        parse_message(encode_message(Message(MessageType.PUT_VALUE, b"k", Record(b"k", bytes(MAX_VALUE_BYTES + 1)))))


def test_surplus_providers_are_skipped_since_others_send_all_they_have() -> None:
    many = Message(
        MessageType.GET_PROVIDERS, b"k", providers=tuple(contact_of(PEERS[0], ADDRS[:1]) for _ in range(300))
    )
    assert len(parse_message(encode_message(many)).providers) == MAX_PROVIDER_PEERS


def test_peers_that_a_request_has_no_use_for_are_not_read() -> None:
    some = tuple(contact_of(peer, ADDRS[:1]) for peer in PEERS[:30])
    stuffed = encode_message(Message(MessageType.ADD_PROVIDER, b"k", closer=some, providers=some))
    request = parse_request(stuffed)
    assert (request.key, request.closer, request.providers) == (b"k", (), some[:4])
    with pytest.raises(BadMessage, match="closer peers"):
        parse_request(stuffed + (b"\x42\x02\x0a\x00") * 41)


def test_unknown_fields_of_every_wire_type_are_skipped() -> None:
    extra = b"\x58\x07" + b"\x61" + bytes(8) + b"\x6a\x03abc" + b"\x75" + bytes(4)
    assert parse_message(extra + b"\x08\x05" + extra) == Message(MessageType.PING)
    with pytest.raises(BadMessage, match="longer"):
        parse_message(b"\x61" + bytes(7))


def test_a_peer_with_another_kind_of_key_is_left_out() -> None:
    rsa = base58.b58decode("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N")
    blob = b"\x0a" + bytes([len(rsa)]) + rsa
    assert parse_message(b"\x42" + bytes([len(blob)]) + blob).closer == ()
    with pytest.raises(BadMessage):
        peer_id_from(rsa)


def test_malformed_addresses_of_a_peer_are_left_out_and_the_rest_kept() -> None:
    good = addr_to_wire(ADDRS[0], PEERS[0])
    assert good is not None
    for bad in (b"", b"\x04\x01", good + b"\xff", b"\xff" * 20, bytes(300), b"\x35\x03a/b"):
        blob = PEER + b"".join(b"\x12" + (bytes([len(a)]) if len(a) < 128 else b"\xac\x02") + a for a in (bad, good))
        size = len(blob)
        prefix = bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
        (peer,) = parse_message(b"\x42" + prefix + blob).closer
        assert peer.addrs == (good,)


def test_a_contact_is_bounded_whatever_is_claimed() -> None:
    many = contact_of(PEERS[0], [f"/ip4/9.9.9.{n}/tcp/1" for n in range(50)])
    assert len(many.addrs) == MAX_PEER_ADDRS
    long = contact(
        PEERS[0],
        [b for n in range(8) if (b := addr_to_wire(f"/dns4/{'a' * 60}.b{n}.{'c' * 60}.example/tcp/1", PEERS[0]))],
    )
    assert sum(map(len, long.addrs)) <= 512
    biggest = Message(MessageType.GET_PROVIDERS, bytes(128), None, (long,) * 40, (long,) * 100)
    assert len(encode_message(biggest)) <= MAX_REPLY_BYTES


def test_addresses_lose_and_regain_their_own_peer_id_alone() -> None:
    me, relay = PEERS[0], PEERS[1]
    relayed = f"/ip4/9.9.9.9/tcp/1/p2p/{relay}/p2p-circuit"
    peer = contact_of(me, [f"{relayed}/p2p/{me}", f"/ip4/9.9.9.9/tcp/1/p2p/{me}"])
    assert [addr_from_wire(addr) for addr in peer.addrs] == [relayed, "/ip4/9.9.9.9/tcp/1"]
    assert peer.texts() == (f"{relayed}/p2p/{me}", f"/ip4/9.9.9.9/tcp/1/p2p/{me}")
    raw = b"".join(peer.addrs[1:]) + b"\xa5\x03\x26" + peer_bytes(me)  # js-libp2p sends it with its id, at times
    assert contact(me, [raw]).addrs == peer.addrs[1:]


@pytest.mark.parametrize(
    ("addr", "networks"),
    [
        ("/ip4/9.8.7.6/tcp/1", (b"4\x09\x08\x07", b"4\x09\x08")),
        ("/ip6/2a00:1:2:3::/tcp/1", (b"6\x2a\x00\x00\x01\x00\x02", b"6\x2a\x00\x00\x01")),
        ("/ip4/10.0.0.1/tcp/1", ()),
        ("/ip4/127.0.0.1/tcp/1", ()),
        ("/ip6/fe80::1/tcp/1", ()),
    ],
)
def test_networks_are_counted_by_public_prefix(addr: str, networks: tuple[bytes, ...]) -> None:
    raw = addr_to_wire(addr, PEERS[0])
    assert raw is not None
    assert networks_of(raw) == networks == seen_networks(f"{addr}/p2p/{PEERS[0]}")


def test_an_address_that_tells_no_network_is_not_taken_for_a_private_one() -> None:
    assert seen_networks("/dns4/a.example/tcp/1") is None
    assert seen_networks(f"/ip4/9.9.9.9/tcp/1/p2p/{PEERS[1]}/p2p-circuit/p2p/{PEERS[0]}") is None
    assert seen_networks("nonsense") is None


def test_equal_bytes_become_one_shared_contact() -> None:
    message = encode_message(Message(MessageType.FIND_NODE, closer=(contact_of(PEERS[3], ADDRS[:2]),)))
    first, second = parse_message(message).closer[0], parse_message(message).closer[0]
    assert first is second
    assert isinstance(first, Contact)
