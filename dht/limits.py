"""Every bound of the directory, each with its reason."""

from __future__ import annotations

# --- records ------------------------------------------------------------------------------------------------------
MAX_RECORD_BYTES = 1024
"""A signed record on the wire: ten thousand providers are 10 MB of gossip a TTL, not more."""

MAX_OFFERS = 8
"""Offers in one record; eight of ordinary size fill it."""

MAX_NAME_CHARS = 24
"""Names of subnets, tasks, tiers and units."""

MAX_MODEL_CHARS = 96
"""Model names; the longest in common use have about 80 characters."""

MAX_SOFTWARE_CHARS = 32
"""The software version that a node claims."""

MAX_ADDRS = 4
"""Addresses of each kind: IPv4 and IPv6, of two networks."""

MAX_ADDR_CHARS = 200
"""One address; one through a relay, with two peer ids, over IPv6 has up to 190."""

MAX_UNITS = 6
"""Entries of a price map: there are six units."""

MAX_PRICE_NANOTON = 1 << 60
"""nanoTON per million units: a billion TON, more than exist."""

MAX_COUNT = 1 << 32
"""Slots, milliseconds, rates and context lengths."""

MAX_SEQ = (1 << 53) - 1
"""Sequence numbers are Unix milliseconds; below 2^53 every language reads them exactly."""

NOISE_KEY_BYTES = 32
"""A Curve25519 public key."""

MIN_TTL_S, MAX_TTL_S, DEFAULT_TTL_S = 10, 600, 120
"""How long a record stands without being renewed; 0 marks a withdrawal. A provider that was killed is gone after
the default at the latest, at a cost of a record every 40 s."""

CLOCK_SKEW_S = 60
"""How far the clocks of two nodes may differ: a record from further in the future is refused."""

# --- announcing ---------------------------------------------------------------------------------------------------
MIN_ANNOUNCE_INTERVAL_S = 2.0
"""Between two records of one provider, whatever its prices do."""

TOPIC_RECORDS_PER_S = 20.0
"""Records a second that all providers of a topic together send: each waits for as long as its share takes, by how many
providers it knows to be there to stay. A market of 40 has news every two seconds, one of 100 every five; from 800 on
only renewals are sent. At 700 bytes each, and some six copies of each in a mesh, a node carries 80 KB a second."""

CHANGE_PERCENT = 10
"""A price or load that moved further than this is worth a record before its time."""

REGOSSIP_DELAY_S = 1.5
"""After a neighbour connects, our record is gossiped once more: one gossipsub heartbeat later it is in our mesh."""

REGOSSIP_INTERVAL_S = 5.0
"""Between two of these."""

WITHDRAW_FLUSH_S = 0.2
"""What a withdrawal gets to leave through the sockets before the host may close them."""

# --- shards of the directory ----------------------------------------------------------------------------------------
SHARD_CAP = 24
"""Providers that share one shard. A market of 10,000 then has about 600 shards of 17 and as many samples above them;
of 10,000 nodes each holds k = 20 copies of a key, the busiest one 1.2 to 1.6 % of the market (docs/attacks.md)."""

SHARD_SAMPLE = 8
"""Providers, in the mean, that a shard with others below it lists: enough to tell how far down they are."""

SHARD_ASK = 2 * SHARD_CAP
"""Providers asked of one key: more than belong there, so that an overfull one shows."""

MAX_SHARD_BITS = 24
"""The longest prefix: a market of 400 million providers."""

COLD_SHARD_BITS = 6
"""Where somebody begins who knows nothing of a market: 64 keys, so that newcomers to a large one do not all ask the
same 20 nodes (each would serve every one of them, and now serves 1.6 %). A small market costs one look-up more."""

WALK_LOOKUPS = 12
"""Look-ups that one search may make; 95 of 100 make three or fewer."""

SURVEY_LOOKUPS = 12
"""Look-ups before one announcement; a settled market needs one or two."""

WANTED_PROVIDERS = 8
"""Providers that a search looks for: as many as are asked for quotes."""

MAX_MARKETS = 256
"""(task, model, tier) whose depth and last search are remembered."""

PROVIDER_TTL_S = 3600.0
"""How long a provider record stands. A third of it is what a provider announces in; whoever was killed is found, and
not reached, for the whole of it."""

FIRST_SURVEY_AGAIN_S = 10.0
"""An announcement is made again after this, and each time three times later up to a third of the TTL: the first was
made among the few peers of a node that has just started, or in the middle of a rush."""

FAILED_AGAIN_S, MAX_FAILED_AGAIN_S = 0.25, 30.0
"""An announcement that no node took is made again after this, doubled each time: a node that has just started knows
nobody for a second or two."""

MAX_SURVEYS = 4
"""Markets surveyed at once by one node."""

LOOKUP_S = 20.0
"""One look-up or one announcement in the table."""

FETCH_S = 5.0
"""To reach one provider and have its record."""

MAX_FETCHES, MAX_ALL_FETCHES = 8, 16
"""Providers asked for their records at once, by one search and by all."""

MAX_HINTS = 8
"""Addresses tried of those that the table has of a provider: nobody vouches for them."""

SEARCH_S = 60.0
"""One search in all."""

MAX_SEARCHES = 8
"""Searches at once, each for another market."""

SEARCH_RETRY_S, MAX_SEARCH_RETRY_S = 0.1, 1.0
"""Between two searches for a market of which nobody is known, while somebody waits; doubled with each. A node that has
just started knows no peer for the first of them, which costs nothing."""

SEARCH_AGAIN_S, MAX_SEARCH_AGAIN_S = 20.0, 300.0
"""Between two searches for a market of which somebody is known, but fewer than wanted; doubled with each."""

INTEREST_S = 300.0
"""How long after it was last asked for a market is kept warm: a pause in a conversation, and not a lunch."""

WARM_S = 48.0
"""How often that is looked after: with a fifth more at random, often enough for what expires within RENEW_AHEAD_S."""

RENEW_AHEAD_S = 60.0
"""A record that is wanted and expires within this is asked of its provider again. Gossip renews it 80 s ahead."""

GOSSIP_BURST, GOSSIP_PER_S = 8, 1.0
"""Records of one origin that are looked at: an honest one sends a change every 2 s and repeats one every 5 s."""

STRANGERS_BURST, STRANGERS_PER_S = 512, 50.0
"""Gossiped records of providers that have not settled, all together: a market of 500 that starts at once is heard at
once. A flood of invented identities costs a node 50 signature checks a second, and is passed on no faster: with the 200
messages a second that one neighbour may send, nobody's news is crowded out by those."""

MAX_ORIGINS = 8192
"""Origins whose rate is remembered: twice the providers that an index holds."""

# --- the index ----------------------------------------------------------------------------------------------------
MAX_RECORDS = 4096
"""Records kept: about 10 MB."""

MAX_RECORDS_PER_MODEL = 1024
"""Records kept of those who sell one (task, model): a popular model must not crowd out the others."""

NEWCOMERS_SHARE = 0.5
"""Of either bound: what providers of whom nothing is known yet may displace. Identities cost nothing, so a flood of
new ones takes this much and no more of what was there before it."""

SETTLED_AFTER_S = 300.0
"""A provider whose record was renewed this long after it was first heard is a newcomer no more: two default TTLs, so
that whoever floods must keep all his identities alive."""

MAX_DEALT_WITH = 256
"""Providers remembered as dealt with, whom no stranger displaces: a sixteenth of the index."""

# --- exchange between neighbours ------------------------------------------------------------------------------------
PAGE_RECORDS = 64
"""Records in one reply."""

MAX_REQUEST_BYTES = 128
MAX_REPLY_BYTES = PAGE_RECORDS * (MAX_RECORD_BYTES + 4) + 128
"""A full page and its frame."""

MAX_PAGES = MAX_RECORDS // PAGE_RECORDS
"""Pages asked of one neighbour in a row."""

EXCHANGE_S = 10.0
"""One request and its reply."""

MAX_EXCHANGES = 8
"""Neighbours asked at once."""

MAX_LEARNING = 4
"""Neighbours from which a newcomer learns everything at once: what they told need not be told by a fifth. Who is liars'
prey is asked what little he knows before they have told him much."""

MAX_SERVED_STREAMS = 32
"""Neighbours answered at once."""

SERVE_BURST_PAGES, SERVE_PAGES_PER_S = 128, 4.0
"""What one neighbour may ask: the whole index twice, then a page every 250 ms."""

REFRESH_S, MAX_REFRESH_S = 30.0, 480.0
"""How often a neighbour at random is asked for what gossip may have lost; doubled each time that nothing was."""

MEET_BURST, MEET_PER_S = 4, 0.1
"""New neighbours that are sampled: whoever starts, or comes out of a partition, meets many at once. With the four above
one honest one among seven liars is heard."""

SAMPLE_RECORDS = 6
"""Of a neighbour's records that are looked at before all of them are asked for. Of two markets that meet, the chance
that six of the other one's, drawn from both, hold nothing new is 1 in 64, and there are more neighbours."""

SAMPLE_AT_LEAST = 16
"""Who knows fewer providers asks for everything at once: it costs no more than two samples do."""

LOST_AFTER_S = 10.0
"""A record younger than this that a neighbour has, and we have not, may still be on its way to us."""
