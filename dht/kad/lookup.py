"""One iterative look-up over disjoint paths, pure (Kademlia paper §2.3; S/Kademlia §4.4).

The peers that we know nearest to the target are dealt out to ``d`` paths. What a peer tells is believed on the path it
was asked on and nowhere else, and every peer is asked on one path only; so a liar spoils one path, whomever it names.
On each path the *window* is the k nearest peers that this path heard of and that have not failed, and whoever else is
nearer than a radius (:mod:`dht.kad.density`); a path is done when its window has answered, on whichever path. Where all
are honest, the windows are the same k peers and the paths cost nothing; where one lies, its window is its friends, and
the other paths go on to the honest ones.

    HEARD ──next_request──▶ ASKED ──answered──▶ ANSWERED
      ▲                       │
      └──other addresses of ──┴──failed────────▶ FAILED
         another path
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from enum import Enum, auto

import msgspec

from dht.kad.config import KadConfig
from dht.kad.contacts import Contact
from dht.kad.limits import MAX_REQUESTS, MAX_SHORTLIST, MAX_TRIES, MAX_WINDOW, SLOW_S
from transport.identity import PeerId


class _State(Enum):
    HEARD = auto()
    ASKED = auto()
    ANSWERED = auto()
    FAILED = auto()


class _Peer:
    __slots__ = ("distance", "hop", "path", "since", "state", "told", "tries")

    def __init__(self, distance: int, path: int, contact: Contact, hop: int) -> None:
        self.distance = distance
        self.told = {path: contact}  # by path: a lie about somebody's addresses stays on its path as well
        self.hop = hop
        self.state = _State.HEARD
        self.path = path
        self.since = 0.0
        self.tries = 0


class _Path:
    __slots__ = ("answers", "failures", "nearest", "unimproved", "window")

    def __init__(self) -> None:
        self.answers = 0
        self.failures = 0
        self.nearest = 1 << 256
        self.unimproved = 0
        self.window: list[_Peer] | None = None  # None: to be computed again


class LookupRequest(msgspec.Struct, frozen=True):
    """Ask ``contact`` now, on ``path``."""

    contact: Contact
    path: int


class Lookup:
    """The state of one look-up of the key-space point ``target``. The caller asks whom :meth:`next_request` names and
    tells what came of it; it is over when there is nobody to ask and nothing in flight."""

    def __init__(
        self,
        target: int,
        seeds: Sequence[Contact],
        config: KadConfig,
        *,
        own_key: int = -1,
        radius: int = 0,
        settled: int | None = None,
        outsiders: Sequence[Contact] = (),
        handy: Callable[[PeerId], bool] | None = None,
        reach: int = 0,
    ) -> None:
        """``handy``: whom it costs little to ask, such as a connected peer: of peers nearer than ``reach``, at which
        any may hold what is sought, these are asked first. For look-ups that one answer ends.
        ``settled``: how many of a window must have answered (default: all); beyond them it is enough that two paths
        told of a peer. A window of more than k, which an attack makes, must answer whole."""
        self.target = target
        self._radius = radius
        self._settled = config.k if settled is None else settled
        self._handy = handy
        self._reach = reach
        self.requests = 0
        self.failures = 0
        self._config = config
        self._own = own_key ^ target if own_key >= 0 else -1
        self._order: list[int] = []  # distances, nearest first
        self._peers: dict[int, _Peer] = {}
        self._flying: dict[int, _Peer] = {}
        count = max(1, min(config.paths, len(seeds)))
        self._paths = [_Path() for _ in range(count)]
        self._turn = 0
        for number, seed in enumerate(seeds):
            self._hear(seed, number % count, 1)
        self._outsiders: list[tuple[int, int]] = []  # (distance, path) of those who are asked however far they are
        for number, peer in enumerate(outsiders):
            self._hear(peer, number % count, 1)
            self._outsiders.append((peer.key ^ target, number % count))

    # --- events -----------------------------------------------------------------------------------------------------

    def next_request(self, now: float) -> LookupRequest | None:
        """Whom to ask next, if anybody may be asked now (seconds of any one clock)."""
        if self.requests >= MAX_REQUESTS:
            return None
        while self._outsiders:
            distance, number = self._outsiders.pop()
            if (outsider := self._peers.get(distance)) is not None and outsider.state is _State.HEARD:
                return self._ask(outsider, number, now)
        for _ in self._paths:
            number = self._turn
            self._turn = (number + 1) % len(self._paths)
            path = self._paths[number]
            if self._in_flight(number, now) >= self._width(path) or self._hopeless(path):
                continue
            peer = self._next(number)
            if peer is not None:
                return self._ask(peer, number, now)
        return None

    def _next(self, number: int) -> _Peer | None:
        """The nearest peer in a path's window that is to be asked still."""
        window = self._window(number)
        if self._handy is not None:
            for peer in window:
                if peer.distance >= self._reach:
                    break
                if peer.state is _State.HEARD and self._handy(peer.told[number].peer_id):
                    return peer
        settled = self._settled if len(window) <= self._config.k else len(window)
        for index, peer in enumerate(window):
            if peer.state is _State.HEARD and (index < settled or not self._vouched(peer)):
                return peer
        return None

    def _vouched(self, peer: _Peer) -> bool:
        """Whether as many paths told of a peer as one liar has not."""
        return len(peer.told) >= min(2, len(self._paths))

    def _ask(self, peer: _Peer, number: int, now: float) -> LookupRequest:
        peer.state, peer.path, peer.since = _State.ASKED, number, now
        peer.tries += 1
        self.requests += 1
        self._flying[peer.distance] = peer
        return LookupRequest(peer.told[number], number)

    def answered(self, contact: Contact, closer: Sequence[Contact]) -> None:
        """A peer answered, and named these."""
        peer = self._landed(contact)
        if peer is None:
            return
        peer.state = _State.ANSWERED
        path = self._paths[peer.path]
        path.answers += 1
        path.unimproved += 1
        for other in closer:
            known = self._peers.get(other.key ^ self.target)
            if known is None or peer.path not in known.told:  # most of what is told was told before
                self._hear(other, peer.path, peer.hop + 1)

    def failed(self, contact: Contact) -> None:
        """A peer did not answer in time, could not be reached, or answered nonsense."""
        peer = self._landed(contact)
        if peer is None:
            return
        self.failures += 1
        self._paths[peer.path].failures += 1
        tried = peer.told.pop(peer.path)
        others = {path: told for path, told in peer.told.items() if set(told.addrs) - set(tried.addrs)}
        if others and peer.tries < MAX_TRIES:
            peer.told, peer.state = others, _State.HEARD
        else:
            peer.told[peer.path], peer.state = tried, _State.FAILED
        for path in self._paths:
            path.window = None

    def _landed(self, contact: Contact) -> _Peer | None:
        return self._flying.pop(contact.key ^ self.target, None)

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight."""
        return not self._flying

    # --- results ----------------------------------------------------------------------------------------------------

    @property
    def paths(self) -> int:
        """How many disjoint paths there are; fewer than configured when we know fewer peers."""
        return len(self._paths)

    @property
    def hops(self) -> int:
        """How many peers one after another led to the nearest one that answered; 0 if none did."""
        return next((p.hop for d in self._order if (p := self._peers[d]).state is _State.ANSWERED), 0)

    def hop_of(self, contact: Contact) -> int:
        """The same for one peer."""
        peer = self._peers.get(contact.key ^ self.target)
        return peer.hop if peer else 0

    def closest(self, n: int) -> list[Contact]:
        """The ``n`` nearest peers that answered, nearest first, no network counted beyond its share."""
        return self._nearest(n, unasked=False)

    def _nearest(self, n: int, *, unasked: bool) -> list[Contact]:
        networks: dict[bytes, int] = {}
        found: list[Contact] = []
        for distance in self._order:
            peer = self._peers[distance]
            there = peer.state is _State.ANSWERED or (unasked and peer.state is _State.HEARD and self._vouched(peer))
            if there and self._counts(peer.told[peer.path], networks):
                found.append(peer.told[peer.path])
                if len(found) >= n:
                    break
        return found

    def holders(self) -> list[Contact]:
        """Where a record belongs: the k nearest (that answered, or need not: ``settled``), whoever is within the
        radius, and each path's own nearest k/d, which are among the former unless a path lied. So a path full of a
        liar's friends cannot keep a record from the honest ones."""
        share = -(-self._config.k // len(self._paths))
        unasked = self._settled < self._config.k
        found = {peer.peer_id: peer for peer in self._nearest(self._config.k, unasked=unasked)}
        within = (peer for peer in self.closest(MAX_WINDOW) if peer.key ^ self.target < self._radius)
        found.update((peer.peer_id, peer) for peer in within)
        for number in range(len(self._paths)):
            window = [peer for peer in self._window(number) if peer.state is _State.ANSWERED]
            for peer in window[:share]:
                found.setdefault(peer.told[peer.path].peer_id, peer.told[peer.path])
        return list(found.values())

    # --- inside -----------------------------------------------------------------------------------------------------

    def _hear(self, contact: Contact, number: int, hop: int) -> None:
        distance = contact.key ^ self.target
        if distance == self._own or not contact.addrs:
            return
        peer = self._peers.get(distance)
        path = self._paths[number]
        if peer is None:
            if len(self._order) >= MAX_SHORTLIST and not self._make_room(distance):
                return
            self._peers[distance] = _Peer(distance, number, contact, hop)
            insort(self._order, distance)
        elif number in peer.told:
            return
        else:
            peer.told[number] = contact
            if peer.state is _State.FAILED and peer.tries < MAX_TRIES:
                if set(contact.addrs) <= set(peer.told[peer.path].addrs):
                    return
                peer.told, peer.state, peer.hop = {number: contact}, _State.HEARD, hop
        window = path.window
        if window is not None and not self._beyond(window, distance):
            path.window = None
        if distance < path.nearest:
            path.nearest, path.unimproved = distance, 0

    def _beyond(self, window: list[_Peer], distance: int) -> bool:
        """Whether a window that is full stays as it is when a peer so far away is heard of."""
        return len(window) >= self._config.k and distance > window[-1].distance and distance >= self._radius

    def _make_room(self, distance: int) -> bool:
        """Forget the farthest peer that was not asked, if it is farther than ``distance``."""
        for index in range(len(self._order) - 1, -1, -1):
            if self._order[index] < distance:
                return False
            if self._peers[self._order[index]].state is _State.HEARD:
                del self._peers[self._order.pop(index)]
                for path in self._paths:
                    path.window = None
                return True
        return False

    def _window(self, number: int) -> list[_Peer]:
        path = self._paths[number]
        if path.window is None:
            path.window = []
            networks: dict[bytes, int] = {}
            for distance in self._order:
                size = len(path.window)
                if (size >= self._config.k and distance >= self._radius) or size >= MAX_WINDOW:
                    break
                peer = self._peers[distance]
                if number not in peer.told:
                    continue
                if self._counts(peer.told[number], networks) and peer.state is not _State.FAILED:
                    path.window.append(peer)
        return path.window

    def _counts(self, contact: Contact, networks: dict[bytes, int]) -> bool:
        """Whether a peer's networks have room among the nearer ones, and take the room. A peer that failed keeps its
        network's room too: else a network of dead ids would cost a timeout each."""
        if not contact.shares:
            return True
        diversity = self._config.diversity
        narrow, wide = diversity.lookup_narrow, diversity.lookup_wide
        for network, is_narrow in contact.shares:
            if networks.get(network, 0) >= (narrow if is_narrow else wide):
                return False
        for network in contact.networks:
            networks[network] = networks.get(network, 0) + 1
        return True

    def _in_flight(self, number: int, now: float) -> int:
        return sum(peer.path == number and now - peer.since < SLOW_S for peer in self._flying.values())

    def _width(self, path: _Path) -> int:
        """Requests that a path may have in flight: the last round is wide, since nobody in it is asked in vain."""
        total = self._config.final_width if path.unimproved >= 2 else self._config.alpha
        return -(-total // len(self._paths))

    def _hopeless(self, path: _Path) -> bool:
        """Whether a path leads nowhere: half a bucket of peers that do not answer, and few that do."""
        return path.failures >= max(2, self._config.k // 2) and path.failures > 2 * path.answers
