"""Every bound of reading the chain through several liteservers, with its reason. Times in seconds."""

MAX_SERVERS = 64
"""Servers of one global config that are considered: mainnet's file lists about twenty."""

POOL_SIZE = 3
"""Servers asked at once: the least number of which one can be outvoted."""

HEAD_TIMEOUT_S = 4.0
"""The newest block's id is a tiny answer: who takes longer is treated as silent, long before a request gives up."""

HEAD_GRACE_S = 0.25
"""After enough servers named their newest block, the others have this long to name a newer one."""

MAX_HEADS_KEPT = 256
"""Masterchain blocks that each server named lately: minutes of a chain with a block a second."""

RETRY_BACKOFF_S = (0.2, 1.0, 5.0, 15.0, 30.0)
"""A server that failed so many times in a row is left alone for this long, the last value from then on."""

LIAR_PAUSE_S = 600.0
"""A server that contradicted its own proof or the majority is asked again then: it may have been mended."""

STALE_AFTER_S = 45.0
"""No new block from a server for this long while others have newer ones: it is behind. TON seals one in seconds."""

CATCH_UP_S = 12.0
"""How long a server that is behind what was proved already may take to catch up before the read fails."""

MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""One liteserver packet: sixteen links of mainnet's key blocks take 0.7 MB, and pytoniq would buffer 4 GiB."""

MAX_PROOF_ROUNDS = 256
"""Requests for one chain of key blocks. Sixteen links each: 1242 links led through fifteen months of mainnet."""

PROOF_TOOK_LONG_S = 20.0
"""A newest block that took longer than this to be trusted is not the newest any more: ask again."""

MAX_PROOF_STEPS = 64
"""Links in one answer; servers send sixteen."""

MAX_CLOCK_SKEW_S = 60.0
"""Between this machine's clock and the chain's: margins before an expiry are minutes, so one minute is tolerable."""

WARN_CLOCK_SKEW_S = 15.0
"""From here on the skew is worth a warning: an honest server shows a block within seconds of its time."""

PRICES_TTL_S = 3600.0
"""Prices change by a vote of the validators, a few times a year."""

MAX_NEWS = 64
"""Remarks about servers that nobody has collected yet; older ones are dropped."""

MAX_PENDING_BYTES = 65_536
"""One stored external message: TON's own limit of external messages."""
