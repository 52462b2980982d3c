"""Packets that a NAT rewrites stay whole: checksums stay right where they were right, and wrong where they were not."""

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from simulations.netns.packets import Protocol, addresses, flow_of, with_source, with_target

ADDRESS = st.integers(0, 2**32 - 1)
PORT = st.integers(0, 65_535)
PAYLOAD = st.binary(max_size=64)
PROTOCOL = st.sampled_from(list(Protocol))


def ones_sum(data: bytes) -> int:
    """The Internet checksum, computed from all of it (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def make_packet(protocol, source, target, payload=b"", *, flags=0x10, udp_checksum=True) -> bytes:
    if protocol is Protocol.ICMP:
        body = struct.pack(">BBHHH", 8, 0, 0, source[1], 1) + payload
        at = 2
    elif protocol is Protocol.UDP:
        body = struct.pack(">HHHH", source[1], target[1], 8 + len(payload), 0) + payload
        at = 6
    else:
        body = struct.pack(">HHIIBBHHH", source[1], target[1], 1, 2, 5 << 4, flags, 1000, 0, 0) + payload
        at = 16
    pseudo = b"" if protocol is Protocol.ICMP else pseudo_header(protocol, source[0], target[0], len(body))
    checksum = ones_sum(pseudo + body)
    if protocol is Protocol.UDP:
        checksum = (checksum or 0xFFFF) if udp_checksum else 0
    body = body[:at] + struct.pack(">H", checksum) + body[at + 2 :]
    header = struct.pack(">BBHHHBBHII", 0x45, 0, 20 + len(body), 7, 0, 64, protocol, 0, source[0], target[0])
    return header[:10] + struct.pack(">H", ones_sum(header)) + header[12:] + body


def pseudo_header(protocol, source, target, length) -> bytes:
    return struct.pack(">IIBBH", source, target, 0, protocol, length)


def is_whole(packet: bytes) -> bool:
    """Header and payload checksums both add up, as the receiving kernel would find."""
    source, target = struct.unpack_from(">II", packet, 12)
    protocol, body = packet[9], packet[20:]
    pseudo = b"" if protocol == Protocol.ICMP else pseudo_header(protocol, source, target, len(body))
    unsummed = protocol == Protocol.UDP and body[6:8] == b"\0\0"
    return ones_sum(packet[:20]) == 0 and (unsummed or ones_sum(pseudo + body) == 0)


def ends(protocol, source, target):
    """An echo has one identifier for both ends."""
    return (source, (target[0], source[1])) if protocol is Protocol.ICMP else (source, target)


@given(PROTOCOL, st.tuples(ADDRESS, PORT), st.tuples(ADDRESS, PORT), st.tuples(ADDRESS, PORT), PAYLOAD, st.booleans())
def test_a_rewritten_packet_is_as_whole_as_one_made_for_its_new_ends(protocol, source, target, new, payload, summed):
    packet = make_packet(protocol, source, target, payload, udp_checksum=summed)
    flow = flow_of(packet)
    assert flow is not None
    assert (flow.source, flow.target) == ends(protocol, source, target)
    for rewritten, wanted in (
        (with_source(packet, flow, new), ends(protocol, new, target)),
        (with_target(packet, flow, new), ((source[0], new[1]) if protocol is Protocol.ICMP else source, new)),
    ):
        assert is_whole(rewritten)
        again = flow_of(rewritten)
        assert again is not None
        assert (again.source, again.target) == wanted
        assert rewritten[28:] == packet[28:] or protocol is Protocol.TCP


@given(PROTOCOL, st.tuples(ADDRESS, PORT), st.tuples(ADDRESS, PORT), st.tuples(ADDRESS, PORT), PAYLOAD)
def test_rewriting_back_gives_the_packet_that_there_was(protocol, source, target, new, payload):
    packet = make_packet(protocol, source, target, payload)
    there = with_source(packet, flow_of(packet), new)
    assert with_source(there, flow_of(there), source) == packet


@given(st.integers(20, 39), st.integers(1, 255), st.tuples(ADDRESS, PORT))
def test_a_damaged_packet_is_not_mended_by_rewriting(at, flip, new):
    packet = bytearray(make_packet(Protocol.TCP, (1, 2), (3, 4)))
    packet[at] ^= flip
    flow = flow_of(packet)
    assert flow is not None
    assert not is_whole(with_source(packet, flow, new))


@given(st.binary(max_size=80))
def test_no_bytes_make_the_reader_fail(data):
    flow_of(data)
    addresses(data)


@given(st.binary(min_size=20, max_size=60), st.integers(0, 60))
def test_no_packet_that_claims_to_be_ipv4_makes_the_reader_fail(data, cut):
    packet = bytearray(data)
    packet[0] = 0x40 | (packet[0] & 15)
    packet[2:4] = len(packet).to_bytes(2, "big")
    packet[6:8] = b"\0\0"
    if (flow := flow_of(packet)) is not None:
        assert flow_of(with_target(packet, flow, (9, 9))) is not None
    flow_of(packet[:cut])


def test_fragments_errors_and_other_protocols_have_no_flow():
    packet = bytearray(make_packet(Protocol.UDP, (1, 2), (3, 4), b"x"))
    for offset in (0x2000, 0x0001):
        packet[6:8] = offset.to_bytes(2, "big")
        assert flow_of(packet) is None
    error = bytearray(make_packet(Protocol.ICMP, (1, 2), (3, 2)))
    error[20] = 3  # destination unreachable
    assert flow_of(error) is None
    other = bytearray(make_packet(Protocol.UDP, (1, 2), (3, 4)))
    other[9] = 47  # GRE
    assert flow_of(other) is None
    assert addresses(other) == (1, 3)


def test_fin_and_rst_close_and_nothing_else_does():
    closing = {flags: flow_of(make_packet(Protocol.TCP, (1, 2), (3, 4), flags=flags)).closing for flags in range(64)}
    assert all(closes == bool(flags & 0x05) for flags, closes in closing.items())


def test_the_checksums_of_this_test_are_those_of_the_kernel():
    """A raw known packet: 10.0.0.1:1234 → 10.0.0.2:80, SYN, as Linux sends it."""
    source = int.from_bytes(socket.inet_aton("10.0.0.1"), "big")
    target = int.from_bytes(socket.inet_aton("10.0.0.2"), "big")
    # RFC 1071 §3's example sum is the one outside fact: 0001 f203 f4f5 f6f7 adds up to ddf2.
    assert ones_sum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF
    assert is_whole(make_packet(Protocol.TCP, (source, 1234), (target, 80)))
