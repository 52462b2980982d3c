"""What a host remembers of its peers' addresses, in memory and in a file."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from transport.host import EventKind, Libp2pHost
from transport.host.limits import (
    CLAIMED_ADDR_S,
    CONFIRMED_ADDR_S,
    DIALLER_ENOUGH,
    MAX_ADDR_FAILURES,
    MAX_CLAIMED_PEERS_PER_NETWORK,
    MAX_DIAL_ADDRS,
    REJOIN_PEERS,
)
from transport.host.peerbook import KnownAddr, PeerBook
from transport.host.peerstore import PeerStore, PeerStoreError
from transport.host.rejoin import keep_company, keep_saving
from transport.identity import Identity, PeerId

NOW = 1.8e9
PEERS = [Identity(bytes([number]) * 32).peer_id for number in range(1, 12)]


def addr(number: int, network: int = 1) -> str:
    return f"/ip4/10.0.{network}.{number}/tcp/4001"


def rows(path: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(path) as db:
        found = db.execute("SELECT peer, addr FROM known_addrs ORDER BY peer, addr").fetchall()
    db.close()
    return found


def test_confirmed_addresses_come_first_and_claims_replace_claims() -> None:
    book = PeerBook()
    book.claimed(PEERS[0], [addr(1), addr(2)], NOW)
    book.confirmed(PEERS[0], addr(3), NOW + 1)
    book.claimed(PEERS[0], [addr(4)], NOW + 2)
    assert book.addrs(PEERS[0]) == [addr(3), addr(4)]


def test_one_failure_ends_a_claim_and_many_a_confirmed_address() -> None:
    book = PeerBook()
    book.confirmed(PEERS[0], addr(1), NOW)
    book.claimed(PEERS[0], [addr(2)], NOW)
    book.failed(PEERS[0], addr(2), NOW)
    assert book.addrs(PEERS[0]) == [addr(1)]
    for _ in range(MAX_ADDR_FAILURES - 1):
        book.failed(PEERS[0], addr(1), NOW)
    assert book.addrs(PEERS[0]) == [addr(1)]
    book.failed(PEERS[0], addr(1), NOW)
    assert len(book) == 0


def test_what_is_old_is_no_candidate() -> None:
    book = PeerBook()
    book.confirmed(PEERS[0], addr(1), NOW)
    book.claimed(PEERS[1], [addr(2)], NOW)
    assert book.candidates(NOW) == PEERS[:2]
    assert book.candidates(NOW + CLAIMED_ADDR_S) == PEERS[:1]
    assert book.candidates(NOW + CONFIRMED_ADDR_S) == []


def test_one_network_gets_one_turn_before_another_waits() -> None:
    book = PeerBook()
    for number, peer in enumerate(PEERS[:5]):
        book.confirmed(peer, addr(number), NOW + 100)
    book.confirmed(PEERS[5], addr(1, network=2), NOW)
    assert book.candidates(NOW + 100).index(PEERS[5]) == 1


def test_one_network_fills_little_of_the_book_with_claims() -> None:
    book = PeerBook()
    for number in range(3 * MAX_CLAIMED_PEERS_PER_NETWORK):
        book.claimed(PeerId(f"p{number}"), [addr(number)], NOW)
    assert len(book) == MAX_CLAIMED_PEERS_PER_NETWORK
    book.claimed(PEERS[0], [addr(1, network=2)], NOW)
    assert PEERS[0] in book.candidates(NOW)


actions = st.tuples(
    st.sampled_from(["confirmed", "claimed", "failed"]),
    st.sampled_from(PEERS),
    st.lists(st.builds(addr, st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=12),
    st.floats(0, 1e5),
)


@given(st.lists(actions, max_size=60))
def test_the_book_keeps_its_bounds_and_its_changes_make_an_equal_book(history: list[Any]) -> None:
    book, disk = PeerBook(max_peers=5), {}
    now = NOW
    for step, (what, peer, addrs, wait) in enumerate(history):
        now += wait
        getattr(book, what)(peer, addrs if what == "claimed" else addrs[0], now)
        assert len(book) <= 5
        assert all(len(book.addrs(other)) <= MAX_DIAL_ADDRS for other in PEERS)
        if what == "confirmed":
            assert book.addrs(peer)[0] == addrs[0]
        if step % 3 == 0:
            disk.update(book.take_changes())
    disk.update(book.take_changes())
    again = PeerBook(max_peers=5)
    for peer, entries in sorted(disk.items(), key=lambda item: max((e.seen_at for e in item[1]), default=0)):
        again.load(peer, entries, now)
    assert again.candidates(now) == book.candidates(now)
    for peer in book.candidates(now):
        assert again._peers[peer] == tuple(known for known in book._peers[peer] if known.alive(now))


def test_a_book_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "peers.sqlite3"
    book = PeerBook()
    book.confirmed(PEERS[0], addr(1), NOW)
    book.claimed(PEERS[1], [addr(2), addr(3)], NOW - 5)
    book.confirmed(PEERS[2], addr(4), NOW - 9)
    store = PeerStore(path)
    store.save(book.take_changes())
    book.failed(PEERS[1], addr(2), NOW)
    book.failed(PEERS[1], addr(3), NOW)
    store.save(book.take_changes())
    store.close()
    again = PeerBook()
    store = PeerStore(path)
    store.load(again, NOW)
    store.close()
    assert again.candidates(NOW) == [PEERS[0], PEERS[2]]
    assert again.addrs(PEERS[0]) == [addr(1)]


def test_a_change_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "peers.sqlite3"
    store = PeerStore(path)
    good = (PEERS[0], (KnownAddr(addr(1), NOW, NOW),))
    store.save([good])
    with pytest.raises(PeerStoreError, match="cannot be written"):
        store.save([(PEERS[0], ()), (PEERS[1], (KnownAddr(None, NOW, NOW),))])  # type: ignore[arg-type]
    store.close()
    assert rows(path) == [(PEERS[0], addr(1))]


def test_rows_that_make_no_sense_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "peers.sqlite3"
    PeerStore(path).close()
    with sqlite3.connect(path) as db:
        bad = [("nobody", addr(1), NOW, NOW, 0), (PEERS[0], "/ip4/x", NOW, NOW, 0), (PEERS[1], addr(2), "x", NOW, 0)]
        db.executemany("INSERT INTO known_addrs VALUES (?, ?, ?, ?, ?)", [*bad, (PEERS[2], addr(3), NOW * 9, NOW, 0)])
    db.close()
    book, store = PeerBook(), PeerStore(path)
    store.load(book, NOW)
    store.close()
    assert book.candidates(NOW) == [PEERS[2]]
    assert book.take_changes() == [] or all(peer == PEERS[2] for peer, _ in book.take_changes())


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\x00" + b"\xff" * 4000])
def test_a_damaged_file_is_put_aside_and_begun_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "peers.sqlite3"
    path.write_bytes(content)
    store = PeerStore(path)
    store.save([(PEERS[0], (KnownAddr(addr(1), NOW, NOW),))])
    store.close()
    assert rows(path) == [(PEERS[0], addr(1))]
    assert (tmp_path / "peers.sqlite3.damaged").read_bytes() == content


async def test_news_is_written_in_batches_and_what_failed_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transport.host.rejoin.PEERSTORE_SAVE_S", 0.05)
    path = tmp_path / "peers.sqlite3"
    book, store = PeerBook(), PeerStore(path)
    blocker = sqlite3.connect(path, isolation_level=None, timeout=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_saving, book, store)
        book.confirmed(PEERS[0], addr(1), NOW)
        blocker.execute("BEGIN IMMEDIATE")
        await trio.sleep(0.3)  # several tries find the file locked
        blocker.execute("ROLLBACK")
        with trio.fail_after(10):
            while not rows(path):
                await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
    blocker.close()
    store.close()
    assert rows(path) == [(PEERS[0], addr(1))]


async def test_a_lonely_host_tries_whom_it_knows_until_it_has_company(autojump_clock: MockClock) -> None:
    import random

    tried: list[PeerId] = []
    company: set[PeerId] = set()

    async def dial(peer: PeerId) -> None:
        await trio.sleep(8)
        tried.append(peer)
        if len(tried) > 3:
            company.add(peer)

    def lonely() -> bool:
        return len(company) < REJOIN_PEERS

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_company, lonely, lambda: [p for p in PEERS if p not in company], dial, random.Random(1))
        await trio.sleep(60)
        assert len(company) >= REJOIN_PEERS
        count = len(tried)
        await trio.sleep(600)
        assert len(tried) == count
        company.clear()
        await trio.sleep(60)
        assert len(tried) > count
        nursery.cancel_scope.cancel()


async def heard(host: Libp2pHost, peer: PeerId) -> None:
    with trio.fail_after(10):
        async with host.events() as events:
            async for event in events:
                if event.kind is EventKind.CONNECTED and event.peer_id == peer:
                    return


async def test_a_restarted_node_needs_no_bootstrap_peer(new_host: Any, tmp_path: Path) -> None:
    path = tmp_path / "peers.sqlite3"
    me = Identity(b"returns!" * 4)
    async with new_host() as other:
        async with new_host() as bootstrap:
            await other.connect(bootstrap.addrs[0])
            async with new_host(identity=me, bootstrap=bootstrap.addrs, peerstore=path) as first:
                await heard(first, bootstrap.peer_id)
                await first.connect(other.addrs[0])
        async with new_host(identity=me, peerstore=path) as again:  # the bootstrap node is gone
            await heard(again, other.peer_id)


async def test_what_a_peer_says_of_itself_is_enough_to_find_it_again(new_host: Any, tmp_path: Path) -> None:
    path = tmp_path / "peers.sqlite3"
    me = Identity(b"listens!" * 4)
    async with new_host() as other:
        async with new_host(identity=me, peerstore=path) as first:
            await other.connect(first.addrs[0])  # it came to us: we know only what identify says
            with trio.fail_after(5):
                while not first._book.addrs(other.peer_id):
                    await trio.sleep(0.01)
        async with new_host(identity=me, peerstore=path) as again:
            await heard(again, other.peer_id)


async def test_a_host_that_nobody_can_dial_is_content_with_fewer_peers(new_host: Any, tmp_path: Path) -> None:
    async with new_host() as other, new_host() as third, new_host() as server, new_host(listen=[]) as client:
        assert DIALLER_ENOUGH == 2 < REJOIN_PEERS
        for host in (server, client):
            assert host._lonely()
            for peer in (other, third):
                await host.connect(peer.addrs[0])
                await heard(host, peer.peer_id)
        assert server._lonely()
        assert not client._lonely()
