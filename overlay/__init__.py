"""The node: identity, market, jobs, settlement, gateway and command line on top of `dht`, `transport` and `compute`."""
