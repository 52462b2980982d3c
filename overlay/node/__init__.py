"""A node, put together: `provider` is everything that sells, `client` everything that buys.

    client    deals (standing agreements) ── links (tunnel and channel to each provider) ── jobs
    provider  engines ── the shop (offers, prices) ── jobs

`trade_log` tells of a negotiation, `upkeep` of jobs and keeps the ledger tidy, `views` are what commands show.
"""
