"""The server's side of ADNL over TCP (TON whitepaper §3.1.1; tonlib's ``AdnlExtServer``), without I/O.

A client's first 256 bytes name the server's key, bring its own and, encrypted to the server, two AES-256-CTR streams.
From then on each side sends packets: length, 32 random bytes, payload, SHA-256 of the two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nacl.signing import VerifyKey
from pytoniq_core.crypto.ciphers import Client, create_aes_ctr_cipher, get_shared_key
from pytoniq_core.tl.generator import TlGenerator

from overlay.settlement.devnet.limits import MAX_PACKET_BYTES

HANDSHAKE_BYTES = 256

SCHEMAS: Any = TlGenerator.with_default_schemas().generate()
"""TL schemas of the liteserver protocol. Byte fields stay bytes: guessing at their contents is for clients."""
SCHEMAS._auto_deserialize = False


class ProtocolError(Exception):
    """A client that does not speak the protocol: it is dropped."""


@dataclass(frozen=True)
class Query:
    """``adnl.message.query`` with a ``liteServer.query`` inside: its id and the liteserver request."""

    query_id: bytes
    request: bytes


def constructor(name: str) -> bytes:
    """The four bytes that announce a TL type."""
    value: bytes = SCHEMAS.get_by_name(name).little_id()
    return value


def tl_bytes(data: bytes) -> bytes:
    """TL ``bytes``: length, data, padding to four."""
    head = bytes((len(data),)) if len(data) <= 253 else b"\xfe" + len(data).to_bytes(3, "little")
    return head + data + bytes(-(len(head) + len(data)) % 4)


def read_tl_bytes(data: bytes, at: int) -> bytes:
    """The TL ``bytes`` that begin at ``at``. Raises :class:`ProtocolError` when they are cut short."""
    if at >= len(data):
        raise ProtocolError("cut short")
    if data[at] == 0xFE:
        length, start = int.from_bytes(data[at + 1 : at + 4], "little"), at + 4
    else:
        length, start = data[at], at + 1
    if start + length > len(data):
        raise ProtocolError("cut short")
    return data[start : start + length]


class ServerConnection:
    """One client. Feed it what arrives; it returns queries, and bytes to send collect in :meth:`take_output`."""

    def __init__(self, key: Client, random_bytes: Callable[[int], bytes]) -> None:
        self._key = key
        self._random = random_bytes
        self._raw = bytearray()
        self._plain = bytearray()
        self._output = bytearray()
        self._encrypt: Any = None
        self._decrypt: Any = None

    @property
    def ready(self) -> bool:
        """Whether the handshake is done."""
        return self._encrypt is not None

    def take_output(self) -> bytes:
        """What must be sent now."""
        output, self._output = bytes(self._output), bytearray()
        return output

    def receive(self, data: bytes) -> list[Query]:
        """Take bytes from the client. Raises :class:`ProtocolError` when it must be dropped."""
        if not self.ready:
            self._raw += data
            if len(self._raw) < HANDSHAKE_BYTES:
                return []
            self._handshake(bytes(self._raw[:HANDSHAKE_BYTES]))
            data = bytes(self._raw[HANDSHAKE_BYTES:])
            self._raw.clear()
        if data:
            self._plain += self._decrypt.decrypt(data)
        queries = []
        while (packet := self._next_packet()) is not None:
            query = self._message(packet)
            if query is not None:
                queries.append(query)
        return queries

    def answer(self, query_id: bytes, answer: bytes) -> None:
        """Answer a query with a boxed TL value."""
        self._send(constructor("adnl.message.answer") + query_id + tl_bytes(answer))

    def _handshake(self, head: bytes) -> None:
        if head[:32] != self._key.get_key_id():
            raise ProtocolError("meant for another server key")
        checksum = head[64:96]
        try:
            peer = VerifyKey(head[32:64]).to_curve25519_public_key().encode()
            shared = get_shared_key(self._key.x25519_private.encode(), peer)
        except Exception as error:  # a point that is not on the curve raises several unrelated types
            raise ProtocolError("not an Ed25519 key") from error
        cipher = create_aes_ctr_cipher(shared[:16] + checksum[16:32], checksum[:4] + shared[20:32])
        streams = cipher.decrypt(head[96:256])
        if hashlib.sha256(streams).digest() != checksum:
            raise ProtocolError("the handshake does not decrypt")
        self._encrypt = create_aes_ctr_cipher(streams[:32], streams[64:80])
        self._decrypt = create_aes_ctr_cipher(streams[32:64], streams[80:96])
        self._send(b"")

    def _next_packet(self) -> bytes | None:
        if len(self._plain) < 4:
            return None
        length = int.from_bytes(self._plain[:4], "little")
        if not 64 <= length <= MAX_PACKET_BYTES:
            raise ProtocolError(f"a packet of {length} bytes")
        if len(self._plain) < 4 + length:
            return None
        packet = bytes(self._plain[4 : 4 + length])
        del self._plain[: 4 + length]
        if hashlib.sha256(packet[:-32]).digest() != packet[-32:]:
            raise ProtocolError("a packet's checksum is wrong")
        return packet[32:-32]

    def _message(self, message: bytes) -> Query | None:
        if message[:4] == constructor("tcp.ping") and len(message) == 12:
            self._send(constructor("tcp.pong") + message[4:12])
            return None
        if message[:4] != constructor("adnl.message.query") or len(message) < 40:
            return None
        query = read_tl_bytes(message, 36)
        if query[:4] != constructor("liteServer.query"):
            return None
        return Query(message[4:36], read_tl_bytes(query, 4))

    def _send(self, payload: bytes) -> None:
        body = self._random(32) + payload
        packet = (len(body) + 32).to_bytes(4, "little") + body + hashlib.sha256(body).digest()
        self._output += self._encrypt.encrypt(packet)
