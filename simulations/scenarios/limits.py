"""How large a scenario may be: what is above is a slip of the pen, or would not end."""

MAX_FILE_BYTES = 1 << 20
"""A scenario is a page of text; the largest shipped one has 4 KiB."""

MAX_ENTRIES = 1_000
"""Groups, faults, attackers or expectations: each is some lines that a person wrote."""

MAX_NODES = 100_000
"""All groups together. 10,000 nodes are 6 GB; ten times that is the largest machine."""

MAX_DURATION_S = 30 * 86_400.0
"""A month: what a channel's whole life takes, four times over."""

MAX_SAMPLES = 100_000
"""Of one run, 300 bytes each and more with many models: they are kept in memory, and drawn."""

MAX_JOBS = 10_000_000
"""That all clients want together, in the mean: a result keeps 200 bytes of each."""

MAX_CHANNELS = 50
"""That a client has to begin with: each is opened, with messages and a wallet's money."""
