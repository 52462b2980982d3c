"""The devnet's cells: the dictionary of accounts, proofs, bags of cells, ADNL, without a TVM."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytoniq_core import Cell, begin_cell
from pytoniq_core.crypto.ciphers import Client
from pytoniq_core.tlb.block import ShardAccounts

from overlay.settlement import ProofRejected
from overlay.settlement.chain import proved
from overlay.settlement.devnet import accounts, hashmap, proofs
from overlay.settlement.devnet.accounts import ACCOUNTS, uninit_account
from overlay.settlement.devnet.adnl import HANDSHAKE_BYTES, ProtocolError, Query, ServerConnection
from overlay.settlement.devnet.limits import MAX_PACKET_BYTES

keys = st.integers(0, 2**256 - 1) | st.integers(0, 40) | st.integers(2**256 - 40, 2**256 - 1)
books = st.dictionaries(keys, st.integers(0, 2**63), max_size=12)


def shard_account(key: int, balance: int) -> Any:
    return uninit_account(f"0:{key:064x}", balance, 1_800_000_000)


def build(book: dict[int, int], order: list[int] | None = None) -> hashmap.Node | None:
    node = None
    for key in order if order is not None else list(book):
        node = accounts.put(node, key, shard_account(key, book[key]), book[key])
    return node


def root(node: hashmap.Node | None) -> Any:
    """The ``HashmapAugE`` cell around a tree."""
    return hashmap.store(ACCOUNTS, begin_cell(), node, 0).end_cell()


@given(books, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_dictionary_does_not_depend_on_the_order_of_updates(book: dict[int, int], chance: random.Random) -> None:
    order = list(book)
    chance.shuffle(order)
    assert root(build(book)).hash == root(build(book, order)).hash


@given(books)
@settings(max_examples=60, deadline=None)
def test_a_dictionary_built_at_once_is_the_one_built_step_by_step(book: dict[int, int]) -> None:
    items = [(key, shard_account(key, balance), balance) for key, balance in book.items()]
    at_once, by_steps = hashmap.build(ACCOUNTS, items), build(book)
    assert root(at_once).hash == root(by_steps).hash
    for key in book:
        leaf = hashmap.find(ACCOUNTS, at_once, key)
        assert leaf is not None
        assert leaf.extra == book[key]


@given(st.text("01", max_size=40), st.integers(0, 40))
def test_a_label_is_read_as_it_was_written(bits: str, more: int) -> None:
    label = hashmap.label_bits(bits, len(bits) + more)
    assert hashmap.read_label(label + "1011", len(bits) + more) == (bits, len(label))


@given(books)
@settings(max_examples=60, deadline=None)
def test_a_stock_parser_reads_the_dictionary_back(book: dict[int, int]) -> None:
    parsed = ShardAccounts.deserialize(root(build(book)).begin_parse())
    found = parsed[0] if parsed and parsed[0] else {}
    balances = {key: account.account.storage.balance.grams or 0 for key, account in found.items()}
    assert balances == book


@given(books, books)
@settings(max_examples=60, deadline=None)
def test_removing_accounts_leaves_what_was_there_before_them(book: dict[int, int], extra: dict[int, int]) -> None:
    added = {key: value for key, value in extra.items() if key not in book}
    node = build({**book, **added})
    for key in added:
        node = accounts.remove(node, key)
    assert root(node).hash == root(build(book)).hash


@given(books, keys)
@settings(max_examples=80, deadline=None)
def test_a_proof_shows_presence_or_absence_and_nothing_else(book: dict[int, int], key: int) -> None:
    node = build(book)
    if node is None:
        assert proved._find(root(node), key) is None
        return
    shown = proofs.with_refs(root(node), [accounts.prove(node, key)])
    assert shown.get_hash(0) == root(node).hash
    assert (proved._find(shown, key) is not None) == (key in book)
    for other in book:
        if other == key:
            continue
        with pytest.raises(ProofRejected):  # it is pruned, or at most a leaf whose account is
            read(shown, other)


def read(dictionary: Any, key: int) -> None:
    leaf = proved._find(dictionary, key)
    assert leaf is not None
    proved._account(leaf, b"", f"0:{key:064x}", 0)


cells = st.recursive(
    st.binary(max_size=20).map(lambda data: begin_cell().store_bytes(data).end_cell()),
    lambda inner: st.tuples(st.binary(max_size=8), st.lists(inner, max_size=4)).map(
        lambda pair: _with(begin_cell().store_bytes(pair[0]), pair[1])
    ),
    max_leaves=12,
)


def _with(builder: Any, refs: list[Any]) -> Any:
    for ref in refs:
        builder.store_ref(ref)
    return builder.end_cell()


@given(st.lists(cells, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_a_stock_parser_reads_a_bag_of_several_roots_back(roots: list[Any]) -> None:
    assert [cell.hash for cell in Cell.from_boc(proofs.to_boc(roots))] == [cell.hash for cell in roots]


def fixed_random(length: int) -> bytes:
    return b"r" * length


@given(st.lists(st.binary(max_size=400), max_size=6))
@settings(max_examples=100, deadline=None)
def test_garbage_from_a_client_is_a_protocol_error_or_nothing(chunks: list[bytes]) -> None:
    connection = ServerConnection(Client(b"k" * 32), fixed_random)
    try:
        for chunk in chunks:
            assert connection.receive(chunk) == []
    except ProtocolError:
        return
    assert sum(map(len, chunks)) < HANDSHAKE_BYTES


class AdnlPeer:
    """The client's side of the handshake, from pytoniq's own primitives."""

    def __init__(self, server_key: Client) -> None:
        from pytoniq_core.crypto.ciphers import Server, create_aes_ctr_cipher, get_shared_key

        server = Server("", 0, server_key.ed25519_public.encode())
        me = Client(b"m" * 32)
        streams = bytes(range(160))
        self.decrypt = create_aes_ctr_cipher(streams[:32], streams[64:80])
        self.encrypt = create_aes_ctr_cipher(streams[32:64], streams[80:96])
        checksum = hashlib.sha256(streams).digest()
        shared = get_shared_key(me.x25519_private.encode(), server.x25519_public.encode())
        cipher = create_aes_ctr_cipher(shared[:16] + checksum[16:32], checksum[:4] + shared[20:32])
        self.hello = server.get_key_id() + me.ed25519_public.encode() + checksum + cipher.encrypt(streams)

    def packet(self, payload: bytes) -> bytes:
        body = b"n" * 32 + payload
        raw: bytes = self.encrypt.encrypt((len(body) + 32).to_bytes(4, "little") + body + hashlib.sha256(body).digest())
        return raw


@given(st.binary(max_size=200), st.data())
@settings(max_examples=60, deadline=None)
def test_a_query_arrives_however_the_bytes_are_cut(request: bytes, data: st.DataObject) -> None:
    from overlay.settlement.devnet.adnl import constructor, tl_bytes

    key = Client(b"k" * 32)
    peer = AdnlPeer(key)
    query = constructor("liteServer.query") + tl_bytes(request)
    stream = peer.hello + peer.packet(constructor("adnl.message.query") + b"q" * 32 + tl_bytes(query))
    cut = data.draw(st.integers(0, len(stream)))
    connection = ServerConnection(key, fixed_random)
    assert connection.receive(stream[:cut]) + connection.receive(stream[cut:]) == [Query(b"q" * 32, request)]


@given(st.binary(min_size=1, max_size=300))
@settings(max_examples=60, deadline=None)
def test_garbage_after_the_handshake_is_a_protocol_error_or_nothing(garbage: bytes) -> None:
    key = Client(b"k" * 32)
    connection = ServerConnection(key, fixed_random)
    connection.receive(AdnlPeer(key).hello)
    try:
        assert connection.receive(garbage) == []
    except ProtocolError:
        return
    assert len(garbage) < 4 + MAX_PACKET_BYTES
