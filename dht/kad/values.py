"""What the answers to one look-up amount to, pure (kad-dht §Getting values, §Entry correction, §Content routing)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice, zip_longest

from dht.kad.contacts import Contact
from dht.kad.validators import Validators
from transport.identity import PeerId

_HOLDERS_NEEDED = 3


class ValueQuorum:
    """Collects the values that holders return, keeps the best, and knows when there are enough.

    Enough is ``quorum`` valid values from two disjoint paths at least (one, if there is one): whoever controls a path
    can replay an old record as often as he likes, and it loses against the newer one that another path returns.
    Where a key admits one value only, the first is enough.
    """

    def __init__(self, key: bytes, validators: Validators, quorum: int, paths: int) -> None:
        self._key = key
        self._validators = validators
        self._quorum = 1 if validators.self_certifying(key) else quorum
        self._paths_needed = min(2, paths, self._quorum)
        self._paths: dict[int, None] = {}
        self._holders: list[Contact] = []
        self._stale: list[Contact] = []
        self.count = 0
        """Valid values so far, our own included."""
        self.best: bytes | None = None
        """The best value so far."""

    def add_own(self, value: bytes) -> None:
        """Take the value of our own store, which was valid a moment ago; nobody needs to be corrected for it."""
        self._take(None, value)

    def add(self, holder: Contact, path: int, value: bytes, now: float) -> None:
        """Take what ``holder`` returned at Unix time ``now``. Raises ``InvalidRecord``, counting nothing."""
        self._validators.validate(self._key, value, now)
        self._paths[path] = None
        self._take(holder, value)

    def _take(self, holder: Contact | None, value: bytes) -> None:
        self.count += 1
        mine = [holder] if holder is not None else []
        if self.best is None:
            self.best, self._holders = value, mine
        elif value == self.best:
            self._holders += mine
        elif self._validators.better(self._key, self.best, value):
            self._stale += self._holders
            self.best, self._holders = value, mine
        else:
            self._stale += mine

    @property
    def enough(self) -> bool:
        """Whether the look-up may stop."""
        return self.count >= self._quorum and len(self._paths) >= self._paths_needed

    def stale(self) -> list[Contact]:
        """Who returned a worse value than the best one, and is to be sent it."""
        return list(self._stale)


class ProviderQuorum:
    """Collects the providers that holders name, path by path.

    A holder that lies can name any number of them at once, so enough is ``limit`` providers from three holders on two
    paths at least, and the result takes from every path in turn: a path full of lies gets its share and no more.
    """

    def __init__(self, known: Iterable[Contact], limit: int, paths: int) -> None:
        self._limit = limit
        self._paths_needed = min(2, paths)
        self._known = {peer.peer_id: peer for peer in known}
        self._by_path: dict[int, dict[PeerId, Contact]] = {}
        self._holders = 0
        self._all: dict[PeerId, None] = dict.fromkeys(self._known)

    def add(self, path: int, providers: Iterable[Contact]) -> None:
        """Take what one holder on ``path`` named; those without an address are of no use."""
        named = self._by_path.setdefault(path, {})
        self._holders += 1
        for peer in providers:
            if peer.addrs:
                older = named.get(peer.peer_id)
                named[peer.peer_id] = peer if older is None else older.merged(peer)
                self._all[peer.peer_id] = None

    @property
    def enough(self) -> bool:
        """Whether the look-up may stop."""
        asked_enough = len(self._by_path) >= self._paths_needed and self._holders >= _HOLDERS_NEEDED
        return asked_enough and len(self._all) >= self._limit

    def result(self) -> list[Contact]:
        """At most ``limit`` providers: those known here, then of each path in turn, all addresses of each."""
        found = dict(self._known)
        for turn in zip_longest(*(named.values() for named in self._by_path.values())):
            for peer in turn:
                if peer is not None and peer.peer_id not in found:
                    found[peer.peer_id] = peer
        return [self._merged(peer) for peer in islice(found.values(), self._limit)]

    def _merged(self, peer: Contact) -> Contact:
        for named in self._by_path.values():
            if (other := named.get(peer.peer_id)) is not None and other is not peer:
                peer = peer.merged(other)
        return peer
