"""The routing table (Kademlia paper §2.2–2.4), pure: k-buckets by common prefix, least recently seen first.

Only peers that answered a request of ours enter (libp2p: only servers are in tables). A full bucket keeps whom it has:
old peers are the likeliest to stay, and nobody can flush a table by arriving. Newcomers wait in a replacement cache
until one fails. What a peer claims of its addresses matters less than the address its connection stands on, by which
networks are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dht.kad.config import Diversity
from dht.kad.contacts import Contact, is_narrow
from dht.kad.keys import common_bits, peer_key
from dht.kad.limits import KEY_BITS, LOOKUP_NETWORKS, MAX_FAILURES, MAX_REPLACEMENTS, K
from transport.identity import PeerId

_NOBODY = -1  # no key


def _key_of_any(peer: PeerId) -> int:
    """Where a peer lies; one that is none of ours asks us, too."""
    try:
        return peer_key(peer)
    except ValueError:
        return _NOBODY


class _Entry:
    """A peer in a bucket."""

    __slots__ = ("contact", "failures", "networks", "seen_at")

    def __init__(self, contact: Contact, networks: tuple[bytes, ...], seen_at: float) -> None:
        self.contact = contact
        self.networks = networks
        self.seen_at = seen_at
        self.failures = 0


class RoutingTable:
    """Buckets of at most ``k`` peers; bucket ``i`` has those that share exactly ``i`` leading bits with us.

    All times are seconds of one monotonic clock of the caller.
    """

    def __init__(self, own: PeerId, *, k: int = K, diversity: Diversity | None = None) -> None:
        self.own_key = peer_key(own)
        self._k = k
        self._diversity = diversity or Diversity()
        self._buckets: list[dict[int, _Entry]] = []  # each in the order in which its peers were last seen
        self._per_network: dict[bytes, int] = {}  # peers in the table of each network
        self._replacements: dict[int, dict[int, Contact]] = {}
        self._touched: dict[int, float] = {}
        self._failing = 0
        """Peers whose last request had no answer: mostly there are none, and then nobody is looked at for it."""
        self._reach: int | None = None
        self._reach_known = False

    # --- who is in it -----------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._buckets)

    def __contains__(self, peer: PeerId) -> bool:
        return self._entry(peer_key(peer)) is not None

    def __iter__(self) -> Iterator[Contact]:
        for bucket in self._buckets:
            for entry in bucket.values():
                yield entry.contact

    def get(self, peer: PeerId) -> Contact | None:
        """The contact of a peer in the table."""
        entry = self._entry(peer_key(peer))
        return entry.contact if entry else None

    def bucket_sizes(self) -> list[int]:
        """Peers in each bucket, the farthest bucket first."""
        return [len(bucket) for bucket in self._buckets]

    def _entry(self, key: int) -> _Entry | None:
        index = common_bits(key, self.own_key)
        return self._buckets[index].get(key) if index < len(self._buckets) else None

    def _bucket(self, index: int) -> dict[int, _Entry]:
        while len(self._buckets) <= index:
            self._buckets.append({})
        return self._buckets[index]

    # --- coming and going -------------------------------------------------------------------------------------------

    def wants(self, contact: Contact, seen: tuple[bytes, ...] | None = None) -> bool:
        """Whether a peer that answered would enter: it is not in yet, there is room, and its networks are not full.
        ``seen``: the networks of its connection's address (:func:`dht.kad.contacts.seen_networks`)."""
        index = common_bits(contact.key, self.own_key)
        if index == KEY_BITS:
            return False
        bucket = self._bucket(index)
        if contact.key in bucket or (len(bucket) >= self._k and not self._first_failing(bucket)):
            return False
        return self._admits(bucket, contact.networks if seen is None else seen)

    def _first_failing(self, bucket: dict[int, _Entry]) -> int | None:
        if not self._failing:
            return None
        return next((key for key, entry in bucket.items() if entry.failures), None)

    def _admits(self, bucket: dict[int, _Entry], networks: tuple[bytes, ...]) -> bool:
        if not networks:
            return True
        limits = self._diversity
        for network in networks:
            everywhere = self._per_network.get(network, 0)
            if not is_narrow(network):
                if everywhere >= limits.table_wide:
                    return False
            elif everywhere >= limits.table_narrow:
                return False
            elif everywhere >= limits.bucket_narrow:
                here = sum(network in entry.networks for entry in bucket.values())
                if here >= limits.bucket_narrow:
                    return False
        return True

    def answered(
        self, contact: Contact, now: float, seen: tuple[bytes, ...] | None = None, *, own_word: bool = False
    ) -> bool:
        """A peer answered a request of ours: it enters, or becomes the most recently seen. True if it is new.

        The addresses of a peer that is in already are replaced by its own word alone (``own_word``): what others tell
        of it may be wrong, and it may have answered on a connection that stood before."""
        index = common_bits(contact.key, self.own_key)
        if index == KEY_BITS or not contact.addrs:
            return False
        bucket = self._bucket(index)
        known = bucket.get(contact.key)
        if known is not None:
            networks = seen if seen is not None else contact.networks if own_word else known.networks
            if known.networks == networks:
                del bucket[contact.key]
                bucket[contact.key] = known
                self._heard(known, now)
                known.contact = contact if own_word else known.contact
                return False
            self._drop(index, contact.key)  # it moved to another network: it enters as anybody would
        else:
            networks = contact.networks if seen is None else seen
        if not self._admits(bucket, networks):
            return False
        if len(bucket) >= self._k:
            if (failing := self._first_failing(bucket)) is None:
                self.remember(contact)
                return False
            self._drop(index, failing)
        bucket[contact.key] = _Entry(contact, networks, now)
        self._reach_known = False
        for network in networks:
            self._per_network[network] = self._per_network.get(network, 0) + 1
        if index in self._replacements:
            self._replacements[index].pop(contact.key, None)
        return known is None

    def alive(self, peer: PeerId, now: float) -> bool:
        """A peer asked us something; True if it is in the table, where it is now the most recently seen."""
        key = peer_key(peer)
        if (entry := self._entry(key)) is None:
            return False
        bucket = self._buckets[common_bits(key, self.own_key)]
        del bucket[key]
        bucket[key] = entry
        self._heard(entry, now)
        return True

    def _heard(self, entry: _Entry, now: float) -> None:
        entry.seen_at = now
        if entry.failures:
            entry.failures = 0
            self._failing -= 1
            self._reach_known = False

    def remember(self, contact: Contact) -> None:
        """Keep a peer that may not have answered as a replacement, the newest last; the oldest goes."""
        index = common_bits(contact.key, self.own_key)
        if index == KEY_BITS or contact.key in self._bucket(index) or not contact.addrs:
            return
        waiting = self._replacements.setdefault(index, {})
        waiting.pop(contact.key, None)
        waiting[contact.key] = contact
        if len(waiting) > MAX_REPLACEMENTS:
            del waiting[next(iter(waiting))]

    def failed(self, peer: PeerId) -> bool:
        """A peer did not answer. True if it left: at once if a replacement waits, else at the second time."""
        key = peer_key(peer)
        index = common_bits(key, self.own_key)
        if index in self._replacements:
            self._replacements[index].pop(key, None)
        if (entry := self._entry(key)) is None:
            return False
        entry.failures += 1
        if entry.failures == 1:
            self._failing += 1
            self._reach_known = False
        if entry.failures < MAX_FAILURES and not self._replacements.get(index):
            return False
        self._drop(index, key)
        return True

    def remove(self, peer: PeerId) -> None:
        """Forget a peer: it does not serve the protocol, or broke it."""
        key = peer_key(peer)
        if self._entry(key) is not None:
            self._drop(common_bits(key, self.own_key), key)

    def _drop(self, index: int, key: int) -> None:
        entry = self._buckets[index].pop(key)
        self._failing -= entry.failures > 0
        self._reach_known = False
        for network in entry.networks:
            if self._per_network[network] == 1:
                del self._per_network[network]
            else:
                self._per_network[network] -= 1

    def take_replacement(self, near: int) -> Contact | None:
        """The newest replacement for the bucket of key ``near``, if that bucket has room; it is to be asked first."""
        index = common_bits(near, self.own_key)
        waiting = self._replacements.get(index)
        if not waiting or len(self._bucket(index)) >= self._k:
            return None
        return waiting.popitem()[1]

    # --- who is near ------------------------------------------------------------------------------------------------

    def closest(self, key: int, n: int, exclude: PeerId | None = None) -> list[Contact]:
        """The ``n`` peers nearest to ``key``, nearest first, without ``exclude`` and those that did not answer lately.

        Buckets are visited in the order of their distance, so at most the last one visited is sorted in vain: the
        bucket that ``key`` falls into, then all nearer to us than it (they are equally far from ``key`` in its first
        differing bit), then the farther ones one by one.
        """
        index = common_bits(key, self.own_key)
        found: list[Contact] = []
        buckets = self._buckets
        without = _NOBODY if exclude is None else _key_of_any(exclude)
        if index < len(buckets):
            self._take(buckets[index], key, n, without, found)
        if len(found) < n and index + 1 < len(buckets):
            nearer: dict[int, _Entry] = {}
            for bucket in buckets[index + 1 :]:
                nearer.update(bucket)
            self._take(nearer, key, n, without, found)
        for farther in range(min(index, len(buckets)) - 1, -1, -1):
            if len(found) >= n:
                break
            self._take(buckets[farther], key, n, without, found)
        return found

    def _take(self, bucket: dict[int, _Entry], key: int, n: int, without: int, found: list[Contact]) -> None:
        distances = sorted([peer ^ key for peer in bucket])
        if without in bucket:
            distances.remove(without ^ key)
        if self._failing:
            distances = [distance for distance in distances if not bucket[distance ^ key].failures]
        found += [bucket[distance ^ key].contact for distance in distances[: n - len(found)]]

    def outsiders(self, near: Sequence[Contact], count: int) -> list[Contact]:
        """At most ``count`` peers of /16s or /32s that none of ``near`` is in, one of each, the farthest bucket first;
        none if ``near`` are of many networks, as honest peers are, or of none that counts."""
        present = {network for peer in near for network in self._wide(peer)}
        if not present or len(present) >= min(LOOKUP_NETWORKS, len(near)):
            return []
        found: list[Contact] = []
        for bucket in self._buckets:
            for entry in bucket.values():
                networks = [network for network in entry.networks if not is_narrow(network)]
                if networks and not entry.failures and present.isdisjoint(networks):
                    present.update(networks)
                    found.append(entry.contact)
        return found[:count]

    def _wide(self, peer: Contact) -> list[bytes]:
        entry = self._entry(peer.key)
        return [network for network in (entry.networks if entry else ()) if not is_narrow(network)]

    def reach(self) -> int | None:
        """The distance of our own k-th neighbour; None if we know fewer."""
        if not self._reach_known:
            nearest = self.closest(self.own_key, self._k)
            self._reach = nearest[-1].key ^ self.own_key if len(nearest) == self._k else None
            self._reach_known = True
        return self._reach

    # --- upkeep -----------------------------------------------------------------------------------------------------

    def to_check(self, now: float, after_s: float, limit: int) -> list[Contact]:
        """At most ``limit`` peers to be asked whether they live: those that failed, for half of them, and those not
        seen for ``after_s``, oldest first.

        One that is likely to live is always among them: only next to its answer does silence mean anything (when our
        own network is down, nobody is blamed)."""
        everybody = [entry for bucket in self._buckets for entry in bucket.values()]
        everybody.sort(key=lambda entry: (entry.seen_at, entry.contact.key))
        failed = [entry for entry in everybody if entry.failures][: limit // 2]
        healthy = [entry for entry in everybody if not entry.failures]
        silent = [entry for entry in healthy if now - entry.seen_at >= after_s]
        chosen = [*failed, *silent[: limit - 1 - len(failed)]]
        if chosen and healthy and healthy[-1] not in chosen:
            chosen.append(healthy[-1])
        return [entry.contact for entry in chosen]

    def touch(self, key: int, now: float) -> None:
        """A look-up of ``key`` refreshed its bucket."""
        self._touched[min(common_bits(key, self.own_key), KEY_BITS - 1)] = now

    def to_refresh(self, now: float, after_s: float, deepest: int) -> list[int]:
        """Buckets that no look-up touched for ``after_s``, the farthest first, none above ``deepest``.

        Nor any that is nearer than our k-th neighbour: the look-up of our own id finds all of those.
        """
        known, last = 0, -1
        for index in range(len(self._buckets) - 1, -1, -1):
            known += len(self._buckets[index])
            if known >= self._k:
                last = index
                break
        due = range(min(last, deepest) + 1)
        return [index for index in due if now - self._touched.get(index, float("-inf")) >= after_s]

    def size(self, index: int) -> int:
        """Peers in bucket ``index``."""
        return len(self._buckets[index]) if index < len(self._buckets) else 0
